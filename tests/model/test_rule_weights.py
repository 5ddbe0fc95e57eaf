"""Balance and weights of rules: the configuration language, edits, differences and names with several addresses."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.errors import BadConfiguration, BadValue, NoSuchServer, Refusal, RuleExists
from ktcpvs.model.address import Inet
from ktcpvs.model.describe import configuration, describe_rule
from ktcpvs.model.difference import differences
from ktcpvs.model.edits import AddRule, DeleteRule, EditRule
from ktcpvs.model.expansion import expanded
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write_rule
from ktcpvs.model.rule import Rule
from ktcpvs.model.table import Table

A, B, C = (Inet(f"10.0.0.{number}", 80) for number in (1, 2, 3))
SERVERS = f"server = {A} server = {B} server = {C}"


def table(*rules: str) -> Table:
    return parse(f"Virtual s {{ {SERVERS} {' '.join(f'rule = {rule}' for rule in rules)} }}").apply(Table())


def rules_of(known: Table) -> tuple[Rule, ...]:
    return known.service("s").rules


BETA = f'name beta header X-Beta "^(1|on)$" balance wrr use server {A} 95 server {B} 5'


def test_a_rule_has_a_balance_and_weights() -> None:
    (rule,) = rules_of(table(BETA))
    assert (rule.modifiers.balance, rule.servers, rule.weights) == ("wrr", (A, B), (95, 5))
    assert write_rule(describe_rule(rule)) == [BETA]


def test_balance_may_stand_behind_the_servers() -> None:
    assert table(BETA.replace("balance wrr ", "") + " balance wrr") == table(BETA)


def test_the_option_balance_may_follow_a_rule() -> None:
    service = table(f"path /a use server {A} 3", f"path /b use server {A} balance = rr").service("s")
    assert (service.balance, [rule.modifiers.balance for rule in service.rules]) == ("rr", [None, None])


def test_some_servers_have_a_weight_of_their_own() -> None:
    (rule,) = rules_of(table(f'pattern "/" use server {A} server {B} 5'))
    assert rule.weights == (None, 5)
    assert write_rule(describe_rule(rule)) == [f'pattern "/" use server {A} server {B} 5']


def test_rules_with_the_same_conditions_become_one() -> None:
    (rule,) = rules_of(table(f'pattern "/" use server {A}', f'pattern "/" use server {B} 5'))
    assert (rule.servers, rule.weights) == ((A, B), (None, 5))


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (f"path /a use server {A} 65536", r"3:36: weight 65536 is out of range: 0\.\.65535"),
        (f"path /a use server {A} -1", "3:36: weight = -1: expected a whole number"),
        (f"path /a use server {A} 5 6", "3:38: unknown word '6' in a rule; the weight is a number"),
        (f"path /a balance use server {A}", "3:13: balance: missing value"),
        (f"path /a balance wrr balance rr use server {A}", "3:25: balance appears a second time"),
        (f"path /a balance wrr use server {A} balance rr", "3:48: balance appears a second time"),
        (f'path /a balance "a b" use server {A}', "3:21: 'a b' is not a valid scheduler name"),
        ("path /a balance wrr use respond 403", "3:5: rule 'path /a': balance chooses among servers"),
    ],
)
def test_what_is_refused_has_its_place(rule: str, why: str) -> None:
    with pytest.raises(BadConfiguration, match=f"^<text>:{why}"):
        parse(f"Virtual s {{\n{SERVERS} rule =\n    {rule}\n}}")


def test_each_address_of_a_name_gets_the_weight_of_the_name() -> None:
    text = "Virtual s { server = r1:80 server = 192.0.2.2:80 rule = path /a use server r1:80 7 server 192.0.2.2:80 3 }"
    (rule,) = rules_of(expanded(parse(text).apply(Table()), {"r1": ("192.0.2.1", "192.0.2.2", "192.0.2.3")}))
    assert dict(rule.weighed_servers) == {
        Inet("192.0.2.1", 80): 7, Inet("192.0.2.2", 80): 3, Inet("192.0.2.3", 80): 7
    }  # fmt: skip


# Edits.


def test_servers_are_added_with_a_weight() -> None:
    known = AddRule("s", "path /a", A, modifiers="balance wrr", weight=95).apply(table())
    known = AddRule("s", "path /a", B, weight=5).apply(known)
    assert known == table(f"path /a balance wrr use server {A} 95 server {B} 5")
    assert DeleteRule("s", "path /a", A).apply(known) == table(f"path /a balance wrr use server {B} 5")


def test_a_rule_is_added_with_all_its_servers() -> None:
    edit = AddRule("s", "path /a", action=f"server {A} 95 server {B} 5")
    assert edit.apply(table()) == table(f"path /a use server {A} 95 server {B} 5")


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (BETA, {"action": f"server {A} 90 server {C} 10"}, BETA.replace("95", "90").replace(f"{B} 5", f"{C} 10")),
        (BETA, {"action": f"server {A} server {B}"}, BETA.replace(" 95", "").replace(f"{B} 5", str(B))),
        (BETA, {"modifiers": "balance p2c"}, BETA.replace("wrr", "p2c")),
        (BETA, {"modifiers": ""}, BETA.replace("balance wrr ", "")),
        (BETA, {"action": "respond 503"}, 'name beta header X-Beta "^(1|on)$" use respond 503'),
        ("path /a use respond 503", {"action": f"server {A}"}, f"path /a use server {A}"),
        ("path /a use redirect https", {"action": f"server {A} 2 server {B}"}, f"path /a use server {A} 2 server {B}"),
        (
            'path /a response_header X-A "b" use respond 503',
            {"action": f"server {A}", "modifiers": "balance rr"},
            f"path /a balance rr use server {A}",
        ),
    ],
)
def test_a_rule_changes_what_it_does(before: str, changes: dict[str, Any], after: str) -> None:
    assert EditRule("s", "1", **changes).apply(table(before)) == table(after)


@pytest.mark.parametrize(
    ("edit", "kind", "why"),
    [
        (EditRule("s", "1", action="server 10.0.0.9:80"), NoSuchServer, "service s has no server 10.0.0.9:80"),
        (EditRule("s", "1", action=f"server {A} 1 server {A}"), RuleExists, "names a server twice"),
        (EditRule("s", "1", action=f"server {A} x"), BadValue, "expected 'server', not 'x'"),
        (EditRule("s", "1", action="server"), BadValue, "missing address"),
        (EditRule("s", "1", action=f"server {A} 99999"), BadValue, "weight 99999 is out of range"),
        (EditRule("s", "1", action="respond 403", modifiers="balance rr"), BadValue, "balance chooses among servers"),
        (AddRule("s", "path /b", A, weight=-1), BadValue, "weight -1 is out of range"),
        (AddRule("s", "path /b", action="respond 403", weight=1), BadValue, "weight 1: of which server"),
        (AddRule("s", "path /a", A, weight=3), RuleExists, "already uses server"),
    ],
)
def test_an_edit_is_refused(edit: AddRule | EditRule, kind: type[Refusal], why: str) -> None:
    with pytest.raises(kind, match=why):
        edit.apply(table(f"path /a use server {A}"))


def test_a_port_that_is_left_out_is_that_of_the_service() -> None:
    text = "Virtual s { listen = 0.0.0.0:80 server = 10.0.0.1 rule = path /a use respond 403 }"
    known = EditRule("s", "1", action="server 10.0.0.1 3").apply(parse(text).apply(Table()))
    assert rules_of(known)[0].weighed_servers == ((A, 3),)


# Differences.


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        (BETA, BETA.replace("95", "90"), [f"rule 'beta': {A} 95 {B} 5 -> {A} 90 {B} 5"]),
        (BETA, BETA.replace("wrr", "rr"), ["rule 'beta': balance wrr -> balance rr"]),
        (BETA, BETA.replace("balance wrr ", ""), ["rule 'beta': - balance wrr"]),
        (
            f'name x path /a request_header X-A "1" response_header Server "" use server {A}',
            f'name x path /a request_header x-a "2" request_header +X-B "b c" rate 5/m use server {A}',
            [
                'rule \'x\': request_header X-A "1" -> request_header x-a "2"',
                "rule 'x': - response_header Server \"\"",
                "rule 'x': + rate 5/m",
                "rule 'x': + request_header +X-B \"b c\"",
            ],
        ),
        (
            f'path /a request_header X-A "1" request_header X-B "1" use server {A}',
            f'path /a request_header X-B "1" request_header X-A "1" use server {A}',
            ["rule 'path /a': the order of request_header changes"],
        ),
    ],
)
def test_differences_of_rules(before: str, after: str, lines: list[str]) -> None:
    found = differences(*configuration(table(before)), *configuration(table(after)))
    assert [line.removeprefix("service s: ") for line in found] == lines


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ('request_header = X-A "1"', 'request_header = X-A "2"', ['request_header X-A "1" -> request_header X-A "2"']),
        ("", 'response_header = X-A "1"', ['+ response_header X-A "1"']),
        ("error_page = 503 /a error_page = 500 /b", "error_page = 503 /a", ["- error_page 500 /b"]),
        ("allow = 10.0.0.0/8 ::1", "allow = 10.0.0.0/8 192.0.2.1", ["- allow ::1", "+ allow 192.0.2.1"]),
        ("listen = 127.0.0.1:80 listen = 127.0.0.1:81", "listen = 127.0.0.1:80", ["- listen 127.0.0.1:81"]),
    ],
)
def test_differences_of_options_that_repeat(before: str, after: str, lines: list[str]) -> None:
    old, new = (configuration(parse(f"Virtual s {{ {text} }}").apply(Table())) for text in (before, after))
    assert [line.removeprefix("service s: ") for line in differences(*old, *new)] == lines


def test_a_daemon_of_an_older_version_describes_rules_without_weights() -> None:
    (services, values), after = (configuration(table(f"path /a use server {A}")) for _ in "ab")
    del services[0]["rules"][0]["weights"]
    assert differences(services, values, *after) == []
