"""Splits a text into lines, which end with LF, CR LF or CR and with nothing else."""

from __future__ import annotations

import re

_END = re.compile(r"\r\n|\r|\n")


def split_lines(text: str) -> list[str]:
    """Return all lines without their ends, the text after the last line end included, even if it is empty."""
    return _END.split(text) if "\r" in text else text.split("\n")
