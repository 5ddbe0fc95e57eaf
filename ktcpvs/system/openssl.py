"""Functions of OpenSSL that `ssl` does not offer, called by ctypes in the very library that `_ssl` is linked with.

`unavailable()` tells where that is impossible: with another interpreter than CPython, or another OpenSSL than 3.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import ssl
from typing import Any

pointer = ctypes.c_void_p


@functools.cache
def _library() -> ctypes.CDLL:
    """Raises OSError or ImportError where there is none."""
    import _ssl

    return ctypes.CDLL(getattr(_ssl, "__file__", None))  # without a file `_ssl` is a part of the interpreter


def function(name: str, *arguments: Any, result: Any = ctypes.c_int) -> Any:
    """Return a function. arguments, result: their types. Raises OSError, ImportError or AttributeError where it is
    missing."""
    found = _library()[name]
    found.argtypes = arguments
    found.restype = result
    return found


def function_address(name: str) -> int:
    """Return the address of a function. Raises OSError, ImportError or AttributeError where it is missing."""
    return ctypes.cast(_library()[name], pointer).value or 0


def field(found: object, place: int) -> int:
    """Return a field of an object of `_ssl` that is a pointer; 0 for NULL. place: as many pointers are before it."""
    size = ctypes.sizeof(pointer)
    return pointer.from_address(id(found) + object.__basicsize__ + place * size).value or 0


def context_address(context: ssl.SSLContext) -> int:
    """Return the address of the SSL_CTX, to which the first field of `_ssl`'s context points."""
    return field(context, 0)


@functools.cache
def unavailable() -> str:
    """Return why contexts cannot be reached; "" where they can."""
    if platform.python_implementation() != "CPython":
        return "the interpreter is not CPython"
    try:
        options = function("SSL_CTX_get_options", pointer, result=ctypes.c_uint64)
    except (OSError, AttributeError, ImportError):
        return "OpenSSL 3 cannot be reached by ctypes"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if options(context_address(context)) & 0xFFFFFFFF != int(context.options) & 0xFFFFFFFF:
        return "the context of OpenSSL cannot be found"
    return ""
