"""Whole connections in both forms: with the compiled methods of client connections, and with those in Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ktcpvs.dispatch.compiled
import ktcpvs.tcp.compiled


@pytest.fixture(autouse=True, params=["compiled", "python"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """The form of the methods that `dispatch/compiled.py` and `tcp/compiled.py` replace."""
    both = ktcpvs.dispatch.compiled.forms, ktcpvs.tcp.compiled.forms
    replaced = [forms for forms in both if forms is not None and request.param == "python"]
    for forms in replaced:
        forms.use_plain()
    yield
    for forms in replaced:
        forms.use_compiled()
