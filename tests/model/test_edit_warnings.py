"""Warnings about what an edit leaves out."""

from __future__ import annotations

from attrs import evolve

from ktcpvs.model.address import parse_address
from ktcpvs.model.edit_warnings import MAX_NAMES, warnings_about_edit
from ktcpvs.model.edits import START_ALL, START_NEW, START_NOTHING, AddServer, Edit, EditRule, Load, StopService
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table


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
