"""The forms of a request target (RFC 9112, section 3.2)."""

from __future__ import annotations

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
