"""The number of examples with which hypothesis tries a property: few, or all of them in `make test-all`."""

from __future__ import annotations

from typing import Any

import hypothesis

FEW = "few"
ALL = "all"

SHARE = 4
"""With FEW, this part of the examples is tried."""

MIN_EXAMPLES = 5

UNLUCKY = (
    hypothesis.HealthCheck.filter_too_much,
    hypothesis.HealthCheck.data_too_large,
    hypothesis.HealthCheck.too_slow,
)
"""What tells of the first few examples, which large strategies like `tables` drop now and then, and of a busy machine,
and of no fault."""


def register_profiles() -> None:
    """Register the profiles FEW, which is in force from now on, and ALL, which `--hypothesis-profile=all` chooses."""
    # An example may take longer than usual on a busy machine.
    hypothesis.settings.register_profile(ALL, deadline=None, suppress_health_check=UNLUCKY)
    count = hypothesis.settings.get_profile(ALL).max_examples
    few = hypothesis.settings(hypothesis.settings.get_profile(ALL), max_examples=_fewer(count))
    hypothesis.settings.register_profile(FEW, few)
    hypothesis.settings.load_profile(FEW)


def examples(count: int, **more: Any) -> hypothesis.settings:
    """Decorate a property: all its examples are `count`. more: further settings of hypothesis."""
    health = {"suppress_health_check": (*UNLUCKY, *more.pop("suppress_health_check", ()))}
    return hypothesis.settings(max_examples=scaled(count), **health, **more)


def scaled(count: int) -> int:
    """`count`, or fewer with FEW."""
    return _fewer(count) if hypothesis.settings.get_current_profile_name() == FEW else count


def _fewer(count: int) -> int:
    return min(max(count // SHARE, MIN_EXAMPLES), count)
