"""The views of a switch as values with types: services, servers, connections, certificates, settings, nodes.

Each class is made from the plain data of a view. `data` has all of it, also what the class does not name, and what a
daemon of a later version adds. A daemon of an earlier version may lack a field that is here: then its default holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import AttrsInstance, Factory, field, fields_dict, frozen

Data = Mapping[str, Any]
"""The plain data of a view."""

_T = TypeVar("_T", bound=AttrsInstance)

NO_DATA: Data = {}


def _data() -> Any:
    return field(default=NO_DATA, repr=False, eq=False)


def _made(kind: type[_T], data: Data, **converted: Any) -> _T:
    """Return a value of `kind`. converted: fields that are not as in `data`."""
    known = {name: data[name] for name in fields_dict(kind) if name in data}
    return kind(**{**known, "data": data, **converted})


@frozen
class Health:
    """The health of a server. state: up, down, ejected, draining, standby, maintenance or unresolved. since: seconds
    since 1970; 0: since the server is known. reason: of the last change, in words; "": none."""

    state: str
    since: float = 0.0
    reason: str = ""
    data: Data = _data()


@frozen
class LastError:
    """The last failure of a server. at: seconds since 1970. in_a_row: failures since it last served a request."""

    at: float
    reason: str
    in_a_row: int = 0
    data: Data = _data()


@frozen
class ServerCounts:
    """The counts of a server since the switch started, over all processes.

    active: open connections, or requests where each is scheduled. pending: requests that wait for it. total: all since
    the start. failures: attempts without a connection or a response. retries: how many of them went on elsewhere. kept:
    idle connections. reused: requests on a kept one. bytes_in, bytes_out: from clients to it, and back. answers: class
    of the status (`2xx`) -> responses. seconds: the time that these took together.
    """

    active: int = 0
    pending: int = 0
    total: int = 0
    failures: int = 0
    retries: int = 0
    kept: int = 0
    reused: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    answers: Mapping[str, int] = Factory(dict)
    seconds: float = 0.0
    data: Data = _data()


@frozen
class Server:
    """A real server of a service. weight, maxconn, priority, mode, labels: as configured; maxconn 0: no limit. name:
    the host name that it was found by; None: it is configured by its address."""

    address: str
    weight: int
    health: Health
    counts: ServerCounts
    maxconn: int = 0
    priority: int = 0
    mode: str = "ready"
    labels: Mapping[str, str] = Factory(dict)
    name: str | None = None
    last_error: LastError | None = None
    data: Data = _data()


@frozen
class Listener:
    """An address on which a service listens. tls: clients speak TLS with the switch there. here: it is for this
    node."""

    listen: str
    tls: bool = False
    here: bool = True
    data: Data = _data()


@frozen
class Rule:
    """A rule of a service. pattern: its conditions, as a text. action: what responds in place of servers; None: its
    servers serve. weights: of its servers where the rule has its own; empty: those of the servers hold."""

    pattern: str
    name: str | None = None
    servers: tuple[str, ...] = ()
    weights: tuple[int, ...] = ()
    action: str | None = None
    modifiers: str = ""
    data: Data = _data()


@frozen
class ServiceCounts:
    """The counts of a service since the switch started, over all processes.

    active: open client connections. queued: clients that wait for a server. total: accepted connections. requests: with
    a scheduler that chooses for each request, those that servers got and those that the switch responded to itself; 0
    with others. refused: requests and connections that got no server. refusals: status -> number. redirected: status ->
    requests that `https_only` has redirected. broken_responses: those of servers whose clients got their beginning, but
    not their end. rules: label -> the requests, or connections, that the rule has taken. denied, limited: by lists of
    networks, and by limits for clients. bytes_in, bytes_out: from clients, and to them, with the switch's own
    responses.
    """

    active: int = 0
    queued: int = 0
    total: int = 0
    requests: int = 0
    refused: int = 0
    refusals: Mapping[str, int] = Factory(dict)
    redirected: Mapping[str, int] = Factory(dict)
    broken_responses: int = 0
    rules: Mapping[str, int] = Factory(dict)
    denied: int = 0
    limited: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    data: Data = _data()


@frozen
class Service:
    """A virtual service. running: it is started. here: it is for this node of a cluster. `data` has its options, by
    their names in the configuration language."""

    ident: str
    running: bool
    scheduler: str
    listeners: tuple[Listener, ...]
    servers: tuple[Server, ...]
    rules: tuple[Rule, ...]
    counts: ServiceCounts
    here: bool = True
    data: Data = _data()

    def server(self, address: str) -> Server:
        """Return the server with that address. Raises KeyError."""
        for server in self.servers:
            if server.address == address:
                return server
        raise KeyError(f"service {self.ident} has no server {address}")


@frozen
class ClientConnection:
    """An open connection of a client. client: with its port. server: None: none is chosen. age, idle: seconds. reason:
    why the server was chosen. worker: the number of its process; None: the switch is one process."""

    service: str
    client: str
    state: str
    server: str | None = None
    age: int = 0
    idle: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reason: str | None = None
    worker: int | None = None
    data: Data = _data()


@frozen
class Certificate:
    """A certificate that running services use. use: what for. names: of hosts. not_before, not_after: seconds since
    1970; None: it could not be read. left: the share of its lifetime. error: why the newest version of the file cannot
    be used; warning: why clients do not trust it, or soon will not; "": neither."""

    use: str
    file: str
    subject: str = ""
    issuer: str = ""
    kind: str = ""
    names: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    not_before: float | None = None
    not_after: float | None = None
    left: float | None = None
    error: str = ""
    warning: str = ""
    data: Data = _data()


@frozen
class Setting:
    """A setting of the whole switch. lowest, highest: its range; None: it is no number."""

    name: str
    value: int | str
    default: int | str
    lowest: int | None = None
    highest: int | None = None
    unit: str = ""
    meaning: str = ""
    data: Data = _data()


@frozen
class Node:
    """A node of a cluster. state: ok, behind, refused, leaving, draining, drained, gone or unknown. revision: of the
    table that it runs. errors: why it does not run the newest one."""

    node: str
    state: str
    revision: int | None = None
    version: str | None = None
    connections: int | None = None
    errors: tuple[str, ...] = ()
    data: Data = _data()


@frozen
class ServerMoves:
    """The connections of one server in a rebalancing.

    active: those that it has. over: those above its share. moving: those that move, those of an earlier command that
    have not left yet included. held: those that would come back, by a cookie or a hash. uncloseable: those that only a
    reset can move.
    """

    address: str
    active: int = 0
    over: int = 0
    moving: int = 0
    held: int = 0
    uncloseable: int = 0
    name: str | None = None
    data: Data = _data()


@frozen
class Rebalance:
    """Connections that move off servers with more than their share. percent: the most of a server's connections that
    move. seconds: within which they are closed."""

    service: str
    percent: int
    seconds: int
    servers: tuple[ServerMoves, ...] = ()
    data: Data = _data()

    @property
    def moving(self) -> int:
        """The number of all connections that move."""
        return sum(server.moving for server in self.servers)


@frozen
class Explanation:
    """The server that would handle a request, and why. outcome: server, redirect, respond, queue or nobody. server: its
    address; None: none. reason: in words. notes: what else has decided."""

    outcome: str
    reason: str
    server: str | None = None
    notes: tuple[str, ...] = ()
    data: Data = _data()


def read_service(data: Data) -> Service:
    """Return a service of the view `stats`."""
    return _made(
        Service,
        data,
        listeners=tuple(_made(Listener, one) for one in data["listeners"]),
        servers=tuple(map(_read_server, data["servers"])),
        rules=tuple(
            _made(Rule, one, servers=tuple(one["servers"]), weights=tuple(one.get("weights", ())))
            for one in data["rules"]
        ),
        counts=_made(ServiceCounts, data["stats"]),
    )


def _read_server(data: Data) -> Server:
    error = data.get("last_error")
    return _made(
        Server,
        data,
        health=_made(Health, data["health"]),
        counts=_made(ServerCounts, data["stats"]),
        last_error=None if error is None else _made(LastError, error),
    )


def read_connection(data: Data) -> ClientConnection:
    """Return a connection of the view `connections`."""
    return _made(ClientConnection, data)


def read_rebalance(data: Data) -> Rebalance:
    """Return what a rebalancing moves."""
    return _made(Rebalance, data, servers=tuple(_made(ServerMoves, row) for row in data["servers"]))


def read_certificate(data: Data) -> Certificate:
    """Return a certificate of the view `certificates`."""
    return _made(Certificate, data, names=tuple(data["names"]), services=tuple(data["services"]))


def read_setting(data: Data) -> Setting:
    """Return a setting of the view `settings`."""
    return _made(Setting, data)


def read_node(data: Data) -> Node:
    """Return a node of the view `nodes`."""
    return _made(Node, data, errors=tuple(data.get("errors", ())))


def read_explanation(data: Data) -> Explanation:
    """Return the explanation of a request."""
    answer = data["answer"]
    return Explanation(answer["outcome"], answer["reason"], answer.get("server"), tuple(data.get("notes", ())), data)
