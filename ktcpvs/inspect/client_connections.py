"""Client connections by their IDs: what --connections shows of each, and closing one of them."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2s
from typing import Any

from ktcpvs.director.director import Director
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.errors import NoSuchConnection, shorten
from ktcpvs.services.running import RunningService

CLOSED_BY_ADMINISTRATOR = "closed by an administrator"
"""The reason of the end of a connection, in the log."""


def open_connections(director: Director, ident: str | None = None) -> Iterator[tuple[RunningService, ClientConnection]]:
    """Iterate over the client connections of this process, those of services that drain included. ident: only of this
    service; None: of all."""
    for live in (*director.services.values(), *director.draining):
        if ident is None or live.ident == ident:
            for connection in live.connections:
                yield live, connection


def connection_id(connection: ClientConnection) -> str:
    """Return the ID of a connection in its process, the same as long as it is open.

    It is computed when somebody asks, so that connections need no number. The client's address and the time of accept
    are in it: the object of a later connection may be in the same place of the memory.
    """
    text = f"{id(connection)} {connection.began} {connection.client_name}"
    return blake2s(text.encode("utf-8", "backslashreplace"), digest_size=4).hexdigest()


def describe_connection(live: RunningService, connection: ClientConnection, now: int) -> dict[str, Any]:
    """Describe one client connection. now: the wheel's tick."""
    choice, moved = connection.dispatcher.choice, connection.moved()
    return {
        "id": connection_id(connection),
        "service": live.ident,
        "client": connection.client_name,
        "server": str(choice.destination.address) if choice else None,
        "name": choice.destination.name if choice else None,
        "state": connection.state,
        "age": now - connection.began,
        "idle": now - connection.idle_since(),
        "bytes_in": moved[0],
        "bytes_out": moved[1],
        "reason": choice.reason if choice else None,
    }


def close_connection(director: Director, wanted: str) -> dict[str, Any]:
    """Reset both sides of the connection with this ID, or its stream of HTTP/2 alone. Returns its description before
    that. Raises NoSuchConnection."""
    for live, connection in open_connections(director):
        if connection_id(connection) == wanted:
            described = describe_connection(live, connection, director.context.wheel.now)
            connection.ending = CLOSED_BY_ADMINISTRATOR
            connection.expire()
            return described
    raise no_such_connection(wanted)


def no_such_connection(wanted: str) -> NoSuchConnection:
    """Return the refusal for an ID that no connection has."""
    return NoSuchConnection(f"no connection {shorten(wanted, 40)}; 'tcpvsadm --connections' lists them with their IDs")
