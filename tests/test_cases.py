"""A test of many cases names all that fail."""

from __future__ import annotations

import pytest
from cases import check_each


def is_small(number: int) -> None:
    assert number < 3
    if number < 0:
        with pytest.raises(ValueError, match="invalid"):
            int("0")


def test_every_case_that_fails_is_named() -> None:
    with pytest.raises(BaseExceptionGroup, match=r"^3 of 5 cases fail") as failed:
        check_each([1, 7, -1, 2, 8], is_small, name=lambda number: f"number {number}")
    assert [failure.__notes__[-1] for failure in failed.value.exceptions] == [
        "case: number 7",
        "case: number -1",
        "case: number 8",
    ]


def test_cases_that_hold_are_silent() -> None:
    check_each([1, 2], is_small)


def test_there_must_be_a_case() -> None:
    with pytest.raises(AssertionError, match="no cases"):
        check_each([], is_small)
