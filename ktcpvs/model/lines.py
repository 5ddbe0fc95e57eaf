"""The lines of a text: LF, CR LF and CR end a line everywhere, and nothing else does."""

from __future__ import annotations

import re

_END = re.compile(r"\r\n|\r|\n")


def split_lines(text: str) -> list[str]:
    """All lines without their ends; one more, which may be empty, after the last line end."""
    return _END.split(text) if "\r" in text else text.split("\n")
