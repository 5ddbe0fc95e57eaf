"""Fuzz targets for the control connection: the switch survives any bytes of a peer.

The daemon behind it is real, except that no services start, since those would open the addresses that the fuzzer names.
"""

from __future__ import annotations

import gc
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.control import commands
from ktcpvs.control.server import Administrator, ControlFactory
from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.inspect.explain import Explainer
from ktcpvs.inspect.live_tracing import LiveTracing
from ktcpvs.inspect.views import Views
from ktcpvs.model.edits import START_NOTHING, Edit, Load, StartService
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.system.log import EventLog
from tests.fuzz.messages import pieces

FULL = 65536
"""Bytes that the connection takes before it applies back-pressure."""

HELD_MOST = FULL + 2 * 65535 + 4096
"""Bytes that may wait for a peer that reads nothing: the connection's limit and one answer."""


@implementer(ILogObserver)
class Failures:
    """Collects the errors that are logged within its block, and fails when there are any.

    Twisted logs an unhandled error when its Deferred is freed, so all objects made within the block are collected at
    its end. The garbage collector is off meanwhile, and older objects are excluded.
    """

    def __init__(self) -> None:
        self.seen: list[LogEvent] = []

    def __enter__(self) -> Failures:
        gc.collect(0)
        gc.disable()
        globalLogPublisher.addObserver(self)
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect(0)
        gc.enable()
        globalLogPublisher.removeObserver(self)
        assert not self.seen, [str(event.get("log_failure") or event) for event in self.seen]

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("log_level") in (LogLevel.error, LogLevel.critical):
            self.seen.append(event)


class Line(StringTransport):
    """The switch's end of a control connection whose peer reads only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) > FULL and self.producer is not None:
            self.producer.pauseProducing()

    def loseConnection(self) -> None:
        self.gone = True

    def abortConnection(self) -> None:
        self.gone = True

    @property
    def is_read(self) -> bool:
        return not self.gone and self.producerState == "producing"


class Daemon:
    """A switch without sockets, with the interface that the control connection uses."""

    def __init__(self, is_slow: bool = False) -> None:
        """is_slow: edits are applied when `go_on` is called."""
        log = EventLog()
        self._is_slow = is_slow
        self._waiting: list[tuple[Edit, Deferred[Sequence[str]]]] = []
        self.director = Director(Context(MemoryReactorClock(), log, Descriptors(100)))
        self.view = Views(self.director).view
        self.explain = Explainer(self.director).explain
        self.close_connection = Views(self.director).close_connection
        rebalance = Views(self.director).rebalance
        self.rebalance = lambda ident, percent, resets, all_nodes: rebalance(ident, percent, resets)
        self.trace = LiveTracing(self.director).trace
        self.factory = ControlFactory(self, log)

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        if isinstance(edit, StartService) or (isinstance(edit, Load) and edit.start != START_NOTHING):
            return fail(Refusal("nothing starts here"))
        if self._is_slow:
            later: Deferred[Sequence[str]] = Deferred()
            self._waiting.append((edit, later))
            return later
        return self.director.submit(edit)

    def go_on(self) -> None:
        """Apply the pending edits; later ones are applied at once."""
        self._is_slow = False
        waiting, self._waiting = self._waiting, []
        for edit, later in waiting:
            self.director.submit(edit).chainDeferred(later)

    def connect(self) -> tuple[Administrator, Line]:
        administrator = self.factory.buildProtocol(None)
        assert administrator is not None
        line = Line()
        administrator.makeConnection(line)
        return administrator, line


def control(data: bytes) -> None:
    """Any bytes, in pieces."""
    for size in (1 << 20, 3):
        _said(pieces(data, size))


def boxes(data: bytes) -> None:
    """Boxes of any keys and values. Lines of bytes, of fields parted by tabs: [COUNT*]COMMAND [KEY=VALUE ...].

    The value `[name:value,name:value` is a list of boxes; VALUE*COUNT repeats. `_ask` is there unless it is given.
    """
    for is_slow in (False, True):
        made = list(_boxes(data))
        tags, was_ended = _said(iter((b"".join(box.serialize() * count for box, count in made),)), is_slow)
        asked: Counter[bytes] = Counter()
        for box, count in made:
            if amp.ASK in box:
                asked[box[amp.ASK]] += count
        assert tags <= asked, "a command is answered twice"
        assert tags == asked or was_ended, "a command is not answered"


_COUNTED = re.compile(rb"([0-9]{1,2})\*(.*)", re.DOTALL)
_REPEATED = re.compile(rb"(.*)\*([0-9]{1,5})", re.DOTALL)


def _boxes(data: bytes) -> Iterator[tuple[amp.AmpBox, int]]:
    """The boxes that `data` describes, and how often each is sent."""
    for number, line in enumerate(data.split(b"\n")[:20]):
        name, *fields = line.split(b"\t")
        count = 1
        if counted := _COUNTED.fullmatch(name):
            count, name = int(counted[1]), counted[2]
        box = amp.AmpBox({amp.ASK: b"%x" % number, amp.COMMAND: name[:65535]})
        for one in fields:
            key, _, value = one.partition(b"=")
            if value.startswith(b"["):
                inner = (pair.partition(b":")[::2] for pair in value[1:].split(b","))
                value = b"".join(amp.AmpBox({b"name": a, b"value": b}).serialize() for a, b in inner)
            elif repeated := _REPEATED.fullmatch(value):
                value = repeated[1] * min(int(repeated[2]), 65535 // (len(repeated[1]) or 1))
            if 0 < len(key) < 256:
                box[key] = value[:65535]
        if not box[amp.ASK]:
            del box[amp.ASK]
        yield box, count


def _said(coming: Iterator[bytes], is_slow: bool = False) -> tuple[Counter[bytes], bool]:
    """A peer sends `coming` and reads nothing, then reads everything; then another peer sends a correct command.

    Return the tags that were answered, and whether the daemon closed the first connection.
    """
    daemon = Daemon(is_slow)
    with Failures():
        administrator, line = daemon.connect()
        for piece in coming:
            if not line.is_read:
                break
            administrator.dataReceived(piece)
            assert len(line.value()) <= HELD_MOST, "a peer that reads nothing is answered on and on"
        daemon.go_on()
        answers = b""
        while True:
            answers += line.value()
            line.clear()
            if line.gone or line.producerState == "producing":
                break
            assert line.producer is not None
            line.producer.resumeProducing()
        tags = _answered(answers)
        administrator.connectionLost(Failure(ConnectionLost()))
        _still_works(daemon)
        for call in daemon.director.context.reactor.getDelayedCalls():
            call.cancel()
    return tags, line.gone


CODES = {kind.code for kind in Refusal.kinds()} | {amp.UNHANDLED_ERROR_CODE}


def _answered(answers: bytes) -> Counter[bytes]:
    """The tags of valid answers."""
    tags: Counter[bytes] = Counter()
    for box in amp.parseString(answers):
        if amp.ERROR in box:
            assert box[amp.ERROR_CODE] in CODES, box
            assert box[amp.ERROR_DESCRIPTION].decode("utf-8").isprintable(), box
            assert len(box[amp.ERROR_DESCRIPTION]) < 10_000
            tags[box[amp.ERROR]] += 1
        else:
            tags[box[amp.ANSWER]] += 1
    return tags


def _still_works(daemon: Daemon) -> None:
    """Another administrator lists, edits and lists again."""
    administrator, line = daemon.connect()
    edit = [{"name": "scheduler", "value": "rr"}]
    done: list[Any] = []
    Deferred.fromCoroutine(_asked(administrator, line, commands.OF_EDIT["DeleteService"], ident="fuzz-again")).addBoth(
        done.append
    )
    Deferred.fromCoroutine(
        _asked(administrator, line, commands.OF_EDIT["AddService"], ident="fuzz-again", options=edit)
    ).addCallback(done.append)
    Deferred.fromCoroutine(_asked(administrator, line, commands.Read, view="settings")).addCallback(done.append)
    assert len(done) == 3, "a sensible command is not answered"
    assert done[1] == {}
    assert b"read_timeout" in done[2]["page"]
    assert daemon.director.table.services["fuzz-again"].scheduler == "rr"


async def _asked(administrator: Administrator, line: Line, command: Any, **arguments: Any) -> dict[str, Any]:
    """Send a command; return its answer. Raises Refusal."""
    box = command.makeArguments(arguments, administrator)
    box[amp.COMMAND], box[amp.ASK] = command.commandName, b"1"
    administrator.dataReceived(box.serialize())
    (answer,) = amp.parseString(line.value())
    line.clear()
    if amp.ERROR in answer:
        raise Refusal(answer[amp.ERROR_DESCRIPTION].decode())
    found: dict[str, Any] = command.parseResponse(answer, administrator)
    return found


TARGETS: dict[str, Callable[[bytes], None]] = {"control": control, "boxes": boxes}
