"""Certificates for TLS at listeners: read from files, checked, and chosen by the name that a client asks for.

Importing this module imports `cryptography`, so that only a configuration with certificates pays for it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from ktcpvs.errors import NoTLS, shorten
from ktcpvs.system.files import read_file
from ktcpvs.system.tls_contexts import load_certificate

CHAIN_FILE, KEY_FILE = "fullchain.pem", "privkey.pem"
"""The files in a folder of certbot's."""

PEM_SUFFIX = ".pem"
"""Ends the names of the files that are read in any other folder."""


@frozen
class ServerCertificate:
    """A certificate with its chain and its key.

    file: where it was read. names: of its subjectAltName, in lower case, IP addresses included. subject, issuer: in one
    line. kind: of its key, `RSA` or `ECDSA` or the like. pem: chain and key, for OpenSSL.
    """

    file: str
    names: tuple[str, ...]
    subject: str
    issuer: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    kind: str
    is_self_signed: bool
    pem: bytes = field(repr=False)

    def is_valid(self, now: datetime.datetime) -> bool:
        """True within its validity."""
        return self.not_before <= now <= self.not_after


class CertificateStore:
    """Chooses certificates by the name that a client asks for; immutable.

    default: for clients that ask for no name or an unknown one; () refuses them.
    """

    def __init__(self, certificates: Iterable[ServerCertificate], default: Sequence[ServerCertificate] = ()) -> None:
        self.certificates = tuple(certificates)
        self.default = tuple(default)
        self._by_name: dict[str, list[ServerCertificate]] = {}
        for certificate in self.certificates:
            for name in certificate.names:
                self._by_name.setdefault(name, []).append(certificate)

    def choose(self, server_name: str | None, now: datetime.datetime) -> tuple[ServerCertificate, ...]:
        """Return the certificates for a name, one for each kind of key, best first; () refuses the client.

        A valid certificate comes before one that is not, then one for the exact name before a wildcard. server_name: in
        lower case, without a trailing dot; None: the client has sent none.
        """
        if server_name is None:
            return one_of_each_kind(self.default, now)
        exact = self._by_name.get(server_name, [])
        # A wildcard stands for exactly one label (RFC 6125, section 6.4.3).
        wildcard = self._by_name.get("*." + server_name.partition(".")[2], [])
        for found in exact, wildcard:
            valid = [one for one in found if one.is_valid(now)]
            if valid:
                return one_of_each_kind(valid, now)
        return one_of_each_kind(exact or wildcard or self.default, now)


def one_of_each_kind(
    certificates: Sequence[ServerCertificate], now: datetime.datetime
) -> tuple[ServerCertificate, ...]:
    """Of the certificates with the same kind of key: a valid one, and of those the one that is valid longest."""
    chosen: dict[str, ServerCertificate] = {}
    for one in sorted(certificates, key=lambda one: (one.is_valid(now), one.not_after), reverse=True):
        chosen.setdefault(one.kind, one)
    return tuple(chosen.values())


# Files.


def read_certificates(path: str) -> tuple[ServerCertificate, ...]:
    """Read what a `certificate` names: a folder of certbot's, a PEM file with chain and key, or a folder of such files.

    Raises NoTLS, whose text names the file and says what would be right.
    """
    if not os.path.isdir(path):
        data = _read(path)
        return (_certificate(path, data, path, data),)
    try:
        entries = sorted(os.listdir(path))
    except OSError as error:
        raise NoTLS(f"{path}: {error.strerror}") from error
    if CHAIN_FILE in entries or KEY_FILE in entries:
        chain, key = os.path.join(path, CHAIN_FILE), os.path.join(path, KEY_FILE)
        return (_certificate(chain, _read(chain), key, _read(key)),)
    files = [os.path.join(path, name) for name in entries if name.endswith(PEM_SUFFIX) and not name.startswith(".")]
    if not files:
        raise NoTLS(
            f"{path}: no certificates in this folder (it needs {CHAIN_FILE} and {KEY_FILE}, or files *{PEM_SUFFIX} "
            "with a chain and its key each)"
        )
    return tuple(one for file in files for one in read_certificates(file))


def read_certificate(file: str, data: bytes) -> ServerCertificate:
    """Return the certificate in `data`, with its chain and key in PEM. file: named in errors. Raises NoTLS."""
    return _certificate(file, data, file, data)


def read_client_certificate(path: str) -> ServerCertificate:
    """Read the certificate that a server sees, with its chain and key in one PEM file. Raises NoTLS."""
    data = _read(path)
    return _certificate(path, data, path, data, is_for_clients=False)


def _read(path: str) -> bytes:
    try:
        return read_file(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise NoTLS(f"{shorten(path)}: {getattr(error, 'strerror', None) or error}") from error


def _certificate(
    file: str, data: bytes, key_file: str, key_data: bytes, *, is_for_clients: bool = True
) -> ServerCertificate:
    """Read and check a certificate with its key. is_for_clients: False: servers see it, as that of a client."""
    key = read_private_key(key_file, key_data)
    try:
        chain = x509.load_pem_x509_certificates(data)
        leaf = chain[0]
        names = _names(leaf)
        purposes = _extension(leaf, x509.ExtendedKeyUsage)
        subject, issuer = _name(leaf.subject), _name(leaf.issuer)
        public_key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise NoTLS(f"{file}: no certificate in PEM, or an unreadable one") from None
    if key.public_key() != public_key:
        raise NoTLS(f"{key_file}: the key does not belong to the certificate of {subject} in {file}")
    if not names and is_for_clients:
        raise NoTLS(f"{file}: the certificate of {subject} is for no host: it needs a subjectAltName")
    _check_purpose(file, subject, purposes, is_for_clients)
    _check_chain(file, chain)
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _check_with_openssl(file, pem)
    return ServerCertificate(
        file,
        names,
        subject,
        issuer,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        _kind(key),
        leaf.subject == leaf.issuer,
        pem,
    )


def read_private_key(source: str, data: bytes) -> Any:
    """Return the private key in `data`, in PEM. source: named in errors. Raises NoTLS."""
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        why = "the key is encrypted, and a daemon cannot ask for its password; 'openssl pkey' decrypts it"
    except (ValueError, UnsupportedAlgorithm):
        why = "no private key in PEM, or an unreadable one"
    raise NoTLS(f"{source}: {why}")


def _check_purpose(file: str, subject: str, purposes: Any, is_for_clients: bool) -> None:
    """Refuse a certificate that is not made for this use. purposes: the value of extendedKeyUsage; None: there is none,
    and the certificate is for everything."""
    wanted = ExtendedKeyUsageOID.SERVER_AUTH if is_for_clients else ExtendedKeyUsageOID.CLIENT_AUTH
    if purposes is None or wanted in purposes or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes:
        return
    whom, name = ("servers", "serverAuth") if is_for_clients else ("clients", "clientAuth")
    raise NoTLS(f"{file}: the certificate of {subject} is not for {whom}: its extendedKeyUsage lacks {name}")


def _check_chain(file: str, chain: Sequence[x509.Certificate]) -> None:
    """Check that each certificate is signed by the next one, and that no certificate is missing, as far as that can be
    seen: a CA that names where its own certificate is to be found is no root."""
    for lower, upper in pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            raise NoTLS(
                f"{file}: the chain is broken: {_name(lower.subject)} is not signed by {_name(upper.subject)}, which "
                "follows it (the order is: the server's certificate, then each one's issuer)"
            ) from None
    last = chain[-1]
    if len(chain) > 1 or last.subject == last.issuer or last.issuer in _system_roots():
        return
    access = _extension(last, x509.AuthorityInformationAccess)
    if access is not None and any(one.access_method == AuthorityInformationAccessOID.CA_ISSUERS for one in access):
        raise NoTLS(
            f"{file}: the chain is incomplete: the certificate of {_name(last.issuer)} must follow "
            f"(certbot's {CHAIN_FILE} has it)"
        )


_roots: frozenset[x509.Name] | None = None


def _system_roots() -> frozenset[x509.Name]:
    """The subjects of the CAs that the system trusts. Read once."""
    global _roots
    if _roots is None:
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old CAs have serial numbers that are not allowed any more
            for der in ssl.create_default_context().get_ca_certs(binary_form=True):
                with contextlib.suppress(ValueError):
                    found.append(x509.load_der_x509_certificate(der).subject)
        _roots = frozenset(found)
    return _roots


def _check_with_openssl(file: str, pem: bytes) -> None:
    """Check that OpenSSL, with the system's policy, takes it: it refuses small keys."""
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pem)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise NoTLS(f"{file}: OpenSSL does not accept it: {reason}") from None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names of the subjectAltName; a common name counts for nothing (RFC 9525, section 2)."""
    extension = _extension(certificate, x509.SubjectAlternativeName)
    if extension is None:
        return ()
    names = [name.lower().removesuffix(".") for name in extension.get_values_for_type(x509.DNSName)]
    names += [str(address) for address in extension.get_values_for_type(x509.IPAddress)]
    return tuple(dict.fromkeys(names))


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    """An extension's value; None: the certificate lacks it. Raises ValueError for one that cannot be read."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return shorten(str(common[0].value) if common else name.rfc4514_string(), 64) or "an empty name"


def _kind(key: Any) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.removesuffix("PrivateKey")
