"""A client's end of a control connection over TLS: verifies the daemon's certificate, and explains failures.

This module imports OpenSSL, which takes long, so it is imported only for an address with tls:.
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

from ktcpvs.control.certificates import TLSContext, VerifyErrors, extension, load_context, openssl_reason, subject
from ktcpvs.control.client_errors import NotTrusted
from ktcpvs.control.client_protocol import QuietAMP, client_endpoint
from ktcpvs.control.endpoints import ControlAddress, TLSFiles, is_ip
from ktcpvs.errors import shorten

_ALERTS = {
    "unknown ca": "the daemon's ca= has not signed it",
    "expired": "it has expired; get a new one",
    "unsupported certificate": "it is not for this purpose: its extendedKeyUsage must contain clientAuth",
    "bad certificate": "it may not be valid yet; compare the clocks",
}
"""Meanings of the alerts that the daemon sends about our certificate (RFC 8446, section 6.2)."""


@implementer(IHandshakeListener)
class _TLSClientProtocol(QuietAMP):
    """The client's end of a control connection over TLS. ready: fires when the daemon's certificate has been verified;
    fails with NotTrusted. verify_errors: the defects of that certificate."""

    transport: Any

    def __init__(self, address: ControlAddress, files: TLSFiles) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.verify_errors = VerifyErrors()
        self.ready: Deferred[None] = Deferred()
        self._control = address
        self._files = files
        self._name_error: str | None = None

    def handshakeCompleted(self) -> None:
        self._name_error = _name_error(self.transport.getHandle(), self._control.host)
        if self._name_error is not None:
            self.transport.abortConnection()
        elif not self.ready.called:
            self.ready.callback(None)

    def connectionLost(self, why: Failure) -> None:  # type: ignore[override]
        reason = self._name_error or self._tls_reason(why)
        failure = Failure(NotTrusted(f"the daemon at {self._control}: {reason}")) if reason else why
        if not self.ready.called:
            self.ready.errback(failure)
        super().connectionLost(failure)

    def _tls_reason(self, why: Failure) -> str | None:
        """Explain what went wrong with TLS; None: the connection was lost for another reason."""
        ca = self._files.ca
        if self.verify_errors:
            if self.verify_errors.is_unknown_ca:
                return f"{self.verify_errors} by ca={ca}: set ca= to the CA of the daemon's certificate"
            return str(self.verify_errors)
        if not isinstance(why.value, SSL.Error):
            if self.ready.called:
                return None
            return "it closed the connection in the TLS handshake: it may not speak TLS; otherwise see its log"
        reason = openssl_reason(why.value)
        if "alert" not in reason:
            return f"it does not speak TLS correctly ({reason}): was it started with --control tls:...?"
        meaning = next((meaning for word, meaning in _ALERTS.items() if word in reason), "see its log")
        return f"it refuses our certificate, cert={self._files.cert} ({reason}): {meaning}"


@implementer(IOpenSSLClientConnectionCreator)
class _ConnectionCreator:
    """Creates TLS connections to one host."""

    def __init__(self, context: TLSContext, host: str) -> None:
        self._context = context
        self._host = host

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = self._context.clientConnectionForTLS(protocol)
        if not is_ip(self._host):  # RFC 6066, section 3: the server name is never an IP address
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        return connection


async def connect_tls(reactor: Any, address: ControlAddress, timeout: float) -> QuietAMP:
    """Connect, and return when both sides have verified each other's certificates.

    timeout: seconds for the TCP connection, and again for the TLS handshake. Raises NoTLS, NotTrusted, and the errors
    of Twisted's endpoints.
    """
    assert address.tls is not None
    protocol = _TLSClientProtocol(address, address.tls)
    factory = Factory.forProtocol(lambda: protocol)
    factory.noisy = False
    creator = _ConnectionCreator(load_context(address.tls), address.host)
    endpoint = client_endpoint(address, reactor, timeout)
    await endpoint.connect(TLSMemoryBIOFactory(creator, True, factory, reactor))
    try:
        await protocol.ready.addTimeout(timeout, reactor)
    except (TimeoutError, CancelledError):
        protocol.transport.abortConnection()
        raise NotTrusted(
            f"the daemon at {address}: the TLS handshake was not done within {timeout:.0f} s: does it speak TLS?"
        ) from None
    return protocol


def _name_error(connection: SSL.Connection, host: str) -> str | None:
    """Explain what is wrong with the names in the certificate; None: it is for that host (RFC 9525)."""
    try:
        certificate = connection.get_peer_certificate(as_cryptography=True)
        assert certificate is not None  # without one, the handshake fails
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
            f"its certificate, of {subject(certificate)}, is for {shorten(names)} and not for {host}: connect to one "
            f"of its names, or give the daemon a certificate with {host} in its subjectAltName"
        )
    return None


def _names(certificate: x509.Certificate) -> list[str]:
    found = extension(certificate, x509.SubjectAlternativeName)
    if found is None:
        return []
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]
