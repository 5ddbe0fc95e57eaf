"""--explain says what each condition, modifier, limit and scheduler does for the request: none of them is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import fields_dict
from memory import A, B, World, answer, get, installed_schedulers, worlds
from twisted.internet.defer import Deferred

from ktcpvs.inspect.explain import Explainer
from ktcpvs.model import why as words
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.challenges import HTTP_01, Challenge
from ktcpvs.model.conditions import KINDS
from ktcpvs.model.modifiers import WORDS as MODIFIERS
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.challenges import PendingChallenges

PHTTP = ("scheduler = phttp", f"server = {A}", f"server = {B}")
Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds() as make:
        yield make


def explain(world: World, target: str = "/a", *headers: str, client: str = "192.0.2.1") -> dict[str, Any]:
    outcome: list[Any] = []
    pairs = [(name, value) for name, _, value in (header.partition(": ") for header in ("Host: h.example", *headers))]
    work = Explainer(world.director).explain("s", AssumedRequest("GET", target, pairs, client))
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    (found,) = outcome
    if not isinstance(found, dict):
        found.raiseException()
    return dict(found)


# Conditions: one that holds, one that does not, and the value that is compared.

CONDITIONS = {
    "host": ("host h.example", "host other.example", "the host is h.example"),
    "path": ("path /a", "path /b", "path conditions see /a"),
    "pattern": ('method GET pattern "^/a"', 'method GET pattern "^/b"', None),  # the request shows what it sees
    "method": ("method GET", "method POST", None),
    "header": ('header X-User "^me$"', 'header X-User "^you$"', "header x-user is 'me'"),
    "cookie": ('cookie c "^1$"', 'cookie c "^2$"', "cookie c is '1'"),
    "query": ('query q "^1$"', 'query q "^2$"', "query q is '1'"),
    "sni": ("not sni h.example", "sni h.example", "the client sends no server name"),
    "from": ("from 192.0.2.0/24", "from 10.0.0.0/8", None),
    "port": ("port PORT", "port 9", "the client has connected to port PORT"),
    "tls": ("not tls", "tls", "the client does not speak TLS"),
    "share": ("share 100%", "share 0.01%", "% of all clients"),
}


def test_all_conditions_are_in_the_table() -> None:
    assert set(CONDITIONS) == set(KINDS)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_condition(make: Make, kind: str) -> None:
    holds, fails, note = CONDITIONS[kind]
    world = make(*PHTTP)
    port = str(world.live.config.address).rpartition(":")[2]
    holds, fails, note = holds.replace("PORT", port), fails, note and note.replace("PORT", port)
    world.load(*PHTTP, f"rule = {fails} use server {A}", f"rule = {holds} use server {B}")
    told = explain(world, "/a?q=1", "X-User: me", "Cookie: c=1")
    why = [rule["why"] for rule in told["rules"]]
    assert why[0].startswith("does not match: ")
    assert kind in why[0]
    assert why[1] == "matches"
    assert told["answer"]["server"] == B
    if note is not None:
        assert any(note in one for one in told["notes"]), told["notes"]


# Modifiers: what they change for this request.

MODIFIED = {
    "rate": ("rate 5/m", "rate 5/m: 0 of 5 requests are used"),
    "balance": ("balance rr", "next in turn of 2"),
    "request_header": ('request_header X-Path "{path}"', "the server gets X-Path: /x/a"),
    "response_header": ('response_header X-Client "{client}"', "the response gets X-Client: 192.0.2.1"),
    "strip_prefix": ("strip_prefix /x", "the server gets the path /a"),
    "rewrite": ('rewrite "^/x/(.*)" "/y/{1}"', "the server gets the path /y/a"),
    "match": ("match 1", "group 1 is 'a', which is hashed"),
}


def test_all_modifiers_are_in_the_table() -> None:
    assert set(MODIFIED) == {*MODIFIERS, "match"}


@pytest.mark.parametrize("word", MODIFIED)
def test_a_modifier(make: Make, word: str) -> None:
    modifier, note = MODIFIED[word]
    world = make(*PHTTP, f'rule = pattern "^/x/(.*)" {modifier} use server {A} server {B}')
    told = explain(world, "/x/a")
    said = [*told["notes"], told["answer"]["reason"]]
    assert any(note in one for one in said), said


def test_fields_that_are_removed_and_edits_of_the_service(make: Make) -> None:
    world = make(
        *PHTTP, f"rule = path /a use server {A}", 'request_header = X-Gone ""',
        'response_header = Server ""', 'response_header = X-All "{rule}"',
        'rule = name no path /no response_header X-Why "not here" use respond 403',
    )  # fmt: skip
    notes = explain(world, "/a", "X-Gone: 1")["notes"]
    assert "the server does not get x-gone of the request" in notes
    assert {"the response loses server", "the response gets X-All: "} <= set(notes)
    told = explain(world, "/no")
    assert "the response gets X-Why: not here" in told["notes"]
    assert told["answer"]["why"] == "rule=2, respond"


def test_the_field_that_says_why(make: Make) -> None:
    world = make(*PHTTP, "why_for = 192.0.2.0/24")
    assert f'the response gets X-Ktcpvs-Why: balance, server="{A}"' in explain(world, "/a", "X-Ktcpvs-Why: 1")["notes"]
    assert not [note for note in explain(world)["notes"] if "Why:" in note]


def test_the_notes_are_what_happens(make: Make) -> None:
    """The fields that --explain names are those that the server and the client get."""
    rule = (
        f'rule = path /a strip_prefix /a request_header X-A "{{client}}" response_header X-B "{{path}}" use server {A}'
    )
    world = make(*PHTTP, rule)
    notes = explain(world)["notes"]
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    got = server.heard().decode()
    server.says(answer())
    given = client.heard().decode()
    assert [note.removeprefix("the server gets ") for note in notes if note.startswith("the server gets X-")] == [
        line for line in got.split("\r\n") if line.startswith("X-")
    ]
    assert "the server gets the path /" in notes
    assert got.startswith("GET / HTTP/1.1\r\n")
    assert [note.removeprefix("the response gets ") for note in notes if note.startswith("the response")] == [
        line for line in given.split("\r\n") if line.startswith("X-")
    ]


# Limits: how much of each is used, and what happens beyond it.


def two_requests(world: World) -> None:
    client = world.client()
    for _ in range(2):
        client.says(get())
        for server in world.accepts_all():
            server.says(answer())


def wait(world: World) -> None:
    """Two requests for one place: one of them waits."""
    for _ in range(2):
        world.client().says(get())
    world.accepts(A)


LIMITS: dict[str, tuple[tuple[str, ...], Callable[[World], object], str]] = {
    "allow": (("allow = 192.0.2.0/24",), lambda world: None, "client allowed by 192.0.2.0/24"),
    "deny": (("deny = 192.0.2.0/24",), lambda world: None, "client denied by 192.0.2.0/24: the connection is reset"),
    "maxclients": (
        ("maxclients = 1",), lambda world: world.client(), "service has 1 of 1 clients: the next one waits until one "
    ),
    "maxconn": ((), lambda world: world.client().says(get()), f"{A} was chosen first, but it is full"),
    "max_pending": ((), wait, f"max_pending requests wait for {A} already"),
    "client_connections": (
        ("client_connections = 1",), lambda world: world.client(), "client has 1 of 1 connections: the next one is"
    ),
    "client_rate": (("client_rate = 1/h",), two_requests, "client exceeds its rate: requests get status 429 for "),
    "client_burst": (
        ("client_rate = 1/h", "client_burst = 3"), two_requests, "client within its rate"
    ),
    "client_head": (
        ("client_head = 100",), lambda world: world.client().says(b"GET / HTTP"), "client has 10 of 100 bytes of "
    ),
    "client_head_rate": (("client_head_rate = 1000",), two_requests, "client within its rate of heads"),
    "client_ipv6": (("client_connections = 9", "client_ipv6 = 64"), lambda world: None, "client has 0 of 9 "),
    "head_size": (("head_size = 512",), lambda world: None, "the client gets status 431"),
    "head_lines": (("head_lines = 3",), lambda world: None, "the client gets status 431"),
    "uri_size": (("uri_size = 64",), lambda world: None, "the client gets status 414"),
    "queue_timeout": (("queue_timeout = 7",), lambda world: world.client().says(get()), "waits at most 7 seconds"),
}  # fmt: skip

REQUESTS = {
    "head_size": ("/a", ("X: " + "x" * 600,)),
    "head_lines": ("/a", ("A: 1", "B: 2", "C: 3", "D: 4")),
    "uri_size": ("/" + "x" * 100, ()),
}

OTHER_LIMITS = {
    "body_size": "a request that is explained has no body",
}
"""Options that limit something which no explanation can see."""


def test_all_limits_are_in_the_table() -> None:
    """Of the options of a service and of its servers. A new one must be explained, or be excused with a reason."""
    known = {*fields_dict(VirtualService)}
    limits = {name for name in known if name.startswith(("client_", "max")) or name.endswith(("_size", "_lines"))}
    limits -= {"client_ca", "client_certificate", "client_cert_header", "maxspareservers"}
    assert limits | {"allow", "deny", "queue_timeout", "maxconn", "max_pending"} == {*LIMITS, *OTHER_LIMITS}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit(make: Make, name: str) -> None:
    lines, before, note = LIMITS[name]
    servers = [f"server = {A}", f"server = {B} 1"]
    if name in ("maxconn", "max_pending", "queue_timeout"):
        words_ = "maxconn 1 max_pending 1" if name == "max_pending" else "maxconn 1"
        servers = [f"server = {A} 1 {words_}"] if name != "maxconn" else [f"server = {A} 65535 maxconn 1", servers[1]]
    world = make("scheduler = phttp", *servers, *lines)
    if name == "maxconn":
        world.client().says(get())
        world.accepts(A)
        world.client().says(get())
        world.accepts(B)
        before = lambda world: None  # noqa: E731
    before(world)
    target, headers = REQUESTS.get(name, ("/a", ()))
    told = explain(world, target, *headers)
    said = [*told["notes"], told["answer"]["reason"]]
    assert any(note in one for one in said), said


def test_a_rate_that_is_used_up(make: Make) -> None:
    world = make(*PHTTP, f"rule = name r path /a rate 2/h burst 1 use server {A}")
    two_requests(world)
    (note,) = (note for note in explain(world)["notes"] if note.startswith("rate"))
    assert note.startswith("rate 2/h burst 1 is used up: such requests get status 429 for 1800")


def test_a_full_queue_says_how_many_wait(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A} maxconn 1 max_pending 5")
    wait(world)
    told = explain(world)
    assert f"1 of at most 5 requests wait for {A}" in told["notes"]
    assert told["answer"]["why"] == "balance, queue"


def test_a_challenge(make: Make) -> None:
    world = make(*PHTTP)
    world.director.challenges.use(PendingChallenges.of([Challenge(HTTP_01, "h.example", "token", "key")]))
    told = explain(world, "/.well-known/acme-challenge/token")["answer"]
    assert (told["outcome"], told["status"], told["why"]) == ("respond", 200, "challenge")


# Schedulers.


@pytest.mark.parametrize("name", sorted(installed_schedulers().known))
def test_a_scheduler(make: Make, name: str) -> None:
    """It gives a reason that names its criterion, and words of the closed list; as balance of a rule, with the rule."""
    world = make(f"scheduler = {name}", f"server = {A} 2", f"server = {B}")
    told = explain(world)["answer"]
    assert told["outcome"] == "server"
    assert len(told["reason"].split()) > 2
    assert all(word in words.WORDS for word in told["why"].split(", ")), told["why"]
    if installed_schedulers().known[name].unit == "CONNECTION" and name != "tcp":
        world = make(
            *PHTTP, f"balance = {name}", 'rule = pattern "^/x" use respond 403', f"rule = path /a use server {A}"
        )
        told = explain(world)["answer"]
        assert told["reason"].startswith("rule 2 'path /a', ")
        assert told["why"].startswith("rule=2, ")
