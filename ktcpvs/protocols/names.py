"""Names of header fields as programs behind a server see them.

CGI, WSGI and the like make variables of names, in which `X_Forwarded_For` and `X-Forwarded-For` are the same.
"""

from __future__ import annotations

_CANONICAL = bytes(code if chr(code).isascii() and chr(code).isalnum() else ord("-") for code in range(256)).lower()


def canonical(name: bytes) -> bytes:
    """The name that stands for all names that a program could take for this one: lower case, with a hyphen for
    whatever is neither a letter nor a digit."""
    return name.translate(_CANONICAL)
