"""Rules and services none of whose servers takes new clients: the warnings about edits, and the rows of views."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.model import edits
from ktcpvs.model.address import Inet, parse_address
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.model.unserved import unserved_rows, warnings_about_unserved
from ktcpvs.system.plugins import find_schedulers

KNOWN = find_schedulers().known
A, B, C = (parse_address(f"10.0.0.{number}:80") for number in (1, 2, 3))
CANARY = f"rule = name canary share 5% use server {A}"
STABLE = f'rule = name stable pattern ".*" use server {B}'
READY_AGAIN = f"to use {A} again: 'tcpvsadm --ready -i s -r {A}'"


def table(*lines: str, scheduler: str = "phttp") -> Table:
    text = "\n".join(("Virtual s {", "listen = 127.0.0.1:80", f"scheduler = {scheduler}", *lines, "}\n"))
    return parse(text).apply(Table())


def canary(*more: str, scheduler: str = "phttp") -> Table:
    """A rule with one server, and one with another, which takes the rest."""
    return table(f"server = {A}", f"server = {B}", *more, CANARY, STABLE, scheduler=scheduler)


def warned(before: Table, *changes: edits.Edit) -> list[str]:
    """Carry the edits out, and return the warnings about the last one."""
    for edit in changes[:-1]:
        before = edit.apply(before)
    edit = changes[-1]
    found = warnings_about_unserved(edit, before.services, edit.apply(before).services, KNOWN.values)
    return [line.removeprefix("service s: ") for line in found]


def test_the_drain_of_the_only_server_of_a_rule() -> None:
    (line,) = warned(canary(), edits.Drain(A))
    assert line == (
        "rule 'canary' has no server left that takes clients: requests that match it get status 503, since no later "
        f"rule is tried; {READY_AGAIN}; to use another one: 'tcpvsadm --edit-rule -i s --rule canary use server "
        "ADDRESS'"
    )
    assert warned(canary(), edits.Drain(Inet("10.0.0.1", None), "s")) == [line]
    assert warned(canary(), edits.Maintenance(A)) == [line]
    assert warned(canary(), edits.Drain(A), edits.Drain(A)) == [line], "the command is repeated"
    assert warned(canary(), edits.Drain(A), edits.Drain(B))[0].startswith("no server of it is ready: ")


@pytest.mark.parametrize(
    "edit",
    [
        edits.Ready(A),
        edits.EditServer("s", A, 5),
        edits.AddServer("s", C),
        edits.AddRule("s", "path /x/", B),
        edits.MoveRule("s", "stable", None),
        edits.EditService("s", {"balance": "rr"}),
    ],
    ids=lambda edit: edit.name,
)
def test_an_edit_that_takes_no_server_away_says_nothing(edit: edits.Edit) -> None:
    assert warned(canary(), edits.Drain(A), edit) == []


@pytest.mark.parametrize(
    ("before", "edit", "again"),
    [
        (canary(), edits.EditServer("s", A, 0), f"tcpvsadm -e -i s -r {A} -w 1"),
        (canary(), edits.EditServer("s", A, options={"mode": "drain"}), f"tcpvsadm --ready -i s -r {A}"),
        (
            canary(),
            edits.EditRule("s", "canary", action=f"server {A} 0 server {B} 0"),
            f"tcpvsadm --edit-rule -i s --rule canary use server {A}",
        ),
        (
            canary().with_service(edits.Drain(B).apply(canary()).service("s")),
            edits.EditRule("s", "canary", action=f"server {B}"),
            f"tcpvsadm --ready -i s -r {B}",
        ),
    ],
    ids=["weight of the server", "mode of the server", "weights in the rule", "another server"],
)
def test_other_edits_that_leave_a_rule_without_a_server(before: Table, edit: edits.Edit, again: str) -> None:
    lines = [line for line in warned(before, edit) if line.startswith("rule 'canary'")]
    assert [f" again: '{again}'; " in line for line in lines] == [True]


def test_a_rule_loses_the_last_server_that_is_not_drained() -> None:
    both = table(
        f"server = {A} 1 drain",
        f"server = {B}",
        f"rule = path /a/ use server {A} server {B}",
        f"rule = path / use server {B}",
    )
    (line,) = warned(both, edits.DeleteRule("s", "1", B))
    assert line.startswith("rule 'path /a/' has no server left")
    assert "--edit-rule -i s --rule 1 use server ADDRESS'" in line
    hidden = table(f"server = {A} 1 drain", f"server = {B}", f"rule = path / use server {B}", CANARY)
    assert warned(hidden, edits.StartService("s")) == [], "no request reaches it"
    assert warned(hidden, edits.MoveRule("s", "canary", "1"))[0].startswith("rule 'canary' has no server left")


def test_several_rules_share_a_line() -> None:
    (line,) = warned(canary(f"rule = name testers header X use server {A}"), edits.Drain(A))
    assert line.startswith("rule 'testers' and 1 more have no server left that takes clients: requests that match one")


@pytest.mark.parametrize(
    "before",
    [
        canary("redirect = 10.0.0.9:80"),
        canary(scheduler="wlc"),
        table(f"server = {A}", f"server = {B}", "rule = share 5% use respond 200", STABLE),
        table(f"server = {A}", f"server = {B} 1 backup", f"rule = share 5% use server {A} server {B}", STABLE),
        table(f"server = {A}", f"server = {B}", f"rule = share 0% use server {A}", STABLE),
    ],
    ids=["redirect", "no rules are read", "the rule responds", "backup", "switched off"],
)
def test_something_takes_over(before: Table) -> None:
    assert warned(before, edits.Drain(A)) == []


def test_clients_of_a_scheduler_without_requests() -> None:
    sni = table(
        f"server = {A}",
        f"server = {B}",
        f"rule = host a.example use server {A}",
        f"rule = share 100% use server {B}",
        scheduler="sni",
    )
    (line,) = warned(sni, edits.Drain(A))
    assert ": clients that match it are refused, since no later rule is tried; " in line


def test_a_service_without_a_server() -> None:
    plain = table(f"server = {A}", f"server = {B} 0", scheduler="wlc")
    again = f"to use one again: 'tcpvsadm -e -i s -r {B} -w 1'"
    nobody = f"no server of it takes new clients, which are refused: each is drained or has the weight 0; {again}"
    assert warned(plain, edits.Drain(A)) == [nobody]
    assert warned(plain, edits.DeleteServer("s", A)) == [nobody]
    assert warned(plain, edits.EditServer("s", A, 0)) == [nobody.replace(str(B), str(A))]
    assert warned(plain, edits.EditServer("s", A, 0), edits.EditServer("s", B, maxconn=5)) == []
    assert warned(plain, edits.Drain(A), edits.StartService("s")) == [nobody]
    gone = (edits.DeleteServer("s", A), edits.DeleteServer("s", B))
    assert warned(plain, *gone) == ["it has no servers left: every client is refused"]
    responds = table(f"server = {A}", "rule = path / use respond 200")
    assert warned(responds, edits.Drain(A)) == []
    assert warned(table(f"server = {A}", "redirect = 10.0.0.9:80", scheduler="wlc"), edits.Drain(A)) == [
        "no server of it is ready: new clients go to the redirect address; to use one again: --ready"
    ]


def row(*rules: tuple[str, tuple[str, ...]], **states: str) -> dict[str, Any]:
    """A service of a view. rules: conditions and servers. states: name of a server -> state."""
    return {
        "stats": {"rules": {"any": 0}},
        "servers": [{"address": one, "name": None, "health": {"state": state}} for one, state in states.items()],
        "rules": [
            {"pattern": pattern, "name": None, "servers": list(servers), "weights": []} for pattern, servers in rules
        ],
    }


ALL, PART = (".*", ("b",)), ("path /a/", ("a",))


@pytest.mark.parametrize(
    ("service", "found"),
    [
        (row(PART, ALL, a="draining", b="up"), {"path /a/": False}),
        (row(PART, ALL, a="up", b="down"), {".*": True}),
        (row(("share 100%", ("a",)), ALL, a="down", b="up"), {"share 100%": True}),
        (row(("share 100%", ("b",)), ("path /a/", ("a",)), a="down", b="up"), {}),
        (row(ALL, PART, a="down", b="up"), {"path /a/": False}),
        (row(("share 0%", ("a",)), ALL, a="down", b="up"), {}),
        (row(PART, ALL, a="ejected", b="up"), {}),
        (row(PART, ALL, a="standby", b="up"), {}),
        (row(PART, ALL, a="down", b="down"), {}),
        (row(PART, ALL, a="up", b="up"), {}),
        (row(("path /r/", ()), ALL, a="down", b="up"), {}),
        ({**row(PART, ALL, a="down", b="up"), "redirect": "10.0.0.9:80"}, {}),
        ({**row(PART, ALL, a="down", b="up"), "stats": {"rules": {}}}, {}),
        (row(("of a later version", ("a",)), ALL, a="down", b="up"), {"of a later version": False}),
    ],
    ids=[
        "a part", "all", "share 100%", "hidden", "a default rule is last", "switched off", "ejected is used", "standby",
        "the service has none", "fine", "an action", "redirect", "no rules are read", "unknown conditions",
    ],
)  # fmt: skip
def test_rules_of_a_view(service: dict[str, Any], found: dict[str, bool]) -> None:
    assert {rule["pattern"]: takes_all for rule, takes_all in unserved_rows(service)} == found


def test_names_and_weights_of_servers_in_a_view() -> None:
    service = row(PART, ALL, b="up", x="down", y="up")
    service["servers"][1]["name"] = service["servers"][2]["name"] = "a"
    assert unserved_rows(service) == [], "one of its addresses is up"
    service["rules"][0]["weights"] = [0]
    assert [rule["pattern"] for rule, _ in unserved_rows(service)] == ["path /a/"]
