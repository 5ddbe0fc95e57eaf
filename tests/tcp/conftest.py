"""Whole connections in both forms: with the compiled methods of client connections, and with those in Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ktcpvs.dispatch import compiled


@pytest.fixture(autouse=True, params=["compiled", "python"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """The form of the methods that `dispatch/compiled.py` replaces."""
    if compiled.forms is None or request.param == "compiled":
        yield
        return
    compiled.forms.use_plain()
    yield
    compiled.forms.use_compiled()
