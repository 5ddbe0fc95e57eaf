"""Text in columns of a terminal: how wide it is, padded, and cut to fit. Wide characters take two columns."""

from __future__ import annotations

import unicodedata

CUT = "..."


def text_width(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return len(text) if text.isascii() else sum(map(_width, text))


def padded(text: str, width: int, side: str = "<") -> str:
    """`text` with blanks up to `width` columns. side: "<" puts it at the left, ">" at the right."""
    blanks = " " * (width - text_width(text))
    return text + blanks if side == "<" else blanks + text


def fitted(text: str, width: int) -> str:
    """`text` in exactly `width` columns: padded, or cut in the middle, since addresses differ at both ends."""
    if text_width(text) <= width:
        return padded(text, width)
    if width <= len(CUT) + 2:
        return padded(_begin(text, width), width)
    left = width - len(CUT)
    end = _begin(text[::-1], left // 2)[::-1]
    return padded(_begin(text, left - text_width(end)) + CUT + end, width)


def _begin(text: str, width: int) -> str:
    """As many of the first characters as fit into `width` columns."""
    taken = 0
    for place, character in enumerate(text):
        taken += _width(character)
        if taken > width:
            return text[:place]
    return text


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
