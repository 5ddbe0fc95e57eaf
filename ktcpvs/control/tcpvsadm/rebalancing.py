"""The command --rebalance: what it asks for, what it prints, and how it waits."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.addresses import with_port_name
from ktcpvs.control.tcpvsadm.all_nodes import describe_nodes
from ktcpvs.control.tcpvsadm.draining import show_until_done, write_out
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.control.tcpvsadm.invocation import Invocation
from ktcpvs.errors import shorten

_PERCENT = re.compile(r"([0-9]{1,9})%?")

ROWS = 10
"""The most servers that are named."""


def read_percent(text: str) -> int:
    """Return the number in "20%" or "20". Raises UsageError."""
    found = _PERCENT.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= 100:
        raise UsageError(f"rebalance '{shorten(text, 40)}': expected 1% to 100% of a server's connections")
    return int(found[1])


async def rebalance(sleep: Callable[[float], Awaitable[object]], switch: SwitchBase, given: Invocation) -> Any:
    """Carry the command out. Returns the answer to print; None: with --wait, it and the progress have been printed.
    sleep: waits for that many seconds."""
    ident, all_nodes = given.values["ident"], "all-nodes" in given.values
    answer = await switch.rebalance(ident, read_percent(given.words[0]), "reset" in given.values, all_nodes)
    if "wait" in given.values and count_moving(answer):
        read = switch.cluster_stats if all_nodes else switch.stats

        async def progress() -> tuple[str, bool]:
            (service,) = (await read(ident))["services"]
            left = service["stats"].get("rebalancing", 0)
            return format_progress(left), not left

        prints = "json" not in given.values
        if prints:
            write_out(format_rebalance(answer, with_port_name))
        await show_until_done(sleep, progress, prints)
        return None if prints else answer
    return answer


def count_moving(answer: dict[str, Any]) -> int:
    """Return the number of connections that move."""
    return sum(row["moving"] for row in answer["servers"])


def format_progress(left: int) -> str:
    """Return a line such as "12 connections are still to move"."""
    if not left:
        return "all have moved"
    return "1 connection is still to move" if left == 1 else f"{left} connections are still to move"


def format_rebalance(answer: dict[str, Any], show: Callable[[str], str]) -> str:
    """Return a line about all, and one for each server that has too many. show: formats an address."""
    rows = [row for row in answer["servers"] if row["over"] or row["moving"]]
    moving, seconds = count_moving(answer), answer["seconds"]
    if not rows:
        first = "nothing to move: no server has more than its share"
    elif not moving:
        first = "nothing to move"
    else:
        when = f" within {seconds} s" if seconds else " now"
        first = f"{moving} connection{'s' if moving > 1 else ''} move{'' if moving > 1 else 's'}{when}"
    of = describe_nodes(answer)
    lines = [f"{answer['service']}: {first}{f', of {of}' if of else ''}"]
    lines += [f"{show(row['address'])}: {_describe(row)}" for row in rows[:ROWS]]
    if rows[ROWS:]:
        lines.append(f"and {len(rows) - ROWS} more servers; --json has all")
    return "".join(f"{line}\n" for line in lines)


def _describe(row: dict[str, Any]) -> str:
    """Return a text such as "60 connections, 30 above its share; 12 move, 18 are held by a cookie or a hash"."""
    parts = [f"{row['moving']} move{'s' if row['moving'] == 1 else ''}" if row["moving"] else ""]
    parts.append(f"{row['held']} held by a cookie or a hash" if row["held"] else "")
    parts.append(f"{row['uncloseable']} can only be reset (--reset)" if row["uncloseable"] else "")
    said = ", ".join(filter(None, parts)) or "the others end with their requests"
    active = f"{row['active']} connection{'' if row['active'] == 1 else 's'}"
    return f"{active}, {row['over']} above its share; {said}"
