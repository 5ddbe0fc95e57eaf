"""The two forms of HTTP/2 connections."""

from __future__ import annotations

import pytest
from http2_forms import use_python


@pytest.fixture(params=["compiled", "python"])
def http2_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that tests make use the compiled code, or none of it."""
    if request.param == "python":
        use_python(monkeypatch)
