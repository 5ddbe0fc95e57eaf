"""Which relays there are here, which of them a service gets, and the making of them.

A relay that copies works everywhere and begins at once. The others, engines, take over from one that copies; what they
share is made when the first of them is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ktcpvs.model.service import AUTO, COPY, KERNEL, SPLICE
from ktcpvs.model.settings import Settings
from ktcpvs.relay import program, splice
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.kernel import KernelRelay
from ktcpvs.relay.pipes import PIPES_MOST, Pipes
from ktcpvs.relay.programs import Kernel
from ktcpvs.relay.splice import SpliceRelay
from ktcpvs.relay.watch import Watch
from ktcpvs.streams.stream import Stream
from ktcpvs.system.timer_wheel import TimerWheel

DESCRIPTORS_FOR_A_PIPE = 32
"""One pipe for so many descriptors that connections may have: pipes live on what is kept besides those."""

NOT_TCP = "not TCP"
SWITCHED_OFF = "zerocopy_send = 0"

Find = Callable[[], str | None]
"""Answers None, or the reason why there is no such relay here."""


class Way(Protocol):
    """One direction. bytes: how many went through, those that went before the relay was there included."""

    @property
    def bytes(self) -> int: ...


class Relay(Protocol):
    """Two joined streams; `inward` goes from the client to the server, `outward` back."""

    @property
    def inward(self) -> Way: ...

    @property
    def outward(self) -> Way: ...

    def idle_since(self) -> int:
        """The wheel's tick at which the last bytes came, either way."""


class Taker(Relay, Protocol):
    """A relay that takes over from one that copies."""

    def count_on(self, before: CopyRelay) -> None:
        """It goes on where `before` has stopped."""

    def start(self) -> None:
        """Begin. Both streams can be detached and are flushed. Raises OSError, and then nothing has happened."""


class Relays:
    """One for each process."""

    def __init__(
        self,
        reactor: Any,
        descriptors: int,
        find_kernel: Find = program.available,
        find_splice: Find = splice.available,
    ) -> None:
        """descriptors: how many connections may have."""
        self._reactor = reactor
        self._most = min(PIPES_MOST, descriptors // DESCRIPTORS_FOR_A_PIPE)
        self._find = {KERNEL: find_kernel, SPLICE: find_splice}
        self._found: dict[str, str | None] = {}
        self._window = Settings().relay_window << 10
        self._watch: Watch | None = None
        self._pipes: Pipes | None = None
        self._kernel: Kernel | None = None

    # What there is.

    def refusal(self, wish: str) -> str | None:
        """None when the machine has what the option `relay` says, else the reason why not."""
        if wish not in self._find:
            return None
        if wish not in self._found:
            self._found[wish] = self._find[wish]()
        return self._found[wish]

    def in_use(self, wish: str, zerocopy: int, is_tcp: bool = True) -> tuple[str, str]:
        """(the name of the relay that serves, why it is not the one asked for or the best one; "" when it is).

        wish: what the option `relay` says. zerocopy: the setting `zerocopy_send`. is_tcp: False where all connections
        of one side are those of unix sockets.
        """
        if wish == COPY:
            return COPY, ""
        if wish == AUTO and not zerocopy:
            return COPY, SWITCHED_OFF
        # Not the kernel: on busy cores, and where messages are small, it is slower than copying, and nobody here can
        # know beforehand.
        name = SPLICE if wish == AUTO else wish
        why = NOT_TCP if name == KERNEL and not is_tcp else self.refusal(name)
        return (name, "") if why is None else (COPY, f"{name}: {why}")

    # The relays themselves.

    def set_window(self, window: int) -> None:
        """From now on the kernel may hold so many bytes for one direction of a connection."""
        self._window = window
        if self._kernel is not None:
            self._kernel.window = window

    def make(
        self, name: str, client: Stream, server: Stream, wheel: TimerWheel, finished: Callable[[], object]
    ) -> Taker:
        """An engine for two streams, not started yet. finished: called once, when both directions have ended.

        Raises OSError.
        """
        if self._watch is None:
            self._watch = Watch(self._reactor)
        if name == KERNEL:
            if self._kernel is None:
                self._kernel = Kernel(self._watch)
                self._kernel.window = self._window
            return KernelRelay(client, server, wheel, finished, self._watch, self._kernel)
        if self._pipes is None:
            self._pipes = Pipes(self._most)
        return SpliceRelay(client, server, wheel, finished, self._watch, self._pipes)

    def close(self) -> None:
        """No connection is relayed any more; safe to call twice."""
        for shared in self._kernel, self._pipes, self._watch:
            if shared is not None:
                shared.close()
        self._kernel = self._pipes = self._watch = None
