"""All that is kept of one certificate that a CA issues: the certificate itself, its order, and what has failed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import asdict, field, fields, frozen

from ktcpvs.acme.schedule import Window

FORMAT = 1

MAX_ERROR_LENGTH = 1000
"""The most characters that are kept of what a CA has said."""


def key_of(names: Sequence[str]) -> str:
    """Return the name under which the certificate for these names is kept: the first of them, for people, and a hash of
    all."""
    digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
    return f"{re.sub('[^a-z0-9.-]', '_', names[0])[:64]}-{digest}"


@frozen
class PendingOrder:
    """An order that the CA has accepted. url: of the order. directory: where it was made. key: of the certificate, in
    PEM."""

    url: str
    directory: str
    key: str = field(repr=False)


@frozen
class Record:
    """The record of a certificate that is kept.

    names: that the certificate is for. directory: the URL of the directory of the CA that has issued it; "": there is
    none yet. pem: chain and key. issued_at: when it came. not_before, not_after: its validity, as seconds since 1970.
    renew_at: when it is renewed. window: which the CA has suggested for that; None: it has suggested none. ask_at: when
    the CA is asked again. is_renewal_asked: an administrator wants it renewed now. failures: how many attempts have
    failed one after another. error: the reason for the last one; "": it did not fail. retry_at: not before then is the
    next attempt. kind: of the challenges of the last attempt. order: None: there is none in progress.
    """

    names: tuple[str, ...]
    directory: str = ""
    pem: str = field(default="", repr=False)
    issued_at: float = 0.0
    not_before: float = 0.0
    not_after: float = 0.0
    renew_at: float = 0.0
    window: Window | None = None
    ask_at: float = 0.0
    is_renewal_asked: bool = False
    failures: int = 0
    error: str = ""
    retry_at: float = 0.0
    kind: str = ""
    order: PendingOrder | None = None

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.names)

    def due_at(self, directory: str) -> float:
        """Return when to order it, as seconds since 1970; 0.0 is at once. directory: the URL of the CA that is
        configured, whose certificate replaces that of another one."""
        if not self.pem or self.directory != directory or self.is_renewal_asked or self.order is not None:
            return self.retry_at
        return max(self.renew_at, self.retry_at)

    def encode(self, *, with_certificate: bool) -> bytes:
        """Return the record as JSON, which `decode` reads. with_certificate: with `pem`."""
        data = asdict(self)
        if not with_certificate:
            del data["pem"]
        return json.dumps({"format": FORMAT, **data}, indent=1).encode("utf-8")


_NUMBERS = ("issued_at", "not_before", "not_after", "renew_at", "ask_at", "retry_at")
_TEXTS = ("directory", "pem", "error", "kind")


def decode(data: bytes, names: Sequence[str], pem: str | None = None) -> Record | None:
    """Return the record that `Record.encode` has written; None: it is none of these names, or of another version. pem:
    the certificate, if it is kept elsewhere."""
    try:
        found = json.loads(data)
        if found.pop("format") != FORMAT or tuple(found["names"]) != tuple(names):
            return None
        if pem is not None:
            found["pem"] = pem
        return _record(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _record(found: Mapping[str, Any]) -> Record:
    """Raises ValueError, TypeError or KeyError for what is no record."""
    known = {attribute.name for attribute in fields(Record)}
    values: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    values["names"] = tuple(map(str, values["names"]))
    values |= {name: float(values[name]) for name in _NUMBERS if name in values}
    values |= {name: str(values[name]) for name in _TEXTS if name in values}
    values["failures"] = int(values.get("failures", 0))
    values["is_renewal_asked"] = bool(values.get("is_renewal_asked"))
    for name, kind in (("window", Window), ("order", PendingOrder)):
        values[name] = None if values.get(name) is None else kind(**values[name])
    return Record(**values)
