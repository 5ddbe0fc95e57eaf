"""The programs of this process in the kernel, and the directions in their slots."""

from __future__ import annotations

from functools import partial

from ktcpvs.model import grants
from ktcpvs.relay.kernel_direction import KernelDirection
from ktcpvs.relay.poller import IN, SocketPoller
from ktcpvs.relay.program import Program
from ktcpvs.system.tcpinfo import largest_receive_buffer

CONNECTIONS_PER_PROGRAM = 2048
"""The most connections of one program; when it is full, another one is loaded."""


class ProgramSlots:
    """Allocates slots in pairs. window: the charge of packets that the kernel may hold for one direction."""

    def __init__(self, poller: SocketPoller) -> None:
        self._poller = poller
        self.window = grants.FIRST_WINDOW
        self._receive_buffer = largest_receive_buffer()
        self._programs: list[Program] = []
        self._free: list[tuple[Program, int]] = []
        self._directions: dict[Program, list[KernelDirection | None]] = {}

    @property
    def made(self) -> int:
        """The number of programs."""
        return len(self._programs)

    @property
    def in_use(self) -> int:
        """The number of pairs in use."""
        return sum(program.slots // 2 for program in self._programs) - len(self._free)

    @property
    def passed_limit(self) -> int:
        """The most charge of passed packets that may be unread; a connection that exceeds it is reset."""
        return grants.passed_limit(self.window, self._receive_buffer)

    def take(self) -> tuple[Program, int]:
        """Return a program and the first of two adjacent slots. Raises BPFError."""
        if not self._free:
            program = Program(2 * CONNECTIONS_PER_PROGRAM)
            self._poller.register(program.fileno(), IN, partial(self._dispatch, program))
            self._programs.append(program)
            self._directions[program] = [None] * (2 * CONNECTIONS_PER_PROGRAM)
            self._free = [(program, slot) for slot in range(2 * CONNECTIONS_PER_PROGRAM - 2, -1, -2)]
        program, slot = self._free.pop()
        program.clear(slot, slot + 1)
        return program, slot

    def give(self, program: Program, slot: int) -> None:
        """Free both slots."""
        if program in self._directions:
            self._free.append((program, slot))

    def enter(self, program: Program, slot: int, direction: KernelDirection) -> None:
        """Call the `on_event` of `direction` for records about that slot."""
        self._directions[program][slot] = direction

    def leave(self, program: Program, slot: int) -> None:
        """Drop records about that slot from now on."""
        if program not in self._directions:  # everything is closed
            return
        direction, self._directions[program][slot] = self._directions[program][slot], None
        if direction is not None:
            direction.on_event = None

    def _dispatch(self, program: Program, _: int) -> None:
        directions = self._directions.get(program, [])
        for slot, kind in program.events():
            direction = directions[slot]
            if direction is not None and direction.on_event is not None:
                direction.on_event(direction, kind)

    def close(self) -> None:
        """Stop redirecting. Redirected bytes are counted; bytes in transit are lost."""
        for directions in self._directions.values():
            for direction in directions:
                if direction is not None:
                    direction.leave()
                    direction.on_event = None
        for program in self._programs:
            self._poller.unregister(program.fileno())
            program.close()
        self._programs, self._free, self._directions = [], [], {}
