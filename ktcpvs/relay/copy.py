"""The relay that reads and writes: works everywhere.

Each direction ends by itself: a FIN is carried across when all before it has been written. Back-pressure: who
cannot take more stops the reading from the other side, so a direction never holds more than two reads.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.streams.stream import Stream
from ktcpvs.system.sockets import read_urgent_in_place
from ktcpvs.system.timer_wheel import TimerWheel


class Direction:
    """From `source` to `target`. bytes: how many went through. seen: the tick when the last of them came."""

    __slots__ = ("_wheel", "_write", "bytes", "ended", "seen", "source", "target")

    def __init__(self, source: Stream, target: Stream, wheel: TimerWheel) -> None:
        self.source = source
        self.target = target
        self.bytes = 0
        self.ended = False
        self._wheel = wheel
        self.seen = wheel.now
        self._write = target.transport.write

    def received(self, data: bytes) -> None:
        """What the source's `dataReceived` is while the relay lasts."""
        self.bytes += len(data)
        self.seen = self._wheel.now
        self._write(data)

    def start(self) -> None:
        self.target.transport.registerProducer(self.source.transport, True)
        self.source.dataReceived = self.received


class CopyRelay:
    """Joins two open streams; `inward` goes from the client to the server, `outward` back."""

    __slots__ = ("_finished", "inward", "outward")

    def __init__(self, client: Stream, server: Stream, wheel: TimerWheel, finished: Callable[[], object]) -> None:
        """finished: called once, when both directions have ended."""
        self.inward = Direction(client, server, wheel)
        self.outward = Direction(server, client, wheel)
        self._finished = finished
        read_urgent_in_place(server.transport.getHandle())

    def start(self, waiting: bytes = b"") -> None:
        """Begin. waiting: what the client has sent already, which goes to the server first."""
        self.inward.start()
        self.outward.start()
        self.inward.source.ended = self._inward_ended
        self.outward.source.ended = self._outward_ended
        if waiting:
            self.inward.received(waiting)

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, either way."""
        return max(self.inward.seen, self.outward.seen)

    def _inward_ended(self) -> None:
        self._ended(self.inward)

    def _outward_ended(self) -> None:
        self._ended(self.outward)

    def _ended(self, direction: Direction) -> None:
        direction.ended = True
        direction.target.end()
        if self.inward.ended and self.outward.ended:
            self._finished()
