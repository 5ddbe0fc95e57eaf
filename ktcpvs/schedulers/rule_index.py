"""Indexes of rules: from the values that a request has to the rules that they satisfy, as the bits of a number.

Patterns have indexes too: those of request targets, which are searched after all other conditions. If few rules are
left by then, their patterns are searched one by one; otherwise automata (`rules.Block`) search all of them at once.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Sequence
from typing import Any

import re2

from ktcpvs.model.conditions import Condition
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.schedulers.rules import Block, compile_blocks

MAX_SEARCHED_SINGLY = 8
"""The most rules whose patterns are searched one by one; more are faster by their automata."""

MAX_COMPILED_PATTERNS = 16384
"""The most patterns that are kept compiled singly, which takes some 3 KiB for each that was searched. When there are as
many, the automata of all of them are faster than to compile others again and again."""

Keys = Iterable[Hashable]
"""Values of a request, or of a condition, that an index looks up."""


class Index:
    """One layer of one kind of condition: of each rule at most one condition that is not negated.

    free: the rules without such a condition, as bits. concerned: those with one, negated or not.
    """

    __slots__ = ("_held", "_held_negated", "_needing", "_negated", "_negating", "_positive", "concerned", "free")

    def __init__(self) -> None:
        self._positive: dict[Hashable, list[int]] = {}
        self._negated: dict[Hashable, list[int]] = {}
        self._held: dict[Hashable, int] = {}  # what was looked up, as bits
        self._held_negated: dict[Hashable, int] = {}
        self._needing: list[int] = []
        self._negating: list[int] = []
        self.free = self.concerned = 0

    def add(self, place: int, keys: Keys, is_negated: bool) -> None:
        """Add the condition of the rule at `place`, which holds for each of these keys."""
        table = self._negated if is_negated else self._positive
        for key in keys:
            table.setdefault(key, []).append(place)
        (self._negating if is_negated else self._needing).append(place)

    def complete(self, everything: int) -> None:
        """All rules have been added. everything: the bits of all of them."""
        needing = bits_of(self._needing)
        self.free = everything & ~needing
        self.concerned = needing | bits_of(self._negating)
        self._needing, self._negating = [], []

    def holding(self, keys: Keys) -> int:
        """Return the rules that do not fail for a request with these keys, as bits."""
        held = self.free
        for key in keys:
            bits = self._held.get(key)
            if bits is None and key in self._positive:
                bits = self._held[key] = bits_of(self._positive[key])
            if bits is not None:
                held |= bits
        if self._negated:
            for key in keys:
                bits = self._held_negated.get(key)
                if bits is None and key in self._negated:
                    bits = self._held_negated[key] = bits_of(self._negated[key])
                if bits is not None:
                    held &= ~bits
        return held


def bits_of(places: Sequence[int]) -> int:
    """Return a number in which these bits are set."""
    if len(places) < 32:
        number = 0
        for place in places:
            number |= 1 << place
        return number
    data = bytearray((max(places) >> 3) + 1)
    for place in places:
        data[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(data, "little")


def lowest(bits: int) -> int:
    """Return the place of the lowest bit of a number above 0."""
    return (bits & -bits).bit_length() - 1


# Patterns.


class PatternSet:
    """Distinct patterns that are searched in the same values.

    numbers: pattern -> its number, in the order of their first use. encoded: by their numbers. blocks: their automata,
    where there are many. compiled: number -> a pattern that was searched singly.
    """

    __slots__ = ("blocks", "compiled", "encoded", "numbers")

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.blocks: list[Block] = []
        self.encoded: list[bytes] = []
        self.compiled: dict[int, Any] = {}

    def number(self, pattern: str) -> int:
        """Return the number of a pattern, a new one if it has none."""
        number = self.numbers.setdefault(pattern, len(self.encoded))
        if number == len(self.encoded):
            self.encoded.append(encode_pattern(pattern))
        return number

    def compile(self, previous: PatternSet | None) -> Generator[None, None, None]:
        """Compile the automata in steps. previous: former patterns; what is the same is taken over. Raises
        BadPattern."""
        if previous is not None and previous.encoded == self.encoded:
            self.blocks, self.compiled = previous.blocks, previous.compiled
        elif len(self.encoded) > MAX_SEARCHED_SINGLY:
            before = previous.blocks if previous is not None else ()
            self.blocks = yield from compile_blocks(tuple(self.encoded), before)

    def search(self, number: int, value: bytes) -> bool:
        """Return whether the pattern with that number matches."""
        compiled = self.compiled.get(number)
        if compiled is None:
            if len(self.compiled) >= MAX_COMPILED_PATTERNS:
                self.compiled.clear()
            compiled = self.compiled[number] = re2.compile(self.encoded[number], options=re2_options())
        return compiled.search(value) is not None

    def matching(self, value: bytes) -> list[int]:
        """Return the numbers of all patterns that match."""
        if not self.blocks:
            return [number for number in range(len(self.encoded)) if self.search(number, value)]
        found: list[int] = []
        begin = 0
        for block in self.blocks:
            found += [begin + number for number in block.matching(value)]
            begin += block.size
        return found


class TargetPatterns:
    """The conditions `pattern`, which are tried after all others.

    patterns: all of them. bits: the rules that have one.
    """

    __slots__ = ("_checks", "_first_use", "_layers", "bits", "patterns")

    def __init__(self) -> None:
        self.patterns = PatternSet()
        self.bits = 0
        self._layers: list[Index] = []
        self._checks: dict[int, list[tuple[bool, tuple[int, ...]]]] = {}
        self._first_use: list[int] = []  # of each pattern, the first rule that has it

    def add(self, place: int, layer: int, condition: Condition) -> None:
        """Add a condition of the rule at `place`, which is not below the place of the one before."""
        numbers = tuple([self.patterns.number(value) for value in condition.values])
        self._first_use += [place] * (len(self.patterns.numbers) - len(self._first_use))
        layer_of(self._layers, layer).add(place, numbers, condition.is_negated)
        self._checks.setdefault(place, []).append((condition.is_negated, numbers))

    def complete(self, everything: int) -> None:
        self.bits = bits_of(list(self._checks))
        for index in self._layers:
            index.complete(everything)

    def holding(self, path: bytes) -> list[int]:
        """Return for each layer the rules that do not fail for `path`, as bits."""
        matched = self.patterns.matching(path) if self._layers else []
        return [index.holding(matched) for index in self._layers]

    def first(self, left: int, path: bytes) -> int | None:
        """Return the place of the first rule of `left` whose patterns hold for `path`; None: there is none."""
        if not self.bits & left or not (left & -left) & self.bits:
            return lowest(left) if left else None
        if not self.patterns.blocks or (
            len(self.patterns.compiled) < MAX_COMPILED_PATTERNS
            and (left & self.bits).bit_count() <= MAX_SEARCHED_SINGLY
        ):
            return self._first_singly(left, path)
        return self._first_by_blocks(left, path)

    def _first_singly(self, left: int, path: bytes) -> int | None:
        searched: dict[int, bool] = {}
        while left:
            place = lowest(left)
            if self._holds(place, path, searched):
                return place
            left &= left - 1
        return None

    def _holds(self, place: int, path: bytes, searched: dict[int, bool]) -> bool:
        """Return whether the patterns of the rule at `place` hold. searched: the results so far."""
        for is_negated, numbers in self._checks.get(place, ()):
            for number in numbers:
                if number not in searched:
                    searched[number] = self.patterns.search(number, path)
                if searched[number]:
                    break
            if any(searched.get(number) for number in numbers) is is_negated:
                return False
        return True

    def _first_by_blocks(self, left: int, path: bytes) -> int | None:
        """The rules before the first use of a block's patterns are decided by the blocks before it."""
        matched: list[int] = []
        begin = 0
        blocks = self.patterns.blocks
        for number, block in enumerate(blocks, 1):
            matched += [begin + one for one in block.matching(path)]
            begin += block.size
            held = left
            for index in self._layers:
                held &= index.holding(matched)
            if number < len(blocks):
                held &= (1 << self._first_use[begin]) - 1
            if held:
                return lowest(held)
        return None


def layer_of(layers: list[Index], number: int) -> Index:
    while len(layers) <= number:
        layers.append(Index())
    return layers[number]
