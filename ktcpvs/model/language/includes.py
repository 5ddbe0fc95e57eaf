"""`include = PATTERN`: puts the text of other files in its place.

It may stand wherever a keyword may. What comes from another file begins with a comment `#line 1 "FILE"`, so that errors
name the file and its line; a daemon that does not know such comments reads the text all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define

from ktcpvs.errors import Refusal, shorten
from ktcpvs.model.language.lexer import INCLUDE, Token, end_of, is_position, quoted, tokens
from ktcpvs.model.lines import split_lines

MAX_DEPTH = 8
"""The most files that include each other in a row."""

UNMATCHED = "#no file matches include = "
"""The beginning of the comment that stands in place of an include without files; its pattern and its place follow."""

MAX_FILES = 10_000
"""The most files that one configuration includes."""

FindFiles = Callable[[str, str], Sequence[str]]
"""(pattern, name of the including file) -> the names of the files to include, in their order."""

ReadFile = Callable[[str], str]
"""Name of a file -> its text. Raises a Refusal."""


def expand_includes(text: str, source: str, find: FindFiles, read: ReadFile) -> str:
    """Return `text` with the files that it includes. source: its name. Raises BadConfiguration."""
    return _Expansion(find, read).expand(text, source, 0) if INCLUDE in text.lower() else text


def unmatched_includes(text: str) -> list[tuple[str, str]]:
    """Return (pattern, place) of those includes of an expanded text that have matched no file."""
    lines = [line.removeprefix(UNMATCHED) for line in split_lines(text) if line.startswith(UNMATCHED)]
    return [(pattern, where) for pattern, _, where in (line.partition("\t") for line in lines)]


@define
class _Expansion:
    """One expansion. count: the files that were included so far."""

    find: FindFiles
    read: ReadFile
    count: int = 0

    def expand(self, text: str, source: str, depth: int) -> str:
        lines = ["" if is_position(line) else line for line in split_lines(text.removeprefix("\ufeff"))]
        found = tokens("\n".join(lines), source)
        parts: list[str] = []
        line = column = 0
        for number, token in enumerate(found):
            pattern = _pattern(found, number)
            if pattern is None:
                continue
            parts.append(_between(lines, (line, column), (token.place.line - 1, token.place.column - 1)))
            names = self._names(pattern, source, depth)
            if not names:
                parts.append(f"\n{UNMATCHED}{shorten(pattern.text)}\t{pattern.place}")
            for name in names:
                parts.append(f"\n#line 1 {quoted(name)}\n{self._included(name, pattern, depth)}")
            line, column = pattern.place.line - 1, end_of(lines[pattern.place.line - 1], pattern)
            parts.append(f"\n#line {line + 1} {quoted(source)}\n{' ' * column}")
        last = len(lines) - 1
        return "".join([*parts, _between(lines, (line, column), (last, len(lines[last])))])

    def _names(self, pattern: Token, source: str, depth: int) -> Sequence[str]:
        if depth == MAX_DEPTH:
            raise pattern.place.error(f"more than {MAX_DEPTH} files include each other; does one include itself?")
        try:
            names = self.find(pattern.text, source)
        except Refusal as refusal:
            raise pattern.place.error(f"include = {shorten(pattern.text)}: {refusal}") from None
        self.count += len(names)
        if self.count > MAX_FILES:
            raise pattern.place.error(f"more than {MAX_FILES} files are included")
        return names

    def _included(self, name: str, pattern: Token, depth: int) -> str:
        try:
            text = self.read(name)
        except Refusal as refusal:
            raise pattern.place.error(f"include = {shorten(pattern.text)}: {refusal}") from None
        return self.expand(text, name, depth + 1)


def _pattern(found: Sequence[Token], number: int) -> Token | None:
    """Return the pattern of an include that begins with the token of that number; None: none begins there."""
    if not found[number].is_word(INCLUDE) or not (found[number + 1 :] and found[number + 1].is_word("=")):
        return None
    if len(found) <= number + 2 or found[number + 2].is_word("{", "}"):
        raise found[number].place.error("include: missing the name of a file (example: include = conf.d/*.conf)")
    return found[number + 2]


def _between(lines: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the text between two positions, which are (line, column) from 0."""
    if start[0] == end[0]:
        return lines[start[0]][start[1] : end[1]]
    return "\n".join([lines[start[0]][start[1] :], *lines[start[0] + 1 : end[0]], lines[end[0]][: end[1]]])
