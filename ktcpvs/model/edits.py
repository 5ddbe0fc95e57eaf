"""The edits: every change that can be made to the table, one class each.

`edit.apply(table)` returns the new table or raises a Refusal; nothing else changes a table. The configuration file,
tcpvsadm and the start of the daemon all use edits. Each edit has an AMP command of its class's name and, except Unload
(`tcpvsadm --set unload=1`), a tcpvsadm command of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from attrs import evolve, field, frozen

from ktcpvs.errors import BadAddress, BadValue, Busy, NoSuchServer, ServiceExists
from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.model.listen import ListenAddress, as_listen
from ktcpvs.model.network import Networks
from ktcpvs.model.nodes import parse_nodes
from ktcpvs.model.options import in_range, one_of
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule_list import with_edited_rule, with_moved_rule, with_rule, without_rule
from ktcpvs.model.server_words import DRAIN, MAINTENANCE, READY
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import DAY, SECRETS, Settings
from ktcpvs.model.table import Table


class Edit:
    """A change of the table. name: of its command in tcpvsadm, without the dashes."""

    name: ClassVar[str]

    def apply(self, table: Table) -> Table:
        """Return the changed table. Raises a Refusal."""
        raise TypeError(f"{type(self).__name__} does not define apply()")


def _normalized(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return options of a service with the value of `listen` in its one form."""
    return {**options, "listen": as_listen(options["listen"])} if options.get("listen") is not None else options


def _changed(service: VirtualService, options: Mapping[str, Any]) -> VirtualService:
    """Return `service` with other options.

    options: field -> typed value, and `port`, the port of `listen`. A listen address without a port keeps the service's
    port; `port` alone keeps its host.
    """
    options = dict(options)
    port = options.pop("port", None)
    listen = options.pop("listen", None)
    if listen is not None:
        options["listen"] = [_complete(service, one, port) for one in listen]
    elif port is not None:
        if len(service.listen) > 1:
            shown = ", ".join(map(str, service.addresses))
            raise BadValue(
                f"port {port}: service {service.ident} listens on {shown}; say with listen = which of them changes"
            )
        options["listen"] = _complete(service, _without_port(service.listen[0]), port)
    return evolve(service, **options)


def _without_port(listener: ListenAddress) -> ListenAddress:
    address = listener.address
    return evolve(listener, address=evolve(address, port=None)) if isinstance(address, Inet) else listener


def _complete(service: VirtualService, listener: ListenAddress, port: int | None = None) -> ListenAddress:
    """Return `listener` with `port`, or else the service's port, if its own was left out."""
    address = listener.address
    if isinstance(address, Unix):
        if port is not None:
            raise BadAddress(f"{address} has no port: leave out port {port}")
        return listener
    if port is not None and not 1 <= port <= 65535:
        raise BadAddress(f"port {port} is out of range: ports are 1..65535")
    if port is not None and address.port not in (None, port):
        raise BadValue(f"listen {address} and port {port} do not agree")
    if address.port is None and port is None and service.port is None:
        raise BadAddress(f"{address}: missing port (example: {address}:80)")
    return listener.with_port(port or service.port)


@frozen
class AddService(Edit):
    """Add a service. options: field of VirtualService -> value, and port."""

    name: ClassVar[str] = "add-service"
    ident: str
    options: Mapping[str, Any] = field(factory=dict, converter=_normalized)

    def apply(self, table: Table) -> Table:
        if self.ident in table.services:
            raise ServiceExists(f"service {self.ident} exists already")
        return table.with_service(_changed(VirtualService(self.ident), self.options))


@frozen
class EditService(Edit):
    """Change the options given and no others."""

    name: ClassVar[str] = "edit-service"
    ident: str
    options: Mapping[str, Any] = field(factory=dict, converter=_normalized)

    def apply(self, table: Table) -> Table:
        return table.with_service(_changed(table.service(self.ident), self.options))


@frozen
class DeleteService(Edit):
    name: ClassVar[str] = "delete-service"
    ident: str

    def apply(self, table: Table) -> Table:
        table.service(self.ident)
        if self.ident in table.running:
            raise Busy(f"service {self.ident} is running: stop it first")
        return table.without_service(self.ident)


@frozen
class Flush(Edit):
    """Delete all services; settings stay."""

    name: ClassVar[str] = "flush"

    def apply(self, table: Table) -> Table:
        if table.running:
            names = [ident for ident in table.services if ident in table.running]
            shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            verb, them = ("is", "it") if len(names) == 1 else ("are", "them")
            raise Busy(f"{shown} {verb} running: stop {them} first")
        return evolve(table, services={})


@frozen
class AddListener(Edit):
    """Listen on one more address. tls: TLS ends there. An address without a port gets the service's port. on: the nodes
    that listen there, as `node-a, label:edge`; None: all."""

    name: ClassVar[str] = "add-listener"
    ident: str
    address: Address
    tls: bool = False
    on: str | None = None

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        on = None if self.on is None else parse_nodes(self.on)
        listener = ListenAddress(self.address, self.tls, on)
        return table.with_service(service.with_listener(_complete(service, listener)))


@frozen
class DeleteListener(Edit):
    """Listen on this address no more; connections of its clients go on."""

    name: ClassVar[str] = "del-listener"
    ident: str
    address: Address

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        address = _complete(service, ListenAddress(self.address)).address
        return table.with_service(service.without_listener(address))


@frozen
class AddServer(Edit):
    """Add a server. options: other fields of RealServer -> value."""

    name: ClassVar[str] = "add-server"
    ident: str
    address: Address
    weight: int = 1
    maxconn: int = 0
    options: Mapping[str, Any] = {}

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        server = RealServer(service.complete(self.address), self.weight, self.maxconn, **self.options)
        return table.with_service(service.with_server(server))


@frozen
class EditServer(Edit):
    """Change a server. weight, maxconn: None keeps the value. options: other fields of RealServer -> new value."""

    name: ClassVar[str] = "edit-server"
    ident: str
    address: Address
    weight: int | None = None
    maxconn: int | None = None
    options: Mapping[str, Any] = {}

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        address = service.complete(self.address)
        return table.with_service(service.with_weight(address, self.weight, self.maxconn, self.options))


@frozen
class DeleteServer(Edit):
    name: ClassVar[str] = "delete-server"
    ident: str
    address: Address

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        return table.with_service(service.without_server(service.complete(self.address)))


@frozen
class _SetMode(Edit):
    """Change the mode of a server. mode: as in the configuration."""

    mode: ClassVar[str]
    address: Address
    ident: str | None = None

    def apply(self, table: Table) -> Table:
        services = list(table) if self.ident is None else [table.service(self.ident)]
        if not any(service.has_server(self.address) for service in services):
            where = "no service has a" if self.ident is None else f"service {self.ident} has no"
            hint = next(filter(None, (service.server_of_same_host(self.address) for service in services)), "")
            raise NoSuchServer(f"{where} server {self.address}{hint}")
        changed = {service.ident: service.with_mode(self.address, self.mode) for service in services}
        return evolve(table, services={**table.services, **changed})


@frozen
class Drain(_SetMode):
    """Send no new connections and requests to a server, except those of its sessions.

    address: without a port: all servers of that host. ident: None: in all services.
    """

    name: ClassVar[str] = "drain"
    mode: ClassVar[str] = DRAIN


@frozen
class Maintenance(_SetMode):
    """Send nothing to a server, and check it no more; open connections continue. address, ident: as for Drain."""

    name: ClassVar[str] = "maintenance"
    mode: ClassVar[str] = MAINTENANCE


@frozen
class Ready(_SetMode):
    """Use a server again. address, ident: as for Drain."""

    name: ClassVar[str] = "ready"
    mode: ClassVar[str] = READY


@frozen
class AddRule(Edit):
    """Add a rule, or a server to the rule of that name, or else with these conditions.

    pattern: its pattern, or the text of its conditions; "" with the name of a rule keeps them. address: None for a rule
    with an action. rule_name: None: it has none. before: the rule in front of which a new one goes, as
    `find_rule` finds it; None: to the end. action: the text of an action, in place of servers, or of servers.
    modifiers: the text of modifiers; None: there are none, or those that the rule has. weight: of the server in this
    rule; None: its own one.
    """

    name: ClassVar[str] = "add-rule"
    ident: str
    pattern: str
    address: Address | None = None
    match: int | None = None
    rule_name: str | None = None
    before: str | None = None
    action: str | None = None
    modifiers: str | None = None
    weight: int | None = None

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        address = None if self.address is None else service.complete(self.address)
        return table.with_service(
            with_rule(
                service,
                self.pattern,
                address,
                self.match,
                self.rule_name,
                self.before,
                self.action,
                self.modifiers,
                self.weight,
            )
        )


@frozen
class EditRule(Edit):
    """Change a rule, which keeps its place.

    rule: as `find_rule` finds it. pattern: None keeps its conditions. match: None keeps it, unless the new conditions
    have no pattern for it. new_name: None keeps its name; "": it has none. action: the text of an action or of servers,
    which takes the place of its servers or its action; None keeps them. modifiers: the text of all its modifiers; None
    keeps them.
    """

    name: ClassVar[str] = "edit-rule"
    ident: str
    rule: str
    pattern: str | None = None
    match: int | None = None
    new_name: str | None = None
    action: str | None = None
    modifiers: str | None = None

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        pairs = (
            ("pattern", self.pattern),
            ("match", self.match),
            ("action", self.action),
            ("modifiers", self.modifiers),
        )
        changes: dict[str, Any] = {name: value for name, value in pairs if value is not None}
        if self.new_name is not None:
            changes["name"] = self.new_name or None
        if not changes:
            raise BadValue("nothing to change; give conditions, modifiers, match, a name, an action or servers")
        return table.with_service(with_edited_rule(service, self.rule, changes))


@frozen
class MoveRule(Edit):
    """Move a rule in front of another one. rule, before: as `find_rule` finds them; before: None: to the
    end."""

    name: ClassVar[str] = "move-rule"
    ident: str
    rule: str
    before: str | None = None

    def apply(self, table: Table) -> Table:
        return table.with_service(with_moved_rule(table.service(self.ident), self.rule, self.before))


@frozen
class DeleteRule(Edit):
    """Remove a server from a rule, or a rule with an action. pattern: the rule, as `find_rule` finds it.
    address: None removes a rule with an action."""

    name: ClassVar[str] = "del-rule"
    ident: str
    pattern: str
    address: Address | None = None

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        address = None if self.address is None else service.complete(self.address)
        return table.with_service(without_rule(service, self.pattern, address))


@frozen
class Allow(Edit):
    """Allow clients from more networks. only: replace the networks that were allowed."""

    name: ClassVar[str] = "allow"
    ident: str
    networks: Networks
    only: bool = False

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        if not self.networks:
            raise BadValue(f"missing network; to allow all clients: edit-service -i {self.ident} allow=")
        if self.only:
            service = evolve(service, allow=Networks())
        return table.with_service(service.with_networks(self.networks.entries, ()))


@frozen
class Deny(Edit):
    """Deny clients from more networks. only: replace the networks that were denied."""

    name: ClassVar[str] = "deny"
    ident: str
    networks: Networks
    only: bool = False

    def apply(self, table: Table) -> Table:
        service = table.service(self.ident)
        if self.only:
            service = evolve(service, deny=Networks())
        return table.with_service(service.with_networks((), self.networks.entries))


@frozen
class DeleteNetwork(Edit):
    """Remove networks from the lists of allowed and denied ones."""

    name: ClassVar[str] = "del-network"
    ident: str
    networks: Networks

    def apply(self, table: Table) -> Table:
        return table.with_service(table.service(self.ident).without_networks(self.networks))


@frozen
class StartService(Edit):
    """Start a service; nothing changes if it runs already. ident: None starts all services."""

    name: ClassVar[str] = "start"
    ident: str | None = None

    def apply(self, table: Table) -> Table:
        started = table.services if self.ident is None else (table.service(self.ident).ident,)
        return evolve(table, running=table.running.union(started))


@frozen
class StopService(Edit):
    """Stop a service; nothing changes if it does not run. ident: None stops all services."""

    name: ClassVar[str] = "stop"
    ident: str | None = None

    def apply(self, table: Table) -> Table:
        if self.ident is None:
            return evolve(table, running=frozenset())
        return evolve(table, running=table.running - {table.service(self.ident).ident})


@frozen
class Set(Edit):
    """Change settings. changes: setting -> text."""

    name: ClassVar[str] = "set"
    changes: Mapping[str, str] = field(
        repr=lambda changes: repr({name: "..." if name in SECRETS else text for name, text in changes.items()})
    )

    def apply(self, table: Table) -> Table:
        return evolve(table, settings=table.settings.changed(dict(self.changes)))


@frozen
class Unload(Edit):
    """Stop all services; when they have drained, the daemon ends (KTCPVS: unload = 1).

    The stop is not saved, so those that ran run again after the next start, as after SIGTERM.
    """

    name: ClassVar[str] = "unload"

    def apply(self, table: Table) -> Table:
        return evolve(table, running=frozenset())


@frozen
class Confirm(Edit):
    """Keep the configuration that a Load has put in force on trial."""

    name: ClassVar[str] = "confirm"

    def apply(self, table: Table) -> Table:
        return table


@frozen
class ReloadCertificates(Edit):
    """Read the files of TLS again. The table stays as it is."""

    name: ClassVar[str] = "reload-certificates"

    def apply(self, table: Table) -> Table:
        return table


@frozen
class ReloadSchedulers(Edit):
    """Load the packages of scheduler plugins again, and bind the services that use them. The table stays as it is.

    scheduler: the name of one in the package; None: the packages of all plugins.
    """

    name: ClassVar[str] = "reload-schedulers"
    scheduler: str | None = None

    def apply(self, table: Table) -> Table:
        return table


@frozen
class RenewCertificate(Edit):
    """Renew the certificates that the switch has obtained for a host name. The table stays as it is."""

    name: ClassVar[str] = "renew-certificate"
    host: str

    def apply(self, table: Table) -> Table:
        return table


@frozen
class EndLocal(Edit):
    """Follow the cluster again, where edits hold on this node only. ident: end those of this service; None: all."""

    name: ClassVar[str] = "end-local"
    ident: str | None = None

    def apply(self, table: Table) -> Table:
        kept = () if self.ident is None else [one for one in table.local if self.ident != _ident_of(one.edit)]
        if len(kept) == len(table.local):
            where = "" if self.ident is None else f" of service {self.ident}"
            raise BadValue(f"no edit{where} holds on this node only; --list shows those that do")
        return evolve(table, local=tuple(kept))


def _ident_of(edit: Edit) -> str | None:
    """Return the ident of the service that an edit concerns; None: it concerns no certain one."""
    return getattr(edit, "ident", None)


NO_CLUSTER = "this daemon is in no cluster; --cluster and --node make it a node of one"


@frozen
class DrainNode(Edit):
    """Let a node of the cluster get no more clients, and drain. The table stays as it is.

    delay: seconds for which it goes on accepting, while it says already that it is not ready.
    """

    name: ClassVar[str] = "drain-node"
    node: str
    delay: int = field(default=0, validator=in_range(0, DAY))

    def apply(self, table: Table) -> Table:
        raise BadValue(NO_CLUSTER)


@frozen
class UndrainNode(Edit):
    """Let a node of the cluster accept clients again. The table stays as it is."""

    name: ClassVar[str] = "undrain-node"
    node: str

    def apply(self, table: Table) -> Table:
        raise BadValue(NO_CLUSTER)


@frozen
class ForgetNode(Edit):
    """Forget a node of the cluster that is gone. The table stays as it is."""

    name: ClassVar[str] = "forget-node"
    node: str

    def apply(self, table: Table) -> Table:
        raise BadValue(NO_CLUSTER)


START_NOTHING, START_NEW, START_ALL = STARTS = ("nothing", "new", "all")
"""The services that a Load starts: none, those that were not in the table before, or all that it names."""


def nowhere(ident: str, scheduler: str) -> None:
    """The place of a scheduler in a configuration that comes from no text."""


@frozen
class Load(Edit):
    """Replace the whole configuration; services that run and are still there keep running.

    services, settings: of the configuration text; a setting that it does not name has its default. confirm: seconds
    after which the load is undone unless it is confirmed; 0: it stays. start: one of STARTS. place_of: returns where
    the text names a scheduler, from the ident of the service and the scheduler's name; None: it is not known.
    """

    name: ClassVar[str] = "load-configfile"
    services: Mapping[str, VirtualService]
    settings: Settings = field(factory=Settings)
    confirm: int = field(default=0, validator=in_range(0, DAY))
    start: str = field(default=START_NOTHING, validator=one_of(*STARTS))
    place_of: Callable[[str, str], Any] = field(default=nowhere, eq=False, repr=False)

    def apply(self, table: Table) -> Table:
        services = dict(self.services)
        running = table.running.intersection(services)
        if self.start == START_NEW:
            running = running.union(ident for ident in services if ident not in table.services)
        elif self.start == START_ALL:
            running = frozenset(services)
        return Table(services, running, self.settings, table.local)
