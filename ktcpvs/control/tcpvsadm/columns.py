"""Text in terminal columns: its width, padding, and cutting to fit. Wide characters take two columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

ELLIPSIS = "..."
GAP = "  "
"""The gap between two columns."""

MIN_NAME_WIDTH = 12
"""Names are not shortened below this width as long as a column can be left out."""

_DEEPER = "  "
"""The further indentation of the second and further lines of a text that is wrapped."""


def text_width(text: str) -> int:
    """Return the width of `text` in columns."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def pad(text: str, width: int, side: str = "<") -> str:
    """Return `text` with blanks up to `width` columns. side: "<" aligns it to the left, ">" to the right."""
    blanks = " " * (width - text_width(text))
    return text + blanks if side == "<" else blanks + text


def fit(text: str, width: int) -> str:
    """Return `text` in exactly `width` columns: padded, or cut in the middle, since addresses differ at both ends."""
    if text_width(text) <= width:
        return pad(text, width)
    if width <= len(ELLIPSIS) + 2:
        return pad(_cut(text, width), width)
    left = width - len(ELLIPSIS)
    end = _cut(text[::-1], left // 2)[::-1]
    return pad(_cut(text, left - text_width(end)) + ELLIPSIS + end, width)


def align(rows: Sequence[Sequence[str]], sides: str, width: int = 0) -> str:
    """Align columns, two spaces apart. A row of one cell is a line of its own.

    sides: "<" or ">" for each column. width: the most columns of the terminal that a line takes; 0: no limit. Where the
    table is wider, names are shortened in the middle, then the last columns are left out, and lines of one cell are
    wrapped.
    """
    widths = [max(map(text_width, column)) for column in zip(*(row for row in rows if len(row) > 1), strict=True)]
    if width and widths:
        widths = _narrow(widths, sides, width)

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, sides, strict=False)  # zip leaves out the columns that have no width
        return GAP.join(
            pad(fit(cell, room) if text_width(cell) > room else cell, room, side) for cell, room, side in cells
        )

    lines: list[str] = []
    for row in rows:
        if len(row) > 1:
            lines.append(line(row).rstrip())
        else:
            lines += wrap(row[0], width) if width else row
    return "".join(f"{text}\n" for text in lines)


def _narrow(widths: Sequence[int], sides: str, width: int) -> list[int]:
    """Return the widths of the first columns, so that they fit."""
    narrowed = list(widths)
    while True:
        excess = sum(narrowed) + len(GAP) * (len(narrowed) - 1) - width
        names = [at for at in range(len(narrowed)) if sides[at] == "<"]
        room = sum(max(narrowed[at] - MIN_NAME_WIDTH, 0) for at in names)
        if excess <= room or len(narrowed) == 1:
            break
        narrowed.pop()
    while excess > 0 and (widest := max(names, key=narrowed.__getitem__, default=None)) is not None:
        if narrowed[widest] <= min(MIN_NAME_WIDTH, width):
            break
        narrowed[widest] -= 1
        excess -= 1
    return narrowed if len(narrowed) > 1 else [min(narrowed[0], width)]


def wrap(text: str, width: int) -> Iterator[str]:
    """Yield lines of at most `width` columns. Words are kept whole where they fit; further lines are indented more."""
    if text_width(text) <= width:
        yield text
        return
    indent = " " * min(len(text) - len(text.lstrip()), width // 2)
    line = ""
    for word in text.split():
        begin = indent if not line else line + " "
        if line and text_width(begin + word) > width:
            yield line
            begin = indent + _DEEPER
        while text_width(begin + word) > width:
            part = _cut(word, max(width - text_width(begin), 1)) or word[:1]
            yield begin + part
            word, begin = word[len(part) :], indent + _DEEPER
        line = begin + word
    yield line


def _cut(text: str, width: int) -> str:
    """Return as many of the first characters as fit into `width` columns."""
    taken = 0
    for index, character in enumerate(text):
        taken += _character_width(character)
        if taken > width:
            return text[:index]
    return text


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
