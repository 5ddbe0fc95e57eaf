"""The nodes of a cluster: the table that --nodes prints, and waiting for all of them (--wait-nodes)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.columns import align
from ktcpvs.control.tcpvsadm.draining import format_node_progress
from ktcpvs.control.tcpvsadm.output import escape

POLL_INTERVAL = 0.2
"""Seconds between two questions for the nodes."""

MAX_WAIT = 30.0
"""The most seconds for which --wait-nodes waits."""


def format_nodes(answer: dict[str, Any], width: int = 0) -> str:
    """Format a line for each node, and then what it could not put in force."""
    has_labels = any(one.get("labels") for one in answer["nodes"])
    rows = [("Node", "State", "Revision", "Clients", "Version", "Since", *(["Labels"] if has_labels else []))]
    wrong: list[str] = []
    local: list[str] = []
    for one in answer["nodes"]:
        name = f"{one['node']}{' (this one)' if one['node'] == answer['node'] else ''}"
        since = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one["since"])) if "since" in one else "-"
        numbers = [str(one.get(key, "-")) for key in ("revision", "connections", "version")]
        state = one["state"]
        if drain := one.get("drain"):
            progress = format_node_progress(one)
            state = progress if state == drain else f"{state}, {progress}"
        labels = escape(", ".join(one.get("labels", ()))) or "-"
        rows.append((escape(name), state, *numbers, since, *([labels] if has_labels else [])))
        wrong += [f"node {one['node']}: {error}" for error in one["errors"]]
        local += [f"node {one['node']}: on this node only: {edit}" for edit in one.get("local", ())]
        local += [f"node {one['node']}: {note}" for note in one.get("notes", ())]
    trial = answer.get("trial")
    text = f"The table is at revision {answer['revision']}; this node asks {answer['etcd']}\n"
    if trial is not None:
        text += f"It is on trial: undone in {trial} s unless 'tcpvsadm --confirm' is run on any node\n"
    text += align(rows, "<<>><<" + "<" * has_labels, width)
    if not answer["connected"]:
        wrong.insert(0, f"this node does not follow the cluster: {answer['problem']}")
    lines = [*wrong, *local]
    return text + ("\n" + "".join(f"{escape(line)}\n" for line in lines) if lines else "")


async def wait_for_nodes(
    switch: SwitchBase, sleep: Callable[[float], Awaitable[object]], warn: Callable[[str], object]
) -> None:
    """Return when all nodes that are alive have the table in force. warn: told about those that do not."""
    until = time.monotonic() + MAX_WAIT
    while True:
        nodes = (await switch.nodes())["nodes"]
        behind = [one["node"] for one in nodes if one["state"] == "behind"]
        if not behind or time.monotonic() >= until:
            break
        await sleep(POLL_INTERVAL)
    for one in nodes:
        if one["state"] == "behind":
            warn(f"node {one['node']} does not have it in force after {MAX_WAIT:g} seconds")
        elif one["state"] not in ("ok", one.get("drain")):
            warn(f"node {one['node']} is {one['state']}{': ' if one['errors'] else ''}{'; '.join(one['errors'])}")
