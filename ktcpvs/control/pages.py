"""Pages: the parts in which texts longer than a value of AMP are sent."""

from __future__ import annotations

PAGE_SIZE = 60000
"""The most bytes in one page."""


def split_pages(text: str | bytes) -> list[bytes]:
    """Return a text, or bytes, as pages for Upload, at least one."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    return [data[start : start + PAGE_SIZE] for start in range(0, len(data), PAGE_SIZE)] or [b""]
