"""Retry-After: seconds, dates, and what is neither."""

from __future__ import annotations

import pytest

from ktcpvs.protocols.retry_after import parse_retry_after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("9" * 400, 999999999),
        ("Thu, 01 Jan 1970 00:20:00 -0000", 200),
    ],
)
def test_the_forms_of_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, 1000) == seconds
