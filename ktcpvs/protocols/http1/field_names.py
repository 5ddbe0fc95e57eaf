"""Names of header fields as programs behind a server see them.

CGI, WSGI and the like make variables of names, in which `X_Forwarded_For` and `X-Forwarded-For` are the same.
"""

from __future__ import annotations

_CANONICAL = bytes(code if chr(code).isascii() and chr(code).isalnum() else ord("-") for code in range(256)).lower()


def canonical(name: bytes) -> bytes:
    """Return the one name for all names that a program could mistake for each other: in lower case, and with a hyphen
    for each character that is neither a letter nor a digit."""
    return name.translate(_CANONICAL)
