"""The folder beside the state file in which accounts, keys and certificates of ACME are kept.

All files belong to the user of the daemon and have mode 0600. Each is written beside the old one and renamed over it.

    accounts/KEY.json                    an account, by its directory
    certificates/KEY/certificate.pem     the chain and the key in use
    certificates/KEY/state.json          when it is renewed, what has failed, the order in progress

The methods block, and raise CannotSave.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence

from attrs import field, frozen

from ktcpvs.acme.record import Record, decode, key_of
from ktcpvs.errors import CannotSave
from ktcpvs.system.files import read_file, replace_file, untrusted_folder

SUFFIX = ".acme"
"""The folder has the name of the state file and this."""

PEM_FILE, STATE_FILE = "certificate.pem", "state.json"

ACCOUNTS, CERTIFICATES = "accounts", "certificates"

KEPT_AFTER_EXPIRY = 30 * 86400.0
"""Seconds after which an expired certificate that no service uses is deleted."""


@frozen
class Account:
    """An account at a CA. directory: its URL. uri: of the account. key: in PEM. eab_kid: of the external account to
    which it is bound; "": none."""

    directory: str
    uri: str
    key: str = field(repr=False)
    eab_kid: str = ""

    def encode(self) -> bytes:
        """Return the account as JSON, which `decode_account` reads."""
        return json.dumps(
            {"directory": self.directory, "uri": self.uri, "key": self.key, "eab_kid": self.eab_kid}, indent=1
        ).encode("utf-8")


def decode_account(data: bytes, directory: str, eab_kid: str) -> Account | None:
    """Return the account that `Account.encode` has written; None: it is of another directory or external account."""
    try:
        found = json.loads(data)
        account = Account(*(str(found[name]) for name in ("directory", "uri", "key", "eab_kid")))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return account if (account.directory, account.eab_kid) == (directory, eab_kid) else None


def account_key(directory: str, eab_kid: str) -> str:
    """Return the name under which the account at a directory is kept. eab_kid: as in Account."""
    host = directory.partition("//")[2].partition("/")[0].replace(":", "_")
    return f"{host[:64]}-{hashlib.sha256(f'{directory} {eab_kid}'.encode()).hexdigest()[:16]}"


class CertificateFolder:
    """Loads and saves accounts and certificates. Its methods may be called in any thread."""

    def __init__(self, path: str) -> None:
        """path: absolute; the folder is made with the first file."""
        self.path = path
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, ...]] | None = None  # key -> names, of all certificates; None: not read yet

    # Accounts.

    def load_account(self, directory: str, eab_kid: str) -> Account | None:
        """Return the account at a directory; None: there is none."""
        data = self._read(self._account_path(directory, eab_kid))
        return None if data is None else decode_account(data, directory, eab_kid)

    def save_account(self, account: Account) -> None:
        self._write(self._account_path(account.directory, account.eab_kid), account.encode())

    def delete_account(self, directory: str, eab_kid: str) -> None:
        """The CA does not know the account any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._account_path(directory, eab_kid))

    def _account_path(self, directory: str, eab_kid: str) -> str:
        return os.path.join(self.path, ACCOUNTS, f"{account_key(directory, eab_kid)}.json")

    # Certificates.

    def pem_path(self, names: Sequence[str]) -> str:
        """Return the path of the certificate for these names, which may not exist."""
        return self._certificate_path(key_of(names), PEM_FILE)

    def load(self, names: Sequence[str]) -> Record:
        """Return what is kept of the certificate for these names; an empty record if nothing is."""
        pem = self.load_pem(names)
        state = self._read(self._certificate_path(key_of(names), STATE_FILE))
        record = None if state is None else decode(state, names, pem)
        if record is None:  # the certificate is good without its state, which then begins anew: it is renewed
            record = Record(tuple(names), pem=pem)
        return record

    def load_pem(self, names: Sequence[str]) -> str:
        """Return chain and key; "": there are none."""
        data = self._read(self.pem_path(names))
        return "" if data is None else data.decode("ascii", "replace")

    def save(self, record: Record) -> None:
        """Keep a record, with its certificate, in place of what is there, even if that cannot be read."""
        known = ""
        with contextlib.suppress(CannotSave):
            known = self.load_pem(record.names)
        if record.pem and record.pem != known:
            self._write(self._certificate_path(record.key, PEM_FILE), record.pem.encode("ascii"))
        self._write(self._certificate_path(record.key, STATE_FILE), record.encode(with_certificate=False))
        with self._lock:
            if self._known is not None:
                self._known[record.key] = record.names

    def others(self, names: Sequence[str]) -> Iterator[str]:
        """Yield the paths of certificates for other sets of names that share a name with this one."""
        with self._lock:
            if self._known is None:
                self._known = dict(self._all())
            known = dict(self._known)
        wanted, own = frozenset(names), key_of(names)
        for key, others in known.items():
            if key != own and not wanted.isdisjoint(others):
                yield self._certificate_path(key, PEM_FILE)

    def clean(self, used: Sequence[Sequence[str]], now: float) -> None:
        """Delete certificates that expired long ago. used: the names of those that services need. now: seconds since
        1970."""
        kept = {key_of(names) for names in used}
        for key, names in self._all():
            record = self.load(names) if key not in kept else None
            if record is not None and record.pem and 0.0 < record.not_after < now - KEPT_AFTER_EXPIRY:
                shutil.rmtree(os.path.join(self.path, CERTIFICATES, key), ignore_errors=True)

    def _all(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield key and names of each certificate."""
        try:
            keys = sorted(os.listdir(os.path.join(self.path, CERTIFICATES)))
        except OSError:
            return
        for key in keys:
            with contextlib.suppress(CannotSave, ValueError, TypeError, KeyError):
                data = self._read(self._certificate_path(key, STATE_FILE))
                names = tuple(map(str, json.loads(data or b"{}")["names"]))
                if names and key_of(names) == key:
                    yield key, names

    def _certificate_path(self, key: str, file: str) -> str:
        return os.path.join(self.path, CERTIFICATES, key, file)

    # Files.

    def _read(self, path: str) -> bytes | None:
        try:
            return read_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CannotSave(f"{path} cannot be read: {error.strerror}") from None

    def _write(self, path: str, data: bytes) -> None:
        folder = os.path.dirname(path)
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            if (why := untrusted_folder(self.path)) is not None:
                raise CannotSave(f"{why}, so keys are not safe there: remove it, or take these rights away")
            for part in (os.path.dirname(folder), folder):
                if not os.path.isdir(part):
                    os.mkdir(part, 0o700)
            replace_file(path, data)
        except OSError as error:
            raise CannotSave(f"{path} cannot be written: {error.strerror}") from None
