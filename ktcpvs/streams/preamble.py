"""The preamble of a client connection: stages that read its first bytes before the connection is served.

The stages of a listener run one after the other, each on the bytes that the one before has left. What the last one
leaves becomes the first data of the client connection. A listener without stages does not come here at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.lingering_close import LingeringClose
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.transport import nothing
from ktcpvs.system.timer_wheel import Timer, TimerWheel


@frozen
class Proceed:
    """The stage is complete.

    rest: the bytes behind those that it has read. peer: the client's address from now on; None: as before. called: the
    address that the client has called; None: as before. stream: carries the connection from now on, over a transport
    that the stage has put in between, as TLS does; it is open, and the callbacks of the stream below belong to that
    transport. None: as before.
    """

    rest: bytes = b""
    peer: SocketAddress = None
    called: SocketAddress = None
    stream: Stream | None = None


@frozen
class Refuse:
    """Refuse the client. reason: in words; the same for all clients that fail in the same way, since it is counted.
    message: to send before a lingering close, so that the client gets it; without one the client is reset."""

    reason: str
    message: bytes = b""


@frozen
class Finish:
    """The client has got all that it came for, and is not served. stream: as in `Proceed`; it is closed."""

    stream: Stream


class StageReader(Protocol):
    """One stage of one client."""

    def feed(self, data: bytes) -> Proceed | Refuse | Finish | None:
        """Read `data`, which follows what was fed before. None: more is needed."""


class Stage(Protocol):
    """One stage of a listener, for all of its clients.

    name: what it reads, for reasons and logs. timeout: the seconds in which a client must complete it. max_size: how
    many bytes a reader gets without coming to a result, up to the read that exceeds them; then the client is refused.
    """

    @property
    def name(self) -> str: ...

    @property
    def timeout(self) -> int: ...

    @property
    def max_size(self) -> int: ...

    def finds_address(self, peer: SocketAddress) -> bool:
        """Whether it finds the address of the client that comes from `peer`, as accept() tells it: the client is
        admitted when the stage is complete."""

    def begin(self, peer: SocketAddress, stream: Stream) -> StageReader | None:
        """The reader of one client; None: the stage does not apply to this client.

        peer: the client's address, as the stages before have found it. stream: to write on; the preamble reads it.
        """


class PreambleOwner(Protocol):
    """The receiver of a preamble's events. Nothing follows `completed`; without it, `gone` is the last one."""

    def finished(self, preamble: Preamble) -> None:
        """A stage has given the client all that it came for. `preamble.stream` closes, and is gone later."""

    def admits(self, preamble: Preamble) -> bool:
        """A stage has found the client's address, `preamble.peer`. Returns False to reset the client."""

    def completed(self, preamble: Preamble, rest: bytes) -> None:
        """All stages are complete; `rest` follows. Take the callbacks of `preamble.stream`, or `reject` the client."""

    def refused(self, preamble: Preamble, reason: str) -> None:
        """The client was refused. A client that is sent a last message is gone only later."""

    def left(self, preamble: Preamble, reason: str) -> None:
        """The client has left before its preamble was complete, as probes and port scans do. reason: how."""

    def stage_failed(self, stage: Stage | None) -> None:
        """A stage has raised; called within the except block. The client is refused then."""

    def gone(self, preamble: Preamble) -> None:
        """The connection is closed."""


class Preamble:
    """The stages of one client connection.

    stream: to the client. peer: its address, as accept() or the stages told it. called: the address that it has called,
    as the stages told it; None: they did not.
    """

    __slots__ = (
        "_address_stage", "_owner", "_reader", "_settings", "_size", "_stage", "_stages", "_timer", "_wheel", "called",
        "peer", "stream",
    )  # fmt: skip

    def __init__(
        self,
        stages: Sequence[Stage],
        peer: SocketAddress,
        wheel: TimerWheel,
        owner: PreambleOwner,
        settings: Settings | None = None,
    ) -> None:
        """settings: for a lingering close; None: their defaults."""
        self.peer = peer
        self.called: SocketAddress = None
        self._address_stage = next((stage for stage in reversed(stages) if stage.finds_address(peer)), None)
        self._settings = settings
        self.stream = Stream(self._opened)
        self._stages = iter(stages)  # those that have not begun
        self._stage: Stage | None = None  # the current one, or the last one
        self._reader: StageReader | None = None  # of the current one
        self._size = 0  # how many bytes it has read
        self._timer: Timer | None = None
        self._wheel = wheel
        self._owner = owner

    def __repr__(self) -> str:
        return f"<Preamble of {self.stream!r}, {self.stage_name if self._reader is not None else 'no stage'}>"

    @property
    def knows_address(self) -> bool:
        """Whether `peer` is the client's own address, so that the client can be admitted."""
        return self._address_stage is None

    @property
    def stage_name(self) -> str:
        """The name of the current stage, or of the last one; of a refused client, the one that has refused it."""
        return self._stage.name if self._stage is not None else "preamble"

    def _opened(self) -> None:
        self._watch(self.stream)
        self._run(b"")

    def _watch(self, stream: Stream) -> None:
        self.stream = stream
        stream.dataReceived = self._run
        stream.ended = self._ended
        stream.lost = self._lost

    def _run(self, data: bytes) -> None:
        """Read `data`, and complete the preamble when that was all."""
        try:
            rest = self._feed(data)
        except Exception:
            self._owner.stage_failed(self._stage)
            self._refuse("internal error")
            return
        if rest is not None:
            self._owner.completed(self, rest)

    def _feed(self, data: bytes) -> bytes | None:
        """Give `data` to the current stage, and what that leaves to the next one. Returns what the last one leaves;
        None: a stage needs more, or has refused the client."""
        while (reader := self._reader or self._begin_next()) is not None:
            if not data:
                return None
            outcome = reader.feed(data)
            if outcome is None:
                self._size += len(data)
                if self._stage is not None and self._size > self._stage.max_size:
                    self._refuse(f"more than {self._stage.max_size} bytes")
                return None
            if isinstance(outcome, Refuse):
                self._refuse(outcome.reason, outcome.message)
                return None
            self._stop_stage()
            if isinstance(outcome, Finish):
                self._finish(outcome.stream)
                return None
            if outcome.peer is not None:
                self.peer = outcome.peer
            if outcome.called is not None:
                self.called = outcome.called
            if outcome.stream is not None:
                self._watch(outcome.stream)
            if self._stage is self._address_stage:
                self._address_stage = None
                if not self._owner.admits(self):
                    self.reject()
                    return None
            data = outcome.rest
        return data

    def _begin_next(self) -> StageReader | None:
        """Begin the next stage that applies to the client; None: there is none."""
        for stage in self._stages:
            self._stage = stage
            self._reader = stage.begin(self.peer, self.stream)
            if self._reader is not None:
                self._size = 0
                self._timer = self._wheel.after(stage.timeout, self._timed_out)
                return self._reader
        return None

    def _stop_stage(self) -> None:
        self._reader = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # The end without a client connection.

    def _timed_out(self) -> None:
        if self._stage is not None:
            self._refuse(f"not complete within {self._stage.timeout} seconds")

    def _ended(self) -> None:
        """The client has sent a FIN in the middle: what is missing will not come."""
        self.reject()
        self._owner.left(self, f"{self.stage_name}: the client has ended the connection")

    def _refuse(self, why: str, message: bytes = b"") -> None:
        reason = f"{self.stage_name}: {why}"
        if message and self.stream.is_open:
            self._stop_stage()
            self._stages = iter(())
            self.stream.write(message)
            LingeringClose(self.stream, self._wheel, self._settings or DEFAULT_SETTINGS).linger()
        else:
            self.reject()
        self._owner.refused(self, reason)

    def _finish(self, stream: Stream) -> None:
        self._stages = iter(())
        self._watch(stream)
        LingeringClose(stream, self._wheel, self._settings or DEFAULT_SETTINGS).linger()
        self._owner.finished(self)

    def reject(self) -> None:
        """Reset the client. The owner is told when it is gone."""
        self._stop_stage()
        self._stages = iter(())
        stream = self.stream
        stream.dataReceived = stream.ended = nothing
        stream.abort()

    def _lost(self, clean: bool) -> None:
        if self._reader is not None:
            self._stop_stage()
            self._owner.left(self, f"{self.stage_name}: the client has reset the connection")
        self._owner.gone(self)
