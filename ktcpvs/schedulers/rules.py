"""A rule list as automata: which rule is the first that matches, at a cost that hardly grows with their number.

An RE2 set of up to BLOCK rules says in one call which of them match. Lists that are longer are several such blocks, one
after another: so an edit of a long list compiles one block anew and takes over the others, and no compilation holds the
switch up for long, since it cannot be interrupted. A last entry of each block matches everything: it tells "no rule"
from "the automaton ran out of memory", in which case the rules of that block are asked one by one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import re2

from ktcpvs.errors import BadPattern, shorten
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule

BLOCK = 2000
"""The most rules in one block; it takes some 12 ms to compile."""

BLOCK_MEMORY = 4 << 20
"""What the automaton of one block may take, in bytes (RE2's max_mem); it is built as requests come."""

BLOCKS_SPARE = 4
"""How many more blocks than its rules need by their number a service may have, because patterns are large. Automata
that are larger yet could make a request of a long path wait for seconds."""


PATHS_REMEMBERED = 4096
"""For how many paths it is remembered which rule is theirs."""

PATH_REMEMBERED = 256
"""The longest of them, in bytes."""

UNKNOWN = -1


class _Block:
    """Some rules that follow one another: their patterns, and the automaton that knows all of them."""

    __slots__ = ("automaton", "patterns", "size")

    def __init__(self, patterns: tuple[bytes, ...], automaton: re2.Set) -> None:
        self.patterns = patterns
        self.automaton = automaton
        self.size = len(patterns)


class RuleSet:
    """The rules of one service, in the order in which they are tried."""

    def __init__(self, rules: Sequence[BoundRule], previous: RuleSet | None = None) -> None:
        """previous: what it replaces; blocks whose patterns are the same are taken over.

        Raises BadPattern when the rules need more memory than there is for them.
        """
        for _ in self._steps(rules, previous):
            pass

    @classmethod
    def in_steps(cls, rules: Sequence[BoundRule], previous: RuleSet | None = None) -> Generator[None, None, RuleSet]:
        """The same, made little by little: yields between pieces of work that take a while. Raises BadPattern."""
        made = cls.__new__(cls)
        yield from made._steps(rules, previous)
        return made

    def _steps(self, rules: Sequence[BoundRule], previous: RuleSet | None) -> Iterator[None]:
        self._rules = tuple(rules)
        self._default = next((place for place, rule in enumerate(rules) if rule.is_default), None)
        self._blocks: list[_Block] = []
        self._known: dict[bytes, int | None] = {}
        before = previous._blocks if previous is not None else []
        patterns = tuple(encode_pattern(rule.pattern) for rule in rules if not rule.is_default)
        was_compiled = False
        for piece in _pieces(patterns, before):
            if isinstance(piece, _Block):
                self._blocks.append(piece)
                continue
            for block in _compiled(piece):
                if was_compiled:
                    yield
                was_compiled = True
                self._blocks.append(block)
        most = BLOCKS_SPARE + len(patterns) // (BLOCK // 2)
        if len(self._blocks) > most:
            raise BadPattern(
                f"the service's {len(patterns)} patterns together need automata of more than "
                f"{most * BLOCK_MEMORY >> 20} MiB: make the largest of them simpler"
            )

    def first(self, path: bytes) -> int | None:
        """The place of the first rule that matches `path`, in the sequence given; None when none does."""
        place = self._known.get(path, UNKNOWN)
        if place != UNKNOWN:
            return place
        place = self._look(path)
        if len(path) <= PATH_REMEMBERED:
            if len(self._known) >= PATHS_REMEMBERED:
                self._known.clear()
            self._known[path] = place
        return place

    def _look(self, path: bytes) -> int | None:
        begin = 0
        for block in self._blocks:
            matched = block.automaton.Match(path)
            place = min(matched) if matched else _one_by_one(block.patterns, path)
            if place < block.size:
                return int(begin + place)
            begin += block.size
        return self._default

    def tried(self, place: int | None) -> tuple[tuple[int, str, str], ...]:
        """What is tried until the rule at `place` is taken, None: until none is: (number, pattern, why it was taken or
        not) of each rule, in that order."""
        if place is None:
            return tuple((rule.number, rule.pattern, "does not match") for rule in self._rules)
        taken = self._rules[place]
        why = "default rule, tried last" if taken.is_default else "matches"
        passed_over = tuple((rule.number, rule.pattern, "does not match") for rule in self._rules[:place])
        return (*passed_over, (taken.number, taken.pattern, why))


def _pieces(patterns: tuple[bytes, ...], before: Sequence[_Block]) -> Iterator[_Block | tuple[bytes, ...]]:
    """`patterns` cut into blocks of `before`, where they hold the same ones, and into pieces that have to be compiled.

    Small blocks are compiled again with what is new beside them, so that blocks do not become many in time.
    """
    if patterns == tuple(pattern for block in before for pattern in block.patterns):
        yield from before
        return
    where = {pattern: place for place, pattern in enumerate(patterns)} if before else {}
    position = 0
    for block in before:
        found = where.get(block.patterns[0], -1)
        end = found + block.size
        if block.size >= BLOCK // 2 and found >= position and patterns[found:end] == block.patterns:
            yield from _cut(patterns[position:found])
            yield block
            position = end
    yield from _cut(patterns[position:])


def _cut(patterns: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    for start in range(0, len(patterns), BLOCK):
        yield patterns[start : start + BLOCK]


def _compiled(patterns: tuple[bytes, ...]) -> Iterator[_Block]:
    """Blocks of these patterns: one, or more when one automaton is not enough. Raises BadPattern."""
    automaton = re2.Set.SearchSet(re2_options(BLOCK_MEMORY))
    try:
        for pattern in patterns:
            automaton.Add(pattern)
        automaton.Add(b"")
        automaton.Compile()
        usable = bool(automaton.Match(b"/"))
    except re2.error:
        usable = False
    if usable:
        yield _Block(patterns, automaton)
    elif len(patterns) == 1:
        shown = shorten(patterns[0].decode("utf-8", "replace"))
        raise BadPattern(f"pattern '{shown}' needs an automaton of more than {BLOCK_MEMORY >> 20} MiB: make it simpler")
    else:
        middle = len(patterns) // 2
        yield from _compiled(patterns[:middle])
        yield from _compiled(patterns[middle:])


def _one_by_one(patterns: Sequence[bytes], path: bytes) -> int:
    options = re2_options()
    for place, pattern in enumerate(patterns):
        if re2.search(pattern, path, options=options):
            return place
    return len(patterns)
