"""The ID of a request that a proxy in front has given it, in X-Request-ID."""

from __future__ import annotations

import re

from ktcpvs.model.request_values import header_values

_VALID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


def known_request_id(lines: bytes) -> bytes:
    """Return the ID in header lines; b"" where there is none, or not exactly one, or one of another form."""
    found = [value for _, value in header_values(lines, (b"x-request-id",))]
    return found[0] if len(found) == 1 and _VALID.fullmatch(found[0]) else b""
