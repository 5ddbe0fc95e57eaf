"""Answers about all nodes of a cluster together (--all-nodes): which nodes they are of, and where those differ."""

from __future__ import annotations

from typing import Any

from ktcpvs.errors import shorten

MAX_LENGTH = 1000
"""The most characters of a line about nodes."""


def describe_nodes(answer: dict[str, Any]) -> str:
    """Return "nodes a, b; did not respond: c"; "": the answer is of one daemon alone."""
    if "nodes" not in answer:
        return ""
    names = [one if isinstance(one, str) else one["node"] for one in answer["nodes"]]
    of_reason: dict[str, list[str]] = {}
    for node, reason in answer["missing"].items():
        of_reason.setdefault(reason, []).append(node)
    missing = [f"; {reason}: {', '.join(nodes)}" for reason, nodes in of_reason.items()]
    return shorten(f"nodes {', '.join(names)}{''.join(missing)}", MAX_LENGTH)


def format_nodes_line(answer: dict[str, Any]) -> str:
    """Return the line of a listing that says of which nodes it is; "": it is of one daemon alone. It is a comment,
    since the output of --list can be loaded again."""
    described = describe_nodes(answer)
    return described and f"# Of {described}.\n"


def describe_place(answer: dict[str, Any], nodes: list[str] | None) -> str:
    """Return " on a, b" for something that only these of the nodes have found; else "". nodes: None: the answer is of
    one daemon alone."""
    if not nodes or len(nodes) == len(answer.get("nodes", ())):
        return ""
    return shorten(f" on {', '.join(nodes)}", MAX_LENGTH)


def comparable(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two answers of `stats` whose counters may be compared: if they are of other nodes, each is added up again
    over the nodes that are in both."""
    names = [{one["node"] for one in answer.get("nodes", ())} for answer in (before, after)]
    if names[0] == names[1]:
        return before, after
    return _restricted(before, names[0] & names[1]), _restricted(after, names[0] & names[1])


def _restricted(answer: dict[str, Any], names: set[str]) -> dict[str, Any]:
    from ktcpvs.model.added_views import stats_of_nodes

    known = {one["node"]: one for one in answer["nodes"] if one["node"] in names}
    return {**stats_of_nodes(answer, known), "nodes": list(known.values())}
