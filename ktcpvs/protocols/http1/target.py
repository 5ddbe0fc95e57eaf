"""The forms of a request target (RFC 9112, section 3.2), and the URL that it stands for."""

from __future__ import annotations

import re

from ktcpvs.model.service import HTTPS_PORT
from ktcpvs.protocols.http1.errors import BadRequest
from ktcpvs.protocols.http1.grammar import ABSOLUTE_FORM, AUTHORITY_FORM


def path_of(method: bytes, target: bytes) -> bytes:
    """Return the path and query of a request target, by its form (RFC 9112, section 3.2). Raises BadRequest.

    origin-form: the target itself. absolute-form: what follows the authority. `*` and CONNECT's authority: the target
    itself.
    """
    if target.startswith(b"/"):
        return target
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is not None:
        return absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if (target == b"*" and method == b"OPTIONS") or (method == b"CONNECT" and AUTHORITY_FORM.fullmatch(target)):
        return target
    raise BadRequest(400, "malformed request target")


_PORT = re.compile(rb":[0-9]*\Z")
_NO_URL = re.compile(rb"[^!#-\[\]-~]")
"""Bytes that no URL has; browsers read a backslash as a slash."""


def url_text(data: bytes) -> bytes:
    """Return a part of a URL in which each byte that no URL has is percent-encoded."""
    return _NO_URL.sub(lambda found: b"%%%02X" % found[0][0], data)


def https_url(host: bytes, path: bytes, port: int) -> str:
    """Return the URL of a request over TLS. host: the value of Host, whose port is dropped. path: path and query, or
    `*`."""
    authority = _PORT.sub(b"", host)
    if port != HTTPS_PORT:
        authority += b":%d" % port
    return (b"https://" + authority + url_text(b"" if path == b"*" else path)).decode("ascii")
