"""Limits that the nodes of a cluster share: each node has its part of them, for services with `share = cluster`."""

from __future__ import annotations

from collections.abc import Collection

from attrs import evolve

from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.options import OFF
from ktcpvs.model.placement import is_here
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import SHARED, VirtualService
from ktcpvs.model.table import Table


def divided(runs: Table, table: Table, live: Collection[NodeIdentity]) -> Table:
    """Return what this node runs, with its part of the limits that nodes share.

    runs: what it runs of `table`. live: the nodes that are alive, this one included; empty: they are not known, and
    limits stay whole.
    """
    services = {ident: _part(service, table.services[ident], live) for ident, service in runs.services.items()}
    is_same = all(services[ident] is service for ident, service in runs.services.items())
    return runs if is_same else evolve(runs, services=services)


def _part(service: VirtualService, whole: VirtualService, live: Collection[NodeIdentity]) -> VirtualService:
    """Return the service with this node's part of its limits. whole: the service as configured, with the listeners of
    all nodes."""
    count = sum(is_here(whole, node) for node in live) if service.share == SHARED else 1
    if count < 2:
        return service
    return evolve(
        service,
        maxclients=part(service.maxclients, count),
        client_connections=part(service.client_connections, count),
        client_rate=_part_of_rate(service.client_rate, count),
        client_burst=part(service.client_burst, count),
        servers=tuple([_server(server, count) for server in service.servers]),
        rules=tuple([_rule(rule, count) for rule in service.rules]),
    )


def part(limit: int, count: int) -> int:
    """Return the part of a limit that each of `count` nodes has, rounded up: the parts exceed the limit by less than
    `count` together. 0, which is no limit, stays 0."""
    return -(-limit // count)


def _part_of_rate(rate: str, count: int) -> str:
    number, slash, unit = rate.partition("/")
    return rate if rate == OFF else f"{part(int(number), count)}{slash}{unit}"


def _server(server: RealServer, count: int) -> RealServer:
    return evolve(server, maxconn=part(server.maxconn, count)) if server.maxconn else server


def _rule(rule: Rule, count: int) -> Rule:
    rate = rule.modifiers.rate
    if rate is None:
        return rule
    shared = evolve(rate, rate=_part_of_rate(rate.rate, count), burst=part(rate.burst, count))
    return evolve(rule, modifiers=evolve(rule.modifiers, rate=shared))
