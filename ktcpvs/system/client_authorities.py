"""The names of CAs in a server's CertificateRequest, by which a client with several certificates finds the right one.

`ssl` loads the CAs that verify clients, but does not name them (RFC 8446, section 4.2.4; RFC 5246, section 7.4.4).
"""

from __future__ import annotations

import ctypes
import functools
import ssl
from typing import Any

from ktcpvs.system import openssl
from ktcpvs.system.openssl import pointer

MAX_NAMED = 200
"""The most CAs that are named. Their names take about 100 bytes each in every handshake, and 64 KiB at most."""


class _Functions:
    """Raises OSError, ImportError or AttributeError where one is missing."""

    def __init__(self) -> None:
        self.parse = openssl.function("d2i_X509", pointer, pointer, ctypes.c_long, result=pointer)
        self.add = openssl.function("SSL_CTX_add_client_CA", pointer, pointer)
        self.free = openssl.function("X509_free", pointer, result=None)


@functools.cache
def _functions() -> _Functions | None:
    if openssl.unavailable():
        return None
    try:
        return _Functions()
    except AttributeError:
        return None


def name_authorities(context: ssl.SSLContext) -> bool:
    """Let a server's context name the CAs that it has loaded. False: it names none, because that is not possible here,
    or because there are too many."""
    functions = _functions()
    certificates = context.get_ca_certs(binary_form=True)
    if functions is None or len(certificates) > MAX_NAMED:
        return False
    address = openssl.context_address(context)
    return all(_add(functions, address, certificate) for certificate in certificates)


def _add(functions: _Functions, address: int, certificate: bytes) -> bool:
    buffer = ctypes.create_string_buffer(certificate, len(certificate))
    place: Any = ctypes.c_void_p(ctypes.addressof(buffer))  # which the function moves
    parsed = functions.parse(None, ctypes.byref(place), len(certificate))
    if not parsed:
        return False
    added = functions.add(address, parsed)
    functions.free(parsed)
    return bool(added)
