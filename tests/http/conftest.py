"""The two forms of HTTP client connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ktcpvs.dispatch.compiled
import ktcpvs.http.compiled


@pytest.fixture(scope="module", params=["compiled", "python"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """The form of the methods that `dispatch/compiled.py` and `http/compiled.py` replace."""
    both = ktcpvs.dispatch.compiled.forms, ktcpvs.http.compiled.forms
    replaced = [forms for forms in both if forms is not None and request.param == "python"]
    for forms in replaced:
        forms.use_plain()
    yield
    for forms in replaced:
        forms.use_compiled()
