"""The handshake of TLS over any stream, and what is known of the peer afterwards."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve

from ktcpvs.streams.contract import TLSFacts
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_buffers import TLSBuffers, failure_reason
from ktcpvs.streams.tls_operations import shake_hands
from ktcpvs.streams.tls_transport import TLSTransport
from ktcpvs.streams.transport import nothing

TLS_1_3 = "TLSv1.3"
"""Its name in `TLSFacts.version`."""

MAX_KNOWN_FACTS = 256
"""The most facts that are kept for connections that differ in nothing."""


class HandshakeFailed(Exception):
    """The peers do not agree. str(): why, in words that are the same for all peers that fail in the same way.

    alert: the bytes that tell the peer; they have not been sent. is_untrusted: the peer's certificate was not accepted.
    """

    def __init__(self, reason: str, alert: bytes = b"", is_untrusted: bool = False) -> None:
        super().__init__(reason)
        self.alert = alert
        self.is_untrusted = is_untrusted


class Handshake:
    """The handshake of one connection over the stream `below`, whose callbacks belong to whoever feeds it.

    session_kept: called once with the session, which another connection to this server may begin with.
    """

    __slots__ = ("_below", "_buffers", "_name", "_output", "_server_side", "_ssl", "session_kept")

    def __init__(
        self,
        below: Stream,
        buffers: TLSBuffers,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
        session_kept: Callable[[ssl.SSLSession], object] = nothing,
    ) -> None:
        """server_name: that the client has sent, on the server's side; else the one to send and to verify. session: to
        resume, of the same context; for clients. Raises ValueError for a name that cannot be one."""
        self._below = below
        self._buffers = buffers
        self._name = server_name
        self._output = b""  # records that go with the first ones of the connection
        self._server_side = server_side
        self.session_kept = session_kept
        # The wrapper `ssl.SSLObject` would cost memory and, for each operation, time. It checks that a name is given
        # where one is to be verified.
        if not server_side and not server_name and context.check_hostname:
            raise ValueError("the context verifies a name, and none is given")
        raw: Any = context
        name = None if server_side else server_name
        self._ssl = raw._wrap_bio(buffers.incoming, buffers.outgoing, server_side, name, session=session)

    def feed(self, data: bytes) -> bytes | None:
        """Take what the peer has sent, b"" to begin. Returns None while the handshake goes on, and what came behind it,
        still encrypted, when it is complete. Raises HandshakeFailed."""
        buffers = self._buffers
        try:
            is_complete = shake_hands(self._ssl, buffers.incoming, data)
        except ssl.SSLError as error:
            buffers.incoming.read()
            is_untrusted = isinstance(error, ssl.SSLCertVerificationError)
            raise HandshakeFailed(failure_reason(error), buffers.outgoing.read(), is_untrusted) from None
        except BaseException:
            buffers.incoming.read()
            buffers.outgoing.read()
            raise
        rest = buffers.incoming.read()
        output = buffers.outgoing.read()
        if is_complete and rest and self._server_side and self._ssl.version() == TLS_1_3:
            self._output = output  # tickets: the response to what has come brings them, in the same packet
        elif output:
            self._below.write(output)
        return rest if is_complete else None

    def facts(self) -> TLSFacts:
        """The results of a complete handshake."""
        session = self._ssl
        facts = _shared_facts(
            session.version(),
            self._name,
            session.selected_alpn_protocol(),
            session.cipher()[0],
            session.session_reused,
        )
        # On a client's side nobody asks, and each connection would keep it.
        certificate = session.getpeercert(True) if self._server_side else None
        if certificate is None:
            return facts
        subject = distinguished_name(session.getpeercert().get("subject", ()))
        return evolve(facts, certificate=certificate, certificate_subject=subject)

    def open(self, stream: Stream, rest: bytes) -> TLSTransport:
        """Let `stream` speak over the connection. rest: what `feed` has returned; it is delivered in the next turn.
        `stream.made` has been called when this returns the stream's transport."""
        stream.tls = self.facts()
        transport = TLSTransport(self._below, self._buffers, self._ssl, self.session_kept, self._output)
        transport.begin(stream, rest)
        return transport


@functools.lru_cache(MAX_KNOWN_FACTS)
def _shared_facts(version: str, sni: str | None, alpn: str | None, cipher: str, is_resumed: bool) -> TLSFacts:
    return TLSFacts(version, sni, alpn, cipher, is_resumed)


def distinguished_name(subject: Sequence[Sequence[tuple[str, str]]]) -> str:
    """A subject, as `ssl` has it, in the form of RFC 4514: `CN=alice,O=Example`."""
    words = [
        "+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in names) for names in reversed(subject)
    ]
    return ",".join(words)


_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""The names of RFC 4514, section 3."""


def _escaped(value: str) -> str:
    escaped = "".join(
        f"\\{c}" if c in '"+,;<>\\' else c if c.isprintable() else "".join(f"\\{b:02X}" for b in c.encode())
        for c in value
    )
    if escaped[:1] in (" ", "#"):
        escaped = "\\" + escaped
    return escaped[:-1] + "\\ " if escaped.endswith(" ") and len(value) > 1 else escaped
