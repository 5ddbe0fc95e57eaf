"""Warnings about requests that no rule matches, and the default rule that they propose."""

from __future__ import annotations

import re

import pytest

from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.language.parser import parse
from ktcpvs.model.service import VirtualService
from ktcpvs.model.service_plugins import ServicePlugins
from ktcpvs.model.table import Table
from ktcpvs.model.unmatched import CATCH_ALL
from ktcpvs.model.warnings import warnings_about
from ktcpvs.system.plugins import find_schedulers

KNOWN = find_schedulers().known
A = parse_address("10.0.0.1:80")
SERVER = "server = 10.0.0.1:80"
ONE = "rule = path /one/ use server 10.0.0.1:80"
TWO = "rule = path /two/ use server 10.0.0.1:80"
DEFAULT = 'rule = pattern ".*" use server 10.0.0.1:80'
COMMAND = "for a default rule: tcpvsadm --add-rule -i s pattern '.*' "
LINE = 'for a default rule: rule = pattern ".*" '
MEANT = " (or, if that is meant: use respond 404)"


def plugins(service: VirtualService) -> ServicePlugins:
    return ServicePlugins(KNOWN[service.scheduler], KNOWN[service.balance])


def configuration(*lines: str, scheduler: str = "phttp") -> edits.Load:
    return parse("\n".join(("Virtual s {", "listen = 127.0.0.1:80", f"scheduler = {scheduler}", *lines, "}\n")))


def table(*lines: str, scheduler: str = "phttp") -> Table:
    return configuration(*lines, scheduler=scheduler).apply(Table())


def warned(before: Table, edit: edits.Edit) -> list[str]:
    """Carry `edit` out, and return what is said of requests that no rule matches."""
    found = warnings_about(edit, before.services, edit.apply(before).services, plugins, KNOWN.values)
    return [line.removeprefix("service s: ") for line in found if "default rule" in line]


def test_the_first_rule_takes_the_place_of_all_servers() -> None:
    (line,) = warned(table(SERVER), edits.AddRule("s", "path /one/", A))
    assert line == (
        "requests that its only rule 'path /one/' does not match get status 503 now; until now, all its servers served "
        f"them; {COMMAND}use server 10.0.0.1:80{MEANT}"
    )


def test_the_first_rule_of_a_service_without_servers_takes_nothing_away() -> None:
    (line,) = warned(table(), edits.AddRule("s", "share 10%", action="respond 200"))
    assert (
        line == f"requests that its only rule 'share 10%' does not match get status 503 now; {COMMAND}use respond 404"
    )


def test_what_is_proposed_ends_the_warning() -> None:
    before = edits.AddRule("s", "path /one/", A).apply(table(SERVER))
    (line,) = warned(before, edits.StartService("s"))
    found = re.search(r"pattern '(.*)' use (server .*?) \(", line)
    assert found
    after = edits.AddRule("s", found[1], action=found[2]).apply(before)
    assert warned(after, edits.StartService("s")) == []
    (line,) = warned(Table(), configuration(SERVER, ONE))
    found = re.search(r"default rule: (.*) \(", line)
    assert found
    assert warned(Table(), configuration(SERVER, ONE, found[1])) == []


def test_a_second_rule_changes_nothing_and_is_not_warned_of() -> None:
    assert warned(table(SERVER, ONE), edits.AddRule("s", "path /two/", A)) == []


@pytest.mark.parametrize(
    "edit",
    [
        edits.DeleteRule("s", ".*", A),
        edits.EditRule("s", ".*", "path /x"),
        edits.EditRule("s", ".*", "method GET"),
    ],
    ids=["deleted", "path", "method"],
)
def test_the_loss_of_the_default_rule_is_warned_of(edit: edits.Edit) -> None:
    (line,) = warned(table(SERVER, ONE, TWO, DEFAULT), edit)
    assert re.match(r"requests that none of its [23] rules matches get status 503 now; for a default rule: ", line)


@pytest.mark.parametrize(
    "edit",
    [
        edits.DeleteRule("s", "path /one/", A),
        edits.EditRule("s", "path /one/", "path /x"),
        edits.EditRule("s", ".*", action="respond 404"),
        edits.EditService("s", {"maxclients": 5}),
    ],
    ids=["deleted", "edited", "action", "option"],
)
def test_an_edit_that_leaves_the_default_rule_is_not_warned_of(edit: edits.Edit) -> None:
    assert warned(table(SERVER, ONE, DEFAULT), edit) == []


def test_without_rules_all_servers_serve_again() -> None:
    assert warned(table(SERVER, ONE), edits.DeleteRule("s", "path /one/", A)) == []


def test_a_scheduler_that_uses_the_rules_is_warned_of() -> None:
    before = table(SERVER, ONE, scheduler="wlc")
    assert warned(before, edits.StartService("s")) == []
    (line,) = warned(before, edits.EditService("s", {"scheduler": "chttp"}))
    assert line.startswith("requests that its only rule 'path /one/' does not match get status 503 now; ")
    assert warned(table(SERVER, ONE), edits.EditService("s", {"maxclients": 5})) == []


def test_without_the_redirect_address_they_are_refused() -> None:
    before = table(SERVER, ONE, "redirect = 10.0.0.9:80")
    assert warned(before, edits.StartService("s")) == []
    (line,) = warned(before, edits.EditService("s", {"redirect": None}))
    assert line.startswith("requests that its only rule ")


@pytest.mark.parametrize(
    ("lines", "scheduler", "ending"),
    [
        ((SERVER, ONE), "phttp", f"{LINE}use server 10.0.0.1:80{MEANT}"),
        ((SERVER, ONE), "http", f"{LINE}use server 10.0.0.1:80{MEANT}"),
        (("rule = path /one/ use respond 403",), "phttp", f"{LINE}use respond 404"),
        ((SERVER, "rule = host a.example use server 10.0.0.1:80"), "sni", f"{LINE}use server 10.0.0.1:80"),
        (
            (*(f"server = 10.0.0.{number}:80" for number in range(1, 6)), ONE),
            "phttp",
            f"{LINE}use server 10.0.0.1:80 server 10.0.0.2:80 server 10.0.0.3:80 ...{MEANT}",
        ),
    ],
    ids=["phttp", "http", "no server", "sni", "many"],
)
def test_a_file_gets_the_line_to_write(lines: tuple[str, ...], scheduler: str, ending: str) -> None:
    (line,) = warned(Table(), configuration(*lines, scheduler=scheduler))
    assert line.split("; ", 1)[1] == ending
    assert line.startswith("clients" if scheduler == "sni" else "requests")


@pytest.mark.parametrize(
    "last",
    [
        "rule = path / use respond 404",
        'rule = pattern "^/" use respond 404',
        "rule = share 100% use server 10.0.0.1:80",
        "rule = not path /one/ use server 10.0.0.1:80",
        'test "GET /b" -> nobody',
        "redirect = 10.0.0.9:80",
    ],
)
def test_nothing_is_said_where_all_requests_match_or_the_author_says_so(last: str) -> None:
    assert warned(Table(), configuration(SERVER, ONE, last)) == []


@pytest.mark.parametrize("last", ["rule = not path / use respond 404", "rule = path / tls use server 10.0.0.1:80"])
def test_a_rule_that_only_looks_like_a_default_one_is_none(last: str) -> None:
    assert len(warned(Table(), configuration(SERVER, ONE, last))) == 1


def test_patterns_that_are_said_to_match_everything_do() -> None:
    assert all(re.search(pattern, target) for pattern in CATCH_ALL for target in ("/", "/a/b?c"))
