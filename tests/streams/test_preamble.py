"""The preamble of a client connection, in memory: stages read its first bytes, and end with a result or a refusal."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from stages import LineStage
from twisted.internet.task import Clock

from ktcpvs.streams.memory import join_in_memory
from ktcpvs.streams.preamble import Preamble, Proceed, Refuse, Stage
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing
from ktcpvs.system.timer_wheel import TimerWheel

PEER = "192.0.2.1", 4711
OTHER = "198.51.100.7", 80


class Owner:
    """told: what the preamble has told, in order. data: what has come since it was complete. asked: the addresses of
    clients that it was asked to admit. denied: an address that it does not admit."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.data = b""
        self.is_taken = True
        self.asked: list[Any] = []
        self.denied: Any = None

    def admits(self, preamble: Preamble) -> bool:
        self.asked.append(preamble.peer)
        return bool(preamble.peer != self.denied)

    def completed(self, preamble: Preamble, rest: bytes) -> None:
        self.told.append(("completed", preamble.peer))
        if not self.is_taken:
            preamble.reject()
            return
        self.data += rest
        self.stream = stream = preamble.stream
        stream.dataReceived = self._received
        stream.ended = lambda: self.told.append("ended")
        stream.lost = lambda clean: self.told.append("lost")

    def _received(self, data: bytes) -> None:
        self.data += data

    def refused(self, preamble: Preamble, reason: str) -> None:
        self.told.append(reason)

    def left(self, preamble: Preamble, reason: str) -> None:
        self.told.append(("left", reason))

    def stage_failed(self, stage: Stage | None) -> None:
        assert stage is not None
        self.told.append(f"{stage.name} raised")

    def gone(self, preamble: Preamble) -> None:
        self.told.append("gone")


class Case:
    """A client whose connection begins with these stages. client: its stream. closed: how that ended, or None."""

    def __init__(self, *stages: Stage, is_taken: bool = True) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock, self._unexpected)
        self.wheel.start()
        self.owner = Owner()
        self.owner.is_taken = is_taken
        self.client = Stream()
        self.closed: bool | None = None
        self.heard = b""
        self.client.dataReceived = self._heard
        self.client.lost = self._closed
        self.preamble = Preamble(stages, PEER, self.wheel, self.owner)
        join_in_memory(self.client, self.preamble.stream, self.call_soon, (PEER, ("127.0.0.1", 80)))

    def _unexpected(self) -> None:
        raise AssertionError("a timer has failed")

    def _closed(self, clean: bool) -> None:
        self.closed = clean

    def _heard(self, data: bytes) -> None:
        self.heard += data

    def call_soon(self, call: Any) -> None:
        self.clock.callLater(0, call)

    def turns(self, count: int = 6) -> None:
        for _ in range(count):
            self.clock.advance(0)

    def says(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.client.write(piece)
            self.turns()

    def passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
        self.turns()

    def is_timed(self) -> bool:
        """True while a timer of the preamble runs."""
        return any(timer.call is not None for slot in self.wheel._slots.values() for timer in slot)


def test_the_bytes_behind_it_come_first() -> None:
    case = Case(LineStage())
    case.says(b"KNOCK\nGET / HTTP/1.1\r\n")
    assert (case.owner.told, case.owner.data) == ([("completed", PEER)], b"GET / HTTP/1.1\r\n")
    case.says(b"Host: h\r\n\r\n")
    assert case.owner.data == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    assert not case.is_timed()
    case.client.close()
    case.turns()
    assert case.owner.told == [("completed", PEER), "ended"]


def test_in_pieces_of_one_byte() -> None:
    case = Case(LineStage())
    text = b"KNOCK 198.51.100.7 80\nhello"
    case.says(*(text[place : place + 1] for place in range(len(text))))
    assert (case.owner.told, case.owner.data) == ([("completed", OTHER)], b"hello")


def test_without_bytes_behind_it() -> None:
    case = Case(LineStage())
    case.says(b"KNOCK\n")
    assert (case.owner.told, case.owner.data) == ([("completed", PEER)], b"")
    case.says(b"hello")
    assert case.owner.data == b"hello"


def test_without_stages() -> None:
    case = Case()
    assert case.owner.told == [("completed", PEER)]
    case.says(b"hello")
    assert case.owner.data == b"hello"


@pytest.mark.parametrize("in_pieces", [False, True])
def test_two_stages_in_a_row(in_pieces: bool) -> None:
    first, second = LineStage(), LineStage("second")
    case = Case(first, second)
    text = b"KNOCK 198.51.100.7 80\nKNOCK\nhello"
    case.says(*((text[place : place + 1] for place in range(len(text))) if in_pieces else (text,)))
    assert (case.owner.told, case.owner.data) == ([("completed", OTHER)], b"hello")
    assert (first.begun, second.begun) == ([PEER], [OTHER])


def test_each_stage_has_a_timeout_of_its_own() -> None:
    case = Case(LineStage(timeout=3), LineStage("second", timeout=5))
    case.passes(2)
    case.says(b"KNOCK\n")
    case.passes(5)
    assert case.owner.told == []
    case.passes(1)
    assert case.owner.told == ["second: not complete within 5 seconds", "gone"]


def test_a_stage_that_does_not_apply() -> None:
    case = Case(LineStage(skips=(PEER[0],)))
    assert case.owner.told == [("completed", PEER)]
    case = Case(LineStage(skips=(PEER[0],)), LineStage("second"))
    assert case.owner.told == []
    case.says(b"KNOCK\nhello")
    assert (case.owner.told, case.owner.data) == ([("completed", PEER)], b"hello")


def test_too_long() -> None:
    case = Case(LineStage(max_size=10))
    case.says(b"KNOCK     ")
    assert case.owner.told == []
    case.says(b" ")
    assert (case.owner.told, case.closed) == (["knock: more than 10 bytes", "gone"], False)
    assert not case.is_timed()


def test_too_long_in_one_piece() -> None:
    """A result counts, however much comes behind it."""
    case = Case(LineStage(max_size=10))
    case.says(b"KNOCK" + bytes(1000))
    assert case.owner.told == ["knock: more than 10 bytes", "gone"]
    case = Case(LineStage(max_size=10))
    case.says(b"KNOCK\n" + bytes(1000))
    assert (case.owner.told, len(case.owner.data)) == ([("completed", PEER)], 1000)


def test_the_client_is_admitted_once_its_address_is_known() -> None:
    first, second = LineStage(), LineStage("second", skips=(PEER[0],))
    case = Case(first, second)
    assert not case.preamble.knows_address
    case.says(b"KNOCK 198.51.100.7 80\nKNO")
    assert case.preamble.knows_address
    assert (case.owner.asked, second.begun) == ([OTHER], [OTHER])
    case.says(b"CK\n")
    assert (case.owner.asked, case.owner.told) == ([OTHER], [("completed", OTHER)])


def test_the_last_stage_that_applies_finds_the_address() -> None:
    case = Case(LineStage(), LineStage("second"))
    case.says(b"KNOCK\nKNO")
    assert case.owner.asked == []
    case.says(b"CK 198.51.100.7 80\n")
    assert case.owner.asked == [OTHER]


def test_a_client_whose_address_is_known_already_is_not_admitted_again() -> None:
    case = Case(LineStage(skips=(PEER[0],)))
    assert case.preamble.knows_address
    assert (case.owner.asked, case.owner.told) == ([], [("completed", PEER)])


def test_a_client_that_is_not_admitted_goes_through_no_further_stage() -> None:
    second = LineStage("second", skips=(PEER[0],))
    case = Case(LineStage(), second)
    case.owner.denied = OTHER
    case.says(b"KNOCK 198.51.100.7 80\nKNOCK\n")
    assert (case.owner.told, case.closed, second.begun) == (["gone"], False, [])
    assert not case.is_timed()


def test_the_address_that_the_client_has_called() -> None:
    told = "203.0.113.1", 443
    case = Case(LineStage(called=told), LineStage("second"))
    assert case.preamble.called is None
    case.says(b"KNOCK\nKNOCK\n")
    assert case.preamble.called == told


def test_a_refusal() -> None:
    case = Case(LineStage(), LineStage("second"))
    case.says(b"HELLO\nKNOCK\n")
    assert (case.owner.told, case.closed) == (["knock: not a knock", "gone"], False)
    assert not case.is_timed()


class Polite(LineStage):
    """A stage that refuses with a last message."""

    def begin(self, peer: Any, stream: Any) -> Any:
        return self

    def feed(self, data: bytes) -> Proceed | Refuse | None:
        return Refuse("impolite", b"no\n")


def test_a_refusal_with_a_last_message() -> None:
    case = Case(Polite(), LineStage("second"))
    ends: list[str] = []
    case.client.ended = lambda: ends.append("fin")
    case.says(b"HELLO\n")
    assert (case.owner.told, case.heard, ends, case.closed) == (["knock: impolite"], b"no\n", ["fin"], None)
    case.says(b"more")
    case.client.close()
    case.passes(1)
    assert case.owner.told == ["knock: impolite", "gone"]


def test_after_a_last_message_nothing_waits_for_ever() -> None:
    case = Case(Polite())
    case.says(b"HELLO\n")
    case.passes(10)
    assert case.owner.told == ["knock: impolite", "gone"]


def test_the_owner_closes_it_after_a_last_message() -> None:
    case = Case(Polite())
    case.says(b"HELLO\n")
    case.preamble.reject()
    case.turns()
    assert (case.owner.told, case.closed) == (["knock: impolite", "gone"], False)


def test_silence() -> None:
    case = Case(LineStage())
    case.passes(3)
    assert case.owner.told == []
    case.passes(1)
    assert (case.owner.told, case.closed) == (["knock: not complete within 3 seconds", "gone"], False)


def test_bytes_that_drip_extend_nothing() -> None:
    case = Case(LineStage())
    for _ in range(4):
        case.says(b"K")
        case.passes(1)
    assert case.owner.told == ["knock: not complete within 3 seconds", "gone"]


def test_a_reset() -> None:
    case = Case(LineStage())
    case.says(b"KNO")
    case.client.abort()
    case.turns()
    assert case.owner.told == [("left", "knock: the client has reset the connection"), "gone"]
    assert not case.is_timed()


@pytest.mark.parametrize("name", ["half_close", "close"])
@pytest.mark.parametrize("said", [b"", b"KNO"])
def test_a_fin_in_the_middle(said: bytes, name: str) -> None:
    case = Case(LineStage())
    case.says(said)
    getattr(case.client, name)()
    case.turns()
    assert case.owner.told == [("left", "knock: the client has ended the connection"), "gone"]
    assert not case.is_timed()


def test_a_fin_behind_it_is_told_to_the_owner() -> None:
    case = Case(LineStage())
    case.client.write(b"KNOCK\nhello")
    case.client.half_close()
    case.turns()
    assert (case.owner.told, case.owner.data) == ([("completed", PEER), "ended"], b"hello")


def test_the_owner_rejects_the_client() -> None:
    case = Case(LineStage(), is_taken=False)
    case.says(b"KNOCK\nhello")
    assert (case.owner.told, case.closed) == ([("completed", PEER), "gone"], False)


def test_the_owner_closes_it() -> None:
    case = Case(LineStage())
    case.says(b"KNO")
    case.preamble.reject()
    case.says(b"CK\n")
    assert (case.owner.told, case.closed) == (["gone"], False)
    assert not case.is_timed()


class Broken(LineStage):
    """A stage with a bug. where: the method that raises."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def begin(self, peer: Any, stream: Any) -> Any:
        if self.where == "begin":
            raise ValueError
        return self

    def feed(self, data: bytes) -> Proceed | Refuse | None:
        raise ValueError


@pytest.mark.parametrize("where", ["begin", "feed"])
def test_a_stage_that_raises(where: str) -> None:
    case = Case(Broken(where), LineStage())
    case.says(b"KNOCK\n")
    assert (case.owner.told, case.closed) == (["knock raised", "knock: internal error", "gone"], False)


class Challenge(LineStage):
    """A stage that speaks first."""

    def begin(self, peer: Any, stream: Any) -> Any:
        stream.write(b"who?\n")
        return super().begin(peer, stream)


def test_a_stage_may_write() -> None:
    case = Case(Challenge())
    case.turns()
    assert case.heard == b"who?\n"
    case.says(b"KNOCK\nhello")
    assert case.owner.data == b"hello"


class Shouting:
    """A stage that puts a transport in between, through which everything is in upper case, both ways."""

    name, timeout, max_size = "shout", 3, 10

    def __init__(self, call_soon: Any) -> None:
        self._call_soon = call_soon

    def finds_address(self, peer: Any) -> bool:
        return False

    def begin(self, peer: Any, stream: Stream) -> Shouting:
        self._below = stream
        return self

    def feed(self, data: bytes) -> Proceed | Refuse | None:
        below, upper, bridge = self._below, Stream(), Stream()
        for source, target in (below, bridge), (bridge, below):
            self._pass(source, target)
        join_in_memory(bridge, upper, self._call_soon)
        return Proceed(data.upper(), stream=upper)

    def _pass(self, source: Stream, target: Stream) -> None:
        source.dataReceived = lambda data: target.write(data.upper())
        source.ended = target.half_close
        source.lost = lambda clean: target.close() if clean else target.abort()


def test_a_stage_may_put_a_transport_in_between() -> None:
    stages: Sequence[Any] = Shouting(lambda call: case.call_soon(call)), LineStage()
    case = Case(*stages)
    case.says(b"knock\n", b"hello")
    assert (case.owner.told, case.owner.data) == ([("completed", PEER)], b"HELLO")
    case.owner.stream.write(b"bye")
    case.owner.stream.half_close()
    case.turns()
    assert case.heard == b"BYE"
    case.client.half_close()
    case.turns()
    assert case.owner.told == [("completed", PEER), "ended"]


def test_a_refusal_over_a_transport_in_between() -> None:
    stages: Sequence[Any] = Shouting(lambda call: case.call_soon(call)), LineStage()
    case = Case(*stages)
    case.says(b"hello\n")
    case.turns()
    assert (case.owner.told, case.closed) == (["knock: not a knock", "gone"], False)


@pytest.mark.parametrize("said", [b"KNOCK\n", b"HELLO\n"])
def test_its_memory_is_free_without_a_collection(said: bytes) -> None:
    case = Case(LineStage())
    gc.collect()
    gc.disable()
    try:
        case.says(said)
        alive = weakref.ref(case.preamble._reader or case.preamble.stream)
        stream = weakref.ref(case.preamble.stream)
        del case.preamble
        case.owner.stream = nothing
        case.client.abort()
        case.turns()
        assert (alive(), stream()) == (None, None)
    finally:
        gc.enable()


def test_what_it_looks_like() -> None:
    case = Case(LineStage())
    assert "knock" in repr(case.preamble)
    case.says(b"KNOCK\n")
    assert "no stage" in repr(case.preamble)
