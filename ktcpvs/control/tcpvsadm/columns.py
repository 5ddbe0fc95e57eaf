"""Text in terminal columns: its width, padding, and cutting to fit. Wide characters take two columns."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "..."


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
