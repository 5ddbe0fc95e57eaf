"""The copying relay: it reads from one stream and writes to the other, and works everywhere.

Each direction ends by itself: a FIN is forwarded after all bytes before it. Back-pressure: while a target is full, its
source is not read, so that a direction never holds more than two reads.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.streams.stream import Stream
from ktcpvs.system.timer_wheel import TimerWheel


class Direction:
    """From `source` to `target`. bytes: the number relayed. last_data: the tick when the last of them came. ended: the
    source's FIN has been forwarded."""

    __slots__ = ("_wheel", "_write", "bytes", "ended", "last_data", "source", "target")

    def __init__(self, source: Stream, target: Stream, wheel: TimerWheel) -> None:
        self.source = source
        self.target = target
        self.bytes = 0
        self.ended = False
        self._wheel = wheel
        self.last_data = wheel.now
        self._write = target.write

    def received(self, data: bytes) -> None:
        """The source's `dataReceived` while the relay lasts."""
        self.bytes += len(data)
        self.last_data = self._wheel.now
        self._write(data)

    def start(self) -> None:
        self.hold_back_source()
        self.source.dataReceived = self.received

    def hold_back_source(self) -> None:
        """Do not read the source while the target is full."""
        self.target.set_backpressure(self)

    def pause_writing(self) -> None:
        self.source.pause()

    def resume_writing(self) -> None:
        self.source.resume()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.bytes} bytes{', ended' if self.ended else ''}>"


class CopyRelay:
    """Joins two open streams; `inward` goes from the client to the server, `outward` back. finished: called once, when
    both directions have ended."""

    __slots__ = ("finished", "inward", "outward")

    def __init__(self, client: Stream, server: Stream, wheel: TimerWheel, finished: Callable[[], object]) -> None:
        self.inward = Direction(client, server, wheel)
        self.outward = Direction(server, client, wheel)
        self.finished = finished
        server.keep_urgent_data_in_place()

    def start(self, waiting: bytes = b"") -> None:
        """Begin. waiting: the bytes already received from the client, which are sent to the server first."""
        self.inward.start()
        self.outward.start()
        self.inward.source.ended = self._inward_ended
        self.outward.source.ended = self._outward_ended
        if waiting:
            self.inward.received(waiting)

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, in either direction."""
        return max(self.inward.last_data, self.outward.last_data)

    def _inward_ended(self) -> None:
        self._ended(self.inward)

    def _outward_ended(self) -> None:
        self._ended(self.outward)

    def _ended(self, direction: Direction) -> None:
        direction.ended = True
        direction.target.half_close()
        if self.inward.ended and self.outward.ended:
            self.finished()

    def __repr__(self) -> str:
        return f"<CopyRelay of {self.inward.source} and {self.outward.source}>"
