"""The view of certificates: what each file of TLS holds, how long it is valid, and which services use it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from ktcpvs.director.director import Director
from ktcpvs.model.tls_files import ISSUED, TLSFile, files_of
from ktcpvs.system.tls_files import Authorities, Contents, Validity, validities


def describe_certificates(director: Director, ident: str | None) -> list[dict[str, Any]]:
    """Return a dict for each certificate that running services use. ident: only those of this service; None: all.

    use: one of USES. path: as configured. file: where the certificate was read. names: of hosts. not_before, not_after:
    seconds since 1970; None: nothing could be read. left: the share of its lifetime. services: idents. error: why the
    newest version of the file cannot be used; "": it is in use. warning: why clients do not trust the certificate, or
    soon will not; "": they do. acme: of a certificate that the switch obtains, what CertificateIssuer.describe returns;
    None: of others.
    """
    table = director.expanded
    used: dict[TLSFile, list[str]] = {}
    for config in table:
        for file in files_of(config) if config.ident in table.running else ():
            used.setdefault(file, []).append(config.ident)
    if ident is not None:
        table.service(ident)
    now = datetime.datetime.fromtimestamp(director.context.wall(), datetime.UTC)
    return [
        {
            **row,
            "services": used.get(file, []),
            "error": director.files.errors.get(file, ""),
            "acme": director.issuer.describe(file),
        }
        for file, contents in director.files
        if ident is None or ident in used.get(file, ())
        for row in _describe(file, contents, now)
    ]


def _describe(file: TLSFile, contents: Contents, now: datetime.datetime) -> Iterator[dict[str, Any]]:
    common = {"use": file.use, "path": file.path}
    if isinstance(contents, Authorities):
        others = {"file": file.path, "names": [], "subject": contents.subject, "issuer": "", "kind": "CA"}
        found = validities(file, contents)
        yield {**common, **others, **_describe_validity(found[0] if found else None, now)}
        return
    for one, validity in zip(contents, validities(file, contents), strict=True):
        others = {
            "file": one.file,
            "names": list(one.names),
            "subject": one.subject,
            "issuer": one.issuer,
            "kind": one.kind,
        }
        described = _describe_validity(validity, now)
        if file.use == ISSUED and one.is_self_signed:
            described["warning"] = f"{file.path}: the certificate in use is self-signed until the CA has issued one"
        yield {**common, **others, **described}
    if not contents:
        others = {"file": file.path, "names": [], "subject": "", "issuer": "", "kind": ""}
        yield {**common, **others, **_describe_validity(None, now)}


def _describe_validity(validity: Validity | None, now: datetime.datetime) -> dict[str, Any]:
    """Describe how long a certificate is valid. validity: None: it is not known."""
    if validity is None:
        return {"not_before": None, "not_after": None, "left": None, "warning": ""}
    return {
        "not_before": validity.not_before.timestamp(),
        "not_after": validity.not_after.timestamp(),
        "left": round(validity.share_left(now), 4),
        "warning": validity.warning(now),
    }
