"""Which relays this machine has, which of them a service gets, and how they are made.

The copying relay works everywhere and begins at once. The others, the engines, take over from it; what they share is
made when the first of them is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ktcpvs.model.service import AUTO, COPY, KERNEL, SPLICE
from ktcpvs.model.settings import Settings
from ktcpvs.relay import program, splice
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.kernel import KernelRelay
from ktcpvs.relay.pipes import MAX_PIPES, Pipes
from ktcpvs.relay.program_slots import ProgramSlots
from ktcpvs.relay.splice import SpliceRelay
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.timer_wheel import TimerWheel

DESCRIPTORS_PER_PIPE = 32
"""One pipe for this many descriptors that connections may have: pipes use the descriptors that are reserved besides."""

NOT_TCP = "not TCP"
SWITCHED_OFF = "zerocopy_send = 0"

FindObstacle = Callable[[], str | None]
"""Returns None, or the reason why this machine does not have a relay."""


class Direction(Protocol):
    """One direction. bytes: how many have passed, those before this relay included."""

    @property
    def bytes(self) -> int: ...


class Relay(Protocol):
    """Two joined streams; `inward` goes from the client to the server, `outward` back."""

    @property
    def inward(self) -> Direction: ...

    @property
    def outward(self) -> Direction: ...

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, either way."""


class EngineRelay(Relay, Protocol):
    """A relay that takes over from the copying one."""

    def continue_from(self, before: CopyRelay) -> None:
        """Count on from where `before` has stopped."""

    def start(self) -> None:
        """Begin. Neither stream has a `detach_obstacle`. Raises OSError, and then nothing has happened."""


class Relays:
    """The relays of one process."""

    def __init__(
        self,
        reactor: Any,
        descriptors: int,
        find_kernel: FindObstacle = program.available,
        find_splice: FindObstacle = splice.available,
    ) -> None:
        """descriptors: how many connections may have."""
        self._reactor = reactor
        self._max_pipes = min(MAX_PIPES, descriptors // DESCRIPTORS_PER_PIPE)
        self._find = {KERNEL: find_kernel, SPLICE: find_splice}
        self._found: dict[str, str | None] = {}
        self._window = Settings().relay_window << 10
        self._poller: SocketPoller | None = None
        self._pipes: Pipes | None = None
        self._slots: ProgramSlots | None = None

    # What there is.

    def refusal(self, wish: str) -> str | None:
        """None when this machine has the relay that the option `relay` asks for, else the reason why not."""
        if wish not in self._find:
            return None
        if wish not in self._found:
            self._found[wish] = self._find[wish]()
        return self._found[wish]

    def in_use(self, wish: str, zerocopy: int, is_tcp: bool = True) -> tuple[str, str]:
        """(the name of the relay that serves, why it is not the one asked for or the best one; "" when it is).

        wish: the value of the option `relay`. zerocopy: the setting `zerocopy_send`. is_tcp: False where all
        connections of one side are those of unix sockets.
        """
        if wish == COPY:
            return COPY, ""
        if wish == AUTO and not zerocopy:
            return COPY, SWITCHED_OFF
        # Not the kernel: on busy cores, and where messages are small, it is slower than copying, and nothing here can
        # know that beforehand.
        name = SPLICE if wish == AUTO else wish
        why = NOT_TCP if name == KERNEL and not is_tcp else self.refusal(name)
        return (name, "") if why is None else (COPY, f"{name}: {why}")

    @property
    def poller(self) -> SocketPoller:
        """Watches the bare sockets of this process. Raises OSError when there is no descriptor for it."""
        if self._poller is None:
            self._poller = SocketPoller(self._reactor)
        return self._poller

    # The relays themselves.

    def set_window(self, window: int) -> None:
        """Let the kernel hold at most this many bytes for one direction of a connection from now on."""
        self._window = window
        if self._slots is not None:
            self._slots.window = window

    def make(
        self, name: str, client: Stream, server: Stream, wheel: TimerWheel, finished: Callable[[], object]
    ) -> EngineRelay:
        """An engine for two streams, not started yet. finished: called once, when both directions have ended.

        Raises OSError.
        """
        poller = self.poller
        if name == KERNEL:
            if self._slots is None:
                self._slots = ProgramSlots(poller)
                self._slots.window = self._window
            return KernelRelay(client, server, wheel, finished, poller, self._slots)
        if self._pipes is None:
            self._pipes = Pipes(self._max_pipes)
        return SpliceRelay(client, server, wheel, finished, poller, self._pipes)

    def close(self) -> None:
        """Relay no connection any more; safe to call twice."""
        for shared in self._slots, self._pipes, self._poller:
            if shared is not None:
                shared.close()
        self._slots = self._pipes = self._poller = None
