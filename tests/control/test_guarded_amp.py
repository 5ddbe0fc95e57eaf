"""Untrusted input on the control connection: no tracebacks, no floods, and other peers are still served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.protocols import amp

from ktcpvs.control.guarded_amp import MAX_REFUSAL_LENGTH, MAX_RUNNING_COMMANDS
from ktcpvs.control.server import MAX_TRACES, MAX_UPLOAD_BYTES
from ktcpvs.errors import BadValue, NoConfiguration, Refusal
from ktcpvs.model.edits import Edit
from tests.fuzz.guarded_amp import FULL, HELD_MOST, Daemon, Failures


class Peer:
    """A peer that sends any bytes to a real daemon in memory."""

    def __init__(self, daemon: Daemon) -> None:
        self.end, self.line = daemon.connect()

    def send(self, data: bytes) -> None:
        self.end.dataReceived(data)

    def ask(self, command: bytes, tag: bytes | None = b"1", **arguments: bytes) -> None:
        self.send(ask(command, tag, **arguments))

    def responses(self) -> list[amp.AmpBox]:
        """Return the responses since the last call."""
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
    """Its edits wait until the test answers them."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Edit, Deferred[None]]] = []

    def submit(self, edit: Edit) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        self.waiting.append((edit, answer))
        return answer


@pytest.fixture(autouse=True)
def failures() -> Iterator[Failures]:
    """No input may be logged as a bug of the daemon."""
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
    peer.ask(command, **arguments)
    (answer,) = peer.responses()
    assert answer[amp.ERROR_CODE] == BadValue.code
    assert answer[amp.ERROR_DESCRIPTION].decode().startswith(why)
    assert not peer.line.gone


@pytest.mark.parametrize("name", [b"Nope", b"", b"\xff", b"x" * 65535, b"StartTLS", b"__init__"])
def test_an_unknown_command(name: bytes) -> None:
    peer = Peer(Daemon())
    peer.ask(name)
    (answer,) = peer.responses()
    assert answer[amp.ERROR_CODE] == amp.UNHANDLED_ERROR_CODE
    assert answer[amp.ERROR_DESCRIPTION].startswith(b"there is no command '")
    peer.ask(b"Flush")
    assert peer.responses() == [{amp.ANSWER: b"1"}]


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
def test_other_bytes_than_commands_close_the_connection(said: bytes) -> None:
    daemon = Daemon()
    before = daemon.director.table
    peer = Peer(daemon)
    peer.send(said + ask(b"AddService", ident=b"late", options=b""))
    assert peer.line.gone
    assert peer.responses() == []
    assert daemon.director.table is before, "later commands are not carried out"


def test_a_command_without_a_response_can_be_refused() -> None:
    peer = Peer(Daemon())
    peer.ask(b"DeleteService", None, ident=b"nope")
    peer.ask(b"Nope", None)
    peer.ask(b"Flush")
    assert peer.responses() == [{amp.ANSWER: b"1"}]


def test_a_peer_that_does_not_read_gets_no_more_responses() -> None:
    peer = Peer(Daemon())
    ask_one = ask(b"Read", view=b"settings")
    peer.send(ask_one * 200)
    assert not peer.line.is_read
    held = len(peer.line.value())
    assert FULL < held <= HELD_MOST
    answers = []
    while not peer.line.is_read:
        answers += peer.responses()
        peer.line.producer.resumeProducing()
    answers += peer.responses()
    assert len(answers) == 200, "all are answered when it reads again"


def test_the_number_of_running_commands_is_limited() -> None:
    daemon = SlowDaemon()
    peer = Peer(daemon)
    peer.send(b"".join(ask(b"DeleteService", b"%d" % tag, ident=b"s%d" % tag) for tag in range(100)))
    for tag in range(100):
        assert len(daemon.waiting) == min(MAX_RUNNING_COMMANDS, 100 - tag)
        assert peer.line.is_read == (100 - tag < MAX_RUNNING_COMMANDS)
        edit, answer = daemon.waiting.pop(0)
        assert edit.ident == f"s{tag}"  # type: ignore[attr-defined]
        answer.callback(None)
        assert peer.responses() == [{amp.ANSWER: b"%d" % tag}]
    assert not daemon.waiting
    assert peer.line.is_read


def test_an_immediate_command_beside_the_most_running_ones() -> None:
    daemon = SlowDaemon()
    peer = Peer(daemon)
    peer.send(ask(b"Flush") * (MAX_RUNNING_COMMANDS - 1))
    peer.send(ask(b"Upload", b"u", page=b"x", first=b"False") + ask(b"Upload", b"v", page=b"y", first=b"False"))
    assert peer.responses() == [{amp.ANSWER: b"u"}, {amp.ANSWER: b"v"}]
    assert peer.end.take_upload() == b"xy", "each was carried out once"
    assert len(daemon.waiting) == MAX_RUNNING_COMMANDS - 1


def test_commands_that_were_not_read_when_a_peer_disconnects_are_not_run() -> None:
    daemon = SlowDaemon()
    peer = Peer(daemon)
    peer.send(ask(b"Flush") * (MAX_RUNNING_COMMANDS + 3))
    peer.end.connectionLost(amp.Failure(amp.ConnectionLost()))
    for _, answer in list(daemon.waiting):
        answer.callback(None)
    assert len(daemon.waiting) == MAX_RUNNING_COMMANDS


def test_empty_pages_take_no_memory() -> None:
    peer = Peer(Daemon())
    peer.ask(b"Load", source=b"x")
    assert peer.responses()[0][amp.ERROR_CODE] == NoConfiguration.code
    peer.send(ask(b"Upload", page=b"", first=b"False") * 1000)
    assert len(peer.responses()) == 1000
    assert peer.end.uploaded_bytes == 0
    peer.ask(b"Load", source=b"x", allow_empty=b"True")
    assert peer.responses() == [{amp.ANSWER: b"1"}]


def test_traces_that_nobody_reads_take_no_more_memory() -> None:
    """They have ended, so others may begin; what they have seen waits for their reader nevertheless."""
    daemon = Daemon()
    daemon.director.context.start()
    peer = Peer(daemon)

    def begin() -> amp.AmpBox:
        peer.ask(b"BeginTrace", conditions=b"", count=b"1", seconds=b"1")
        (response,) = peer.responses()
        daemon.director.context.reactor.pump([1.0] * 3)
        return response

    for number in range(1, MAX_TRACES + 1):
        assert begin()[b"number"] == b"%d" % number
    refused = begin()
    assert refused[amp.ERROR_CODE] == b"BUSY"
    assert b"16 traces of this connection have not been read to their end" in refused[amp.ERROR_DESCRIPTION]
    peer.ask(b"ReadTrace", number=b"3")
    assert peer.responses()[0][b"ended"] == b"time"
    peer.ask(b"EndTrace", number=b"4")
    peer.responses()
    assert [begin().get(b"number") for _ in range(3)] == [b"17", b"18", None]


def test_the_uploads_of_all_connections_are_limited() -> None:
    daemon = Daemon()
    one, other = Peer(daemon), Peer(daemon)
    page = ask(b"Upload", page=b"#" * 65535, first=b"False")
    for _ in range(MAX_UPLOAD_BYTES // 65535 - 10):
        one.send(page)
    one.responses()
    other.send(page * 11)
    assert [box.get(amp.ERROR_CODE) for box in other.responses()] == [None] * 10 + [NoConfiguration.code]
    one.end.connectionLost(amp.Failure(amp.ConnectionLost()))
    other.send(page)
    assert other.responses() == [{amp.ANSWER: b"1"}]


class Refusing(Daemon):
    def submit(self, edit: Edit) -> Deferred[None]:
        raise BadValue("\U0001f600" * 100_000)


def test_a_refusal_that_is_too_long_for_a_box_is_cut(failures: Failures) -> None:
    """A scheduler plugin may raise any text."""
    peer = Peer(Refusing())
    peer.ask(b"DeleteService", ident=b"a")
    (answer,) = peer.responses()
    assert answer[amp.ERROR_CODE] == BadValue.code
    assert answer[amp.ERROR_DESCRIPTION].decode() == "\U0001f600" * MAX_REFUSAL_LENGTH + "..."


def test_an_internal_error_is_answered_in_one_line(failures: Failures) -> None:
    peer = Peer(Daemon())
    peer.end._pages = None  # type: ignore[assignment]
    peer.ask(b"ReadPage", number=b"1")
    (answer,) = peer.responses()
    assert answer[amp.ERROR_CODE] == Refusal.code
    assert answer[amp.ERROR_DESCRIPTION] == b"internal error; see the daemon's log"
    assert failures.seen.pop()["log_failure"].check(TypeError)
