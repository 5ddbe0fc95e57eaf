"""Checks that templates among a scheduler's options have values at the time when the scheduler chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.request_templates import RequestTemplate
from ktcpvs.model.scheduler_words import name_of


def check_own_templates(ident: str, scheduler: str, options: Mapping[str, Any]) -> None:
    """Raise BadValue for a template that needs requests. ident: of a service whose own scheduler chooses before it
    reads a request. scheduler: this one, as it is configured. options: its values, by name."""
    name = name_of(scheduler)
    for option, text in _needing_requests(options):
        raise BadValue(
            f"service {ident}: {option} {text}: scheduler {name} chooses before it reads a request; "
            f"with 'scheduler = phttp' and 'balance = {scheduler}' it sees each request",
            name,
        )


def check_other_templates(ident: str, use: str, text: str, scheduler: str, options: Mapping[str, Any]) -> None:
    """Raise BadValue for a template that needs requests. ident: of a service whose own scheduler reads none.
    use: balance or fallback. text: of the one that is used so, as it is configured. scheduler: the name of the
    service's. options: values of the first one's, by name."""
    for option, template in _needing_requests(options):
        raise BadValue(
            f"service {ident}: {option} {template} of a {use}: scheduler {scheduler} reads no requests; http, hhttp, "
            "phttp and chttp do",
            name_of(text),
        )


def _needing_requests(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and text of each template that needs requests."""
    return [
        (name, shorten(value.text, 60))
        for name, value in options.items()
        if isinstance(value, RequestTemplate) and value.needs_requests
    ]
