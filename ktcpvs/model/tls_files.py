"""The files that the TLS of a service needs: what each is for, by its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import frozen

from ktcpvs.model.acme import is_acme
from ktcpvs.model.tls import REFUSE

if TYPE_CHECKING:  # the process that only reads files imports no services
    from ktcpvs.model.service import VirtualService
    from ktcpvs.model.table import Table

CERTIFICATE, AUTHORITIES, CLIENT_CERTIFICATE, ISSUED = USES = ("certificate", "ca", "cert", "acme")
"""The uses of a file: certificates that clients see; CAs, which verify clients or servers; a certificate that servers
see; certificates that clients see and a CA issues over ACME."""


@frozen
class TLSFile:
    """A file or folder, and its use: one of USES. path: for ISSUED the names, as the option `certificate` has them."""

    use: str
    path: str


def certificate_file(value: str) -> TLSFile:
    """Return the file that a value of the option `certificate` stands for."""
    return TLSFile(ISSUED if is_acme(value) else CERTIFICATE, value)


def files_of(config: VirtualService) -> dict[TLSFile, str]:
    """Return the files that a service needs while it runs, each with what an error about it begins with."""
    found: dict[TLSFile, str] = {}
    for file, where in _files_of(config):
        found.setdefault(file, f"service {config.ident}: {where}")
    return found


def issued_files(table: Table) -> Iterator[TLSFile]:
    """Yield the certificates that running services of a table have obtained from a CA; some perhaps several times."""
    for ident in table.running:
        yield from (file for file in files_of(table.services[ident]) if file.use == ISSUED)


def _files_of(config: VirtualService) -> Iterator[tuple[TLSFile, str]]:
    if any(listener.is_tls for listener in config.listen):
        for value in config.certificate:
            yield certificate_file(value), ""
        if config.tls_default != REFUSE:
            yield certificate_file(config.tls_default), ""
        if config.client_ca is not None:
            yield TLSFile(AUTHORITIES, config.client_ca), ""
    for server in config.servers:
        if server.tls is None:
            continue
        where = f"server = {server.name or server.address}: "
        if server.tls.ca is not None:
            yield TLSFile(AUTHORITIES, server.tls.ca), f"{where}{AUTHORITIES} "
        if server.tls.cert is not None:
            yield TLSFile(CLIENT_CERTIFICATE, server.tls.cert), f"{where}{CLIENT_CERTIFICATE} "
