"""The programs in the kernel that this process has, and who has which place in them."""

from __future__ import annotations

from functools import partial

from ktcpvs.model import grants
from ktcpvs.relay.bare import IN
from ktcpvs.relay.granted import Direction
from ktcpvs.relay.program import Program
from ktcpvs.relay.watch import Watch
from ktcpvs.system.tcpinfo import largest_receive_buffer

PAIRS = 2048
"""How many connections one program has room for; when it is full there is another."""


class Kernel:
    """window: the charge up to which the kernel may hold packets for one direction, now."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.window = grants.FIRST_WINDOW
        self._receive_buffer = largest_receive_buffer()
        self._programs: list[Program] = []
        self._free: list[tuple[Program, int]] = []
        self._ways: dict[Program, list[Direction | None]] = {}

    @property
    def passed_limit(self) -> int:
        """The charge of passed packets that may wait to be read; what exceeds it resets the connection."""
        return grants.passed_limit(self.window, self._receive_buffer)

    def take(self) -> tuple[Program, int]:
        """A program and the first of two slots in a row. Raises BPFError."""
        if not self._free:
            program = Program(2 * PAIRS)
            self._watch.add(program.fileno(), IN, partial(self._told, program))
            self._programs.append(program)
            self._ways[program] = [None] * (2 * PAIRS)
            self._free = [(program, slot) for slot in range(2 * PAIRS - 2, -1, -2)]
        program, slot = self._free.pop()
        program.clear(slot, slot + 1)
        return program, slot

    def give(self, program: Program, slot: int) -> None:
        """Both are free again."""
        if program in self._ways:
            self._free.append((program, slot))

    def enter(self, program: Program, slot: int, way: Direction) -> None:
        """Whom to tell of that slot."""
        self._ways[program][slot] = way

    def leave(self, program: Program, slot: int) -> None:
        """Tell nobody."""
        if program not in self._ways:  # all is closed
            return
        way, self._ways[program][slot] = self._ways[program][slot], None
        if way is not None:
            way.relay = None

    def _told(self, program: Program, _: int) -> None:
        ways = self._ways.get(program, [])
        for slot, kind in program.events():
            way = ways[slot]
            if way is not None and way.relay is not None:
                way.relay.told(way, kind)

    def close(self) -> None:
        """Nothing is redirected any more. What has been is counted; what is under way is lost."""
        for ways in self._ways.values():
            for way in ways:
                if way is not None:
                    way.part()
                    way.relay = None
        for program in self._programs:
            self._watch.forget(program.fileno())
            program.close()
        self._programs, self._free, self._ways = [], [], {}
