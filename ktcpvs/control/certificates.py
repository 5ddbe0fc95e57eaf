"""TLS contexts of the control connection: certificate, key and trusted CAs, loaded from files.

Both ends must show a certificate that OpenSSL verifies: signed by a CA that the other end trusts, within its validity,
and for its purpose (RFC 5280, section 4.2.1.12). This module imports OpenSSL, which takes long, so it is imported only
where TLS is used.
"""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion, trustRootFromCertificates
from zope.interface import implementer

from ktcpvs.control.endpoints import TLSFiles
from ktcpvs.errors import NoTLS, shorten
from ktcpvs.system.certificates import read_private_key
from ktcpvs.system.files import read_file

_VERIFY_ERRORS = {
    9: "is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
    10: "expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
    26: "is not for this purpose: its extendedKeyUsage must be that of the other side",
}
"""Errors of openssl-verify(1) with an explanation of their own."""

_UNKNOWN_CA = {2, 18, 19, 20, 21}
"""Errors of openssl-verify(1) that mean: not signed by a trusted CA."""


class VerifyErrors(list[tuple[int, x509.Certificate | None]]):
    """The defects of the peer's certificates that a handshake has found: (error of openssl-verify(1), certificate).
    None: a certificate that only OpenSSL can read."""

    @property
    def is_unknown_ca(self) -> bool:
        """True where the first defect is that no trusted CA has signed."""
        return bool(self) and self[0][0] in _UNKNOWN_CA

    def __str__(self) -> str:
        """Describe the first defect; "" where there is none."""
        if not self:
            return ""
        error, certificate = self[0]
        if certificate is None:
            return f"its certificate cannot be read (error {error} of openssl-verify(1))"
        if self.is_unknown_ca:
            return f"its certificate is signed by {issuer(certificate)}, which is not trusted"
        words = _VERIFY_ERRORS.get(error, f"is not accepted: error {error} of openssl-verify(1)")
        return f"the certificate of {subject(certificate)} {words.format(certificate=certificate)}"


class _Connection(SSL.Connection):
    """A connection whose errors do not refer to it.

    Twisted keeps some errors in reference cycles, for which the garbage collector seldom looks here, and each
    connection has 50 KiB of OpenSSL's buffers. verify_errors: the defects of the peer's certificates.
    """

    verify_errors: VerifyErrors

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except SSL.Error as error:
            del self
            raise error.with_traceback(None) from None

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        try:
            return super().recv(bufsiz, flags)
        except SSL.Error as error:
            del self
            raise error.with_traceback(None) from None


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class TLSContext:
    """Creates the TLS connections of one side. certificate: its own."""

    def __init__(self, chain: list[x509.Certificate], key: Any, authorities: list[x509.Certificate]) -> None:
        """Raises SSL.Error or ValueError for values that OpenSSL does not accept."""
        self.certificate = chain[0]
        trusted = [Certificate(crypto.X509.from_cryptography(one)) for one in authorities]
        trust = trustRootFromCertificates(trusted)
        self._context = context = CertificateOptions(trustRoot=trust, raiseMinimumTo=TLSVersion.TLSv1_2).getContext()
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
        context.use_certificate(self.certificate)
        context.use_privatekey(key)
        for one in chain[1:]:
            context.add_extra_chain_cert(one)

    def server_defect(self) -> str:
        """Explain why clients will not trust a daemon with this certificate today; "" where they will."""
        now = datetime.datetime.now(datetime.UTC)
        if now > self.certificate.not_valid_after_utc:
            return str(VerifyErrors([(10, self.certificate)]))
        if now < self.certificate.not_valid_before_utc:
            return str(VerifyErrors([(9, self.certificate)]))
        purposes = extension(self.certificate, x509.ExtendedKeyUsage)
        if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
            return f"the certificate of {subject(self.certificate)} is not for a daemon: it lacks serverAuth"
        if extension(self.certificate, x509.SubjectAlternativeName) is None:
            return f"the certificate of {subject(self.certificate)} is for no host: it lacks a subjectAltName"
        return ""

    def __str__(self) -> str:
        return f"{subject(self.certificate)}, until {self.certificate.not_valid_after_utc:%Y-%m-%d}"

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """As IOpenSSLClientConnectionCreator describes. The wrapped protocol has `verify_errors`."""
        connection = _Connection(self._context)
        connection.verify_errors = protocol.wrappedProtocol.verify_errors
        return connection

    serverConnectionForTLS = clientConnectionForTLS


def _verify(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, is_good: int) -> bool:
    if not is_good and isinstance(connection, _Connection):
        connection.verify_errors.append((error, _parse(certificate)))
    return bool(is_good)


def _parse(certificate: crypto.X509) -> x509.Certificate | None:
    """The certificate as `cryptography` reads it; None: it is malformed, but in a way that OpenSSL accepts."""
    try:
        return certificate.to_cryptography()
    except Exception:  # each malformation raises another
        return None


def peer_name(connection: SSL.Connection) -> str:
    """Return the subject of the peer's certificate, in one line."""
    certificate = connection.get_peer_certificate()
    parsed = _parse(certificate) if certificate is not None else None
    return subject(parsed) if parsed is not None else "an unreadable subject"


def extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    """Return the value of an extension; None: the certificate lacks it, or it cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def load_context(files: TLSFiles, may_wait: bool = True) -> TLSContext:
    """Load a context from its files. may_wait: as for `read_file`. Raises NoTLS."""
    chain, authorities = _certificates("cert", files.cert, may_wait), _certificates("ca", files.ca, may_wait)
    key = read_private_key(f"key={files.key}", _read("key", files.key, may_wait))
    if key.public_key() != chain[0].public_key():
        raise NoTLS(
            f"key={files.key}: the key does not belong to the certificate of {subject(chain[0])} in cert={files.cert}"
        )
    try:
        return TLSContext(chain, key, authorities)
    except (SSL.Error, ValueError, TypeError) as error:
        raise NoTLS(f"cert={files.cert}: OpenSSL does not accept it: {openssl_reason(error)}") from None


def _read(word: str, path: str, may_wait: bool) -> bytes:
    try:
        return read_file(path, may_wait)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise NoTLS(f"{word}={shorten(path)}: {getattr(error, 'strerror', None) or error}") from None


def _certificates(word: str, path: str, may_wait: bool) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(word, path, may_wait))
    except ValueError:
        raise NoTLS(f"{word}={path}: no certificate in PEM, or an unreadable one") from None


def subject(certificate: x509.Certificate) -> str:
    """Return the subject in one line: its common name, or else its whole name."""
    return _name(certificate, "subject")


def issuer(certificate: x509.Certificate) -> str:
    """Return the issuer, in the same way."""
    return _name(certificate, "issuer")


def _name(certificate: x509.Certificate, attribute: str) -> str:
    try:
        name: x509.Name = getattr(certificate, attribute)
        common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
        return shorten(str(common[0].value) if common else name.rfc4514_string(), 64) or "an empty name"
    except Exception:  # the name is parsed only here
        return "an unreadable name"


def openssl_reason(error: BaseException) -> str:
    """Return OpenSSL's reason for an error, in a few words."""
    queue = error.args[0] if error.args and isinstance(error, SSL.Error) else None
    reasons = [entry[-1] for entry in queue if entry] if isinstance(queue, list) else []
    return shorten(" ".join(str(reasons[0] if reasons else error).split())) or type(error).__name__
