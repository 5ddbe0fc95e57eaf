"""The placement of services: which parts of the table are for which nodes of a cluster.

Every node has the whole table. Each runs its part of it (`placed`): the services and listeners that name it, by its
name or by one of its labels, and those that name no nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from attrs import evolve, frozen

from ktcpvs.errors import nearest
from ktcpvs.model.address import Address
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.nodes import LABEL_PREFIX, NodeIdentity, Nodes
from ktcpvs.model.options import OFF
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table

PLACE = "place"
"""The subject of all warnings about nodes."""

MAX_NAMES = 10
"""The most nodes or labels that a message names."""


def is_for(node: NodeIdentity, on: Nodes | None) -> bool:
    """Whether something is for that node. on: the nodes that it names; None: all."""
    return on is None or on.has(node)


def listens_on(service: VirtualService, listener: ListenAddress, node: NodeIdentity) -> bool:
    """Whether the service, when it runs, listens on that address on that node."""
    return is_for(node, service.on) and is_for(node, listener.on)


def is_here(service: VirtualService, node: NodeIdentity) -> bool:
    """Whether the service is for that node, and at least one of its listeners is too."""
    return is_for(node, service.on) and any(is_for(node, one.on) for one in service.listen)


def placed(table: Table, node: NodeIdentity) -> Table:
    """Return the table that the node runs; see Placer."""
    return Placer(node).placed(table)


class Placer:
    """Finds what one node runs of each table. It keeps what it has found for the services of the last one: an edit of a
    table with 10,000 services changes few of them."""

    def __init__(self, node: NodeIdentity) -> None:
        self._node = node
        self._known: dict[str, tuple[VirtualService, VirtualService | None]] = {}

    def placed(self, table: Table) -> Table:
        """Return the table that the node runs: services that are not for it stay in it as they are, and are stopped;
        others have the listeners that are for it."""
        before, known = self._known, {}
        changed: dict[str, VirtualService] = {}
        elsewhere: list[str] = []
        for ident, service in table.services.items():
            found = before.get(ident)
            if found is None or found[0] is not service:
                found = service, self._place(service)
            known[ident] = found
            if found[1] is None:
                elsewhere.append(ident)
            elif found[1] is not service:
                changed[ident] = found[1]
        self._known = known
        if not (changed or elsewhere):
            return table
        return evolve(table, services={**table.services, **changed}, running=table.running.difference(elsewhere))

    def _place(self, service: VirtualService) -> VirtualService | None:
        """Return the service as it runs on the node; None: it does not."""
        if not is_here(service, self._node):
            return None
        here = tuple([one for one in service.listen if is_for(self._node, one.on)])
        return service if len(here) == len(service.listen) else service.with_some_listeners(here)


# What is known of the other nodes.


@frozen
class KnownNodes:
    """A node knows this of its cluster.

    here: this node. others: all other members by name; None: one that is gone, whose labels are not known. is_alone:
    this switch is in no cluster. is_connected: False: the members are not known at the moment.
    """

    here: NodeIdentity
    others: Mapping[str, NodeIdentity | None] = MappingProxyType({})
    is_alone: bool = True
    is_connected: bool = True

    @property
    def alive(self) -> list[NodeIdentity]:
        """The nodes whose labels are known, this one first."""
        return [self.here, *(node for node in self.others.values() if node is not None)]

    @property
    def names(self) -> list[str]:
        """The names of all members, this node's first."""
        return [self.here.name, *self.others]

    @property
    def labels(self) -> set[str]:
        """The labels of all nodes that are alive."""
        return set().union(*(node.labels for node in self.alive))


UNKNOWN_NODES = KnownNodes(NodeIdentity(), is_alone=False, is_connected=False)
"""Nothing is known of any node."""


# Listeners that meet on one node.


@frozen
class Conflict:
    """Two running services listen on the same address of one node. service: the later one of the table. where: on which
    nodes, in words. is_alone: this switch is in no cluster."""

    service: str
    other: str
    address: Address
    where: str
    is_alone: bool

    def __str__(self) -> str:
        others = "" if self.is_alone else f", or other nodes (example: listen = {self.address} on NODE)"
        return (
            f"service {self.service}: service {self.other} listens on {self.address} too, {self.where}: give one "
            f"of them another address{others}"
        )


def first_conflict(former: Table, table: Table, nodes: KnownNodes) -> Conflict | None:
    """Return the first two running services that cannot listen on the same address; None: all can.

    former: the table before, whose listeners are not compared with each other again.
    """
    changed = [one for one in table if one.ident in table.running and not _is_unchanged(one, former)]
    if not changed:
        return None
    listeners: dict[Address, list[tuple[VirtualService, ListenAddress]]] = {
        one.address: [] for service in changed for one in service.listen
    }
    for service in table:
        if service.ident in table.running:
            for listener in service.listen:
                if listener.address in listeners:
                    listeners[listener.address].append((service, listener))
    for address, several in listeners.items():
        for number, (other, listener_of_other) in enumerate(several):
            for service, listener in several[number + 1 :]:
                if _is_unchanged(service, former) and _is_unchanged(other, former):
                    continue
                where = _meet((service.on, listener.on, other.on, listener_of_other.on), nodes)
                if where is not None:
                    return Conflict(service.ident, other.ident, address, where, nodes.is_alone)
    return None


@frozen
class ProgramConflict:
    """Two services have a server on demand with one address, and start different programs there. service: the later one
    of the table. program, other_program: their words behind `start`."""

    service: str
    program: str
    other: str
    other_program: str
    address: Address

    def __str__(self) -> str:
        return (
            f"service {self.service}: server {self.address} start {self.program}: service {self.other} starts "
            f"{self.other_program} at that address: give one of them another address, or both the same program"
        )


def first_program_conflict(former: Table, table: Table, nodes: KnownNodes) -> ProgramConflict | None:
    """Return the first two services with different programs for one address of one node; None: there are none.

    former: the table before, whose services are not compared with each other again.
    """
    changed = {
        server.address
        for service in table
        if (before := former.services.get(service.ident)) is not service
        and (before is None or before.servers != service.servers or before.on != service.on)
        for server in service.servers
        if server.start is not None
    }
    if not changed:
        return None
    known: dict[Address, list[tuple[str, VirtualService]]] = {address: [] for address in changed}
    for service in table:
        for server in service.servers:
            if server.start is not None and server.address in known:
                for program, other in known[server.address]:
                    if program != server.start and _meet((service.on, other.on), nodes) is not None:
                        return ProgramConflict(service.ident, server.start, other.ident, program, server.address)
                if server.start not in [program for program, _ in known[server.address]] or service.on is not None:
                    known[server.address].append((server.start, service))
    return None


def _is_unchanged(service: VirtualService, former: Table) -> bool:
    """Whether a running service has run until now, on the same addresses and for the same nodes."""
    before = former.services.get(service.ident)
    return (
        before is not None
        and service.ident in former.running
        and (before is service or (before.listen, before.on) == (service.listen, service.on))
    )


def _meet(places: Iterable[Nodes | None], nodes: KnownNodes) -> str | None:
    """Return where all of these lists have a node in common, in words; None: nowhere, as far as that is known."""
    lists = [one for one in places if one is not None]
    exact = [one.names for one in lists if not one.labels]
    common = frozenset.intersection(*exact) if exact else None
    if common is not None and not common:
        return None
    if len(exact) == len(lists):
        return "on all nodes" if common is None and not nodes.is_alone else _on(sorted(common or ()))
    for node in nodes.alive:
        if all(one.has(node) for one in lists):
            return _on([node.name])
    if nodes.is_alone or not nodes.is_connected:
        return None
    if common is not None:
        known = {node.name for node in nodes.alive}
        unknown = sorted(name for name in common if name not in known)
        return f"perhaps {_on(unknown)}, whose labels are not known" if unknown else None
    labels = sorted(frozenset().union(*(one.labels for one in lists)) - nodes.labels)
    return f"perhaps on the same node, since none that is alive has the label {labels[0]}" if labels else None


def _on(names: Sequence[str]) -> str:
    return f"on {_listed(names)}" if names else "on this switch"


# Warnings.


def placement_warnings(service: VirtualService, nodes: KnownNodes) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield warnings about the nodes that a service names, each with its subjects: options, and PLACE."""
    if nodes.is_alone:
        yield from _warn_alone(service, nodes.here)
    elif nodes.is_connected:
        yield from _warn_unknown("on = ", service.on, "on", nodes)
        for one in service.listen:
            yield from _warn_unknown(f"listen = {one.address} on ", one.on, "listen", nodes)
    for one in service.listen:
        if _is_nowhere(service.on, one.on):
            yield (
                f"listen = {one.address} on {one.on} has no effect: the service is on {service.on}",
                ("on", "listen", PLACE),
            )
    if service.https_only != OFF and any(one.is_tls for one in service.listen):
        for one in service.listen:
            if not (one.is_tls or any(other.is_tls and _covers(other.on, one.on) for other in service.listen)):
                yield (
                    f"https_only has no effect at {one.address} on nodes without a listener with tls",
                    ("https_only", "listen", PLACE),
                )


def _warn_alone(service: VirtualService, here: NodeIdentity) -> Iterator[tuple[str, tuple[str, ...]]]:
    me = f"this switch is in no cluster, and its name is {here.name or 'not known'}"
    if here.labels:
        me += f", its labels {_listed(sorted(here.labels))}"
    if not is_for(here, service.on):
        yield f"it does not run here: on = {service.on}, and {me} (--node, --node-labels)", ("on", PLACE)
        return
    for one in service.listen:
        if not is_for(here, one.on):
            yield (
                f"it does not listen on {one.address} here: on {one.on}, and {me} (--node, --node-labels)",
                ("listen", PLACE),
            )


def _warn_unknown(what: str, on: Nodes | None, option: str, nodes: KnownNodes) -> Iterator[tuple[str, tuple[str, ...]]]:
    for entry in on.entries if on is not None else ():
        name = entry.removeprefix(LABEL_PREFIX)
        if name == entry and name not in nodes.names:
            yield (
                f"{what}{name}: no member of the cluster has this name; {_hint(name, sorted(nodes.names))}",
                (option, PLACE),
            )
        elif name != entry and name not in nodes.labels:
            yield (
                f"{what}{entry}: no node that is alive has this label; {_hint(name, sorted(nodes.labels))}",
                (option, PLACE),
            )


def _hint(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"did you mean '{near}'?" if near else f"there are: {_listed(known) or 'none'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _is_nowhere(on: Nodes | None, other: Nodes | None) -> bool:
    """Whether two lists of names, without labels, have no node in common."""
    return on is not None and other is not None and not (on.labels or other.labels or on.names & other.names)


def _covers(on: Nodes | None, other: Nodes | None) -> bool:
    """Whether all nodes of `other` are certainly among those of `on`. None: all nodes."""
    return on is None or (other is not None and set(other.entries) <= set(on.entries))
