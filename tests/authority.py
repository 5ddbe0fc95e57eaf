"""A certificate authority for tests. It writes its certificates to files."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
SIGNS_CERTIFICATES = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
DAY = datetime.timedelta(days=1)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: Key) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


class Authority:
    """folder: for its files. pem: its own certificate."""

    def __init__(self, folder: Path, name: str = "ca", above: Authority | None = None) -> None:
        """above: the authority that signs it; None: itself."""
        self.folder = folder
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.pem = folder / f"{name}.pem"
        signer = above or self
        made = self._begun(name, signer, self.key.public_key(), -1, 30)
        made = made.add_extension(x509.BasicConstraints(True, None), critical=True)
        made = made.add_extension(SIGNS_CERTIFICATES, critical=True)
        self.pem.write_bytes(made.sign(signer.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def _begun(common: str, signer: Authority, key: PublicKey, begins: int, ends: int) -> x509.CertificateBuilder:
        """A certificate with the identifiers of both keys, which RFC 5280 requires (4.2.1.1 and 4.2.1.2)."""
        now = datetime.datetime.now(datetime.UTC)
        signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
        return (
            x509.CertificateBuilder(_name(signer.name), _name(common))
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * DAY)
            .not_valid_after(now + ends * DAY)
            .public_key(key)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(signed_by, critical=False)
        )

    def issue(
        self,
        name: str,
        *hosts: str,
        purposes: Sequence[x509.ObjectIdentifier] = (CLIENT,),
        begins: int = -1,
        ends: int = 30,
        extensions: Sequence[x509.ExtensionType] = (),
        kind: str = "ECDSA",
    ) -> Path:
        """Write a certificate followed by its key to one file. hosts: names and IP addresses. begins, ends: in days.
        kind: of the key, ECDSA or RSA."""
        key: Key = ec.generate_private_key(ec.SECP256R1()) if kind == "ECDSA" else rsa.generate_private_key(65537, 2048)
        made = self._begun(name, self, key.public_key(), begins, ends)
        if hosts:
            names: list[x509.GeneralName] = []
            for host in hosts:
                is_ip = host.replace(".", "").isdigit() or ":" in host
                names.append(x509.IPAddress(ipaddress.ip_address(host)) if is_ip else x509.DNSName(host))
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if purposes:
            made = made.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        for extension in extensions:
            made = made.add_extension(extension, critical=False)
        path = self.folder / f"{name}-{self.name}.pem".replace("/", "-")
        certificate = made.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        path.write_bytes(certificate + _pem(key))
        return path

    def daemon(self, name: str = "lb1", *hosts: str, **named: Any) -> Path:
        """Issue a certificate for a daemon on loopback."""
        return self.issue(name, *(hosts or ("127.0.0.1", "::1", "localhost")), purposes=(SERVER,), **named)
