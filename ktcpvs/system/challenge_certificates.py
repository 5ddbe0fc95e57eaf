"""The certificates with which a listener answers challenges of kind tls-alpn-01 (RFC 8737).

Importing this module imports `cryptography`, so that only a listener with TLS that is asked for one pays for it.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from ktcpvs.system.tls_contexts import load_certificate

ALPN = "acme-tls/1"
"""The protocol that a CA asks for, and that carries no data."""

IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""The extension acmeIdentifier."""

VALID_FOR = datetime.timedelta(days=7)
"""The validity of a certificate, before now and from now on: a CA does not look at it, other programs may."""

_SUBJECT = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
_OCTET_STRING = 0x04


def challenge_context(name: str, key_authorization: str, now: datetime.datetime) -> ssl.SSLContext:
    """Return a context of OpenSSL that answers one challenge, with a new key. name: the host name or address that is
    proved. now: with a time zone."""
    key = ec.generate_private_key(ec.SECP256R1())
    digest = hashlib.sha256(key_authorization.encode()).digest()
    identifier = x509.UnrecognizedExtension(IDENTIFIER, bytes((_OCTET_STRING, len(digest))) + digest)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_SUBJECT)
        .issuer_name(_SUBJECT)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_FOR)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
        .add_extension(identifier, critical=True)
        .sign(key, SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN])
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    load_certificate(context, certificate.public_bytes(Encoding.PEM) + private)
    return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
