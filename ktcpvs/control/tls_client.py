"""An administrator's end of a control connection over TLS: who answers must have a certificate for the name that was
called, and what goes wrong is told in words that say what to do.

Imports OpenSSL, so it is imported by who calls over TLS.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.exceptions import CertificateError
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.control.certificates import End, Found, extension, read_end, reason, subject
from ktcpvs.control.client import NotTrusted, QuietAMP
from ktcpvs.control.endpoints import ControlAddress, Files, is_ip
from ktcpvs.errors import shorten

_ALERTS = {
    "unknown ca": "the ca= of the daemon has not signed it",
    "expired": "it has expired: get a new one",
    "unsupported certificate": "it is not for this purpose: extendedKeyUsage must have clientAuth",
    "bad certificate": "it may not be valid yet: compare the clocks",
}
"""What the daemon says of our certificate (RFC 8446, section 6.2), and why."""


@implementer(IHandshakeListener)
class _Caller(QuietAMP):
    """ready: fires when who answers has shown who it is; fails with NotTrusted. found: what is wrong with that."""

    transport: Any

    def __init__(self, where: ControlAddress, files: Files) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = Found()
        self.ready: Deferred[None] = Deferred()
        self._where = where
        self._files = files
        self._why: str | None = None

    def handshakeCompleted(self) -> None:
        self._why = _wrong_name(self.transport.getHandle(), self._where.host)
        if self._why is not None:
            self.transport.abortConnection()
        elif not self.ready.called:
            self.ready.callback(None)

    def connectionLost(self, why: Failure) -> None:  # type: ignore[override]
        in_words = self._why or self._in_words(why)
        failure = Failure(NotTrusted(f"the daemon at {self._where}: {in_words}")) if in_words else why
        if not self.ready.called:
            self.ready.errback(failure)
        super().connectionLost(failure)

    def _in_words(self, why: Failure) -> str | None:
        """What went wrong with TLS; None: that was not it."""
        ca = self._files.ca
        if self.found:
            return f"{self.found} by ca={ca}: name the CA of the daemon" if self.found.is_unknown else str(self.found)
        if not isinstance(why.value, SSL.Error):
            closed = "it closed the connection in the TLS handshake: perhaps it speaks no TLS, or its log tells why"
            return None if self.ready.called else closed
        said = reason(why.value)
        if "alert" not in said:
            return f"it does not speak TLS as it should ({said}): was it started with --control tls:...?"
        because = next((because for word, because in _ALERTS.items() if word in said), "its log may tell why")
        return f"it refuses our certificate, cert={self._files.cert} ({said}): {because}"


@implementer(IOpenSSLClientConnectionCreator)
class _Called:
    """TLS to a host."""

    def __init__(self, end: End, host: str) -> None:
        self._end = end
        self._host = host

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = self._end.clientConnectionForTLS(protocol)
        if not is_ip(self._host):  # RFC 6066, section 3: names alone
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection


async def call(reactor: Any, where: ControlAddress, timeout: float) -> QuietAMP:
    """The connection, when both ends may trust each other. timeout: seconds for TCP, and again for TLS.

    Raises NoTLS, NotTrusted, and what Twisted's endpoints raise where nobody answers.
    """
    assert where.tls is not None
    caller = _Caller(where, where.tls)
    factory = Factory.forProtocol(lambda: caller)
    factory.noisy = False
    over_tls = TLSMemoryBIOFactory(_Called(read_end(where.tls), where.host), True, factory, reactor)
    await where.client_endpoint(reactor, timeout).connect(over_tls)
    try:
        await caller.ready.addTimeout(timeout, reactor)
    except (TimeoutError, CancelledError):
        caller.transport.abortConnection()
        raise NotTrusted(
            f"the daemon at {where}: nothing came of the TLS handshake within {timeout:.0f} s: does it speak TLS?"
        ) from None
    return caller


def _wrong_name(connection: SSL.Connection, host: str) -> str | None:
    """What is wrong with the name in the certificate; None: it is for that host (RFC 9525)."""
    try:
        certificate = connection.get_peer_certificate(as_cryptography=True)
        assert certificate is not None  # there is no handshake without
    except ValueError as error:
        return f"its certificate cannot be read: {shorten(str(error))}"
    try:
        if is_ip(host):
            verify_certificate_ip_address(certificate, host)
        else:
            verify_certificate_hostname(certificate, host)
    except (VerificationError, CertificateError, ValueError):
        names = ", ".join(_names(certificate)) or "no name at all"
        return (
            f"its certificate, of {subject(certificate)}, is for {shorten(names)} and not for {host}: call it by "
            "such a name, or give it a certificate with this one in subjectAltName"
        )
    return None


def _names(certificate: x509.Certificate) -> list[str]:
    found = extension(certificate, x509.SubjectAlternativeName)
    if found is None:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
