"""The operations of OpenSSL on one TLS connection, whose bytes come and go through memory BIOs.

`_tls.c` has the same ones, which call OpenSSL without an exception for each record that is not complete. Where the
extension is not installed, or the objects of `_ssl` are not as it expects them, those in Python are used.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ktcpvs.system import openssl

MAX_RECORD_SIZE = 16 << 10
"""The most bytes of data in one record (RFC 8446, section 5.1)."""


def shake_hands(connection: Any, incoming: ssl.MemoryBIO, data: bytes) -> bool:
    """Go on with a handshake. connection: an `_ssl._SSLSocket`. data: what has come. False: it is not complete. Raises
    SSLError."""
    if data:
        incoming.write(data)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def decrypt(connection: Any, incoming: ssl.MemoryBIO, data: bytes) -> bytes | None:
    """Return the data of the next record, of what has come before and `data`. None: more must come; b"": the peer has
    sent close_notify. Raises SSLError."""
    if data:
        incoming.write(data)
    try:
        plain: bytes = connection.read(MAX_RECORD_SIZE)
    except ssl.SSLWantReadError:  # a part of a record, or one without data
        return None
    except ssl.SSLZeroReturnError:  # so `ssl` reports close_notify when ours is sent already
        return b""
    return plain


def encrypt(connection: Any, outgoing: ssl.MemoryBIO, data: bytes) -> bytes:
    """Return the record of `data`, at most MAX_RECORD_SIZE bytes, behind what OpenSSL has to send. Raises SSLError."""
    connection.write(data)
    return outgoing.read()


def close_notify(connection: Any, outgoing: ssl.MemoryBIO) -> bytes:
    """Return close_notify; b"" if the connection is broken."""
    with contextlib.suppress(ssl.SSLError):  # it would wait for the peer's
        connection.shutdown()
    return outgoing.read()


IN_PYTHON: tuple[Callable[..., Any], ...] = shake_hands, decrypt, encrypt, close_notify
"""The operations in Python, whichever are used."""


def _connection_type() -> type | None:
    """Return the type of connections. None: the compiled operations cannot be used, since the objects of `_ssl` are not
    as they expect."""
    if openssl.unavailable():
        return None
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context._wrap_bio(incoming, outgoing, False)
    address = openssl.field(connection, 1)
    if not address or openssl.field(connection, 2) != id(context):
        return None
    find = openssl.function
    read, write = (find(f"SSL_get_{which}", openssl.pointer, result=openssl.pointer) for which in ("rbio", "wbio"))
    is_known = (read(address), write(address)) == (openssl.field(incoming, 0), openssl.field(outgoing, 0))
    return type(connection) if is_known else None


_FUNCTIONS = (
    "SSL_do_handshake", "SSL_read_ex", "SSL_write_ex", "SSL_shutdown", "SSL_get_error", "ERR_clear_error", "BIO_read",
    "BIO_write", "BIO_ctrl_pending",
)  # fmt: skip

IS_COMPILED = False

if not TYPE_CHECKING:
    try:
        import ktcpvs.streams._tls as compiled
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        with contextlib.suppress(AttributeError):  # another OpenSSL lacks a function
            if (kind := _connection_type()) is not None:
                compiled.configure(kind, ssl.MemoryBIO, *map(openssl.function_address, _FUNCTIONS))
                shake_hands, decrypt = compiled.shake_hands, compiled.decrypt
                encrypt, close_notify = compiled.encrypt, compiled.close_notify
                IS_COMPILED = True
