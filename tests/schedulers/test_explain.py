"""Explanations of schedulers: the rules tried in their order, the hashed text, the contents of a cookie."""

from __future__ import annotations

from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import BoundRule, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.binding import run_to_end
from ktcpvs.schedulers.chttp import CHTTP
from ktcpvs.schedulers.http import HHTTP, HTTP
from ktcpvs.schedulers.rules import RuleSet, compile_rules
from ktcpvs.schedulers.wlc import WLC

LATER = "default rule, tried last"


def view(*patterns: str, match: int | None = None) -> ServiceView:
    """Each pattern has two servers: its own and 10.0.0.9, which all of them have."""
    servers = [RealServer(Inet(f"10.0.0.{number}", 80)) for number in (*range(1, len(patterns) + 1), 9)]
    every = servers[-1].address
    rules = tuple(
        Rule(pattern, (server.address, every), match) for pattern, server in zip(patterns, servers, strict=False)
    )
    config = VirtualService("s", servers=tuple(servers), rules=rules)
    return ServiceView.of(config, {s.address: Destination(s.address) for s in servers}, WLC(), b"a key")


def explained(scheduler: Any, path: bytes, lines: bytes = b"") -> Any:
    return scheduler.explain(Request("192.0.2.1", b"GET", path, path, lines))


@pytest.mark.parametrize(
    ("patterns", "path", "rules"),
    [
        (["/a", "/b", ".*"], b"/a", [(1, "/a", "matches")]),
        (["/a", "/b", ".*"], b"/b", [(1, "/a", "does not match"), (2, "/b", "matches")]),
        ([".*", "/a"], b"/x", [(2, "/a", "does not match"), (1, ".*", LATER)]),
        (["^/.*", "/a", ".*"], b"/x", [(2, "/a", "does not match"), (1, "^/.*", LATER)]),
        (["^/.*"], b"/x", [(1, "^/.*", LATER)]),
        (["/a", "/b"], b"/x", [(1, "/a", "does not match"), (2, "/b", "does not match")]),
    ],
)
def test_the_rules_that_are_tried(patterns: list[str], path: bytes, rules: list[tuple[int, str, str]]) -> None:
    service = view(*patterns)
    considered = explained(HTTP().bind(service, None), path)
    assert list(considered.rules) == rules
    taken = rules[-1] if rules and rules[-1][2] != "does not match" else None
    hosts = [str(destination.address) for destination in considered.destinations]
    assert hosts == ([f"10.0.0.{taken[0]}:80", "10.0.0.9:80"] if taken else [])


def test_a_note_says_that_no_rule_matches() -> None:
    assert explained(HTTP().bind(view("/a"), None), b"/b").notes == ("no rule matches",)


def test_without_rules_all_servers_are_considered() -> None:
    service = view()
    considered = explained(HTTP().bind(service, None), b"/b")
    assert considered.notes == ("the service has no rules: it uses all its servers",)
    assert (considered.rules, considered.destinations) == ((), service.destinations)


def test_what_is_hashed_is_told() -> None:
    scheduler = HHTTP().bind(view("/users/([^/]*)", match=1), None)
    assert explained(scheduler, b"/users/joe/x").notes == ("group 1 is 'joe', which is hashed",)
    assert explained(scheduler, b"/users/\xff\n").notes == (r"group 1 is '\xff\n', which is hashed",)
    assert explained(HTTP().bind(view("/users/([^/]*)", match=1), None), b"/users/joe/x").notes == ()


def test_what_the_cookie_says_is_told() -> None:
    scheduler = CHTTP().bind(view("/a", ".*"), None)
    request = Request("192.0.2.1", b"GET", b"/a", b"/a", b"Host: h\r\n")
    choice = scheduler.choose(request)
    cookie = choice.answer_lines.split(b";")[0].removeprefix(b"Set-Cookie: ")
    assert explained(scheduler, b"/a").notes == ("no cookie KTCPVS_SID",)
    known = f"cookie KTCPVS_SID names {choice.destination.address}"
    assert explained(scheduler, b"/a", b"Cookie: a=b; %b\r\n" % cookie).notes == (known,)
    forged = explained(scheduler, b"/a", b"Cookie: KTCPVS_SID=0123\r\n")
    assert forged.notes == ("cookie KTCPVS_SID names no server of this service",)
    assert [rule[0] for rule in forged.rules] == [1]


def test_an_explanation_changes_nothing() -> None:
    scheduler, other = (HTTP().bind(view("/a"), None) for _ in range(2))
    for _ in range(6):
        explained(scheduler, b"/a")
        one, two = scheduler.choose(Request(path=b"/a")), other.choose(Request(path=b"/a"))
        assert str(one.destination.address) == str(two.destination.address)


# The automaton, taken over.


def bound_rules(*patterns: str) -> list[BoundRule]:
    rules = [BoundRule(number, pattern, pattern == ".*", None, ()) for number, pattern in enumerate(patterns, 1)]
    return sorted(rules, key=lambda rule: rule.is_default)


def rule_set(*patterns: str, previous: RuleSet | None = None) -> RuleSet:
    return run_to_end(compile_rules(bound_rules(*patterns), previous))


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (("/a", "/b"), ("/a", "/b"), True),
        (("/a", "/b"), ("/a", "/b", ".*"), True),
        ((".*", "/a"), ("/a",), True),
        (("/a", "/b"), ("/b", "/a"), False),
        (("/a", "/b"), ("/a",), False),
        (("/a",), ("/a", "/b"), False),
        (("/a",), (), False),
        ((), ("/a",), False),
    ],
)
def test_the_same_patterns_are_not_compiled_again(before: tuple[str, ...], after: tuple[str, ...], same: bool) -> None:
    first = rule_set(*before)
    second = rule_set(*after, previous=first)
    assert (second.blocks == first.blocks) is same
    alone = rule_set(*after)
    for path in (b"/a", b"/b", b"/a/b", b"/c"):
        assert second.place(Request(path=path)) == alone.place(Request(path=path))


def test_a_service_takes_its_automaton_along() -> None:
    first = HTTP().bind(view("/a", "/b"), None)
    assert HTTP().bind(view("/a", "/b"), first).rule_set.blocks == first.rule_set.blocks
    assert HTTP().bind(view("/a", "/c"), first).rule_set.blocks != first.rule_set.blocks


@examples(100)
@given(st.lists(st.sampled_from(("/a", "/b", "^/a", "b$", ".*", "^/.*")), unique=True), st.text("/ab", max_size=4))
def test_the_last_rule_that_is_tried_is_the_one_that_serves(patterns: list[str], text: str) -> None:
    service, path = view(*patterns), b"/" + text.encode()
    scheduler = HTTP().bind(service, None)
    considered, choice = explained(scheduler, path), scheduler.choose(Request(path=path))
    if not patterns:
        assert (considered.rules, choice.destination) == ((), service.destinations[0])
    elif choice is None:
        assert len(considered.rules) == len(patterns)
        assert all(why == "does not match" for _, _, why in considered.rules)
    else:
        number, pattern, why = considered.rules[-1]
        assert choice.reason.startswith(f"rule {number} '{pattern}', ")
        assert why in ("matches", LATER)
        assert all(why == "does not match" for _, _, why in considered.rules[:-1])
        assert choice.destination in considered.destinations
