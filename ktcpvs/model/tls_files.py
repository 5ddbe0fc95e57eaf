"""The files that the TLS of a service needs: what each is for, by its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import frozen

from ktcpvs.model.tls import REFUSE

if TYPE_CHECKING:  # the process that only reads files imports no services
    from ktcpvs.model.service import VirtualService

CERTIFICATE, AUTHORITIES, CLIENT_CERTIFICATE = USES = ("certificate", "ca", "cert")
"""The uses of a file: certificates that clients see; CAs, which verify clients or servers; a certificate that servers
see."""


@frozen
class TLSFile:
    """A file or folder, and its use: one of USES."""

    use: str
    path: str


def files_of(config: VirtualService) -> dict[TLSFile, str]:
    """Return the files that a service needs while it runs, each with what an error about it begins with."""
    found: dict[TLSFile, str] = {}
    for file, where in _files_of(config):
        found.setdefault(file, f"service {config.ident}: {where}")
    return found


def _files_of(config: VirtualService) -> Iterator[tuple[TLSFile, str]]:
    if any(listener.is_tls for listener in config.listen):
        for path in config.certificate:
            yield TLSFile(CERTIFICATE, path), ""
        if config.tls_default != REFUSE:
            yield TLSFile(CERTIFICATE, config.tls_default), ""
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
