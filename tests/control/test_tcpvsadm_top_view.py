"""Keys change the screen of --top: scrolling, the filter, the order, the pause and the help."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.control.tcpvsadm.top import layout_screen
from ktcpvs.control.tcpvsadm.top_view import KEYS, TopView
from ktcpvs.model.latency import described

SIZE = (80, 12)


def stats() -> dict[str, Any]:
    return {"total": 0, "bytes_in": 0, "bytes_out": 0, "active": 0, "refused": 0, "queued": 0}


def server(address: str, state: str = "up", active: int = 0, maxconn: int = 0) -> dict[str, Any]:
    counts = {**stats(), "active": active, "failures": 0, **described(None)}
    health = {"state": state, "since": 0, "reason": ""}
    return {"address": address, "name": None, "weight": 1, "maxconn": maxconn, "health": health, "stats": counts}


def service(ident: str, *servers: dict[str, Any]) -> dict[str, Any]:
    return {
        "ident": ident, "running": True, "here": True, "redirect": None, "maxclients": 0, "stats": stats(),
        "servers": list(servers),
    }  # fmt: skip


def screen(view: TopView, *services: dict[str, Any]) -> list[str]:
    return layout_screen(None, {"version": "1", "services": list(services)}, 1.0, SIZE, view=view)


def names(lines: list[str]) -> list[str]:
    return [line.removeprefix("  -> ").split()[0] for line in lines[2:] if not line.startswith("...")]


GOOD = service("good", server("10.0.0.1:80"), server("10.0.0.2:80"))
BAD = service("bad", server("10.0.1.1:80"), server("10.0.1.2:80", "down"))
FULL = service("full", server("10.0.2.1:80", active=5, maxconn=5))
MANY = [service(f"s{number:02}") for number in range(40)]


def test_trouble_comes_first_or_the_order_of_the_table() -> None:
    view = TopView()
    assert names(screen(view, GOOD, FULL, BAD)) == [
        "bad", "10.0.1.2:80", "10.0.1.1:80", "full", "10.0.2.1:80", "good", "10.0.0.1:80", "10.0.0.2:80",
    ]  # fmt: skip
    view.press(b"s")
    lines = screen(view, GOOD, FULL, BAD)
    assert names(lines)[:4] == ["good", "10.0.0.1:80", "10.0.0.2:80", "full"]
    assert lines[0].startswith("[order of the table] ")


def test_a_rule_without_a_server_is_trouble() -> None:
    rule = {"pattern": "path /a/", "name": "api", "servers": ["10.0.4.1:80"], "weights": []}
    one = service("rules", server("10.0.4.1:80", "draining"), server("10.0.4.2:80"))
    one |= {"rules": [rule], "stats": {**stats(), "rules": {"api": 0}}}
    lines = screen(TopView(), GOOD, one)
    assert names(lines)[:2] == ["rules", "rule"]
    assert lines[3].split() == ["rule", "api", "no", "server", *["-"] * (len(lines[3].split()) - 4)]
    assert names(screen(TopView(), GOOD, {**one, "running": False}))[0] == "good"


def test_a_server_with_errors_is_trouble() -> None:
    failing = service("failing", server("10.0.3.1:80"))
    before = {"version": "1", "services": [GOOD, failing]}
    failed = server("10.0.3.1:80")
    failed["stats"]["failures"] = 3
    now = {"version": "1", "services": [GOOD, service("failing", failed)]}
    assert names(layout_screen(before, now, 1.0, SIZE, view=TopView()))[0] == "failing"


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        (b"\x1b[B", "s01"),
        (b"\x1bOB\x1b[B\x1b[A", "s01"),
        (b"jjjk", "s02"),
        (b"\x1b[6~", "s08"),
        (b"\x1b[6~\x1b[5~", "s00"),
        (b"\x1b[F", "s30"),
        (b"\x1b[F\x1b[H", "s00"),
        (b"\x1b[A", "s00"),
    ],
)
def test_scrolling(keys: bytes, first: str) -> None:
    view = TopView()
    screen(view, *MANY)
    view.press(keys)
    lines = screen(view, *MANY)
    assert names(lines)[0] == first
    assert len(lines) == SIZE[1]
    assert lines[-1].startswith("s39 " if first == "s30" else "... and ")


def test_the_filter() -> None:
    view = TopView()
    view.press(b"/1.2")
    assert names(screen(view, GOOD, FULL, BAD)) == ["bad", "10.0.1.2:80"]
    assert screen(view, GOOD)[0].startswith("[/1.2_] ")
    view.press(b"\x7f\x7f\x7fgoodq\x7f\r")
    assert view.filter == "good"
    assert names(screen(view, GOOD, FULL, BAD)) == ["good", "10.0.0.1:80", "10.0.0.2:80"]
    assert screen(view, GOOD)[0].startswith("[/good] ")
    assert not view.has_quit
    view.press(b"/DOWN\r")
    assert names(screen(view, GOOD, FULL, BAD)) == ["bad", "10.0.1.2:80"]
    view.press(b"\x1b")
    assert len(names(screen(view, GOOD, FULL, BAD))) == 8


def test_pause_help_and_quit() -> None:
    view = TopView()
    view.press(b" ")
    assert view.is_paused
    assert screen(view, GOOD)[0].startswith("[paused] ")
    view.press(b" h")
    assert not view.is_paused
    shown = "\n".join(screen(view, GOOD))
    assert all(key in shown for key, _ in KEYS)
    view.press(b"h")
    assert names(screen(view, GOOD))[0] == "good"
    view.press(b"/q")
    assert not view.has_quit
    view.press(b"\x03")
    assert view.has_quit


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize("state", ["maintenance", "unresolved"])
def test_long_states_and_titles_fit_into_narrow_terminals(columns: int, state: str) -> None:
    server = {**GOOD["servers"][0], "health": {"state": state, "since": 1.0, "reason": "x"}}
    now = {"version": "0.1.dev1143+ga93c5f606", "services": [{**GOOD, "servers": [server]}]}
    shown = layout_screen(None, now, 1.0, (columns, 10), view=TopView())
    assert max(map(len, shown)) <= columns
    assert "1 service " in shown[0].split(", ")[-1] + " "
    assert "..." not in shown[0]
    assert any(f" {state} " in line for line in shown)
    keys = layout_screen(None, now, 1.0, (columns, 40), view=TopView(has_help=True))
    assert max(map(len, keys)) <= columns
    assert "Esc ends it" in " ".join(" ".join(keys).split())
