"""Actions of rules: their forms, what is refused, and rules that have one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from ktcpvs.errors import BadConfiguration, BadValue, NoSuchServer, Refusal, RuleExists
from ktcpvs.model.actions import Redirect, Respond, action_of, text_of_words
from ktcpvs.model.address import parse_address
from ktcpvs.model.describe import describe_rule
from ktcpvs.model.edits import AddRule, AddServer, AddService, DeleteRule, Edit, EditRule
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write_rule
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from tests.model.strategies import actions

A = parse_address("10.0.0.1:80")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("redirect https", Redirect(302, "https")),
        ("redirect 308 HTTPS", Redirect(308, "https")),
        ('redirect 301 "https://{host}/new/{1}"', Redirect(301, "https://{host}/new/{1}")),
        ("redirect 303 /new", Redirect(303, "/new")),
        ("redirect 307 {target}", Redirect(307, "{target}")),
        ("respond 403", Respond(403)),
        ("respond 204", Respond(204)),
        ('respond 200 "file"', Respond(200, "file")),
        ('Respond 503 ""', Respond(503, "")),
        ("respond 503 file /etc/sorry.html", Respond(503, None, "/etc/sorry.html")),
        ('respond 503 FILE "/a b"', Respond(503, None, "/a b")),
    ],
)
def test_the_forms_of_actions(text: str, action: Any) -> None:
    assert action_of(text) == action
    assert action_of(str(action)) == action


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "missing action; there are: redirect, respond"),
        ("respnd 403", "unknown word 'respnd'; did you mean 'respond'?"),
        ("redirect", "redirect: missing URL"),
        ("redirect 301", "redirect: missing URL"),
        ("redirect 304 /", "redirect 304: expected one of 301, 302, 303, 307, 308"),
        ("redirect new", "redirect 'new': expected https, or a URL without white space"),
        ('redirect "/a b"', "expected https, or a URL without white space"),
        ('redirect "//{hots}/"', "unknown variable 'hots'; did you mean 'host'?"),
        (f"redirect /{'x' * 2048}", "expected https, or a URL"),
        ("redirect / more", "unexpected 'more' behind it"),
        ("respond", "respond: missing status (example: respond 403)"),
        ("respond ok", "respond: missing status"),
        ("respond 301", "respond 301: it needs a URL (example: redirect 301 https)"),
        ("respond 304", "respond 304: expected a status from 200 to 299 or from 400 to 599"),
        ("respond 100", "expected a status from 200 to 299 or from 400 to 599"),
        ("respond 600", "expected a status from 200 to 299 or from 400 to 599"),
        ("respond 403 no", "expected a text in quotes, or file PATH, not 'no'"),
        ('respond 204 "x"', "respond 204: a response with this status has no content"),
        ("respond 205 file /x", "respond 205: a response with this status has no content"),
        ("respond 503 file", "respond 503 file: missing path"),
        ("respond 503 file sorry.html", "file sorry.html: expected the absolute path of a file"),
        (f'respond 200 "{"x" * 8193}"', "a text has at most 8192 characters"),
        ('respond 200 "a\x01"', "a control character in the text"),
        ('respond 200 "a" "b"', "unexpected 'b' behind it"),
    ],
)
def test_what_is_no_action_says_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(Refusal) as refused:
        action_of(text)
    assert why in str(refused.value)
    assert str(refused.value).isprintable()


@given(actions())
def test_an_action_is_read_as_it_was_written(action: Any) -> None:
    assert action_of(str(action)) == action


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["redirect", "301", "https://x/{1}"], 'redirect 301 "https://x/{1}"'),
        (["Redirect", "HTTPS"], "redirect https"),
        (["respond", "403"], "respond 403"),
        (["respond", "200", "404"], 'respond 200 "404"'),
        (["respond", "200", "file"], 'respond 200 "file"'),
        (["respond", "503", "file", "/a b"], 'respond 503 file "/a b"'),
        (["respond", "200", 'say "hi"'], 'respond 200 "say \\"hi\\""'),
    ],
)
def test_words_of_a_command_line_need_no_quotes(words: list[str], text: str) -> None:
    assert text_of_words(words) == text
    action_of(text)


def test_a_rule_has_servers_or_an_action() -> None:
    rule = Rule("^/old/(.*)", (), action="redirect 301 /new/{1}")  # type: ignore[arg-type]
    assert rule.action == Redirect(301, "/new/{1}")
    with pytest.raises(BadValue, match="either servers, or respond 403"):
        Rule("^/", (A,), action=Respond(403))
    with pytest.raises(NoSuchServer):
        Rule("^/", ())
    with pytest.raises(BadValue, match="match 1: rule '\\^/\\(a\\)' chooses no server"):
        Rule("^/(a)", (), 1, action=Respond(403))


@pytest.mark.parametrize(
    ("conditions", "has"),
    [
        ("^/old/", "has a pattern with 0 groups"),
        ('host a pattern "(x)" "(y)"', "has no pattern"),
        ('not pattern "(x)"', "has no pattern"),
        ("path /x", "has no pattern"),
    ],
)
def test_a_redirect_uses_groups_that_there_are(conditions: str, has: str) -> None:
    with pytest.raises(BadValue, match=f"unknown variable '1': rule .* {has}"):
        Rule(conditions, (), action=Redirect(301, "/{1}"))


def apply(*edits: Edit) -> VirtualService:
    table = Table()
    for edit in (AddService("s"), AddServer("s", A), *edits):
        table = edit.apply(table)
    return table.service("s")


def test_edits_of_rules_with_actions() -> None:
    add = AddRule("s", "^/old/(.*)", rule_name="old", action="redirect 301 /new/{1}")
    assert apply(add).rules == (Rule("^/old/(.*)", (), None, "old", Redirect(301, "/new/{1}")),)
    assert apply(add, EditRule("s", "old", action="respond 410")).rules[0].action == Respond(410)
    assert apply(add, EditRule("s", "old", new_name="new")).rules[0].action == Redirect(301, "/new/{1}")
    assert apply(add, DeleteRule("s", "old")).rules == ()
    served = AddRule("s", "^/(a)", A, 1)
    changed = apply(served, EditRule("s", "^/(a)", action="respond 403")).rules[0]
    assert (changed.servers, changed.match, changed.action) == ((), None, Respond(403))
    before = apply(served, AddRule("s", "path /x", before="1", action="respond 403"))
    assert [rule.pattern for rule in before.rules] == ["path /x", "^/(a)"]


@pytest.mark.parametrize(
    ("edits", "kind", "why"),
    [
        ([AddRule("s", "^/")], NoSuchServer, "names no server"),
        ([AddRule("s", "^/", A, action="respond 403")], BadValue, "either servers, or respond 403"),
        ([AddRule("s", "^/", action="respond")], BadValue, "missing status"),
        ([AddRule("s", "^/", action="respond 403"), AddRule("s", "^/", A)], RuleExists, "exists already"),
        ([AddRule("s", "^/", A), AddRule("s", "^/", action="respond 403")], RuleExists, "edit-rule"),
        ([AddRule("s", "^/", A), DeleteRule("s", "^/")], NoSuchServer, "name the one to remove (10.0.0.1:80)"),
        ([AddRule("s", "^/", action="respond 403"), DeleteRule("s", "^/", A)], NoSuchServer, "does not use server"),
        (
            [AddRule("s", "^/(a)", action="redirect /{1}"), EditRule("s", "1", "^/")],
            BadValue,
            "has a pattern with 0 groups",
        ),
    ],
)
def test_edits_that_make_no_sense_are_refused(edits: list[Edit], kind: type[Refusal], why: str) -> None:
    with pytest.raises(kind) as refused:
        apply(*edits)
    assert why in str(refused.value)


TEXT = """Virtual s {
    listen = 0.0.0.0:80
    server = 10.0.0.1:80
    rule = name old pattern "^/old/(.*)" use redirect 301 "https://{host}/new/{1}"
    rule = path /pay/ not tls use redirect 308 https
    rule = path /admin/ use respond 403
    rule = path /robots.txt use respond 200 "User-agent: *"
    rule = path /sorry use respond 503 file /etc/sorry.html
    rule = pattern ".*" use server 10.0.0.1:80
    test "GET /old/x" "Host: h" -> redirect "https://h/new/x"
    test "GET /admin/" -> respond 403
    redirect = 10.0.0.2:80
    test "GET /x" -> redirect
}
"""


def test_a_configuration_with_actions_is_written_as_it_was_read() -> None:
    service = parse(TEXT).services["s"]
    assert [write_rule(describe_rule(rule))[0] for rule in service.rules] == [
        line.removeprefix("    rule = ") for line in TEXT.splitlines() if line.startswith("    rule")
    ]
    assert [test.expected for test in service.tests] == ['redirect "https://h/new/x"', "respond 403", "redirect"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("rule = path /x use", "6:"),
        ("rule = path /x use respond 403 no", "5:24: respond 403: expected a text in quotes"),
        ("rule = path /x use respond", "5:24: respond: missing status"),
        ("rule = path /x use redirect", "5:24: redirect: missing URL"),
        ("rule = path /x match 1 use respond 403", "match 1"),
        ("rule = path /x use respond 403\nrule = path /x use server 10.0.0.1:80", "an action stands alone"),
        ('test "GET /" -> respond', "6:"),
        ('test "GET /" -> respond 99', "status = 99 is out of range: 200..599"),
    ],
)
def test_an_error_in_a_file_has_its_place(line: str, why: str) -> None:
    text = f"Virtual s {{\n    listen = :80\n    scheduler = phttp\n    server = 10.0.0.1:80\n    {line}\n}}\n"
    with pytest.raises(BadConfiguration) as refused:
        parse(text.replace("listen = :80", "listen = 0.0.0.0:80"))
    assert why in str(refused.value)
