"""Options of the connections to the servers of a service, from its configuration and the files that it names."""

from __future__ import annotations

from ssl import SSLContext

from attrs import evolve

from ktcpvs.errors import NoTLS
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model.address import Address
from ktcpvs.model.options import OFF
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.service import VirtualService
from ktcpvs.model.tls import ServerTLS
from ktcpvs.protocols.http2.constants import ALPN
from ktcpvs.streams.connector import ConnectionOptions
from ktcpvs.system.tls_contexts import ClientContexts, ClientTLS

HTTP2_PROTOCOLS = (ALPN, "http/1.1")
"""The protocols of ALPN that are offered to servers with `h2`, the best first."""


def connection_options(config: VirtualService, unit: str, contexts: ClientContexts) -> dict[Address, ConnectionOptions]:
    """Return address -> how connections to that server are made, the redirect address included, without those that are
    plain.

    unit: of the service's scheduler. Connections that are relayed as a whole carry what the client speaks, so `h2` is
    for services that choose for each request.

    Raises NoTLS, in one line that names the service and the server, for a file that cannot be used.
    """
    known: dict[tuple[ServerTLS, bool], SSLContext] = {}  # so that each file is read once
    found: dict[Address, ConnectionOptions] = {}
    for server in config.servers:
        is_http2 = server.h2 and unit == EACH_REQUEST
        if server.tls is None and server.proxy == OFF and not (is_http2 or config.tcp_keepalive):
            continue
        try:
            tls = None if server.tls is None else _client_tls(server, server.tls, is_http2, contexts, known)
        except NoTLS as refusal:
            raise NoTLS(f"service {config.ident}: server = {server.name or server.address}: {refusal}") from None
        found[server.address] = ConnectionOptions(tls, server.proxy, is_http2, config.tcp_keepalive)
    if config.redirect is not None and config.tcp_keepalive:
        found.setdefault(config.redirect, ConnectionOptions(keepalive=config.tcp_keepalive))
    return found


def _client_tls(
    server: RealServer,
    tls: ServerTLS,
    is_http2: bool,
    contexts: ClientContexts,
    known: dict[tuple[ServerTLS, bool], SSLContext],
) -> ClientTLS:
    name = tls.server_name(server.address, server.name)
    if name is None and tls.is_verified:
        raise NoTLS("missing name, which its certificate must have (example: tls name app.internal), or verify off")
    nameless = evolve(tls, name=None)
    key = nameless, is_http2
    if key not in known:
        known[key] = contexts.context(nameless, HTTP2_PROTOCOLS if is_http2 else ())
    return ClientTLS(known[key], name)
