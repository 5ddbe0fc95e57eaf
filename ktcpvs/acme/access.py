"""Reads the certificates that a CA issues over ACME, for the store of all files of TLS.

Until the CA has issued a certificate for a set of names, clients get what there is: certificates for other sets that
have some of the names, and for the others one that the switch signs itself. So a service starts at once, and a name
that is added to a service does not take its certificate from the others.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ktcpvs.acme.store import CertificateFolder
from ktcpvs.errors import CannotSave, NoTLS
from ktcpvs.model.acme import names_of
from ktcpvs.model.tls_files import CERTIFICATE, ISSUED, TLSFile
from ktcpvs.system.tls_files import Contents, FileAccess, OwnAccess

if TYPE_CHECKING:
    from ktcpvs.system.certificates import ServerCertificate

MIN_FRESH = datetime.timedelta(days=30)
"""A self-signed certificate that expires sooner is made anew."""

NO_STATE = (
    "certificate = acme needs --state: certificates are kept beside that file; without it each start would order them "
    "again, and a CA soon refuses that"
)

NO_SECRET = (
    "certificate = acme in a cluster needs --cluster-secret on all nodes: one of them orders, and the others get the "
    "certificate from it, encrypted with that secret"
)

NOT_INSTALLED = "certificate = acme needs the package acme, which is not installed; try: pip install 'ktcpvs[acme]'"


class IssuedAccess:
    """Reads certificates of ACME in the folder of this switch, and other files as before. Provides FileAccess."""

    def __init__(
        self,
        others: FileAccess | None,
        folder: CertificateFolder | None,
        wall: Callable[[], float],
        refusal: str = "",
    ) -> None:
        """others: reads other files; None: with the rights of this process. folder: None: there is no --state. wall:
        returns seconds since 1970. refusal: why this switch must not obtain certificates; "": it may."""
        self._refusal = refusal
        self._others = others or OwnAccess()
        self._own = OwnAccess()
        self._folder = folder
        self._wall = wall
        self._self_signed: dict[tuple[str, ...], ServerCertificate] = {}

    def read(self, file: TLSFile) -> Contents:
        if file.use != ISSUED:
            return self._others.read(file)
        if find_spec("acme") is None or find_spec("cryptography") is None:
            raise NoTLS(NOT_INSTALLED)
        if self._refusal:
            raise NoTLS(self._refusal)
        if self._folder is None:
            raise NoTLS(NO_STATE)
        names = names_of(file.path)
        try:
            return self._read(file, names, self._folder)
        except CannotSave as refusal:
            raise NoTLS(str(refusal)) from None

    def _read(self, file: TLSFile, names: tuple[str, ...], folder: CertificateFolder) -> Contents:
        # A file that is damaged is as good as none, and is ordered again.
        if issued := self._read_file(folder.pem_path(names)):
            self._self_signed.pop(names, None)
            return issued
        now = datetime.datetime.fromtimestamp(self._wall(), datetime.UTC)
        found: list[ServerCertificate] = []
        for path in folder.others(names):
            found += [one for one in self._read_file(path) if one.is_valid(now)]
        covered = frozenset(name for one in found for name in one.names)
        missing = tuple(name for name in names if name not in covered)
        return (*found, *([self._sign(file, missing, now)] if missing else []))

    def _read_file(self, path: str) -> tuple[ServerCertificate, ...]:
        """Return the certificate of a file; () where it cannot be used."""
        try:
            contents = self._own.read(TLSFile(CERTIFICATE, path))
        except NoTLS:
            return ()
        assert isinstance(contents, tuple)
        return contents

    def _sign(self, file: TLSFile, names: tuple[str, ...], now: datetime.datetime) -> ServerCertificate:
        from ktcpvs.acme.self_signed import make_self_signed

        known = self._self_signed.get(names)
        if known is None or known.not_after - now < MIN_FRESH:
            known = self._self_signed[names] = make_self_signed(file.path, names, now)
        return known

    def fingerprints(self, files: Sequence[TLSFile]) -> list[str]:
        others = iter(self._others.fingerprints([file for file in files if file.use != ISSUED]))
        return [self._fingerprint(file) if file.use == ISSUED else next(others) for file in files]

    def _fingerprint(self, file: TLSFile) -> str:
        if self._folder is None:
            return ""
        (found,) = self._own.fingerprints([TLSFile(CERTIFICATE, self._folder.pem_path(names_of(file.path)))])
        return found
