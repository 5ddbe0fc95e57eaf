"""Waiting (--wait), with its progress printed: until a server or a node has drained."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.asking import Asking
from ktcpvs.errors import Refusal
from ktcpvs.model.address import Address, Inet, parse_address
from ktcpvs.system.names import service_port

POLL_INTERVAL = 0.5
"""Seconds between two requests for the connections."""

PRINT_INTERVAL = 10.0
"""Seconds between two lines of progress where standard output is not a terminal."""

IDLE_STATES = ("waiting for a request",)
"""States of client connections that use no server."""


async def complete_address(switch: SwitchBase, ident: str, text: str) -> str:
    """Return a server's address as the daemon writes it, with the service's port where `text` has none."""
    address = parse_address(text, service_port)
    if isinstance(address, Inet) and address.port is None:
        (service,) = (await switch.table(ident))["services"]
        listeners = service.get("listeners") or [service]
        for listen in (parse_address(listener["listen"]) for listener in listeners):
            if isinstance(listen, Inet):
                return str(address.with_port(listen.port))
    return str(address)


async def wait_until_drained(
    sleep: Callable[[float], Awaitable[object]], ask: Asking, ident: str | None, address: str
) -> None:
    """Return when no connection uses that server any more, and no daemon from which this one has taken over still
    drains: its connections are not known, and may use the server. sleep: waits for that many seconds. ident: of the
    service; None: in all services. address: without a port: all servers of that host."""

    async def progress() -> tuple[str, bool]:
        before = await ask(_draining_daemons)
        left = await ask(lambda switch: _find_connections(switch, ident, address))
        if before and not left:
            return _format_daemons(before), False
        return format_progress([connection["age"] for connection in left]), not left

    await show_until_done(sleep, progress)


async def _draining_daemons(switch: SwitchBase) -> list[int]:
    """Return the processes of the daemons before this one that still drain."""
    try:
        return list((await switch.readiness()).get("draining", []))
    except Refusal:  # of a version that does not know this view
        return []


def _format_daemons(pids: list[int]) -> str:
    processes = f"process {pids[0]}" if len(pids) == 1 else f"processes {', '.join(map(str, pids))}"
    return f"connections of the daemon before the takeover still drain, {processes}"


async def wait_until_node_drained(sleep: Callable[[float], Awaitable[object]], ask: Asking, name: str) -> None:
    """Return when a node of the cluster has no clients any more. Raises a Refusal if it is undrained meanwhile."""

    async def progress() -> tuple[str, bool]:
        nodes = {one["node"]: one for one in (await ask(lambda switch: switch.nodes()))["nodes"]}
        one = nodes.get(name, {"state": "gone"})
        if one["state"] in ("gone", "unknown"):
            return str(one["state"]), True
        if not one["drain"]:
            raise Refusal(f"node {name} has been undrained")
        return format_node_progress(one), one["drain"] == "drained"

    await show_until_done(sleep, progress)


async def show_until_done(
    sleep: Callable[[float], Awaitable[object]],
    progress: Callable[[], Awaitable[tuple[str, bool]]],
    prints: bool = True,
) -> None:
    """Print progress until it is done. progress: returns it as a text, and whether it is done. prints: False: only
    wait."""
    printed, last = "", -PRINT_INTERVAL
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    while True:
        text, is_done = await progress()
        now = time.monotonic()
        if prints and text != printed and (is_terminal or is_done or now - last >= PRINT_INTERVAL):
            write_out(f"\r\x1b[K{text}" if is_terminal else f"{text}\n")
            printed, last = text, now
        if is_done:
            write_out("\n" if is_terminal and prints else "")
            return
        await sleep(POLL_INTERVAL)


async def _find_connections(switch: SwitchBase, ident: str | None, text: str) -> list[dict[str, Any]]:
    """Return the connections that use the server."""
    address = parse_address(text, service_port)
    found = [one for one in await switch.connections(ident) if one["state"] not in IDLE_STATES]
    return [one for one in found if any(_is_meant(known, address) for known in (one["server"], one["name"]))]


def _is_meant(known: str | None, address: Address) -> bool:
    """Whether `known`, the address of a connection's server, is `address`, or has its host if that has no port."""
    server = parse_address(known) if known is not None else None
    if isinstance(server, Inet) and isinstance(address, Inet) and address.port is None:
        return server.host == address.host
    return server == address


def format_progress(ages: list[float]) -> str:
    """Return a line such as "12 client connections, oldest 4 min". ages: of the connections, in seconds."""
    if not ages:
        return "drained"
    count = "1 client connection" if len(ages) == 1 else f"{len(ages)} client connections"
    return f"{count}, oldest {_format_duration(max(ages))}"


def format_node_progress(node: dict[str, Any]) -> str:
    """Return a line such as "draining 12 clients". node: from `nodes`."""
    if node["drain"] == "drained":
        return "drained"
    count = node["connections"]
    clients = "1 client" if count == 1 else f"{count} clients"
    return f"{node['drain']}, still accepting, {clients}" if node["drain"] == "leaving" else f"draining {clients}"


def _format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 3600)} h"


def write_out(text: str) -> None:
    """Write to standard output at once."""
    if sys.stdout is not None and text:
        os.write(sys.stdout.fileno(), text.encode())
