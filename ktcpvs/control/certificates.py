"""One end of TLS: its certificate, its key and the CAs that it trusts, read from files, and made into connections.

Whoever has a certificate of the other end's CA is let in, by the rules of OpenSSL: it is signed, of its time, and for
its purpose (RFC 5280, section 4.2.1.12). This module imports OpenSSL, so it is imported by who uses TLS.
"""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion, trustRootFromCertificates
from zope.interface import implementer

from ktcpvs.control.endpoints import Files
from ktcpvs.errors import NoTLS, shorten
from ktcpvs.system.files import read_file

_OUTCOMES = {
    9: "is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
    10: "has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
    26: "is not for this purpose: it wants the other extendedKeyUsage",
}
"""Errors of openssl-verify(1) that have words of their own."""

_UNKNOWN = {2, 18, 19, 20, 21}
"""Those of them that say: not signed by who is trusted."""


class Found(list[tuple[int, x509.Certificate | None]]):
    """What a handshake has found wrong with the other end's certificates: (error of openssl-verify(1), certificate).
    None: what only OpenSSL can read."""

    @property
    def is_unknown(self) -> bool:
        """The first of it is that nobody who is trusted has signed."""
        return bool(self) and self[0][0] in _UNKNOWN

    def __str__(self) -> str:
        """The first of it in words; "" for nothing."""
        if not self:
            return ""
        error, certificate = self[0]
        if certificate is None:
            return f"its certificate cannot be read (error {error} of openssl-verify(1))"
        if self.is_unknown:
            return f"its certificate is signed by {issuer(certificate)}, which is not trusted"
        words = _OUTCOMES.get(error, f"is not accepted: error {error} of openssl-verify(1)")
        return f"the certificate of {subject(certificate)} {words.format(certificate=certificate)}"


class _Connection(SSL.Connection):
    """Its errors do not hold it: Twisted keeps some of them in cycles, which are sought seldom here, and each has
    50 KiB of OpenSSL's buffers. found: what is wrong with the other end's certificates."""

    found: Found

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
class End:
    """One end, which makes TLS of connections. certificate: its own."""

    def __init__(self, chain: list[x509.Certificate], key: Any, authorities: list[x509.Certificate]) -> None:
        """Raises SSL.Error or ValueError for what OpenSSL does not take."""
        self.certificate = chain[0]
        trusted = [Certificate(crypto.X509.from_cryptography(one)) for one in authorities]
        trust = trustRootFromCertificates(trusted)
        self._context = context = CertificateOptions(trustRoot=trust, raiseMinimumTo=TLSVersion.TLSv1_2).getContext()
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _judged)
        context.use_certificate(self.certificate)
        context.use_privatekey(key)
        for one in chain[1:]:
            context.add_extra_chain_cert(one)

    def trouble(self) -> str:
        """Why nobody will trust a daemon with the own certificate today, in words; "" for nothing."""
        now = datetime.datetime.now(datetime.UTC)
        if now > self.certificate.not_valid_after_utc:
            return str(Found([(10, self.certificate)]))
        if now < self.certificate.not_valid_before_utc:
            return str(Found([(9, self.certificate)]))
        purposes = extension(self.certificate, x509.ExtendedKeyUsage)
        if purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
            return f"the certificate of {subject(self.certificate)} is not for a daemon: serverAuth is wanted"
        if extension(self.certificate, x509.SubjectAlternativeName) is None:
            return f"the certificate of {subject(self.certificate)} is for no host: a subjectAltName is wanted"
        return ""

    def __str__(self) -> str:
        return f"{subject(self.certificate)}, until {self.certificate.not_valid_after_utc:%Y-%m-%d}"

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """As Twisted wants it. The protocol within has a list `found`."""
        connection = _Connection(self._context)
        connection.found = protocol.wrappedProtocol.found
        return connection

    serverConnectionForTLS = clientConnectionForTLS


def _judged(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, is_good: int) -> bool:
    if not is_good and isinstance(connection, _Connection):
        connection.found.append((error, _parsed(certificate)))
    return bool(is_good)


def _parsed(certificate: crypto.X509) -> x509.Certificate | None:
    """What a stranger sends need not be well-formed, and OpenSSL takes more than there is a class for."""
    try:
        return certificate.to_cryptography()
    except Exception:  # each kind of nonsense has its own
        return None


def peer(connection: SSL.Connection) -> str:
    """Whose certificate the other end has shown, in a line."""
    certificate = connection.get_peer_certificate()
    parsed = _parsed(certificate) if certificate is not None else None
    return subject(parsed) if parsed is not None else "somebody"


def extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    """Its value; None: it is not there, or cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def read_end(files: Files, may_wait: bool = True) -> End:
    """Return what the files hold. may_wait: as for `read_file`. Raises NoTLS."""
    chain, authorities = _certificates("cert", files.cert, may_wait), _certificates("ca", files.ca, may_wait)
    key = _key(files.key, may_wait)
    if key.public_key() != chain[0].public_key():
        whose = "" if files.key == files.cert else f" of the certificate in {files.cert}"
        raise NoTLS(f"key={files.key}: it is not the key{whose}, which is that of {subject(chain[0])}")
    try:
        return End(chain, key, authorities)
    except (SSL.Error, ValueError, TypeError) as error:
        raise NoTLS(f"cert={files.cert}: OpenSSL does not take it: {reason(error)}") from None


def _read(word: str, path: str, may_wait: bool) -> bytes:
    try:
        return read_file(path, may_wait)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise NoTLS(f"{word}={shorten(path)}: {getattr(error, 'strerror', None) or error}") from None


def _certificates(word: str, path: str, may_wait: bool) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(word, path, may_wait))
    except ValueError:
        raise NoTLS(f"{word}={path}: there is no certificate in PEM, or one that cannot be read") from None


def _key(path: str, may_wait: bool) -> Any:
    data = _read("key", path, may_wait)
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        why = "the key has a password, for which nobody can be asked: 'openssl pkey' takes it away"
    except (ValueError, UnsupportedAlgorithm):
        why = "there is no private key in PEM, or one that cannot be read"
    raise NoTLS(f"key={path}: {why}")


def subject(certificate: x509.Certificate) -> str:
    """Whose it is, in a line: its common name, or else its whole name."""
    return _name(certificate, "subject")


def issuer(certificate: x509.Certificate) -> str:
    """Who signed it, in the same way."""
    return _name(certificate, "issuer")


def _name(certificate: x509.Certificate, whose: str) -> str:
    try:
        name: x509.Name = getattr(certificate, whose)
        common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
        return shorten(str(common[0].value) if common else name.rfc4514_string(), 64) or "nobody"
    except Exception:  # it is parsed only now
        return "somebody"


def reason(error: BaseException) -> str:
    """What OpenSSL says of it, in a few words."""
    queue = error.args[0] if error.args else None
    said = [entry[-1] for entry in queue if entry] if isinstance(error, SSL.Error) and isinstance(queue, list) else []
    return shorten(" ".join(str(said[0] if said else error).split())) or type(error).__name__
