"""How tcpvsadm shows answers about all nodes of a cluster, and nodes that are drained."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ktcpvs.control.blocking_client import run
from ktcpvs.control.tcpvsadm.all_nodes import comparable
from ktcpvs.control.tcpvsadm.asking import Asking
from ktcpvs.control.tcpvsadm.draining import format_node_progress, wait_until_node_drained
from ktcpvs.control.tcpvsadm.nodes import format_nodes, wait_for_nodes
from ktcpvs.control.tcpvsadm.output import compute_rates, format_connections, format_stats, format_table
from ktcpvs.control.tcpvsadm.top import layout_screen
from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.inspect.views import Views
from ktcpvs.model.added_views import part_of_node, stats_of_nodes
from ktcpvs.model.address import parse_address
from ktcpvs.model.edits import AddServer, AddService
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.system.log import EventLog


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    """The stats of a switch with one service, which has counted nothing."""
    from twisted.internet.testing import MemoryReactorClock

    director = Director(Context(MemoryReactorClock(), EventLog(), Descriptors(100)))
    director.submit(AddService("web", {"scheduler": "phttp"}))
    director.submit(AddServer("web", parse_address("10.0.0.1:80")))
    found = Views(director).view("stats", None)
    found["services"][0]["running"] = True
    return dict(found)


def node(table: dict[str, Any], total: int, state: str = "up", running: bool = True) -> dict[str, Any]:
    """The stats of a node that has accepted `total` clients."""
    made = copy.deepcopy(table)
    (service,) = made["services"]
    (server,) = service["servers"]
    service["running"] = running
    service["stats"]["total"] = server["stats"]["total"] = total
    if state != "up":
        server["health"] = {"state": state, "since": 86400.0, "reason": "timed out"}
    return made


def answered(table: dict[str, Any], missing: dict[str, str], **nodes: dict[str, Any]) -> dict[str, Any]:
    """What a node answers about all."""
    parts = {name: part_of_node(one) for name, one in nodes.items()}
    return {
        **stats_of_nodes(table, parts),
        "nodes": [{"node": name, **part} for name, part in parts.items()],
        "missing": missing,
    }


def test_a_listing_says_where_nodes_differ(table: dict[str, Any]) -> None:
    missing = {"d": "did not respond", "e": "gone", "f": "did not respond"}
    down = node(table, 4, "down")
    answer = answered(table, missing, a=node(table, 3), b=down, c=node(table, 0, running=False))
    shown = format_stats(answer)
    assert "\n# Of nodes a, b, c; did not respond: d, f; gone: e.\n" in shown
    assert "\n  not running on c\n" in shown
    assert "\n     down on b since 1970-01-0" in shown
    loadable = format_table(answer)
    assert "    # running\n    # not running on c\n    # 10.0.0.1:80 down on b since 1970-01-0" in loadable
    everywhere = format_stats(answered(table, {}, a=down, b=down))
    assert "\n     down since 1970-01-0" in everywhere


def test_connections_have_a_column_for_their_node() -> None:
    one = {
        "id": "db20bfd5",
        "service": "web",
        "client": "10.0.0.9:1",
        "server": None,
        "state": "reading head",
        "age": 1,
        "idle": 0,
        "bytes_in": 5,
        "bytes_out": 0,
        "node": "b",
    }
    answer = {"connections": [one], "nodes": ["a", "b"], "missing": {"c": "gone"}}
    line, headings, row = format_connections(answer).splitlines()
    assert line == "# Of nodes a, b; gone: c."
    assert (headings.split()[0], row.split()[:4]) == ("Node", ["b", "db20bfd5", "web", "10.0.0.9:1"])


def rate(answer: dict[str, Any]) -> int:
    return int(answer["services"][0]["rate"]["connections"])


def test_rates_are_of_the_nodes_that_have_answered_twice(table: dict[str, Any]) -> None:
    before = answered(table, {}, a=node(table, 100), b=node(table, 1000))
    after = answered(table, {}, a=node(table, 110), b=node(table, 1005))
    rates = compute_rates(*comparable(before, after), 1.0)
    assert (rate(rates), [rate(one) for one in rates["nodes"]]) == (15, [10, 5])
    joined = answered(table, {}, a=node(table, 110), c=node(table, 70_000))
    rates = compute_rates(*comparable(before, joined), 1.0)
    assert (rate(rates), [one["node"] for one in rates["nodes"]]) == (10, ["a"])
    assert comparable(table, table) == (table, table), "of one daemon alone"


def test_top_names_the_nodes(table: dict[str, Any]) -> None:
    before = answered(table, {}, a=node(table, 100))
    now = answered(table, {"c": "gone"}, a=node(table, 120), b=node(table, 9000, "down"))
    title, _, service, server = layout_screen(before, now, 2.0, (150, 20))
    assert "1 service, nodes a; gone: c" in title
    assert service.split()[:4] == ["web", "running", "0", "10"]
    assert server.split()[:3] == ["->", "10.0.0.1:80", "up"]
    now = answered(table, {}, a=node(table, 120), b=node(table, 9000, "down"))
    assert "10.0.0.1:80 on b" in layout_screen(now, now, 2.0, (150, 20))[3]


# Nodes that are drained.


def row(name: str, state: str, drain: str = "", connections: int = 0) -> dict[str, Any]:
    return {"node": name, "state": state, "drain": drain, "connections": connections, "errors": []}


def test_progress_of_a_node() -> None:
    assert format_node_progress(row("a", "ok", "leaving", 2)) == "leaving, still accepting, 2 clients"
    assert format_node_progress(row("a", "draining", "draining", 1)) == "draining 1 client"
    assert format_node_progress(row("a", "drained", "drained")) == "drained"


def test_the_table_of_nodes_shows_drains() -> None:
    nodes = [row("a", "draining", "draining", 12), row("b", "refused", "drained"), row("c", "ok")]
    shown = format_nodes({"node": "c", "etcd": "x", "connected": True, "problem": "", "revision": 1, "nodes": nodes})
    for text in ("draining 12 clients", "refused, drained"):
        assert text in shown


class Answers:
    """A switch whose nodes change from one question to the next."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self._answers = list(answers)

    async def nodes(self) -> dict[str, Any]:
        return {"nodes": self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]}


async def never() -> Any:
    raise AssertionError("the connection is not closed")


async def no_pause(seconds: float) -> None:
    return None


def test_waiting_for_a_node_ends_when_it_has_drained(capfd: pytest.CaptureFixture[str]) -> None:
    steps = [row("b", "leaving", "leaving", 3)], [row("b", "draining", "draining", 3)], [row("b", "drained", "drained")]
    run(wait_until_node_drained(no_pause, Asking(never, Answers(*steps)), "b"))  # type: ignore[arg-type]
    assert capfd.readouterr().out == "leaving, still accepting, 3 clients\ndrained\n"
    gone = Answers([{"node": "b", "state": "gone", "errors": []}])
    run(wait_until_node_drained(no_pause, Asking(never, gone), "b"))  # type: ignore[arg-type]
    assert capfd.readouterr().out == "gone\n"


def test_waiting_for_a_node_that_is_undrained_is_refused() -> None:
    with pytest.raises(Refusal, match="node b has been undrained"):
        run(wait_until_node_drained(no_pause, Asking(never, Answers([row("b", "ok")])), "b"))  # type: ignore[arg-type]


def test_a_drained_node_is_no_reason_for_a_warning_of_wait_nodes() -> None:
    lines: list[str] = []
    nodes = [row("a", "drained", "drained"), row("b", "ok"), {**row("c", "refused", "drained"), "errors": ["why"]}]
    run(wait_for_nodes(Answers(nodes), no_pause, lines.append))  # type: ignore[arg-type]
    assert lines == ["node c is refused: why"]
