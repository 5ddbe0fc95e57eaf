"""Reads the files of TLS, checks their contents, and tells when they have changed.

What has been read is plain data, so that a process without the right to read a file can get it from one that has it.
Importing this module does not import `cryptography`; reading a certificate does.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from attrs import field, frozen

from ktcpvs.errors import NoTLS
from ktcpvs.model.tls_files import AUTHORITIES, CERTIFICATE, ISSUED, TLSFile
from ktcpvs.system.tls_contexts import read_authorities

if TYPE_CHECKING:
    from ktcpvs.system.certificates import ServerCertificate

PEM_SUFFIX = ".pem"
"""Ends the names of the files that are read in a folder."""


@frozen
class Authorities:
    """The CAs of a file. pem: their text. count: how many OpenSSL takes for CAs. subject, not_before, not_after: of the
    one that expires first; "" and None where there is none."""

    pem: str = field(repr=False)
    count: int
    subject: str = ""
    not_before: datetime.datetime | None = None
    not_after: datetime.datetime | None = None


Contents: TypeAlias = "tuple[ServerCertificate, ...] | Authorities"
"""The content of a file: certificates, or CAs."""


class FileAccess(Protocol):
    """Reads files with the rights of some process. Its methods block."""

    def read(self, file: TLSFile) -> Contents:
        """Return the contents of a file. Raises NoTLS, whose text names the file and says what would be right."""

    def fingerprints(self, files: Sequence[TLSFile]) -> list[str]:
        """Return a text for each file, which is another one after the file has changed. It never fails: a file that
        cannot be found has a fingerprint too."""


class OwnAccess:
    """Reads files with the rights of this process. Provides FileAccess."""

    def read(self, file: TLSFile) -> Contents:
        if file.use == AUTHORITIES:
            return _read_cas(file.path)
        if file.use == ISSUED:
            raise NoTLS(f"certificate = {file.path}: only a daemon obtains certificates")
        try:
            from ktcpvs.system import certificates
        except ImportError as error:
            raise NoTLS(f"TLS: {error.name} is not installed; try: pip install 'ktcpvs[tls]'") from None
        if file.use == CERTIFICATE:
            return certificates.read_certificates(file.path)
        return (certificates.read_client_certificate(file.path),)

    def fingerprints(self, files: Sequence[TLSFile]) -> list[str]:
        return [_fingerprint(file.path) for file in files]


def _read_cas(path: str) -> Authorities:
    pem = read_authorities(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    found: Any = context.get_ca_certs()
    if not found:
        return Authorities(pem, 0)
    first = min(found, key=lambda one: ssl.cert_time_to_seconds(one["notAfter"]))
    return Authorities(pem, len(found), _subject(first), _time(first["notBefore"]), _time(first["notAfter"]))


def _subject(certificate: dict[str, Any]) -> str:
    """The common name of a certificate as `ssl` describes it, or else the last part of its subject."""
    parts = [pair for part in certificate["subject"] for pair in part]
    names = [value for name, value in parts if name == "commonName"]
    return str((names or [value for _, value in parts] or [""])[-1])


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(text), datetime.UTC)


def _fingerprint(path: str) -> str:
    """Return a hash of the state of a file, or of the files of a folder. Symbolic links count as what they lead to:
    certbot replaces links."""
    try:
        names = sorted(os.listdir(path))
    except NotADirectoryError:
        state = _stat(path)
    except OSError as error:
        state = f"error {error.errno}"
    else:
        files = (name for name in names if name.endswith(PEM_SUFFIX))
        state = "\n".join(f"{name} {_stat(os.path.join(path, name))}" for name in files)
    return hashlib.sha256(os.fsencode(state)).hexdigest()


def _stat(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError as error:
        return f"error {error.errno}"
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


# Contents as plain data for JSON.


def encode(contents: Contents) -> Any:
    """Return contents as plain data, from which `decode` makes them again."""
    if isinstance(contents, Authorities):
        return {"pem": contents.pem, "count": contents.count, "subject": contents.subject, **_encode_times(contents)}
    return [
        {
            "file": one.file,
            "names": list(one.names),
            "subject": one.subject,
            "issuer": one.issuer,
            "kind": one.kind,
            "is_self_signed": one.is_self_signed,
            "pem": one.pem.decode("ascii"),
            **_encode_times(one),
        }
        for one in contents
    ]


def decode(data: Any) -> Contents:
    """Return the contents that `encode` has described."""
    if isinstance(data, dict):
        return Authorities(**data | _decode_times(data))
    from ktcpvs.system.certificates import ServerCertificate

    return tuple(
        ServerCertificate(
            **one | _decode_times(one) | {"names": tuple(one["names"]), "pem": one["pem"].encode("ascii")}
        )
        for one in data
    )


_TIMES = ("not_before", "not_after")


def _encode_times(contents: Any) -> dict[str, float | None]:
    times = {name: getattr(contents, name) for name in _TIMES}
    return {name: None if time is None else time.timestamp() for name, time in times.items()}


def _decode_times(data: dict[str, Any]) -> dict[str, datetime.datetime | None]:
    times = {name: data[name] for name in _TIMES}
    return {
        name: None if time is None else datetime.datetime.fromtimestamp(time, datetime.UTC)
        for name, time in times.items()
    }


# Expiry.

MIN_SHARE = 1 / 3
"""A certificate with less than this share of its lifetime left should have been renewed: certbot does it then."""

MIN_SHARE_ISSUED = 1 / 5
"""The same for one that this switch renews, at a third or when the CA suggests it."""


_SHARES = {MIN_SHARE: "a third", MIN_SHARE_ISSUED: "a fifth"}


@frozen
class Validity:
    """The validity of one certificate, or of the CA of a file that expires first. file: where it was read. min_share:
    of its lifetime: with less left it should have been renewed."""

    file: str
    subject: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    min_share: float = MIN_SHARE

    def share_left(self, now: datetime.datetime) -> float:
        """Return the share of the lifetime that is left, from 1.0 to 0.0."""
        lifetime = (self.not_after - self.not_before).total_seconds()
        left = (self.not_after - now).total_seconds()
        return min(max(left / lifetime, 0.0), 1.0) if lifetime > 0 else 0.0

    def warning(self, now: datetime.datetime) -> str:
        """Return why the certificate is not valid now, or will not be soon; "" where nothing is wrong."""
        what = f"{self.file}: the certificate of {self.subject}"
        if now > self.not_after:
            return f"{what} expired on {self.not_after:%Y-%m-%d %H:%M} UTC"
        if now < self.not_before:
            return f"{what} is not valid before {self.not_before:%Y-%m-%d %H:%M} UTC"
        if self.share_left(now) < self.min_share:
            when = f"{self.not_after:%Y-%m-%d %H:%M} UTC"
            share = _SHARES[self.min_share]
            return f"{what} expires on {when}: it is not renewed, and less than {share} of its lifetime is left"
        return ""


def validities(file: TLSFile, contents: Contents) -> list[Validity]:
    """Return the validity of each certificate of a file; of CAs, that of the one that expires first."""
    if not isinstance(contents, Authorities):
        share = MIN_SHARE_ISSUED if file.use == ISSUED else MIN_SHARE
        return [Validity(one.file, one.subject, one.not_before, one.not_after, share) for one in contents]
    if contents.not_before is None or contents.not_after is None:
        return []
    return [Validity(file.path, contents.subject, contents.not_before, contents.not_after)]
