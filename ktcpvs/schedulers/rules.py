"""A rule list as automata: it finds the first rule that matches, at a cost that hardly grows with their number.

One call of an RE2 set of up to MAX_BLOCK_RULES rules returns those that match. A longer list has several such blocks,
one after another: an edit of it compiles one block again and reuses the others, and no compilation, which cannot be
interrupted, takes long. The last entry of each block matches everything: it distinguishes "no rule matches" from "the
automaton ran out of memory", in which case the rules of that block are tried one by one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import re2

from ktcpvs.errors import BadPattern, shorten
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.scheduling import BoundRule, Request

MAX_BLOCK_RULES = 2000
"""The most rules in one block, which takes some 8 ms to compile, besides the steps in which they are added."""

ADDED_PER_STEP = 500
"""The most patterns that are added to an automaton in one step."""

MAX_BLOCK_MEMORY = 4 << 20
"""The most bytes for the automaton of one block (RE2's max_mem), which is built as requests come."""

MAX_SPARE_BLOCKS = 4
"""The most blocks of a service beyond those that its number of rules requires, needed if its patterns are large. Still
larger automata could make a request with a long path wait for seconds."""

MAX_CACHED_PATHS = 4096
"""The most paths whose rule is cached."""

MAX_CACHED_PATH_BYTES = 256
"""The longest path whose rule is cached."""

UNKNOWN = -1

MAX_PREFIXES = 16
"""The most rules that are compared one by one where all of them are prefixes; more are faster by their automaton."""

_PREFIX = re.compile(rb"\^((?:[A-Za-z0-9/_~%=,:;@&!'\-]|\\[./_~\-])++)")
"""A pattern that says how a path begins, and nothing else."""


class Block:
    """Some consecutive patterns, and the automaton of all of them. Services with the same patterns share it."""

    __slots__ = ("__weakref__", "automaton", "patterns", "size")

    def __init__(self, patterns: tuple[bytes, ...], automaton: re2.Set) -> None:
        self.patterns = patterns
        self.automaton = automaton
        self.size = len(patterns)

    def matching(self, text: bytes) -> list[int]:
        """Return the places of all patterns that match, in no order."""
        matched = self.automaton.Match(text)
        if matched:
            return [place for place in matched if place < self.size]
        options = re2_options()
        return [place for place, one in enumerate(self.patterns) if re2.search(one, text, options=options)]


_blocks: WeakValueDictionary[tuple[bytes, ...], Block] = WeakValueDictionary()
"""All blocks in use, by their patterns. Many services that are configured alike have the same ones."""


class RuleSet:
    """Rules whose only condition is a pattern, in the order in which they are tried. blocks: of all rules but default
    ones."""

    __slots__ = ("_cache", "_default", "_prefixes", "_rules", "blocks")

    def __init__(self, rules: Sequence[BoundRule], blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        self._rules = tuple(rules)
        self._default = next((place for place, rule in enumerate(rules) if rule.is_default), None)
        self._cache: dict[bytes, int | None] = {}
        self._prefixes = _prefixes(rules)

    def place(self, request: Request) -> int | None:
        """Return the place of the first rule that matches, or None."""
        path = request.path or b""
        if self._prefixes is not None:
            for prefix, place in self._prefixes:
                if path.startswith(prefix):
                    return place
            return self._default
        return self._first(path)

    def _first(self, path: bytes) -> int | None:
        place = self._cache.get(path, UNKNOWN)
        if place != UNKNOWN:
            return place
        place = self._search(path)
        if len(path) <= MAX_CACHED_PATH_BYTES:
            if len(self._cache) >= MAX_CACHED_PATHS:
                self._cache.clear()
            self._cache[path] = place
        return place

    def _search(self, path: bytes) -> int | None:
        begin = 0
        for block in self.blocks:
            matched = block.automaton.Match(path)
            place = min(matched) if matched else _one_by_one(block.patterns, path)
            if place < block.size:
                return int(begin + place)
            begin += block.size
        return self._default

    def tried(self, place: int | None, request: Request) -> tuple[tuple[int, str, str], ...]:
        """Return (number, label, why it was taken or not) of each rule up to the one at `place`, in their order.

        place: None if no rule matches.
        """
        if place is None:
            return tuple((rule.number, rule.label, "does not match") for rule in self._rules)
        taken = self._rules[place]
        why = "default rule, tried last" if taken.is_default else "matches"
        passed_over = tuple((rule.number, rule.label, "does not match") for rule in self._rules[:place])
        return (*passed_over, (taken.number, taken.label, why))

    def notes(self, request: Request) -> tuple[str, ...]:
        """Return the values of `request` that the rules compare, in words: patterns see what the explanation shows."""
        return ()


PLACE_IN_PYTHON = RuleSet.place
"""`RuleSet.place` as it is written here, whichever is used."""

if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):  # there was no C compiler when ktcpvs was installed
        from ktcpvs.schedulers._compiled import configure_rule_set

        (_methods,) = configure_rule_set({"rule_set": RuleSet})
        RuleSet.place = _methods["place"]


def _prefixes(rules: Sequence[BoundRule]) -> tuple[tuple[bytes, int], ...] | None:
    """Return the prefix and the place of each rule that is no default one; None when not all of them are prefixes, or
    there are many."""
    patterns = [(encode_pattern(rule.pattern), place) for place, rule in enumerate(rules) if not rule.is_default]
    if len(patterns) > MAX_PREFIXES:
        return None
    found = [(_PREFIX.fullmatch(pattern), place) for pattern, place in patterns]
    if not all(match for match, _ in found):
        return None
    return tuple((match[1].replace(b"\\", b""), place) for match, place in found if match is not None)


def compile_rules(rules: Sequence[BoundRule], previous: RuleSet | None = None) -> Generator[None, None, RuleSet]:
    """Make a rule set, as a generator that returns it and yields after a few milliseconds of work.

    previous: the rule set that it replaces; blocks with the same patterns are taken over. Raises BadPattern if the
    rules need too much memory.
    """
    patterns = tuple(encode_pattern(rule.pattern) for rule in rules if not rule.is_default)
    blocks = yield from compile_blocks(patterns, previous.blocks if previous is not None else ())
    return RuleSet(rules, blocks)


def compile_blocks(patterns: tuple[bytes, ...], before: Sequence[Block]) -> Generator[None, None, list[Block]]:
    """Return the blocks of these patterns, as a generator that yields after a few milliseconds of work.

    before: former blocks; those with the same patterns are taken over. Raises BadPattern if the patterns need too much
    memory.
    """
    blocks: list[Block] = []
    for piece in _pieces(patterns, before):
        if isinstance(piece, Block):
            blocks.append(piece)
        else:
            yield from _compiling(piece, blocks)
    most = MAX_SPARE_BLOCKS + len(patterns) // (MAX_BLOCK_RULES // 2)
    if len(blocks) > most:
        raise BadPattern(
            f"the service's {len(patterns)} patterns together need automata of more than "
            f"{most * MAX_BLOCK_MEMORY >> 20} MiB: make the largest of them simpler"
        )
    return blocks


def _pieces(patterns: tuple[bytes, ...], before: Sequence[Block]) -> Iterator[Block | tuple[bytes, ...]]:
    """Cut `patterns` into blocks of `before` with the same patterns, and into pieces that must be compiled.

    Small blocks are compiled again together with new patterns beside them, so that their number does not grow.
    """
    if patterns == tuple(pattern for block in before for pattern in block.patterns):
        yield from before
        return
    where = {pattern: place for place, pattern in enumerate(patterns)} if before else {}
    position = 0
    for block in before:
        found = where.get(block.patterns[0], -1)
        end = found + block.size
        if block.size >= MAX_BLOCK_RULES // 2 and found >= position and patterns[found:end] == block.patterns:
            yield from _cut(patterns[position:found])
            yield block
            position = end
    yield from _cut(patterns[position:])


def _cut(patterns: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    for start in range(0, len(patterns), MAX_BLOCK_RULES):
        yield patterns[start : start + MAX_BLOCK_RULES]


def _compiling(patterns: tuple[bytes, ...], blocks: list[Block]) -> Generator[None, None, None]:
    """Compile blocks of these patterns, and append them to `blocks`: one, or more if one automaton is too small. Yields
    while it works, if there are many patterns. Raises BadPattern."""
    known = _blocks.get(patterns)
    if known is not None:
        blocks.append(known)
        return
    automaton = re2.Set.SearchSet(re2_options(MAX_BLOCK_MEMORY))
    try:
        for number, pattern in enumerate(patterns, 1):
            automaton.Add(pattern)
            if number % ADDED_PER_STEP == 0:
                yield
        automaton.Add(b"")
        automaton.Compile()
        is_usable = bool(automaton.Match(b"/"))
    except re2.error:
        is_usable = False
    if is_usable:
        block = _blocks[patterns] = Block(patterns, automaton)
        blocks.append(block)
        if len(patterns) >= ADDED_PER_STEP:
            yield
    elif len(patterns) == 1:
        shown = shorten(patterns[0].decode("utf-8", "replace"))
        raise BadPattern(
            f"pattern '{shown}' needs an automaton of more than {MAX_BLOCK_MEMORY >> 20} MiB: make it simpler"
        )
    else:
        yield
        middle = len(patterns) // 2
        yield from _compiling(patterns[:middle], blocks)
        yield from _compiling(patterns[middle:], blocks)


def _one_by_one(patterns: Sequence[bytes], path: bytes) -> int:
    options = re2_options()
    for place, pattern in enumerate(patterns):
        if re2.search(pattern, path, options=options):
            return place
    return len(patterns)
