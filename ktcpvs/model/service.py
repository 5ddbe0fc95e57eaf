"""One virtual service as configured: immutable values, checked where they are made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

from attrs import Attribute, evolve, field, fields_dict, frozen

from ktcpvs.errors import (
    BadAddress,
    BadValue,
    Busy,
    ListenerExists,
    NoSuchListener,
    NoSuchNetwork,
    NoSuchServer,
    RuleExists,
    ServerExists,
    shorten,
)
from ktcpvs.model.acme import ACME, read_certificate
from ktcpvs.model.address import Address, Inet, PortNamed, parse_address
from ktcpvs.model.check import read_check, well_formed
from ktcpvs.model.error_pages import each_status_once, read_error_page
from ktcpvs.model.expectation import Expectation
from ktcpvs.model.header_edits import header_edits, read_header_edit
from ktcpvs.model.listen import Listen, ListenAddress, as_listen, check_complete, port_of, read_listen
from ktcpvs.model.listen import well_formed as well_formed_listen
from ktcpvs.model.network import Network, Networks, read_networks
from ktcpvs.model.nodes import Nodes, read_nodes
from ktcpvs.model.options import (
    OFF,
    Read,
    count,
    in_range,
    one_of,
    option,
    options_of,
    rate,
    read_address,
    read_number,
    read_rate,
    read_seconds,
    read_word,
)
from ktcpvs.model.quorum import CHECK_BY, NODE
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.retry_on import DEFAULT as RETRY_DEFAULT
from ktcpvs.model.retry_on import read_retry_on
from ktcpvs.model.retry_on import well_formed as well_formed_retry_on
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduler_words import name_of, read_scheduler
from ktcpvs.model.scheduler_words import well_formed as well_formed_scheduler
from ktcpvs.model.settings import DAY, Settings
from ktcpvs.model.sticky import read_sticky
from ktcpvs.model.sticky import well_formed as well_formed_sticky
from ktcpvs.model.tls import (
    CONTRADICTING,
    OPTIONAL,
    REFUSE,
    REQUIRED,
    certificate_or_refuse,
    certificates,
    ciphers,
    contradiction,
    path,
)
from ktcpvs.model.tracing import DEFAULT_ENDPOINT, endpoint, trace_mode

DEFAULT_LISTEN = (ListenAddress(parse_address("0.0.0.0:8080")),)
DEFAULT_SCHEDULER = "http"
NO_FALLBACK = "none"
NO_LOG = "off"
AUTO, KERNEL, SPLICE, COPY = RELAYS = ("auto", "kernel", "splice", "copy")
"""The values of the option `relay`."""
TCP_ONLY = frozenset((KERNEL,))
"""The relays that join no unix sockets."""
COOKIE = "KTCPVS_SID"
"""The usual name of the cookie of `chttp`."""
OWN, SHARED = "node", "cluster"
"""The values of the option `share`: each node has limits of its own, or its part of those of all nodes."""

HTTPS_PORT = 443
"""The port that a URL of https need not name."""
IDENT = re.compile(r'[^\s"{}#=\x00-\x1f\x7f-\x9f]{1,128}')


def _complete(instance: object, attribute: Attribute[Any], value: Address | None) -> None:
    check_complete(value)


def check_ident(value: str) -> None:
    """Raise BadValue for a name that a service cannot have."""
    if not IDENT.fullmatch(value) or not value.isprintable():
        raise BadValue(
            f"'{shorten(value)}' is not a valid service name: expected "
            '1 to 128 printable characters without white space and without " { } # ='
        )


def _ident(instance: object, attribute: Attribute[str], value: str) -> None:
    check_ident(value)


def with_port(address: Address, port: int | None, ident: str) -> Address:
    """Return the address of a server, with the port of its service if its own was left out. port: None: the service has
    none. ident: of the service. Raises BadAddress."""
    if not isinstance(address, Inet) or address.port is not None:
        return address
    if port is None:
        raise BadAddress(f"{address}: missing port, since service {ident} has none (example: {address}:80)")
    return address.with_port(port)


def _log_place(instance: object, attribute: Attribute[str], value: str) -> None:
    path = value.removeprefix("syslog:")
    if value not in (NO_LOG, "syslog") and not (path.startswith("/") and path.isprintable() and len(path) <= 1024):
        raise BadValue(
            f"{attribute.name} = {shorten(value, 40)}: expected off, syslog, syslog:/PATH, or "
            "the absolute path of a file"
        )


def _cookie_name(instance: object, attribute: Attribute[str], value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise BadValue(f"cookie_name = {shorten(value, 40)}: expected 1 to 64 letters, digits, _ and -")


def _cookie_domain(instance: object, attribute: Attribute[str | None], value: str | None) -> None:
    if value is not None and not re.fullmatch(r"(?=.{1,253}\Z)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", value):
        raise BadValue(f"cookie_domain = {shorten(value, 40)}: expected a domain (example: shop.example)")


def _forwarding(field_name: str) -> Any:
    meaning = f"{field_name} in requests to servers, for schedulers that decide per request"
    return option(read_word, "off", meaning, check=one_of("off", "append", "replace"))


def _certificate(name: str, text: str, port_named: PortNamed) -> str:
    try:
        return read_certificate(text)
    except BadValue as refusal:
        raise BadValue(f"{name} = {refusal}") from None


def _several(read: Read, meaning: str, check: Any, *, is_phrase: bool = False, opens_phrase: str = "") -> Any:
    """Declare an option that may be given several times, and is an empty tuple if it never was."""
    return option(
        read, (), meaning, check=check, is_phrase=is_phrase, repeats=True, converter=tuple, opens_phrase=opens_phrase
    )


def _own(name: str) -> Any:
    """Declare an option that overrides the setting of that name."""
    meta = fields_dict(Settings)[name].metadata
    unit = f" ({meta['unit']})" if meta["unit"] else ""
    meaning = f"{meta['meaning']}{unit}; not given: the setting of that name"
    return option(read_number, None, meaning, check=in_range(*meta["range"]))


@frozen
class VirtualService:
    """A virtual service. Optional numbers are None if they were never set.

    maxclients: the most client connections at once; 0: as many as the descriptor limit allows.
    scheduler, balance, fallback: schedulers by name, with options of their own (`scheduler_words`). balance: one that
    chooses per connection, among the servers of a rule, or among all servers of a service without rules. fallback: one
    that needs no more of a request than the service's own; or NO_FALLBACK.
    redirect: the address that is used when the scheduler finds no server; None: the client is refused instead.
    tests: expectations; a change after which one of them would fail is refused.
    """

    ident: str = field(validator=_ident)
    listen: Listen = option(
        read_listen,
        DEFAULT_LISTEN,
        "where clients connect to",
        shown=True,
        check=well_formed_listen,
        repeats=True,
        converter=as_listen,
    )
    on: Nodes | None = option(
        read_nodes,
        None,
        "the nodes of a cluster on which the service runs, by name or by label:NAME; not given: all",
        is_phrase=True,
    )
    certificate: tuple[str, ...] = _several(
        _certificate,
        "a certificate for clients of TLS, with its chain and key: a PEM file, a folder of such files or of certbot; "
        "or acme NAME...: one that the switch obtains for these names",
        certificates,
        opens_phrase=ACME,
    )
    tls_min: str = option(
        read_word, "1.2", "the lowest version of TLS that clients may speak", check=one_of("1.2", "1.3")
    )
    tls_ciphers: str | None = option(
        read_word, None, "the ciphers of TLS 1.2, as OpenSSL writes them; not given: strong ones", check=ciphers
    )
    client_ca: str | None = option(
        read_word, None, "the file with the CAs that verify certificates of clients", check=path
    )
    client_certificate: str = option(
        read_word,
        OFF,
        "whether clients of TLS must show a certificate; optional: one that is shown must be valid",
        check=one_of(OFF, OPTIONAL, REQUIRED),
    )
    client_cert_header: str = option(
        read_word,
        OFF,
        "on: servers get the client's certificate in Client-Cert (RFC 9440), and that field from nobody else; for "
        "schedulers that decide per request",
        check=one_of("on", OFF),
    )
    tls_default: str = option(
        _certificate,
        REFUSE,
        "the certificate for clients that name no server, or one that no certificate has; refuse: none",
        check=certificate_or_refuse,
        opens_phrase=ACME,
    )
    https_only: str = option(
        read_word, OFF, "on: listeners without TLS redirect each request to https", check=one_of("on", OFF)
    )
    not_tls: str = option(
        read_word,
        REFUSE,
        "clients that do not speak TLS, for schedulers that read the ClientHello: refuse, or default: as those without "
        "a server name",
        check=one_of(REFUSE, "default"),
    )
    starttls: str = option(
        read_word,
        OFF,
        "how clients may ask for TLS before they send a ClientHello, for schedulers that read it: off or postgresql",
        check=one_of(OFF, "postgresql"),
    )
    proxy_from: Networks = option(
        read_networks,
        Networks(),
        "networks whose clients must begin with a header of the PROXY protocol; others must not",
    )
    trusted_proxies: Networks = option(
        read_networks,
        Networks(),
        "networks of proxies whose field trusted_header tells the client, for schedulers that read requests",
    )
    trusted_header: str = option(
        read_word,
        "x_forwarded_for",
        "the field in which trusted_proxies tell the client: x_forwarded_for or forwarded",
        check=one_of("x_forwarded_for", "forwarded"),
    )
    scheduler: str = option(
        read_scheduler,
        DEFAULT_SCHEDULER,
        "the scheduler plugin that chooses servers, and options of its own: NAME VALUE pairs",
        shown=True,
        check=well_formed_scheduler,
        is_phrase=True,
    )
    balance: str = option(
        read_scheduler,
        "wlc",
        "the scheduler that chooses among the servers of a rule, or of a service without rules; with options as above",
        check=well_formed_scheduler,
        is_phrase=True,
    )
    fallback: str = option(
        read_scheduler,
        "wlc",
        "the scheduler that chooses when the service's own fails or takes too long, with options as above; none: no "
        "fallback",
        check=well_formed_scheduler,
        is_phrase=True,
    )
    cookie_secure: str = option(
        read_word, "off", "on: browsers send the cookie of chttp over TLS only", check=one_of("off", "on")
    )
    cookie_name: str = option(read_word, COOKIE, "the name of the cookie of chttp", check=_cookie_name)
    cookie_domain: str | None = option(
        read_word,
        None,
        "the Domain of the cookie of chttp, for all hosts below it; not given: for the host alone",
        check=_cookie_domain,
    )
    cookie_max_age: int = option(
        read_seconds,
        0,
        "seconds after which browsers drop the cookie of chttp; 0: when the browser ends",
        check=in_range(0, 400 * DAY),
    )
    cookie_samesite: str = option(
        read_word,
        "lax",
        "SameSite of the cookie of chttp: lax, strict, none, or off: it has none",
        check=one_of("lax", "strict", "none", OFF),
    )
    sticky: str = option(
        read_sticky,
        OFF,
        "the part of a request by whose hash a rule chooses a server, for schedulers that read requests: off, "
        "header NAME or query NAME",
        check=well_formed_sticky,
        is_phrase=True,
    )
    access_log: str = option(
        read_word, NO_LOG, "where to write one line for each request: a file, or syslog", check=_log_place
    )
    access_log_format: str = option(
        read_word, "combined", "the format of these lines", check=one_of("combined", "json")
    )
    why_for: Networks = option(
        read_networks,
        Networks(),
        "networks whose clients get X-Ktcpvs-Why in responses, if their requests have X-Ktcpvs-Why: 1; for schedulers "
        "that decide per request",
    )
    trace: str = option(
        read_word,
        OFF,
        "traces of requests (W3C Trace Context), for schedulers that decide per request: off; pass: each request has "
        "trace IDs; or the share of requests that get spans of OpenTelemetry (1%)",
        check=trace_mode,
    )
    otlp_endpoint: str = option(
        read_word,
        DEFAULT_ENDPOINT,
        "the OpenTelemetry collector that gets the spans, by OTLP over HTTP; only if trace is a share",
        check=endpoint,
    )
    relay: str = option(
        read_word,
        AUTO,
        "how to relay the bytes of connections; auto: copy, and splice for bulk",
        check=one_of(*RELAYS),
    )
    request_header: tuple[str, ...] = _several(
        read_header_edit,
        "a header field to set (NAME VALUE), to add (+NAME VALUE) or to remove (NAME and an empty value) in requests "
        "to servers, for schedulers that decide per request",
        header_edits,
        is_phrase=True,
    )
    response_header: tuple[str, ...] = _several(
        read_header_edit, "the same in responses to clients", header_edits, is_phrase=True
    )
    error_page: tuple[str, ...] = _several(
        read_error_page,
        "statuses, and the file that the switch responds with where it would give its own text for them",
        each_status_once,
        is_phrase=True,
    )
    upgrade: str = option(
        read_word,
        "any",
        "the protocols to which clients may switch (Upgrade), for schedulers that decide per request",
        check=one_of("any", "websocket", "off"),
    )
    http2: str = option(
        read_word,
        "on",
        "off: clients may speak HTTP/1 only; only: they must speak HTTP/2; for schedulers that decide per request",
        check=one_of("on", "off", "only"),
    )
    read_timeout: int | None = _own("read_timeout")
    keepalive_timeout: int | None = _own("keepalive_timeout")
    connect_timeout: int | None = _own("connect_timeout")
    response_timeout: int | None = _own("response_timeout")
    request_timeout: int | None = _own("request_timeout")
    first_byte_timeout: int | None = _own("first_byte_timeout")
    queue_timeout: int | None = _own("queue_timeout")
    choose_budget: int | None = _own("choose_budget")
    drain_timeout: int | None = _own("drain_timeout")
    drain_spread: int | None = _own("drain_spread")
    websocket_close_timeout: int | None = _own("websocket_close_timeout")
    start_timeout: int | None = _own("start_timeout")
    stop_after: int | None = _own("stop_after")
    head_timeout: int | None = _own("head_timeout")
    head_size: int | None = _own("head_size")
    head_lines: int | None = _own("head_lines")
    uri_size: int | None = _own("uri_size")
    body_size: int | None = _own("body_size")
    tcp_keepalive: int = option(
        read_seconds,
        0,
        "seconds of silence after which TCP probes whether clients and servers are still there; 0: never",
        check=in_range(0, 32767),
    )
    retry_on: str = option(
        read_retry_on,
        RETRY_DEFAULT,
        "the failures after which a request goes to another server, if it can be sent again: connect, reset, 502, 503, "
        "504; off: none",
        check=well_formed_retry_on,
        is_phrase=True,
    )
    abort_on_close: str = option(
        read_word,
        "off",
        "on: a client that closes its side (FIN) abandons a request that no server has yet, or that is idempotent; "
        "off: only a reset abandons it",
        check=one_of("on", "off"),
    )
    startservers: int | None = option(read_number, None, "accepted for old files, no effect", check=count)
    maxclients: int = option(read_number, 0, "the most client connections at once; 0: no limit", check=count)
    minspareservers: int | None = option(read_number, None, "accepted for old files, no effect", check=count)
    maxspareservers: int | None = option(read_number, None, "accepted for old files, no effect", check=count)
    redirect: Address | None = option(
        read_address, None, "the address to use when no server is available", check=_complete
    )
    check: str = option(
        read_check,
        OFF,
        "health check of servers: off, tcp, http PATH [expect STATUS ...], grpc [SERVICE], or send TEXT expect TEXT",
        check=well_formed,
        is_phrase=True,
    )
    check_interval: int = option(
        read_seconds, 5, "seconds between two health checks of a server", check=in_range(1, 86400)
    )
    check_timeout: int = option(
        read_seconds, 2, "the most seconds that a health check may take", check=in_range(1, 3600)
    )
    check_rise: int = option(
        read_number, 2, "mark a server up after this many consecutive passed checks", check=in_range(1, 100)
    )
    check_fall: int = option(
        read_number, 3, "mark a server down after this many consecutive failed checks", check=in_range(1, 100)
    )
    check_by: str = option(
        read_word,
        NODE,
        "in a cluster, whose checks decide about a server: node: each node's own; quorum: those of most nodes",
        check=one_of(*CHECK_BY),
    )
    close_on_down: str = option(
        read_word,
        "off",
        "on: relayed connections of a server end when checks have found it down; off: they continue",
        check=one_of("on", "off"),
    )
    eject: int = option(
        read_number,
        5,
        "eject a server after this many consecutive failed requests; 0: never",
        check=in_range(0, 65535),
    )
    eject_time: int = option(
        read_seconds, 10, "seconds of a server's first ejection; later ones are longer", check=in_range(1, 86400)
    )
    eject_share: int = option(
        read_number, 50, "the most servers, in percent, that may be ejected", check=in_range(0, 100)
    )
    eject_slow: int = option(
        read_number,
        0,
        "eject a server whose requests take this many times as long as those of the others; 0: never",
        check=in_range(0, 1000),
    )
    slow_start: int = option(
        read_seconds, 0, "seconds in which a new server's share grows to its full weight; 0: at once",
        check=in_range(0, 86400),
    )  # fmt: skip
    overflow: int = option(
        read_number,
        0,
        "use servers of the next priority too while less than this percentage of the first priority's weight is "
        "available; 0: only while nothing is",
        check=in_range(0, 100),
    )
    preconnect: int = option(
        read_number,
        0,
        "connections to each server that each process keeps open ahead of clients, for schedulers that decide once for "
        "a connection; 0: none",
        check=in_range(0, 1024),
    )
    preconnect_timeout: int = option(
        read_seconds, 10, "seconds after which such a connection is replaced if no client has come for it",
        check=in_range(1, 86400),
    )  # fmt: skip
    share: str = option(
        read_word,
        OWN,
        "in a cluster, whose the limits are: node: each node has them as a whole; cluster: nodes divide maxconn, "
        "maxclients, client_connections and rates among them",
        check=one_of(OWN, SHARED),
    )
    allow: Networks = option(read_networks, Networks(), "networks whose clients are accepted; all others are denied")
    deny: Networks = option(read_networks, Networks(), "networks whose clients are denied")
    client_connections: int = option(
        read_number, 0, "the most connections of one client address at once; 0: no limit", check=count
    )
    client_rate: str = option(
        read_rate,
        OFF,
        "the most requests (or connections) of one client address, as 100/s",
        check=rate,
    )
    client_burst: int = option(
        read_number, 0, "how many of these may come at once; 0: as many as the rate", check=count
    )
    client_head: int = option(
        read_number, 0, "the most bytes of incomplete request heads of one client address; 0: no limit", check=count
    )
    client_head_rate: int = option(
        read_number, 0, "the most bytes of request heads per second of one client address; 0: no limit", check=count
    )
    client_ipv6: int = option(
        read_number, 64, "the number of leading bits of an IPv6 address that identify a client", check=in_range(1, 128)
    )
    forwarded: str = _forwarding("Forwarded (RFC 7239)")
    x_forwarded_for: str = _forwarding("X-Forwarded-For")
    x_forwarded_proto: str = _forwarding("X-Forwarded-Proto")
    x_forwarded_host: str = _forwarding("X-Forwarded-Host")
    via: str = _forwarding("Via (RFC 9110)")
    servers: tuple[RealServer, ...] = ()
    rules: tuple[Rule, ...] = ()
    tests: tuple[Expectation, ...] = ()

    def __attrs_post_init__(self) -> None:
        for network in self.allow.known & self.deny.known if self.allow and self.deny else ():
            raise BadValue(f"service {self.ident} both allows and denies {network}")
        if (found := contradiction({name: getattr(self, name) for name in CONTRADICTING})) is not None:
            raise BadValue(f"service {self.ident}: {found[1]}")
        known = {server.address for server in self.servers}
        if len(known) != len(self.servers):
            raise ServerExists(f"service {self.ident} names a server twice")
        if len({rule.key for rule in self.rules}) != len(self.rules):
            names = [rule.name for rule in self.rules if rule.name is not None]
            what = "pattern" if len(set(names)) == len(names) else "name"
            raise RuleExists(f"service {self.ident} has two rules with one {what}")
        for rule in self.rules:
            for address in rule.servers:
                if address not in known:
                    raise NoSuchServer(f"service {self.ident} has no server {address} for rule '{shorten(rule.label)}'")

    @classmethod
    def of_checked(cls, values: Mapping[str, Any]) -> VirtualService:
        """Return a service of fields of which each was checked alone: only what depends on several is checked. A table
        of 1,000 services is read in a tenth less time. values: with its ident; the rest has its default."""
        service = _with_values(_DEFAULTS, values)
        service.__attrs_post_init__()
        return service

    def settings_from(self, settings: Settings) -> Settings:
        """Return the settings that are in force for this service. settings: of the whole switch."""
        own = {name: value for name in OWN_SETTINGS if (value := getattr(self, name)) is not None}
        return evolve(settings, **own) if own else settings

    @property
    def scheduler_name(self) -> str:
        """The name of its scheduler, without options."""
        return name_of(self.scheduler)

    @property
    def address(self) -> Address:
        """The first address on which it listens, which stands for the service where there is room for one."""
        return self.listen[0].address

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All addresses on which it listens."""
        return tuple([one.address for one in self.listen])

    @property
    def port(self) -> int | None:
        """The port of the first TCP address on which it listens, which servers without a port get; None: there is
        none."""
        return port_of(self.listen)

    @property
    def has_tcp_listener(self) -> bool:
        """Whether a client may come over TCP, and so have an IP address."""
        return any(isinstance(address, Inet) for address in self.addresses)

    @property
    def https_port(self) -> int | None:
        """The port to which listeners without TLS redirect requests (`https_only`); None: they serve them."""
        if self.https_only == OFF or not any(one.is_tls for one in self.listen):
            return None
        return self.redirect_port

    @property
    def redirect_port(self) -> int:
        """The port of URLs of https: that of its listeners with TLS, HTTPS_PORT rather than others."""
        with_tls = [one.address for one in self.listen if one.is_tls]
        ports = [address.port for address in with_tls if isinstance(address, Inet) and address.port is not None]
        return HTTPS_PORT if HTTPS_PORT in ports or not ports else ports[0]

    # The methods below return a changed copy or raise a Refusal.

    def complete(self, address: Address) -> Address:
        """Return `address`, with this service's port if its own was left out. Raises BadAddress."""
        return with_port(address, self.port, self.ident)

    def with_listener(self, listener: ListenAddress) -> VirtualService:
        """Listen on one more address."""
        if listener.address in self.addresses:
            raise ListenerExists(f"service {self.ident} already listens on {listener.address}")
        return evolve(self, listen=(*self.listen, listener))

    def with_some_listeners(self, listeners: Listen) -> VirtualService:
        """Listen on some of its own addresses only. Nothing else is checked again: a node of a cluster that starts does
        so for all services."""
        return _with_values(self, {"listen": listeners})

    def without_listener(self, address: Address) -> VirtualService:
        """Listen on this address no more."""
        if address not in self.addresses:
            shown = ", ".join(map(str, self.addresses))
            raise NoSuchListener(f"service {self.ident} does not listen on {address}, but on {shown}")
        if len(self.listen) == 1:
            raise Busy(f"service {self.ident} listens on {address} alone: add another listener first, or stop it")
        return evolve(self, listen=tuple(one for one in self.listen if one.address != address))

    def server(self, address: Address) -> RealServer:
        """Return the real server with that complete address. Raises NoSuchServer."""
        for server in self.servers:
            if server.address == address:
                return server
        raise NoSuchServer(f"service {self.ident} has no server {address}{self.server_of_same_host(address)}")

    def server_of_same_host(self, address: Address) -> str:
        """Return a hint at a server with that host and another port, or ""."""
        for server in self.servers:
            known = server.address
            if isinstance(known, Inet) and isinstance(address, Inet) and known.host == address.host:
                return f"; did you mean {known}?"
        return ""

    def with_server(self, server: RealServer) -> VirtualService:
        if any(known.address == server.address for known in self.servers):
            raise ServerExists(f"service {self.ident} already has server {server.address}")
        return evolve(self, servers=(*self.servers, server))

    def with_weight(
        self,
        address: Address,
        weight: int | None,
        maxconn: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> VirtualService:
        """Change the weight, the limit or other fields of a server. weight, maxconn: None keeps the value. options:
        other fields of the server -> new value."""
        pairs = (("weight", weight), ("maxconn", maxconn))
        given: dict[str, Any] = {name: value for name, value in pairs if value is not None} | dict(options or {})
        changed = evolve(self.server(address), **given)
        return evolve(self, servers=_replaced(self.servers, changed, lambda known: known.address == address))

    def with_mode(self, address: Address, mode: str) -> VirtualService:
        """Change the mode of a server; of all servers of that host, if `address` has no port. The same service if it
        has no such server."""
        changed = tuple(
            evolve(known, mode=mode) if is_meant(known.address, address) and known.mode != mode else known
            for known in self.servers
        )
        return self if changed == self.servers else evolve(self, servers=changed)

    def has_server(self, address: Address) -> bool:
        """Whether it has that server, or one of that host if `address` has no port."""
        return any(is_meant(known.address, address) for known in self.servers)

    def without_server(self, address: Address) -> VirtualService:
        leaving = self.server(address)
        for rule in self.rules:
            if address in rule.servers:
                raise Busy(f"rule '{shorten(rule.label)}' uses server {address}: delete it from the rule first")
        return evolve(self, servers=tuple(known for known in self.servers if known is not leaving))

    def with_networks(self, allow: Iterable[Network], deny: Iterable[Network]) -> VirtualService:
        """Add to the allowed and the denied networks; a network in the other list moves."""
        allowed, denied = Networks.of(allow), Networks.of(deny)
        return evolve(
            self,
            allow=self.allow.without(denied).with_more(allowed.entries),
            deny=self.deny.without(allowed).with_more(denied.entries),
        )

    def without_networks(self, leaving: Networks) -> VirtualService:
        for network in leaving.entries:
            if network not in self.allow.known and network not in self.deny.known:
                raise NoSuchNetwork(f"service {self.ident} neither allows nor denies {network}")
        return evolve(self, allow=self.allow.without(leaving), deny=self.deny.without(leaving))


def is_meant(known: Address, address: Address) -> bool:
    """Whether `address` stands for the server at `known`: it is the same, or has its host and no port."""
    if isinstance(known, Inet) and isinstance(address, Inet) and address.port is None:
        return known.host == address.host
    return known == address


def _replaced(items: Iterable[Any], new: Any, here: Any) -> tuple[Any, ...]:
    return tuple(new if here(item) else item for item in items)


def _with_values(service: VirtualService, values: Mapping[str, Any]) -> VirtualService:
    """Return a copy with other values, none of which is checked."""
    changed = copy(service)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed


_DEFAULTS = VirtualService("defaults")

OWN_SETTINGS = tuple(name for name in Settings.names() if name in fields_dict(VirtualService))
"""The settings that a service may override: it has an option with the same name."""

OPTIONS = options_of(VirtualService)
"""The options of a service, by name."""
