"""The field Retry-After of responses (RFC 9110 section 10.2.3): a number of seconds, or a date."""

from __future__ import annotations

import datetime
from email.utils import parsedate_to_datetime


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds in a Retry-After field; None: there is none, or it cannot be read. now: seconds since 1970."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(when.timestamp() - now, 0.0)
