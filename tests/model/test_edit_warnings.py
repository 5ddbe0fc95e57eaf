"""Warnings about what an edit leaves out, and about rules that can do nothing since the edit."""

from __future__ import annotations

import pytest
from attrs import evolve

from ktcpvs.model.address import parse_address
from ktcpvs.model.edit_warnings import MAX_NAMES, warnings_about_edit, warnings_about_rules
from ktcpvs.model.edits import (
    START_ALL,
    START_NEW,
    START_NOTHING,
    AddListener,
    AddRule,
    AddServer,
    DeleteRule,
    Edit,
    EditRule,
    EditService,
    Load,
    MoveRule,
    StartService,
    StopService,
)
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.system.plugins import find_schedulers

KNOWN = find_schedulers().known


def warned(table: Table, *edits: Edit) -> list[str]:
    """Carry the edits out; return the warnings about the last one."""
    for edit in edits[:-1]:
        table = edit.apply(table)
    return list(warnings_about_edit(edits[-1], table, edits[-1].apply(table)))


def services(*names: str) -> Load:
    return parse("".join(f"Virtual {name} {{ listen = 127.0.0.1:{port} }}\n" for port, name in enumerate(names, 8000)))


def test_a_server_without_a_port_gets_that_of_the_service() -> None:
    table = services("web").apply(Table())
    assert warned(table, AddServer("web", parse_address("10.0.0.1"))) == [
        "service web: server 10.0.0.1 gets port 8000, that of the service, since it names none (example with a port: "
        "10.0.0.1:80)"
    ]
    for server in ("10.0.0.1:80", "unix:/run/web.sock", "srv:_http._tcp.api.example"):
        assert warned(table, AddServer("web", parse_address(server))) == []


RULES = """
Virtual shop {
    listen = 127.0.0.1:8000
    scheduler = phttp
    server = 10.0.0.1:80
    rule = name canary share 5% not path /pay/ header X-A "1" use server 10.0.0.1:80
    rule = path /a/ use server 10.0.0.1:80
}
"""


def about_rule(rule: str, conditions: str | None, name: str | None = None) -> list[str]:
    return warned(Table(), parse(RULES), EditRule("shop", rule, conditions, new_name=name))


def test_conditions_that_an_edit_of_others_leaves_out_are_named() -> None:
    (line,) = about_rule("canary", "share 20%")
    assert line.startswith("service shop: rule 'canary' no longer has: ")
    assert line.endswith(
        'not path /pay/ header X-A "1"; the conditions that are given take the place of all; to keep these, give them '
        'each time: share 20% not path /pay/ header X-A "1"'
    )
    (line,) = about_rule("canary", 'share 20% path /pay/ header X-A "2"')
    assert " no longer has: not path /pay/; " in line
    (line,) = about_rule("1", 'share 20% not path /b/ header X-B "1"', "new")
    assert line.startswith("service shop: rule 'canary' no longer has: header X-A")


def test_conditions_that_change_or_are_all_exchanged_have_no_warning() -> None:
    assert about_rule("canary", 'share 20% not path /pay/ /checkout/ header X-A "2" method GET') == []
    assert about_rule("canary", "method GET") == []
    assert about_rule("canary", None, "new") == []
    assert about_rule("path /a/", "path /b/") == []
    assert about_rule("path /a/", "^/images/") == []


MODIFIERS = parse("""
Virtual shop {
    listen = 127.0.0.1:8000
    scheduler = phttp
    server = 10.0.0.1:80
    rule = name a path /a/ rate 5/m balance wrr request_header X-A "1" request_header X-B "1" use server 10.0.0.1:80
    rule = name b path /b/ use server 10.0.0.1:80
}
""")


def about_modifiers(modifiers: str, rule: str = "a") -> list[str]:
    return warned(Table(), MODIFIERS, EditRule("shop", rule, modifiers=modifiers))


def test_modifiers_that_an_edit_of_others_leaves_out_are_named() -> None:
    assert about_modifiers("strip_prefix /a") == [
        'service shop: rule \'a\' no longer has: rate 5/m balance wrr request_header X-A "1" request_header X-B "1"; '
        "the modifiers that are given take the place of all; to keep these, give them each time: strip_prefix /a "
        'rate 5/m balance wrr request_header X-A "1" request_header X-B "1"'
    ]
    (line,) = about_modifiers('rate 10/m balance rr request_header x-a "2"')
    assert ' no longer has: request_header X-B "1"; ' in line
    (line,) = about_modifiers('rate 10/m balance rr response_header X-A "2" request_header X-B "2"')
    assert ' no longer has: request_header X-A "1"; ' in line


def test_modifiers_that_change_or_come_have_no_warning() -> None:
    all_of_them = 'rate 6/m balance rr request_header X-B "2" request_header X-A "2"'
    assert about_modifiers(f"{all_of_them} strip_prefix /a") == []
    assert about_modifiers("strip_prefix /b", "b") == []


def test_services_that_a_load_leaves_stopped_are_named() -> None:
    load = evolve(services("a", "b", "c"), start=START_NEW)
    assert warned(Table(), load) == []
    assert warned(Table(), load, StopService("b"), load) == [
        "service b stays stopped, as before the load; to start it: 'tcpvsadm --start -i b'"
    ]
    assert warned(Table(), load, StopService("b"), StopService("a"), load) == [
        "services a, b stay stopped, as before the load; each is started by 'tcpvsadm --start -i a'"
    ]
    for start in (START_ALL, START_NOTHING):  # which start all, or were not asked to start anything
        assert warned(Table(), load, StopService("b"), evolve(load, start=start)) == []


def test_few_of_many_stopped_services_are_named() -> None:
    many = services(*(f"s{number}" for number in range(MAX_NAMES + 2)))
    (line,) = warned(Table(), many, evolve(many, start=START_NEW))
    assert line.startswith("services s0, s1, ")
    assert f"s{MAX_NAMES - 1} and 2 more stay stopped" in line


A, B = parse_address("10.0.0.1:80"), parse_address("10.0.0.2:80")
HIDDEN = "rule '{}' can never be reached: rule '{}' is tried first and {}"
ALL, NO_MORE = "matches every request", "asks for no more"
EDIT_IT, MOVE_IT = "; to change what that one does: --edit-rule", "; to try this one first: --move-rule"


def loaded(*rules: str, scheduler: str = "phttp") -> Table:
    lines = [f"scheduler = {scheduler}", "listen = 127.0.0.1:80", f"server = {A}", f"server = {B}"]
    lines += ["certificate = /etc/ssl/site.pem", *(f"rule = {rule}" for rule in rules)]
    return parse("\n".join(("Virtual s {", *lines, "}\n"))).apply(Table())


def about_rules(table: Table, *edits: Edit) -> list[str]:
    """Carry the edits out; return the warnings about rules that are due after the last one."""
    for edit in edits[:-1]:
        table = edit.apply(table)
    edit = edits[-1]
    found = warnings_about_rules(edit, table.services, edit.apply(table).services, KNOWN.values)
    return [line.removeprefix("service s: ") for line in found]


RESPONDS, SERVES = 'pattern ".*" use respond 200', f"use server {A}"


@pytest.mark.parametrize(
    ("rules", "edit", "text"),
    [
        pytest.param(
            [RESPONDS], AddRule("s", ".*", A, rule_name="stable"), HIDDEN.format("stable", ".*", ALL) + EDIT_IT,
            id="added behind the text of the quick start",
        ),
        pytest.param(
            [f"path / {SERVES}"], AddRule("s", "path /x/", A), HIDDEN.format("path /x/", "path /", ALL) + MOVE_IT,
            id="added behind a path of all requests",
        ),
        pytest.param(
            [RESPONDS], AddRule("s", "path /", A), HIDDEN.format(".*", "path /", ALL), id="hides the default rule"
        ),
        pytest.param(
            [f"path /x/ {SERVES}"], AddRule("s", "path /", A, before="1"), HIDDEN.format("path /x/", "path /", ALL),
            id="added before",
        ),
        pytest.param(
            [f"path /x/ {SERVES}", RESPONDS], AddRule("s", "path /x/ tls", A),
            HIDDEN.format("path /x/ tls", "path /x/", NO_MORE) + MOVE_IT, id="added behind one that asks for less",
        ),
        pytest.param(
            [f"path /x/ tls {SERVES}"], AddRule("s", "tls path /x/", A, rule_name="b"),
            HIDDEN.format("b", "path /x/ tls", NO_MORE) + EDIT_IT, id="added behind its equal",
        ),
        pytest.param(
            [f"name canary share 5% {SERVES}", RESPONDS], EditRule("s", "canary", "share 100%"),
            HIDDEN.format(".*", "canary", ALL), id="edited",
        ),
        pytest.param(
            [f"path /x/ {SERVES}", f"path /y/ {SERVES}"], EditRule("s", "2", "path /x/ tls", new_name="b"),
            HIDDEN.format("b", "path /x/", NO_MORE), id="edited and renamed",
        ),
        pytest.param(
            [f"path /x/ tls {SERVES}", f"path /x/ {SERVES}"], MoveRule("s", "1"),
            HIDDEN.format("path /x/ tls", "path /x/", NO_MORE), id="moved",
        ),
    ],
)  # fmt: skip
def test_a_rule_that_an_edit_makes_unreachable_is_named(rules: list[str], edit: Edit, text: str) -> None:
    assert about_rules(loaded(*rules), edit) == [text]


def test_a_scheduler_that_reads_rules_makes_some_unreachable() -> None:
    table = loaded(f"path / {SERVES}", f"path /x/ {SERVES}", scheduler="wlc")
    to_phttp = EditService("s", {"scheduler": "phttp"})
    assert about_rules(table, to_phttp) == [HIDDEN.format("path /x/", "path /", ALL)]
    assert about_rules(table, to_phttp, EditService("s", {"scheduler": "chttp"})) == []
    assert about_rules(table, MoveRule("s", "1")) == []


@pytest.mark.parametrize(
    "edit",
    [
        AddRule("s", "path /z/", A, before="1"),
        AddRule("s", "", B, rule_name="b"),
        EditRule("s", "b", new_name="d"),
        EditRule("s", "b", "path /y/"),
        EditRule("s", "path /", new_name="all"),
        EditRule("s", "path /", "path / /w"),
        DeleteRule("s", "c", B),
        MoveRule("s", "b"),
        AddServer("s", parse_address("10.0.0.3:80")),
        EditService("s", {"maxclients": 5}),
        StartService("s"),
        Load(loaded(f"path / {SERVES}", f"path /x/ {SERVES}").services),
    ],
    ids=lambda edit: edit.name,
)
def test_a_rule_that_was_unreachable_before_is_not_named(edit: Edit) -> None:
    """A load and a start name it with all other warnings about the whole service."""
    rules = [f"path / {SERVES}", f"name b path /x/ {SERVES}", f"name c path /v/ {SERVES} server {B}"]
    table = loaded(*rules)
    assert about_rules(table, edit) == []


def test_a_redirect_that_leads_clients_of_tls_back_is_named_once() -> None:
    table = loaded("path /pay/ use redirect 301 https")
    with_tls = AddListener("s", parse_address("127.0.0.1:443"), True)
    text = (
        "rule '{}' redirects clients that speak TLS to the same URL again; with the condition 'not tls' it leaves "
        "them alone"
    )
    assert about_rules(table, with_tls) == [text.format("path /pay/")]
    assert about_rules(table, with_tls, AddRule("s", "path /b/", action="redirect https")) == [text.format("path /b/")]
    assert about_rules(table, with_tls, EditRule("s", "1", "path /b/")) == []
    assert about_rules(table, with_tls, EditRule("s", "1", "path /b/ not tls")) == []
    assert about_rules(table, AddRule("s", "path /b/", action="redirect https")) == []
