"""Options of the connections to the servers of a service, from its configuration and the files that it names."""

from __future__ import annotations

from ssl import SSLContext

from attrs import evolve

from ktcpvs.errors import NoTLS
from ktcpvs.model.address import Address
from ktcpvs.model.options import OFF
from ktcpvs.model.service import RealServer, VirtualService
from ktcpvs.model.tls import ServerTLS
from ktcpvs.streams.connector import ConnectionOptions
from ktcpvs.system.tls_contexts import ClientContexts, ClientTLS


def connection_options(config: VirtualService, contexts: ClientContexts) -> dict[Address, ConnectionOptions]:
    """Return address -> how connections to that server are made, without those that have neither TLS nor PROXY.

    Raises NoTLS, in one line that names the service and the server, for a file that cannot be used.
    """
    known: dict[ServerTLS, SSLContext] = {}  # so that each file is read once
    found: dict[Address, ConnectionOptions] = {}
    for server in config.servers:
        if server.tls is None and server.proxy == OFF:
            continue
        try:
            tls = None if server.tls is None else _client_tls(server, server.tls, contexts, known)
        except NoTLS as refusal:
            raise NoTLS(f"service {config.ident}: server = {server.name or server.address}: {refusal}") from None
        found[server.address] = ConnectionOptions(tls, server.proxy)
    return found


def _client_tls(
    server: RealServer, tls: ServerTLS, contexts: ClientContexts, known: dict[ServerTLS, SSLContext]
) -> ClientTLS:
    name = tls.server_name(server.address, server.name)
    if name is None and tls.is_verified:
        raise NoTLS("missing name, which its certificate must have (example: tls name app.internal), or verify off")
    nameless = evolve(tls, name=None)
    if nameless not in known:
        known[nameless] = contexts.context(nameless)
    return ClientTLS(known[nameless], name)
