"""Many small cases in one test. Each test costs 2 ms in pytest and xdist, however little it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

T = TypeVar("T")


def check_each(cases: Iterable[T], check: Callable[[T], object], name: Callable[[T], object] = repr) -> None:
    """Call `check` with each case, also after one has failed.

    name: describes a case. Raises an exception group with the failure of each case that fails, and its name as a note.
    There must be a case.
    """
    count = 0
    failures: list[BaseException] = []
    for case in cases:
        count += 1
        try:
            check(case)
        except (Exception, pytest.fail.Exception) as failure:
            failure.add_note(f"case: {name(case)}")
            failures.append(failure)
    assert count, "there are no cases"
    if failures:
        raise BaseExceptionGroup(f"{len(failures)} of {count} cases fail", failures)
