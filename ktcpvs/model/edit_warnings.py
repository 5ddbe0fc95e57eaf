"""Warnings about what an edit leaves out: the port of a server, and services that stay stopped."""

from __future__ import annotations

from collections.abc import Iterator

from ktcpvs.model.address import Inet
from ktcpvs.model.edits import START_NEW, AddServer, Edit, Load
from ktcpvs.model.table import Table

MAX_NAMES = 10
"""The most services that a warning names."""


def warnings_about_edit(edit: Edit, table: Table) -> Iterator[str]:
    """Yield the warnings about an edit alone. table: after it."""
    if isinstance(edit, AddServer) and isinstance(edit.address, Inet) and edit.address.port is None:
        port = table.service(edit.ident).port
        yield (
            f"service {edit.ident}: server {edit.address} gets port {port}, that of the service, since it names "
            f"none (example with a port: {edit.address}:80)"
        )
    if isinstance(edit, Load) and edit.start == START_NEW:
        stopped = [ident for ident in table.services if ident not in table.running]
        if stopped:
            more = f" and {len(stopped) - MAX_NAMES} more" if stopped[MAX_NAMES:] else ""
            which = f"{'services' if stopped[1:] else 'service'} {', '.join(stopped[:MAX_NAMES])}{more}"
            verb, start = ("stay", "each is started by") if stopped[1:] else ("stays", "to start it:")
            yield f"{which} {verb} stopped, as before the load; {start} 'tcpvsadm --start -i {stopped[0]}'"
