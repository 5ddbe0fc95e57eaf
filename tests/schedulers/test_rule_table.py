"""The table of rules with conditions: the rule it finds, compared with an evaluator that tries one after another."""

from __future__ import annotations

from typing import Any

import pytest
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from naive_rules import TLS, Connection, holds, naive, request, requests, rule_texts

from ktcpvs.errors import BadValue
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import CLIENT_HELLO, EACH_REQUEST, BoundRule, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers import rule_index
from ktcpvs.schedulers.binding import run_to_end
from ktcpvs.schedulers.chttp import CHTTP
from ktcpvs.schedulers.http import HTTP, PHTTP
from ktcpvs.schedulers.rule_keys import client_bucket
from ktcpvs.schedulers.rule_table import RuleTable, compile_table
from ktcpvs.schedulers.tcp import TCP
from ktcpvs.schedulers.wlc import WLC

SERVER = (Inet("10.0.0.1", 80),)


def bound(*texts: str) -> list[BoundRule]:
    rules = [Rule(text, SERVER, name=f"n{number}") for number, text in enumerate(texts, 1)]
    found = [BoundRule(number, rule.pattern, rule.is_default, None, (), rule) for number, rule in enumerate(rules, 1)]
    return sorted(found, key=lambda rule: rule.is_default)


def table(*texts: str, unit: str = EACH_REQUEST, previous: RuleTable | None = None) -> RuleTable:
    return run_to_end(compile_table(bound(*texts), unit, 64, previous))


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("host a.example", request("/", "Host: A.example:80"), request("/", "Host: b.example")),
        ("host *.a.example", request("/", "Host: x.y.a.example"), request("/", "Host: a.example")),
        ("not host a.example", request("/", "Host: b.example"), request("/", "Host: a.example.")),
        ("path /v1/", request("/v1"), request("/v10")),
        ("path /v1/", request("/v1/x?y"), request("/x/v1/")),
        ("path /login", request("/login?x"), request("/login/")),
        ("path /", request("/anything"), request("*", method="OPTIONS")),
        ("path /admin/", request("/x/..%2f%61dmin"), request("/%2561dmin/")),
        ('pattern "^/a" "b$"', request("/ab"), request("/ba/")),
        ('not pattern "^/a"', request("/b"), request("/a")),
        ("method GET HEAD", request(method="HEAD"), request(method="POST")),
        ("header X-Beta", request("/", "x-beta:"), request("/", "X_Beta: 1")),
        ('header X-Beta "^(1|on)$"', request("/", "X-Beta: 2", "X-Beta: on"), request("/", "X-Beta: 11")),
        ('not header X-Beta "1"', request("/"), request("/", "X-Beta: 1")),
        ('header A "1" header B "2"', request("/", "B: 2", "A: 1"), request("/", "A: 1")),
        ('header A "1" header A "2"', request("/", "A: 2", "A: 1"), request("/", "A: 1")),
        ('cookie s "^x$"', request("/", "Cookie: a=b", "Cookie: s=y; s=x"), request("/", "Cookie: S=x")),
        ('query q "^1 2$"', request("/?a&%71=1+2"), request("/?q=12")),
        ("query q", request("/?q"), request("/q")),
        ("from 10.0.0.0/8 ::1", request(client="10.1.2.3"), request(client="11.0.0.0")),
        ("from 10.0.0.0/8", request(client="::ffff:10.0.0.1"), request(client="")),
        ("not from ::/0", request(client="10.0.0.1"), request(client="2001:db8::1")),
        ("port 443", request(port=443), request(port=80)),
        ("tls on", request(tls=TLS(None)), request()),
        ("not tls", request(), request(tls=TLS(None))),
        ("sni *.a.example", request(tls=TLS("X.a.example")), request(tls=TLS(None))),
        ("share 100%", request(), None),
        ("not share 0%", request(), None),
        ("host a.example path /x method GET", request("/x", "Host: a.example"), request("/x", "Host: b.example")),
    ],
)
def test_a_condition_holds_or_fails(text: str, good: Request, bad: Request | None) -> None:
    assert table(text).place(good) == 0
    if bad is not None:
        assert table(text).place(bad) is None
        assert table(text, ".*").place(bad) == 1


def test_the_order_of_the_rules_decides_and_default_rules_come_last() -> None:
    found = table(".*", "path /a/ from 10.0.0.0/8", "path /a/", "host a", "^/a$")
    assert [rule.number for rule in bound(".*", "path /a/ from 10.0.0.0/8", "path /a/", "host a", "^/a$")][-1] == 1
    assert found.place(request("/a", client="10.0.0.1")) == 0
    assert found.place(request("/a")) == 1
    assert found.place(request("/b", "Host: a")) == 2
    assert found.place(request("/b")) == 4


def test_clients_keep_their_share() -> None:
    clients = [f"10.0.{number >> 8}.{number & 255}" for number in range(4000)]
    small, large = table("share 5%", ".*"), table("share 20%", ".*")
    in_small = {client for client in clients if small.place(request(client=client)) == 0}
    in_large = {client for client in clients if large.place(request(client=client)) == 0}
    assert in_small < in_large
    off = table("share 0%", ".*")
    assert {off.place(request(client=client)) for client in clients} == {1}
    assert 0.03 < len(in_small) / len(clients) < 0.07
    assert 0.17 < len(in_large) / len(clients) < 0.23
    assert client_bucket("2001:db8::1", 64) == client_bucket("2001:db8::ffff", 64)
    assert client_bucket("2001:db8::1", 128) != client_bucket("2001:db8::ffff", 128)


def test_under_sni_hosts_are_server_names() -> None:
    found = table("host a.example", ".*", unit=CLIENT_HELLO)
    assert found.place(Request(server_name="a.example")) == 0
    assert found.place(Request(server_name="b.example")) == 1
    assert found.place(Request()) == 1


# Compared with a naive evaluator.


@examples(500)
@given(st.lists(rule_texts, min_size=1, max_size=12), st.lists(requests, min_size=1, max_size=5))
def test_it_finds_what_a_naive_evaluator_finds(texts: list[str], some: list[Request]) -> None:
    rules, found = bound(*texts), table(*texts)
    for seen in (*some, *some):  # from the cache the second time
        place = found.place(seen)
        assert place == naive(rules, seen)
        tried = found.tried(place, seen)
        assert [number for number, _, _ in tried] == [
            rule.number for rule in rules[: None if place is None else place + 1]
        ]
        for (_, _, why), rule in zip(tried, rules, strict=False):
            failing = [str(one) for one in rule.conditions if not holds(one, seen)]
            if why.startswith("does not match: "):
                assert any(one in why for one in failing)
            elif why == "does not match":
                assert failing
            else:
                assert why in ("matches", "default rule, tried last")
        assert all(isinstance(note, str) for note in found.notes(seen))


@examples(150)
@given(
    st.lists(rule_texts, min_size=1, max_size=8),
    st.lists(rule_texts, min_size=1, max_size=8),
    st.lists(requests, min_size=1, max_size=4),
)
def test_a_table_made_from_another_one_finds_the_same(before: list[str], after: list[str], some: list[Request]) -> None:
    first = table(*before)
    for seen in some:
        first.place(seen)
    second, rules = table(*after, previous=first), bound(*after)
    for seen in some:
        assert second.place(seen) == naive(rules, seen)


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rule_texts, min_size=4, max_size=12), st.lists(requests, min_size=1, max_size=4))
def test_automata_find_what_single_searches_find(
    monkeypatch: pytest.MonkeyPatch, texts: list[str], some: list[Request]
) -> None:
    monkeypatch.setattr(rule_index, "MAX_SEARCHED_SINGLY", 0)
    monkeypatch.setattr("ktcpvs.schedulers.rules.MAX_BLOCK_RULES", 2)
    monkeypatch.setattr("ktcpvs.schedulers.rules.MAX_SPARE_BLOCKS", 1000)
    rules, found = bound(*texts), table(*texts)
    for seen in some:
        assert found.place(seen) == naive(rules, seen)


def many(hosts: int, count: int) -> list[str]:
    """Rules of all kinds over so many hosts."""
    kinds = (
        "host h{h}.example path /p{n}/",
        'host h{h}.example pattern "^/q{n}/[a-z]+$"',
        'host *.h{h}.example header X-{m} "^v{n}$"',
        "host h{h}.example from 10.{a}.{b}.0/24 method POST",
        'path /only{n} cookie c{m} "{n}"',
    )
    return [kinds[n % len(kinds)].format(n=n, h=n % hosts, m=n % 7, a=n >> 8 & 255, b=n & 255) for n in range(count)]


def test_few_rules_are_searched_of_many() -> None:
    """Of 10,000 rules on 3,000 hosts a request reaches the patterns of a handful."""
    texts = many(3000, 10000)
    found = table(*texts)
    assert found.place(request("/q1/abc", "Host: h1.example")) == 1
    assert found.place(request("/q9991/abc", "Host: h991.example")) == 9991
    assert found.place(request("/q9991/abc", "Host: h992.example")) is None
    assert len(found.target_patterns.patterns.compiled) < 10
    assert found.place(request("/x", "Host: a.h2.example", "X-2: v2")) == 2
    assert found.place(request("/x", "Host: h3.example", client="10.0.3.9", method="POST")) == 3
    assert found.place(request("/only9999", "Cookie: c3=9999")) == 9999


def test_an_edit_compiles_no_block_that_stays_the_same() -> None:
    texts = [f'host h path /p pattern "^/q{n}/[a-z]+$"' for n in range(5000)]
    first = table(*texts)
    second = table("host new", *texts, previous=first)
    assert second.target_patterns.patterns.blocks == first.target_patterns.patterns.blocks
    third = table(*texts[:-1], 'pattern "^/new$"', previous=second)
    assert third.target_patterns.patterns.blocks[:2] == first.target_patterns.patterns.blocks[:2]


def test_a_binding_pauses() -> None:
    steps = compile_table(bound(*many(3000, 5000)), EACH_REQUEST, 64)
    assert sum(1 for _ in steps) >= 4


def test_requests_that_differ_in_what_no_condition_sees_are_cached_as_one() -> None:
    """Where no condition sees header fields, browsers that send different ones share an entry of the cache; hosts are
    told apart however they are written."""
    scheduler = PHTTP().bind(view("host a path /x", "host b", "path /x"), None)
    asked = [("/x", "Host: a"), ("/x", "Host: b"), ("/x", "Host: c"), ("/x", "HOST: A:80"), ("/x",), ("/y", "Host: a")]
    expected = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80", "10.0.0.3:80", None]
    for agent in ("one", "two"):
        for (path, *lines), server in zip(asked, expected, strict=True):
            assert served(scheduler, request(path, *lines, f"User-Agent: {agent}")) == server
    searched = []
    search = RuleTable._search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RuleTable, "_search", lambda table, seen: searched.append(seen) or search(table, seen))
        assert served(scheduler, request("/x", "User-Agent: three", "Host: a")) == "10.0.0.1:80"
        assert searched == []
        assert served(scheduler, request("/x", "Host: d")) == "10.0.0.3:80"
        assert len(searched) == 1


def test_header_fields_that_a_condition_sees_are_told_apart() -> None:
    scheduler = PHTTP().bind(view('header X "1"', "cookie c", ".*"), None)
    for lines, server in ((("X: 1",), 1), (("X: 2",), 3), (("Cookie: c=1",), 2), ((), 3)):
        assert served(scheduler, request("/x", *lines)) == f"10.0.0.{server}:80"


# In schedulers.


def view(*texts: str, **options: Any) -> ServiceView:
    servers = [RealServer(Inet(f"10.0.0.{number}", 80)) for number in range(1, len(texts) + 1)]
    rules = [Rule(text, (server.address,)) for text, server in zip(texts, servers, strict=True)]
    config = VirtualService("s", servers=tuple(servers), rules=tuple(rules), **options)
    return ServiceView.of(config, {server.address: Destination(server.address) for server in servers}, WLC(), b"key")


def served(scheduler: Any, seen: Request) -> str | None:
    choice = scheduler.choose(seen)
    return None if choice is None else str(choice.destination.address)


@pytest.mark.parametrize("factory", [HTTP(), PHTTP(), CHTTP()], ids=lambda factory: factory.name)
def test_schedulers_of_requests_use_all_conditions(factory: Any) -> None:
    scheduler = factory.bind(view("host a path /x/", "not tls method POST", ".*"), None)
    assert served(scheduler, request("/x", "Host: a")) == "10.0.0.1:80"
    assert served(scheduler, request("/y", "Host: a", method="POST")) == "10.0.0.2:80"
    assert served(scheduler, request("/y", "Host: a")) == "10.0.0.3:80"
    considered = scheduler.explain(request("/y", "Host: a"))
    assert considered.rules == (
        (1, "host a path /x/", "does not match: path /x/"),
        (2, "not tls method POST", "does not match: method POST"),
        (3, ".*", "default rule, tried last"),
    )
    assert considered.notes[:2] == ("the host is a", "path conditions see /y")


def test_rules_change_from_patterns_to_conditions_and_back() -> None:
    scheduler: Any = None
    for texts, server in ((("^/x", ".*"), 1), (("path /y", "^/x", ".*"), 2), (("^/y", "^/x", ".*"), 2)):
        scheduler = PHTTP().bind(view(*texts), scheduler)
        assert served(scheduler, request("/x")) == f"10.0.0.{server}:80"


def test_a_rule_with_conditions_hashes_its_pattern() -> None:
    address = Inet("10.0.0.1", 80)
    rule = Rule('host a pattern "/u/(.)"', (address,), 1, "users")
    config = VirtualService("s", servers=(RealServer(address),), rules=(rule,))
    scheduler = PHTTP().bind(ServiceView.of(config, {address: Destination(address)}, WLC(), b"key"), None)
    choice = scheduler.choose(request("/u/b", "Host: a"))
    assert choice.reason == "rule 1 'users', by the hash of group 1 among 1"
    with pytest.raises(BadValue, match="match 1: rule 'host a' has no pattern"):
        Rule("host a", (address,), 1)


def test_tcp_chooses_by_network_and_port() -> None:
    scheduler = TCP().bind(view("from 10.0.0.0/8 port 443", "port 443", ".*"), None)
    connections = [("10.0.0.1", 443), ("192.0.2.1", 443), ("10.0.0.1", 80)]
    seen = [Request(client, connection=Connection(("127.0.0.1", port))) for client, port in connections]
    assert [served(scheduler, one) for one in seen] == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
    for text in ("host a", "path /a", "header x", "tls on", "sni a", "/a"):
        with pytest.raises(BadValue, match=r"scheduler tcp does not see .*: it chooses before it has read anything"):
            TCP().bind(view(text), None)
