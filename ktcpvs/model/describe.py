"""The table as plain data: for the control connection, for --json, and for the writer of configurations."""

from __future__ import annotations

from typing import Any

from ktcpvs.model.address import Address
from ktcpvs.model.language.writer import write_test
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.network import Networks
from ktcpvs.model.nodes import Nodes
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import OPTIONS, VirtualService
from ktcpvs.model.table import Table

_OTHER_OPTIONS = tuple(name for name in OPTIONS if name != "listen")
_PLAIN = (str, int)
_WRITTEN = Address | Nodes


def describe_value(value: Any) -> Any:
    """Return an option's value as plain data: an address and nodes as text, networks as a list of texts, a tuple as a
    list."""
    if value is None or type(value) in _PLAIN:  # as nearly all are
        return value
    if isinstance(value, Networks):
        return list(value.texts)
    if isinstance(value, tuple):
        return [describe_value(item) for item in value]
    return str(value) if isinstance(value, _WRITTEN) else value


def describe_listener(listener: ListenAddress) -> dict[str, Any]:
    """Return a listener as plain data. on: the nodes that listen there, as a configuration names them; None: all."""
    return {"listen": str(listener.address), "tls": listener.is_tls, "on": describe_value(listener.on)}


def describe_server(server: RealServer) -> dict[str, Any]:
    return {
        "address": str(server.address),
        "weight": server.weight,
        "maxconn": server.maxconn,
        "tls": server.tls.described() if server.tls is not None else None,
        "h2": server.h2,
        "proxy": server.proxy,
        "priority": server.priority,
        "mode": server.mode,
        "max_pending": server.max_pending,
        "start": server.start,
        "check": None if server.check is None else str(server.check),
        "labels": dict(server.labels),
    }


def describe_rule(rule: Rule) -> dict[str, Any]:
    """Return a rule as plain data. pattern: its pattern, or the text of its conditions. name: None without one.
    weights: of its servers in this rule, None: the server's own; empty: no server has one. action: its text; None: it
    has servers. modifiers: their text; "": there are none."""
    servers = [str(address) for address in rule.servers]
    action = None if rule.action is None else str(rule.action)
    return {
        "pattern": rule.pattern,
        "match": rule.match,
        "name": rule.name,
        "servers": servers,
        "weights": list(rule.weights),
        "action": action,
        "modifiers": str(rule.modifiers),
    }


def describe_service(service: VirtualService) -> dict[str, Any]:
    """Return a service as str, int, None, list and dict; addresses as text. listen: the first address; listeners: all
    of them."""
    return {
        "ident": service.ident,
        "listen": str(service.address),
        "listeners": [describe_listener(listener) for listener in service.listen],
        **{name: describe_value(getattr(service, name)) for name in _OTHER_OPTIONS},
        "servers": [describe_server(server) for server in service.servers],
        "rules": [describe_rule(rule) for rule in service.rules],
        "tests": [write_test(test) for test in service.tests],
    }


def configuration(table: Table) -> tuple[list[dict[str, Any]], dict[str, int | str]]:
    """Return all services and settings as plain data."""
    return [describe_service(service) for service in table], table.settings.described()
