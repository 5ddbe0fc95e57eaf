"""The relay in the kernel: a program there redirects what comes for one socket straight to the other, by grants.

This process hears of a direction again when half of its grant is used, when the grant is used up and packets are passed
to it, or when an end is near; what it has to do then stands in `model.grants`. What cannot be joined is read and
written here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from ktcpvs.model import grants
from ktcpvs.model.grants import BLOCKED, ENDED, ENDING, GONE, GRANTED, HOLDING, READING, READY, WAITING
from ktcpvs.relay.bare import ERR, HUP, IN, OUT, PEER_ENDED, BareRelay
from ktcpvs.relay.bytecode import BROKEN, HALF_USED, OVERFULL
from ktcpvs.relay.detach import Detached
from ktcpvs.relay.granted import Direction
from ktcpvs.relay.program import Lost
from ktcpvs.relay.programs import Kernel as Kernel
from ktcpvs.relay.watch import Watch
from ktcpvs.streams.stream import Stream
from ktcpvs.system.bpf import BPFError
from ktcpvs.system.sockets import is_over, unread
from ktcpvs.system.tcpinfo import silent_for
from ktcpvs.system.timer_wheel import TimerWheel

_log = Logger(namespace="ktcpvs")

ALL = 8 << 20
"""More than a socket's queue holds, in bytes: what is read like that is all there is."""

CHUNK = 128 << 10
"""What is read at once when it need not be all."""

ROUNDS = 4
"""How often one source is read in one turn; then the others have their turn."""

SOON, LATE = 0.001, 0.25
"""Seconds until one looks again whether redirected bytes are in the target's queue: at first, and at last."""

Buffer = bytes | memoryview

_scratch = memoryview(bytearray(ALL))
"""What is read is read into here; nothing stays in it."""


class KernelRelay(BareRelay):
    """One connection; its two sides are in the program's maps once both have been read empty."""

    __slots__ = ("_kernel",)

    def __init__(
        self,
        client: Stream,
        server: Stream,
        wheel: TimerWheel,
        finished: Callable[[], object],
        watch: Watch,
        kernel: Kernel,
    ) -> None:
        """finished: called once, when both directions have ended."""
        super().__init__(client, server, wheel, finished, watch)
        self.inward = Direction(client, self._client, server, self._server, wheel.now)
        self.outward = Direction(server, self._server, client, self._client, wheel.now)
        self._kernel = kernel

    @property
    def is_joined(self) -> bool:
        """True while the kernel takes part."""
        return self.inward.program is not None and self.outward.program is not None

    def start(self, waiting: bytes = b"", answer: bytes = b"") -> None:
        """As BareRelay."""
        for way, first in (self.inward, waiting), (self.outward, answer):
            if first:
                way.state = BLOCKED
        super().start(waiting, answer)
        for way in self.inward, self.outward:
            if way.state is BLOCKED:
                self._safely(self._write, way)
            elif way.state is READING:  # the other one may have found this one's end
                self._safely(self._read, way)

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, either way, as the kernel knows it."""
        seen: int = max(self.inward.seen, self.outward.seen)
        if self.is_joined and self._client.fd >= 0 and self._server.fd >= 0:
            silent = min(silent_for(self._client.sock), silent_for(self._server.sock))
            seen = max(seen, self._wheel.now - int(silent))
        return seen

    # What is told.

    def _ready(self, into: Direction, out: Direction, events: int) -> None:
        self._safely(self._is_ready, into, out, events)

    def _is_ready(self, into: Direction, out: Direction, events: int) -> None:
        if events & ERR and self._is_broken(into, out):
            return
        if events & OUT and out.state is BLOCKED:
            self._safely(self._write, out)
        if events & (IN | PEER_ENDED | HUP) and into.from_side.fd >= 0:
            if into.state is GRANTED:
                into.happened(grants.PEER_ENDED)
            elif into.state is READY:
                into.happened(grants.BYTES_CAME)
            if into.state is READING:
                self._safely(self._read, into, True)

    def told(self, way: Direction, kind: int) -> None:
        """What the program tells of a direction."""
        granted = way.state is GRANTED
        if kind == BROKEN:
            _log.error("a relay is reset: what came for it could not be told from what had come before")
            self._reset()
        elif kind == OVERFULL:
            _log.info("a relay is reset: more came for it than may wait to be read")
            self._reset()
        elif kind == HALF_USED:
            way.happened(grants.HALF)
            if granted:
                self._extend(way)
        else:
            way.happened(grants.PASSED)
            if granted:
                way.window = grants.less_window(way.window, self._kernel.window)
                self._safely(self._read, way)

    def _safely(self, do: Callable[..., object], *arguments: Any) -> None:
        """A bug shall cost no more than this connection."""
        try:
            do(*arguments)
        except Exception:
            _log.failure("a relay failed")
            self._reset()

    def _reset(self) -> None:
        self.inward.source.reset()
        self.outward.source.reset()

    # The bytes that come to this process.

    def _read(self, way: Direction, told: bool = False) -> None:
        """Carry on what comes to this process. told: the system says that there is something."""
        side = way.from_side
        for _ in range(ROUNDS if not side.refuses else ALL // CHUNK):  # who is over is not watched any more
            most = ALL if way.program is None and not way.empty else CHUNK
            try:
                size = side.sock.recv_into(_scratch, most)
            except BlockingIOError:
                way.empty = True
                self._nothing(way, told)
                return
            except OSError:
                side.transport.broken()
                return
            if not size:
                self._source_ended(way)
                return
            told = False
            way.empty = size < most
            way.seen = self._wheel.now
            way.read += size
            way.bytes += size
            way.limit_passed(self._kernel.passed_limit)
            way.happened(grants.DATA)
            if not self._put(way, _scratch[:size]):
                return
            if way.empty and not way.unread():
                self._nothing(way, False)
                return
        self._rewatch()

    def _nothing(self, way: Direction, told: bool) -> None:
        """There is nothing more to read now, and all that was read is written. told: although the system said so."""
        if way.from_side.refuses:
            way.from_side.transport.broken()
        elif way.program is None:
            way.happened(grants.EMPTIED)
            self._join()
        elif not way.unread():
            self._grant(way)
        elif told:  # it waits in the kernel behind what is redirected to its source
            way.happened(grants.NOT_YET)
            self._look_again(way)
        else:
            way.happened(grants.NOTHING)
        self._rewatch()

    def _put(self, way: Direction, data: Buffer) -> bool:
        """Write what was read; False when it is not all written now, and the rest is held."""
        if way.state is HOLDING and way.behind():
            way.copied = bytes(data)
            self._look_again(way)
            self._rewatch()
            return False
        way.narrow()
        try:
            sent = way.to_side.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._refused(way)
            return False
        way.wrote += sent
        if sent < len(data):
            way.copied = bytes(data[sent:])
            way.happened(grants.FULL)
            self._rewatch()
            return False
        way.copied = b""
        way.happened(grants.WRITTEN)
        way.tries = 0
        return True

    def _write(self, way: Direction) -> None:
        """Go on with what is held, and then with reading."""
        if self._put(way, way.copied):
            if way.stopped:
                way.happened(grants.LOST)
            way.to_side.transport.drained()
            if way.state is GONE:
                self._part_when_settled(way)
            elif way.state is READING:
                if way.empty and not way.unread():
                    self._nothing(way, False)
                else:
                    self._read(way)

    # The kernel takes over.

    def _join(self) -> None:
        """When both directions are ready: all that comes from now on is the program's."""
        inward, outward = self.inward, self.outward
        if not (inward.state is READY and outward.state is READY):
            return
        client, server = self._client.sock, self._server.sock
        kernel = self._kernel
        try:
            program, slot = kernel.take()
        except BPFError as error:
            _log.debug("a relay stays in this process: {why}", why=error)
            return
        ways = (inward, slot), (outward, slot + 1)
        try:
            for way, number in ways:
                way.join(program, number)
                way.widen(kernel.window)
                way.window = grants.first_window(kernel.window)
                way.relay = self
                kernel.enter(program, number, way)
            # What waits unread belongs to the first grant.
            most = [way.window + grants.charge(unread(way.from_side.sock)) for way, _ in ways]
            program.join(slot, slot + 1, client, server, *most)
        except OSError as error:
            for way, number in ways:
                way.part()
                kernel.leave(program, number)
            kernel.give(program, slot)
            if isinstance(error, Lost):
                raise
            _log.debug("a relay stays in this process: {why}", why=error)
            return
        for way, _ in ways:
            way.limit_passed(kernel.passed_limit)
            way.happened(grants.JOINED)
        self._rewatch()
        for way, _ in ways:
            self._check(way)

    def _grant(self, way: Direction) -> None:
        """All that was passed is written: the kernel redirects again."""
        way.happened(grants.ALL_PASSED)
        way.widen(self._kernel.window)
        way.grant(way.window - way.under_way())
        self._rewatch()
        self._check(way)

    def _check(self, way: Direction) -> None:
        """Has something been passed before the grant was made? Then nobody tells."""
        if way.state is not GRANTED:
            return
        silent_for(way.from_side.sock)  # waits until the program has done with the packet it has
        if way.unread():
            way.happened(grants.VOID)
            self._read(way)

    def _extend(self, way: Direction) -> None:
        """Half of the grant is used."""
        window = grants.next_window(way.window, way.waits(), self._kernel.window)
        if window:
            way.window = window
            way.grant(window - way.under_way())

    # Looking again.

    def _look_again(self, way: Direction) -> None:
        if way.call is None:
            delay = min(SOON * 2**way.tries, LATE)
            way.tries = min(way.tries + 1, 16)
            way.call = self._watch.after(delay, self._again, way)

    def _again(self, way: Direction) -> None:
        way.call = None
        self._safely(self._looked_again, way)

    def _looked_again(self, way: Direction) -> None:
        if way.state is HOLDING:
            self._write(way)
        elif way.state is WAITING:
            way.happened(grants.AGAIN)
            self._read(way, True)
        elif way.state is ENDING:
            self._carry_end(way)
        elif way.behind():
            self._look_again(way)
        else:
            self._settled(way)

    def _settled(self, way: Direction) -> None:
        """Nothing is under way to the target any more, which may have waited for that with its end."""
        way.tries = 0
        if way.to_side.fd >= 0:
            way.to_side.transport.drained()
        if way.state is GONE:
            self._part(way)

    def _part_when_settled(self, way: Direction) -> None:
        """It is gone: what was redirected still goes out."""
        if way.behind():
            self._look_again(way)
        else:
            self._part(way)

    # The ends.

    def _source_ended(self, way: Direction) -> None:
        if way.from_side.refuses:
            way.from_side.transport.broken()
        elif way.unread():
            way.happened(grants.NOT_YET)
            self._look_again(way)
            self._rewatch()
        else:
            way.happened(grants.END)
            self._rewatch()
            self._carry_end(way)

    def _carry_end(self, way: Direction) -> None:
        if way.behind():
            self._look_again(way)
            return
        way.happened(grants.SETTLED)
        way.ended = True
        way.target.end()
        if self.inward.ended and self.outward.ended:
            self._finished()

    def _is_broken(self, into: Direction, out: Direction) -> bool:
        """A side is told to be over. False: it has merely ended both ways."""
        if not is_over(into.from_side.sock):
            return False
        self._refused(out)
        return True

    def _refused(self, way: Direction) -> None:
        """The target takes nothing any more. What it had said before is carried on first."""
        side = way.to_side
        back = self.outward if way is self.inward else self.inward
        way.copied = b""
        if way.state is not GONE:
            way.happened(grants.LOST)
        if side.refuses:
            return
        side.refuses = True
        if side.events:  # it would be told so for ever
            self._watch.forget(side.fd)
            side.events = 0
        self._rewatch()
        if back.state in (ENDING, ENDED, GONE):
            side.transport.broken()
        elif back.state is GRANTED:
            back.happened(grants.PEER_ENDED)
        elif back.state is READY:
            back.happened(grants.BYTES_CAME)
        if back.state is READING:
            self._safely(self._read, back)

    def _part(self, way: Direction) -> None:
        """The program has nothing more to do with a direction that is gone."""
        program, slot = way.program, way.slot
        if program is None:
            return
        way.part()
        self._kernel.leave(program, slot)
        if self.inward.program is None and self.outward.program is None:
            self._kernel.give(program, slot & ~1)

    def _events(self, into: Direction, out: Direction) -> int:
        if into.from_side.refuses:
            return 0
        events: int = ERR
        if into.state in (READING, READY):
            events |= IN
        elif into.state is GRANTED:
            events |= PEER_ENDED
        if out.state is BLOCKED:
            events |= OUT
        # Who has ended both ways is told so for ever.
        return 0 if events == ERR and out.state in (ENDED, GONE) else events

    # What the transports ask of their engine.

    def holds(self, transport: Detached) -> bool:
        _, _, out = self._of(transport)
        if out.copied:
            return True
        if out.behind():
            self._look_again(out)
            return True
        return False

    def read_no_more(self, transport: Detached) -> None:
        _, into, _ = self._of(transport)
        self._stop(into)
        self._rewatch()

    def _stop(self, way: Direction) -> None:
        """Nothing more is carried from its source. What is held, or redirected already, still goes out."""
        way.stopped = True
        if way.program is not None:
            way.program.void(way.slot)
        if way.state not in (HOLDING, BLOCKED, GONE):
            way.happened(grants.LOST)

    def forget(self, transport: Detached) -> None:
        side, into, out = self._of(transport)
        self._unwatch(side)
        self._stop(into)
        out.copied = b""
        if out.state is not GONE:
            out.happened(grants.LOST)
        if out.call is not None:
            out.call.cancel()
            out.call = None
        self._part(out)
        if into.state is GONE:
            self._part_when_settled(into)
        self._rewatch()
