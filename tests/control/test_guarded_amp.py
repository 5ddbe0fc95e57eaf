"""What a peer of the control connection may say, as transcripts: no traceback, no flood, and the next is served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.protocols import amp

from ktcpvs.control.guarded_amp import MAX_COMMANDS
from ktcpvs.control.server import MAX_CONFIGURATION
from ktcpvs.errors import BadValue, NoConfiguration, Refusal
from ktcpvs.model.edits import Edit
from tests.fuzz.guarded_amp import FULL, HELD_MOST, Daemon, Failures


class Peer:
    """A peer that says what it likes to a real daemon in memory."""

    def __init__(self, daemon: Daemon) -> None:
        self.end, self.line = daemon.connect()

    def says(self, data: bytes) -> None:
        self.end.dataReceived(data)

    def asks(self, command: bytes, tag: bytes | None = b"1", **arguments: bytes) -> None:
        self.says(ask(command, tag, **arguments))

    def heard(self) -> list[amp.AmpBox]:
        """The answers since the last time."""
        answers: list[amp.AmpBox] = amp.parseString(self.line.value())
        self.line.clear()
        return answers


def ask(command: bytes, tag: bytes | None = b"1", **arguments: bytes) -> bytes:
    box = amp.AmpBox({key.encode(): value for key, value in arguments.items()})
    box[amp.COMMAND] = command
    if tag is not None:
        box[amp.ASK] = tag
    return box.serialize()


class SlowDaemon(Daemon):
    """Its edits wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Edit, Deferred[None]]] = []

    def submit(self, edit: Edit) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        self.waiting.append((edit, answer))
        return answer


@pytest.fixture(autouse=True)
def failures() -> Iterator[Failures]:
    """Whatever a peer says is no bug of ours: nothing may be logged as one."""
    with Failures() as logged:
        yield logged


@pytest.mark.parametrize(
    ("command", "arguments", "why"),
    [
        (b"AddServer", {"ident": b"a"}, "AddServer: its argument 'address' is missing or cannot be read"),
        (b"AddServer", {"ident": b"a", "address": b"b:1", "weight": b"one"}, "AddServer: its argument 'weight'"),
        (b"AddServer", {"ident": b"a", "address": b"b:1", "weight": b"9" * 5000}, "AddServer: its argument 'weight'"),
        (b"DeleteService", {"ident": b"\xff"}, "DeleteService: its argument 'ident'"),
        (b"Upload", {"page": b"", "first": b"yes"}, "Upload: its argument 'first'"),
        (b"Set", {"changes": b"\x01\x00"}, "Set: its argument 'changes'"),
        (b"Set", {"changes": b"\x00\x01a\x00\x01b\x00\x00"}, "Set: its argument 'changes'"),
    ],
)
def test_arguments_that_cannot_be_read(command: bytes, arguments: dict[str, bytes], why: str) -> None:
    peer = Peer(Daemon())
    peer.asks(command, **arguments)
    (answer,) = peer.heard()
    assert answer[amp.ERROR_CODE] == BadValue.code
    assert answer[amp.ERROR_DESCRIPTION].decode().startswith(why)
    assert not peer.line.gone


@pytest.mark.parametrize("name", [b"Nope", b"", b"\xff", b"x" * 65535, b"StartTLS", b"__init__"])
def test_a_command_that_there_is_not(name: bytes) -> None:
    peer = Peer(Daemon())
    peer.asks(name)
    (answer,) = peer.heard()
    assert answer[amp.ERROR_CODE] == amp.UNHANDLED_ERROR_CODE
    assert answer[amp.ERROR_DESCRIPTION].startswith(b"there is no command '")
    peer.asks(b"Flush")
    assert peer.heard() == [{amp.ANSWER: b"1"}]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00",
        amp.AmpBox({b"x": b"y"}).serialize(),
        amp.AmpBox({b"_answer": b"1"}).serialize(),
        amp.AmpBox({b"_error": b"1", b"_error_code": b"x", b"_error_description": b"y"}).serialize(),
        amp.AmpBox({b"_answer": b"1", b"_command": b"Flush"}).serialize(),
    ],
)
def test_what_is_no_command_ends_the_connection(said: bytes) -> None:
    daemon = Daemon()
    before = daemon.director.table
    peer = Peer(daemon)
    peer.says(said + ask(b"AddService", ident=b"late", options=b""))
    assert peer.line.gone
    assert peer.heard() == []
    assert daemon.director.table is before, "what follows is not carried out"


def test_a_command_that_wants_no_answer_may_be_refused() -> None:
    peer = Peer(Daemon())
    peer.asks(b"DeleteService", None, ident=b"nope")
    peer.asks(b"Nope", None)
    peer.asks(b"Flush")
    assert peer.heard() == [{amp.ANSWER: b"1"}]


def test_a_peer_that_reads_nothing_is_answered_no_further() -> None:
    peer = Peer(Daemon())
    ask_one = ask(b"Read", view=b"settings")
    peer.says(ask_one * 200)
    assert not peer.line.is_read
    held = len(peer.line.value())
    assert FULL < held <= HELD_MOST
    answers = []
    while not peer.line.is_read:
        answers += peer.heard()
        peer.line.producer.resumeProducing()
    answers += peer.heard()
    assert len(answers) == 200, "all are answered in the end"


def test_not_all_commands_at_once() -> None:
    daemon = SlowDaemon()
    peer = Peer(daemon)
    peer.says(b"".join(ask(b"DeleteService", b"%d" % tag, ident=b"s%d" % tag) for tag in range(100)))
    for tag in range(100):
        assert len(daemon.waiting) == min(MAX_COMMANDS, 100 - tag)
        assert peer.line.is_read == (100 - tag < MAX_COMMANDS)
        edit, answer = daemon.waiting.pop(0)
        assert edit.ident == f"s{tag}"  # type: ignore[attr-defined]
        answer.callback(None)
        assert peer.heard() == [{amp.ANSWER: b"%d" % tag}]
    assert not daemon.waiting
    assert peer.line.is_read


def test_a_command_that_takes_no_time_beside_as_many_as_may_be() -> None:
    daemon = SlowDaemon()
    peer = Peer(daemon)
    peer.says(ask(b"Flush") * (MAX_COMMANDS - 1))
    peer.says(ask(b"Upload", b"u", page=b"x", first=b"False") + ask(b"Upload", b"v", page=b"y", first=b"False"))
    assert peer.heard() == [{amp.ANSWER: b"u"}, {amp.ANSWER: b"v"}]
    assert peer.end._upload == b"xy", "each was carried out once"
    assert len(daemon.waiting) == MAX_COMMANDS - 1


def test_what_was_not_begun_when_a_peer_goes_is_not_done() -> None:
    daemon = SlowDaemon()
    peer = Peer(daemon)
    peer.says(ask(b"Flush") * (MAX_COMMANDS + 3))
    peer.end.connectionLost(amp.Failure(amp.ConnectionLost()))
    for _, answer in list(daemon.waiting):
        answer.callback(None)
    assert len(daemon.waiting) == MAX_COMMANDS


def test_pages_of_nothing_take_no_room() -> None:
    peer = Peer(Daemon())
    peer.asks(b"Load", source=b"x")
    assert peer.heard()[0][amp.ERROR_CODE] == NoConfiguration.code
    peer.says(ask(b"Upload", page=b"", first=b"False") * 1000)
    assert len(peer.heard()) == 1000
    assert len(peer.end._upload) == 0
    peer.asks(b"Load", source=b"x", allow_empty=b"True")
    assert peer.heard() == [{amp.ANSWER: b"1"}]


def test_all_connections_together_send_no_more_than_one_configuration() -> None:
    daemon = Daemon()
    one, other = Peer(daemon), Peer(daemon)
    page = ask(b"Upload", page=b"#" * 65535, first=b"False")
    for _ in range(MAX_CONFIGURATION // 65535 - 10):
        one.says(page)
    one.heard()
    other.says(page * 11)
    assert [box.get(amp.ERROR_CODE) for box in other.heard()] == [None] * 10 + [NoConfiguration.code]
    one.end.connectionLost(amp.Failure(amp.ConnectionLost()))
    other.says(page)
    assert other.heard() == [{amp.ANSWER: b"1"}]


def test_a_fault_of_ours_is_told_in_one_line(failures: Failures) -> None:
    peer = Peer(Daemon())
    peer.end._pages = None  # type: ignore[assignment]
    peer.asks(b"ReadPage", number=b"1")
    (answer,) = peer.heard()
    assert answer[amp.ERROR_CODE] == Refusal.code
    assert b"fault of its own" in answer[amp.ERROR_DESCRIPTION]
    assert failures.seen.pop()["log_failure"].check(TypeError)
