"""Traces of requests: which requests of a service get spans, and where these are sent."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from attrs import Attribute

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.options import OFF

PASS = "pass"
"""The value of `trace` with which requests have trace IDs and no spans."""

DEFAULT_ENDPOINT = "http://127.0.0.1:4318"
"""The address at which collectors accept OTLP over HTTP, on the same machine."""

_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%")

MAX_ENDPOINT = 1024
"""The most characters of an endpoint."""


def sampled_share(trace: str) -> float:
    """Return the share of requests that begin a trace with spans, 0 to 1. trace: a value of the option."""
    found = _SHARE.fullmatch(trace)
    return float(found[1]) / 100 if found else 0.0


def has_spans(trace: str) -> bool:
    """Return whether requests may get spans. trace: a value of the option."""
    return trace not in (OFF, PASS)


def trace_mode(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: off, pass or a share."""
    if value not in (OFF, PASS) and not (_SHARE.fullmatch(value) and sampled_share(value) <= 1):
        raise BadValue(
            f"{attribute.name} = {shorten(value, 40)}: expected off, pass, or the share of requests to record, "
            "0% to 100% (example: 1%)"
        )


def endpoint(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: the URL of a collector, without credentials, query and fragment."""
    try:
        url = urlsplit(value)
        is_right = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_right = False
    is_plain = re.fullmatch(r"[!-~]+", value) is not None and not re.search(r'["{}#=?@\\]', value)
    if not (is_right and is_plain) or len(value) > MAX_ENDPOINT:
        raise BadValue(
            f"{attribute.name} = {shorten(value, 80)}: expected the URL of an OpenTelemetry collector "
            f"(example: {DEFAULT_ENDPOINT})"
        )
