"""The connections of --connections: which of them are listed (--filter), and in which order (--sort)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from ktcpvs.errors import did_you_mean, shorten

Connection = dict[str, Any]

_ORDERS: dict[str, Callable[[Connection], Any]] = {
    "age": lambda one: -one["age"],
    "idle": lambda one: -one["idle"],
    "in": lambda one: -one["bytes_in"],
    "out": lambda one: -one["bytes_out"],
    "client": lambda one: one["client"],
    "server": lambda one: one["server"] or "",
    "state": lambda one: one["state"],
}
"""--sort -> the key of the order: the oldest, the longest idle and the ones with the most bytes come first."""

ORDERS = tuple(_ORDERS)
FILTERS = ("client", "server", "state", "service", "node")


def check_order(name: str) -> str:
    """Return what is wrong with the value of --sort; "": nothing."""
    if name in _ORDERS:
        return ""
    return f"sort '{shorten(name, 40)}': not one of {', '.join(ORDERS)}{did_you_mean(name, ORDERS)}"


def check_filter(text: str) -> str:
    """Return what is wrong with the value of a --filter; "": nothing."""
    name, equals, value = text.partition("=")
    if not equals or not value:
        return f"filter '{shorten(text, 40)}': not NAME=VALUE (examples: client=10.0.0.0/8, state=relaying)"
    if name not in FILTERS:
        return f"filter '{shorten(text, 40)}': not one of {', '.join(FILTERS)}{did_you_mean(name, FILTERS)}"
    if name == "client" and "/" in value:
        try:
            ip_network(value, strict=False)
        except ValueError:
            return f"filter '{shorten(text, 40)}': not a network (example: client=10.0.0.0/8)"
    return ""


def select_connections(
    connections: Iterable[Connection], filters: Sequence[str], order: str = "age"
) -> list[Connection]:
    """Return the connections that pass all filters, in that order. filters: as `check_filter` accepts them; of several
    with one name, one must hold."""
    of_name: dict[str, list[str]] = {}
    for text in filters:
        name, _, value = text.partition("=")
        of_name.setdefault(name, []).append(value)
    found = [
        one
        for one in connections
        if all(any(_holds(one, name, value) for value in values) for name, values in of_name.items())
    ]
    return sorted(found, key=lambda one: (_ORDERS[order](one), one.get("id", "")))


def _holds(one: Connection, name: str, value: str) -> bool:
    if name == "client":
        return _is_client(one["client"], value)
    if name == "server":
        return value in (one["server"], one["name"], _host(one["server"] or ""))
    if name == "state":
        return value.lower() in one["state"].lower()
    return bool(one.get(name) == value)


def _is_client(client: str, value: str) -> bool:
    """Whether `value` is the client's address, with its port or without, or a network that has it."""
    host = _host(client)
    if value in (client, host):
        return True
    try:
        address, network = ip_address(host.partition("%")[0]), ip_network(value, strict=False)
    except ValueError:  # a client on a unix socket, or a value that is no network
        return False
    return address in network


def _host(address: str) -> str:
    """Return an address without its port, and without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]")
