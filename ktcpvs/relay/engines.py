"""Selects the relay engine of a service, by what this machine supports, and makes relays.

The copying relay works everywhere and begins at once. The others, the engines, take over from it. What the relays of an
engine share is made with the first of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ktcpvs.model.service import AUTO, COPY, KERNEL, SPLICE, TCP_ONLY
from ktcpvs.model.settings import DEFAULT_SETTINGS
from ktcpvs.relay import program, splice
from ktcpvs.relay.body_relay import BodyRelay
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.kernel import KernelRelay
from ktcpvs.relay.pipes import MAX_PIPES, Pipes
from ktcpvs.relay.program_slots import ProgramSlots
from ktcpvs.relay.splice import SpliceRelay
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.system.timer_wheel import TimerWheel

DESCRIPTORS_PER_PIPE = 32
"""Descriptors of connections for each pipe. Pipes take their own descriptors from the spare ones."""

NOT_TCP = "not TCP"
SWITCHED_OFF = "zerocopy_send = 0"

FindObstacle = Callable[[], str | None]
"""Returns None, or the reason why this machine does not support a relay."""


class Direction(Protocol):
    """One direction. bytes: the number relayed, including those before this relay took over."""

    @property
    def bytes(self) -> int: ...


class Relay(Protocol):
    """Two joined streams; `inward` goes from the client to the server, `outward` back."""

    @property
    def inward(self) -> Direction: ...

    @property
    def outward(self) -> Direction: ...

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, in either direction."""


class EngineRelay(Relay, Protocol):
    """A relay that takes over from the copying one."""

    def continue_from(self, before: CopyRelay) -> None:
        """Continue the byte counts of `before`."""

    def start(self) -> None:
        """Begin. Neither stream may have a `detach_obstacle`, and all that was read has been sent. Raises OSError; then
        nothing has changed."""


class Relays:
    """The relays of one process."""

    def __init__(
        self,
        reactor: Any,
        descriptors: int,
        find_kernel: FindObstacle = program.available,
        find_splice: FindObstacle = splice.available,
    ) -> None:
        """descriptors: the number that connections may have."""
        self._reactor = reactor
        self._pipes = Pipes(min(MAX_PIPES, descriptors // DESCRIPTORS_PER_PIPE))
        self._bodies = BodyRelay(self._pipes)
        self._find = {KERNEL: find_kernel, SPLICE: find_splice}
        self._found: dict[str, str | None] = {}
        self._window = DEFAULT_SETTINGS.relay_window << 10
        self._poller: SocketPoller | None = None
        self._slots: ProgramSlots | None = None

    # Support.

    def refusal(self, wish: str) -> str | None:
        """Return None if this machine supports the relay that the option `relay` names, else the reason why not."""
        if wish in (AUTO, COPY):
            return None
        if wish not in self._found:
            try:
                self._found[wish] = self._find[wish]()
            except OSError as error:  # no descriptors are left: try again the next time
                return error.strerror
        return self._found[wish]

    def in_use(self, wish: str, zerocopy: int, is_tcp: bool = True) -> tuple[str, str]:
        """Return (name of the relay to use, why it is not the configured or the best one; "" if it is).

        wish: the value of the option `relay`. zerocopy: the setting `zerocopy_send`. is_tcp: False if all connections
        of one side are on unix sockets.
        """
        if wish == COPY:
            return COPY, ""
        if wish == AUTO and not zerocopy:
            return COPY, SWITCHED_OFF
        # Never the kernel relay: on busy cores and with small messages it is slower than copying, which cannot be known
        # beforehand.
        name = SPLICE if wish == AUTO else wish
        why = NOT_TCP if name in TCP_ONLY and not is_tcp else self.refusal(name)
        return (name, "") if why is None else (COPY, f"{name}: {why}")

    @property
    def poller(self) -> SocketPoller:
        """Watches the bare sockets of this process. Raises OSError when there is no descriptor for it."""
        if self._poller is None:
            self._poller = SocketPoller(self._reactor)
        return self._poller

    # The relays themselves.

    def set_window(self, window: int) -> None:
        """Set the most bytes that the kernel may hold for one direction of a connection."""
        self._window = window
        if self._slots is not None:
            self._slots.window = window

    def make(
        self, name: str, client: Stream, server: Stream, wheel: TimerWheel, finished: Callable[[], object]
    ) -> EngineRelay:
        """Make an engine for two streams, not started yet. What all relays of that engine share is made with the first.

        name: of an engine; COPY and AUTO are none. wheel: tells when bytes last came. finished: called once, when both
        directions have ended. Raises OSError.
        """
        if name not in self._find:
            raise ValueError(f"no engine has the name {name!r}")
        poller = self.poller
        if name == KERNEL:
            if self._slots is None:
                self._slots = ProgramSlots(poller)
                self._slots.window = self._window
            return KernelRelay(client, server, wheel, finished, poller, self._slots)
        return SpliceRelay(client, server, wheel, finished, poller, self._pipes)

    def body_relay(self, name: str) -> BodyRelay | None:
        """Return what moves long HTTP bodies of a service whose relay is `name`; None: they are copied."""
        return self._bodies if name != COPY and self.refusal(SPLICE) is None else None

    def close(self) -> None:
        """End all relays; safe to call twice."""
        for shared in self._slots, self._pipes, self._poller:
            if shared is not None:
                shared.close()
        self._slots = self._poller = None
