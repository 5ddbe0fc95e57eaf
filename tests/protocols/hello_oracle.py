"""OpenSSL as an oracle for ClientHello: what its server side sees of the same bytes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from authority import Authority

NEVER = "never"
"""In place of a name: OpenSSL has refused the hello before it came to the name."""


@dataclass
class Seen:
    """name: of the server; None: the hello has none; NEVER. protocol: that OpenSSL has chosen of those that it was
    offered. failure: why OpenSSL has refused the hello; None: it waits for more."""

    name: str | None = NEVER
    protocol: str | None = None
    failure: str | None = None


@cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        context.load_cert_chain(Authority(Path(folder)).issue("server", "www.example.com"))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def seen_by_openssl(data: bytes, *protocols: str) -> Seen:
    """Return the facts that OpenSSL sees in `data`, as a server of these protocols."""
    context, seen = _context(), Seen()

    def named(_object: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        seen.name = name

    context.sni_callback = named
    context.set_alpn_protocols(list(protocols))
    incoming = ssl.MemoryBIO()
    server = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    incoming.write(data)
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        seen.protocol = server.selected_alpn_protocol()
    except ssl.SSLError as error:
        seen.failure = error.reason or str(error)
    return seen
