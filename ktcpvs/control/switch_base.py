"""A connection to a running switch: what `twisted_client`, `blocking_client` and `asyncio_client` have in common.

It imports no Twisted, so that tcpvsadm starts quickly.
"""

from __future__ import annotations

import json
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from ktcpvs.control.client_errors import NotTrusted
from ktcpvs.control.command_table import Argument, ArgumentType, EditCommand, text_of
from ktcpvs.control.endpoints import ControlAddress, default_control, parse_control
from ktcpvs.control.pages import split_pages
from ktcpvs.model.assumed_request import LOCAL_CLIENT, AssumedRequest
from ktcpvs.model.live_trace import TraceBatch, TraceQuery
from ktcpvs.system.files import untrusted_socket
from ktcpvs.system.peer import peer_user


def find_address(control: str | None) -> ControlAddress:
    """Return the address of the daemon: `control`, or the default where it is None or empty. Raises BadAddress, and
    NotTrusted where other users could have put a socket at the default address."""
    if control:
        return parse_control(control)
    address = default_control()
    if why := untrusted_socket(address.path or ""):
        raise NotTrusted(
            f"{why}, so a daemon there is not trusted: remove it, or give the daemon's address with --control"
        )
    return address


def may_be_refused(sock: socket.socket | None) -> bool:
    """True where a unix socket's daemon may close the connection because of this user (see control.permissions)."""
    return sock is not None and sock.family == socket.AF_UNIX and os.geteuid() not in (0, peer_user(sock))


class SwitchBase(ABC):
    """A connection to a running switch. Methods are coroutines; addresses and options are text, as in tcpvsadm.

    scope: where the edits that follow hold: "": on all nodes of the cluster; "local": on this node only; "force-local":
    on this node only, until etcd responds again.
    """

    scope = ""

    @abstractmethod
    async def send(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Send the command of that name and return the values of its response. Arguments that are None are left out.
        Raises Refusal and NoAnswer."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    async def aclose(self) -> None:
        """Close the connection, and wait for that where it takes time."""
        self.close()

    async def submit(self, entry: EditCommand, arguments: Mapping[str, Any]) -> list[str]:
        """Send a command of the table. arguments: all of them by name, as the client's method takes them. Returns the
        warnings about the edit, one per line."""
        if self.scope:
            await self.send("Scope", {"scope": self.scope})
        if entry.uploaded is not None:
            for number, page in enumerate(split_pages(arguments[entry.uploaded.name])):
                await self.send("Upload", {"page": page, "first": number == 0})
        sent = {argument.name: _encode(argument, arguments[argument.name]) for argument in entry.on_the_wire}
        response = await self.send(entry.edit, sent)
        return list(response.get("warnings", ()))

    async def read(self, view: str, ident: str | None = None) -> Any:
        """Return the named view, whole."""
        return await self._read_pages(await self.send("Read", {"view": view, "ident": ident}))

    async def _read_pages(self, first: dict[str, Any]) -> Any:
        pages = [first["page"]]
        for number in range(1, first["pages"]):
            pages.append((await self.send("ReadPage", {"number": number}))["page"])
        return json.loads(b"".join(pages))

    async def table(self, ident: str | None = None) -> dict[str, Any]:
        """Return {"version": str, "services": [...], "settings": {name: value}}; a service as ktcpvs.model.describe
        describes it, and "running"."""
        return dict(await self.read("table", ident))

    async def stats(self, ident: str | None = None) -> dict[str, Any]:
        """Like `table`, with "stats" in each service and each of its servers; docs/tcpvsadm.md names the counters."""
        return dict(await self.read("stats", ident))

    async def connections(self, ident: str | None = None) -> list[dict[str, Any]]:
        """Return the client connections that are open."""
        return list(await self.read("connections", ident))

    async def close_connection(self, connection: str) -> dict[str, Any]:
        """Close the client connection with this `id` of `connections`: both sides are reset. Returns its description
        before that. Raises NoSuchConnection."""
        return dict(await self._read_pages(await self.send("CloseConnection", {"connection": connection})))

    async def rebalance(
        self, ident: str, percent: int, resets: bool = False, all_nodes: bool = False
    ) -> dict[str, Any]:
        """Let the oldest connections of a service move off servers that carry more than their share; docs/tcpvsadm.md
        names the values. Returns what moves; `rebalancing` in `stats` counts those that have not left yet.

        percent: 1 to 100, the most of a server's connections that move. resets: also reset connections whose protocol
        has no way to tell the client, such as those of TCP. all_nodes: of a cluster. Raises NoSuchService, or BadValue
        where the service cannot be rebalanced.
        """
        asked = {"ident": ident, "percent": percent, "resets": resets, "all_nodes": all_nodes}
        return dict(await self._read_pages(await self.send("Rebalance", asked)))

    async def schedulers(self) -> dict[str, Any]:
        """Return {"schedulers": [...], "broken": [...]}: the schedulers that were found, each with name, unit, module,
        summary, the number of services that use it, and its options (name, type, default, required, help); and the
        plugins that could not be loaded, with module and error."""
        return dict(await self.read("schedulers"))

    async def nodes(self) -> dict[str, Any]:
        """Return the nodes of the cluster; docs/cluster.md names the values. Raises BadValue without a cluster."""
        found: dict[str, Any] = await self.read("nodes", None)
        return found

    async def cluster_stats(self, ident: str | None = None) -> dict[str, Any]:
        """Like `stats`, added up over all nodes of the cluster, with "nodes" and "missing"; docs/tcpvsadm.md names the
        values. Raises BadValue without a cluster, and NoCluster while etcd cannot be asked."""
        return dict(await self.read("cluster_stats", ident))

    async def cluster_connections(self, ident: str | None = None) -> dict[str, Any]:
        """Return {"connections": [...], "nodes": [...], "missing": {...}}: the client connections of all nodes. Raises
        as `cluster_stats`."""
        return dict(await self.read("cluster_connections", ident))

    async def certificates(self, ident: str | None = None) -> list[dict[str, Any]]:
        """Return the certificates of running services; docs/tcpvsadm.md names the values."""
        return list(await self.read("certificates", ident))

    async def explain(
        self,
        ident: str,
        method: str | None = None,
        target: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        client: str = LOCAL_CLIENT,
        port: int | None = None,
        body: bytes = b"",
    ) -> dict[str, Any]:
        """Explain which server would handle a request; docs/tcpvsadm.md describes the result. No server is contacted.

        headers: (name, value) of header fields; a name may be repeated. client: the client's IP address. port: to which
        it connects; None: the first port of the service. body: of the request, at least as much of it as a scheduler
        reads, and at most 1 MiB.
        """
        return await self.explain_request(ident, AssumedRequest(method, target, headers, client, port, body))

    async def explain_request(self, ident: str, request: AssumedRequest) -> dict[str, Any]:
        """Explain as `explain` which server would handle this request."""
        arguments = {
            "method": request.method,
            "target": request.target,
            "headers": [{"name": name, "value": value} for name, value in request.headers],
            "client": request.client,
            "port": request.port,
        }
        if request.body:
            for number, page in enumerate(split_pages(request.body)):
                await self.send("Upload", {"page": page, "first": number == 0})
            arguments["has_body"] = True
        first = await self.send("Explain", {"ident": ident, **arguments})
        return dict(await self._read_pages(first))

    async def begin_trace(self, query: TraceQuery) -> int:
        """Begin a live trace of requests, which ends with this connection at the latest. Returns its number here.
        Raises NoSuchService, or a Refusal for conditions that cannot be read."""
        asked = {"conditions": query.text, "ident": query.ident, "count": query.count, "seconds": query.seconds}
        return int((await self.send("BeginTrace", asked))["number"])

    async def read_trace(self, number: int) -> TraceBatch:
        """Return what the trace has seen since the last call: as soon as there is something, or an empty batch after a
        second. The entries are lines of JSON; docs/tcpvsadm.md names the values."""
        return TraceBatch(**await self.send("ReadTrace", {"number": number}))

    async def end_trace(self, number: int) -> None:
        """End a trace. Does nothing if it has ended."""
        await self.send("EndTrace", {"number": number})

    async def why_not_ready(self) -> str:
        """Return why the daemon should get no clients now, in a few words, as its path /ready does; "": it is ready."""
        return str((await self.readiness())["reason"])

    async def readiness(self) -> dict[str, Any]:
        """Return {"reason": as of `why_not_ready`, "pid": the process of the daemon that serves; after a takeover that
        of the new one, "draining": [the processes of the daemons before it that still drain]}."""
        return dict(await self.read("readiness"))

    async def settings(self) -> list[dict[str, Any]]:
        """Return all settings: name, value, default, lowest, highest, unit, meaning."""
        return list(await self.read("settings"))


def _encode(argument: Argument, value: Any) -> Any:
    """Return the value of an argument as AMP takes it."""
    if argument.type in (ArgumentType.SERVICE_OPTIONS, ArgumentType.SETTINGS):
        return [{"name": name, "value": text_of(text)} for name, text in value.items()]
    return value
