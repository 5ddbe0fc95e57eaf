"""A certificate that the switch signs itself: clients see it until a CA has issued one."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ktcpvs.system.certificates import ServerCertificate

LIFETIME = datetime.timedelta(days=365)
CLOCK_SKEW = datetime.timedelta(hours=1)
"""The certificate is valid from so long ago: clocks of clients may be slow."""

COMMON_NAME = "self-signed by ktcpvs"


def general_name(name: str) -> x509.GeneralName:
    """Return a host name or IP address as a subjectAltName has it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def make_key() -> str:
    """Return a new private key in PEM: ECDSA with P-256, which all clients know."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def make_self_signed(file: str, names: Sequence[str], now: datetime.datetime) -> ServerCertificate:
    """Return a new certificate for these names. file: by which the listing of certificates calls it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    begins, ends = (now - CLOCK_SKEW).replace(microsecond=0), (now + LIFETIME).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return ServerCertificate(file, tuple(names), COMMON_NAME, COMMON_NAME, begins, ends, "ECDSA", True, pem)
