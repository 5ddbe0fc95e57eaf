"""Modifiers of rules and edits of header fields: their forms, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from ktcpvs.errors import BadConfiguration, BadValue, Refusal, RuleExists
from ktcpvs.model.actions import Respond
from ktcpvs.model.address import parse_address
from ktcpvs.model.describe import describe_rule
from ktcpvs.model.edits import AddRule, AddServer, AddService, Edit, EditRule, EditService
from ktcpvs.model.header_edits import FORBIDDEN, HeaderEdit, header_edit_of
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write_rule
from ktcpvs.model.modifiers import NONE, Modifiers, Rate, Rewrite, modifiers_of
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from tests.model.strategies import modifiers

A, B = parse_address("10.0.0.1:80"), parse_address("10.0.0.2:80")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", NONE),
        ('request_header X-A "b"', Modifiers((HeaderEdit("X-A", "b"),))),
        ("Request_Header X-A b", Modifiers((HeaderEdit("X-A", "b"),))),
        ('response_header +Vary "Accept"', Modifiers((), (HeaderEdit("+Vary", "Accept"),))),
        ('response_header Server ""', Modifiers((), (HeaderEdit("Server", ""),))),
        ('request_header "use" "use"', Modifiers((HeaderEdit("use", "use"),))),
        ("strip_prefix /admin", Modifiers(strip_prefix="/admin")),
        ("rate 5/m", Modifiers(rate=Rate("5/m"))),
        ("Rate 100 Client", Modifiers(rate=Rate("100/s"))),
        ("rate 5/m burst 7 header X-Key", Modifiers(rate=Rate("5/m", 7, "header", "X-Key"))),
        ('rate 5/h "burst" 7 cookie "use"', Modifiers(rate=Rate("5/h", 7, "cookie", "use"))),
        ("rate 5/h cookie sid strip_prefix /a", Modifiers(strip_prefix="/a", rate=Rate("5/h", 0, "cookie", "sid"))),
        ('strip_prefix ""', NONE),
        ('rewrite "^/old/(.*)" "/new/{1}?{query}"', Modifiers(rewrite=Rewrite("^/old/(.*)", "/new/{1}?{query}"))),
        (
            'strip_prefix /a request_header X-B "1" request_header X-A "2"',
            Modifiers((HeaderEdit("X-B", "1"), HeaderEdit("X-A", "2")), strip_prefix="/a"),
        ),
    ],
)
def test_the_forms_of_modifiers(text: str, expected: Modifiers) -> None:
    assert modifiers_of(text) == expected
    assert modifiers_of(str(expected)) == expected


@given(modifiers())
def test_modifiers_are_read_as_they_were_written(value: Any) -> None:
    assert modifiers_of(str(value)) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("request_haeder X-A b", "unknown modifier 'request_haeder'; did you mean 'request_header'?"),
        ("request_header X-A", "request_header: missing value (example: request_header X-Request-ID"),
        ("request_header", "request_header: missing value"),
        ("request_header X-A use", "request_header: missing value"),
        ('request_header "X A" "b"', "'X A': expected the name of a header field"),
        ('request_header ++A "b"', "'++A': expected the name of a header field"),
        ('request_header +X-A ""', "header +X-A: missing value after +"),
        ('request_header X-A "{hots}"', "unknown variable 'hots'; did you mean 'host'?"),
        ('request_header X-A "a\x01"', "a control character"),
        (f'request_header X-A "{"a" * 4097}"', "longer than 4096 characters"),
        ("rate", "rate: missing value (example: rate 5/m)"),
        ("rate fast", "rate fast: expected a rate (examples: 100/s, 30/m, 5/h)"),
        ("rate 0", "rate off: expected a rate"),
        ("rate 5/m header", "rate: missing value after 'header'"),
        ("rate 5/m burst x", "burst"),
        ("rate 5/m burst 99999999", "burst 99999999 is out of range: 0..10000000"),
        ('rate 5/m cookie "a b"', "rate: 'a b': expected the name of a cookie"),
        ("rate 5/m rate 6/m", "rate appears a second time"),
        ("strip_prefix admin", "strip_prefix 'admin': expected the beginning of a path (example: /admin)"),
        ("strip_prefix /", "expected the beginning of a path"),
        ("strip_prefix /a?b", "expected the beginning of a path"),
        ("strip_prefix /a//b", "it is compared without . .."),
        ("strip_prefix /a/../b", "it is compared without . .."),
        ("strip_prefix /a strip_prefix /b", "strip_prefix appears a second time"),
        ('rewrite "(" "/"', "("),
        ('rewrite "^/(a)" "/{2}"', "unknown variable '2': the pattern has 1 groups"),
        ('rewrite "a" "/" rewrite "b" "/"', "rewrite appears a second time"),
        ("rewrite a", "rewrite: missing value"),
        (" ".join(['request_header +X-A "b"'] * 101), "a rule has at most 100 edits"),
    ],
)
def test_what_is_no_modifier_says_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(Refusal) as refused:
        modifiers_of(text)
    assert why in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
@pytest.mark.parametrize("form", ["{}", "+{}"])
def test_framing_and_hop_by_hop_fields_are_refused_in_every_spelling(name: str, form: str) -> None:
    for spelling in (name, name.upper(), name.replace("-", "_"), name.title()):
        with pytest.raises(BadValue, match="the switch sets this field itself"):
            HeaderEdit(form.format(spelling), "x")
    with pytest.raises(BadValue):
        header_edit_of(f'{name} ""')


def test_groups_in_a_value_are_those_of_the_rule() -> None:
    Rule("^/(a)", (A,), modifiers='request_header X-A "{1}"')  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="unknown variable '2': rule '\\^/\\(a\\)' has a pattern with 1 groups"):
        Rule("^/(a)", (A,), modifiers='request_header X-A "{2}"')  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="has no pattern"):
        Rule("path /a", (), action=Respond(403), modifiers='response_header X-A "{1}"')  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="only rules have groups"):
        EditService("s", {"request_header": ('X-A "{1}"',)}).apply(AddService("s").apply(Table()))


def test_a_rule_that_responds_has_no_path_for_servers() -> None:
    with pytest.raises(BadValue, match="respond 403: no server gets its requests"):
        Rule("path /a", (), action=Respond(403), modifiers="strip_prefix /a")  # type: ignore[arg-type]


def apply(*edits: Edit) -> VirtualService:
    table = Table()
    for edit in (AddService("s"), AddServer("s", A), AddServer("s", B), *edits):
        table = edit.apply(table)
    return table.service("s")


def test_edits_of_modifiers() -> None:
    add = AddRule("s", "path /a", A, rule_name="n", modifiers="strip_prefix /a")
    more = AddRule("s", "", B, rule_name="n")
    (rule,) = apply(add, more).rules
    assert (rule.servers, rule.modifiers) == ((A, B), Modifiers(strip_prefix="/a"))
    assert apply(add, EditRule("s", "n", modifiers="")).rules[0].modifiers == NONE
    assert apply(add, EditRule("s", "n", new_name="m")).rules[0].modifiers == Modifiers(strip_prefix="/a")
    assert apply(add, EditRule("s", "n", modifiers="strip_prefix /b")).rules[0].modifiers.strip_prefix == "/b"
    with pytest.raises(RuleExists, match="edit-rule"):
        apply(add, AddRule("s", "", B, rule_name="n", modifiers="strip_prefix /b"))


LINES = (
    'name a path /a/ request_header X-A "{path}" response_header Server "" strip_prefix /a use server 10.0.0.1:80',
    'pattern "^/(b)" rewrite "^/b" "/c" match 1 use server 10.0.0.1:80',
    'pattern ".*" response_header X-B "b" use respond 404',
)


def test_a_configuration_with_modifiers_is_written_as_it_was_read() -> None:
    rules = "\n".join(f"    rule = {line}" for line in LINES)
    service = parse(f"Virtual s {{\n    server = 10.0.0.1:80\n{rules}\n}}\n").services["s"]
    assert [write_rule(describe_rule(rule)) for rule in service.rules] == [[line] for line in LINES]


def test_modifiers_may_stand_on_both_sides_of_match() -> None:
    line = 'pattern "^/(b)" strip_prefix /x match 1 response_header X-A "b" use server 10.0.0.1:80'
    (rule,) = parse(f"Virtual s {{ server = 10.0.0.1:80 rule = {line} }}").services["s"].rules
    assert (rule.match, rule.modifiers.strip_prefix, len(rule.modifiers.response_headers)) == (1, "/x", 1)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rule = path /a strip_prefix use server 10.0.0.1:80", "3:19: strip_prefix: missing value"),
        ('rule = path /a request_header Host "x" use server 10.0.0.1:80', "3:19: header Host: the switch sets"),
        ("rule = path /a strip_prefix /a", "expected 'use'"),
        ('request_header = Connection "x"', "header Connection: the switch sets"),
        ("request_header = X-A", "expected NAME"),
        ('response_header = X-A "{nope}"', "unknown variable 'nope'"),
        (
            "rule = path /a strip_prefix /a use server 10.0.0.1:80\n    rule = path /a use server 10.0.0.1:80",
            "the first rule with this name or these conditions has other modifiers",
        ),
    ],
)
def test_an_error_in_a_file_has_its_place(line: str, why: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        parse(f"Virtual s {{\n    server = 10.0.0.1:80\n   {line}\n}}\n")
    assert why in str(refused.value)


def test_options_of_a_service_repeat() -> None:
    text = 'Virtual s { request_header = X-A "b c" request_header = +X-B c response_header = Server "" }'
    service = parse(text).services["s"]
    assert service.request_header == ('X-A "b c"', '+X-B "c"')
    assert service.response_header == ('Server ""',)
