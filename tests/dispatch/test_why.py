"""The words that say why a request went where it went: each is in the access log where it belongs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, C, World, answer, get, worlds
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure
from zope.interface import implementer

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.interfaces import EACH_REQUEST, Choosing, IScheduler, ISchedulerFactory, Request, ServiceView
from ktcpvs.model import why as words
from ktcpvs.model.challenges import HTTP_01, Challenge
from ktcpvs.runtime.challenges import PendingChallenges

PHTTP, EVERY = "scheduler = phttp", f'rule = pattern ".*" use server {A} server {B}'
TWO = (PHTTP, f"server = {A}", f"server = {B}", EVERY)
Make = Callable[..., World]


class Lines:
    """An access log in memory."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.told.append(json.loads(line))


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds() as make:
        yield make


def log_of(world: World) -> list[dict[str, Any]]:
    lines: Any = Lines()
    world.live.traffic.access_log.writer = AccessLogWriter(world.context, lines, "json", "s", "x")
    world.live.apply_settings()
    told: list[dict[str, Any]] = lines.told
    return told


def served(world: World, data: bytes, *then: Callable[[World], object]) -> str | None:
    """Send a request, accept each connection attempt unless `then` says otherwise, and return its `why`."""
    lines = log_of(world)
    client = world.client()
    if data:
        client.says(data)
    for step in then:
        step(world)
    for server in world.accepts_all():
        server.says(answer())
    world.settle()
    if client.is_open:
        client.resets()
        world.settle()
    why: str | None = lines[-1]["why"]
    return why


def refuse(address: str) -> Callable[[World], object]:
    return lambda world: world.refuses(address)


def full(world: World, address: str) -> World:
    """Let another client take the only place of a server."""
    world.client().says(get())
    world.accepts(address)
    return world


def eject(world: World, address: str) -> None:
    (destination,) = (one for one in world.live.usable if str(one.address) == address)
    for _ in range(5):
        world.live.health.failed(destination, "broken")


def test_the_list_of_words_is_closed() -> None:
    constants = {value for name, value in vars(words).items() if name.isupper() and isinstance(value, str)}
    assert constants == set(words.WORDS)
    assert len(set(words.WORDS)) == len(words.WORDS)
    for word in words.WORDS:
        assert word.replace("_", "").isalpha()
        assert word.islower()


CHOSEN = {
    "balance": (TWO, get(), "rule=1, balance"),
    "no rules": ((PHTTP, f"server = {A}"), get(), "balance"),
    "hash": ((PHTTP, f"server = {A}", f'rule = pattern "^/(.*)" match 1 use server {A}'), get(), "rule=1, hash"),
    "sticky": ((*TWO, "sticky = header X-User"), get("/", "X-User: me"), "rule=1, hash"),
    "a new session": (("scheduler = chttp", *TWO[1:]), get(), "rule=1, balance, new_session"),
    "rule with modifiers": (
        (PHTTP, f"server = {A}", 'rule = path /b use respond 403', f"rule = path /a strip_prefix /a use server {A} 5"),
        get("/a"), "rule=2, balance",
    ),
    "respond": ((PHTTP, f"server = {A}", "rule = path /a use respond 403"), get(), "rule=1, respond"),
    "redirect": ((PHTTP, f"server = {A}", 'rule = path /a use redirect "/b"'), get(), "rule=1, redirect"),
    "no rule matches": ((PHTTP, f"server = {A}", f"rule = path /b use server {A}"), get(), "no_server"),
    "redirect server": (
        (PHTTP, f"server = {A}", f"rule = path /b use server {A}", f"redirect = {C}"), get(), "redirect_server",
    ),
    "bad request": (TWO, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "bad_request"),
    "too large": ((*TWO, "uri_size = 100"), get("/" + "x" * 200), "too_large"),
    "connection": (("scheduler = wlc", f"server = {A}"), b"", "balance"),
    "sh": (("scheduler = sh", f"server = {A}"), b"", "hash"),
    "http": (("scheduler = http", *TWO[1:]), get(), "rule=1, balance"),
    "http, respond": (
        ("scheduler = http", f"server = {A}", "rule = path /a use respond 403"), get(), "rule=1, respond",
    ),
    "http, bad request": (("scheduler = http", *TWO[1:]), b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_what_was_decided_at_once(make: Make, name: str) -> None:
    lines, data, why = CHOSEN[name]
    assert served(make(*lines), data) == why


def test_a_session(make: Make) -> None:
    world = make("scheduler = chttp", *TWO[1:])
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer())
    cookie = client.heard().partition(b"Set-Cookie: ")[2].partition(b";")[0].decode()
    assert served(world, get("/a", f"Cookie: {cookie}")) == "rule=1, session"


def test_after_servers_that_have_failed(make: Make) -> None:
    assert served(make(*TWO), get(), refuse(A)) == "rule=1, balance, retry"
    assert served(make(*TWO), get(), refuse(A), refuse(B)) == "no_server, retry"
    lines = (*TWO, "retry_on = off")
    assert served(make(*lines), get(), refuse(A)) == "server_failed"
    assert served(make(*TWO), get(), lambda world: world.accepts(A).says(b"nonsense\r\n\r\n")) == "server_failed"


def test_full_servers(make: Make) -> None:
    lines = PHTTP, f"server = {A} 9 maxconn 1", f"server = {B}", EVERY
    assert served(full(full(make(*lines), A), B), get()) == "rule=1, balance, full"
    lines = PHTTP, f"server = {A} maxconn 1 max_pending 1", f"rule = path /a use server {A}"
    world = full(make(*lines, settings="queue_timeout = 3"), A)
    log = log_of(world)
    waiting, refused = world.client(), world.client()
    waiting.says(get())
    refused.says(get())
    assert [line["why"] for line in log] == ["max_pending"]
    world.passes(5)
    assert [line["why"] for line in log] == ["max_pending", "queue_timeout"]


def test_a_request_that_has_waited(make: Make) -> None:
    world = make(PHTTP, f"server = {A} maxconn 1", f"rule = path /a use server {A}")
    first = world.client()
    first.says(get())
    server = world.accepts(A)
    log = log_of(world)
    world.client().says(get())
    server.says(answer())
    server.says(answer())
    assert [line["why"] for line in log] == ["rule=1, balance, queue"]


def test_priorities_and_the_last_resort(make: Make) -> None:
    lines = PHTTP, f"server = {A} maxconn 1", f"server = {B} 1 priority 2"
    assert served(full(make(*lines), A), get()) == "balance, later_priority, full"
    world = make(PHTTP, f"server = {A}", f"server = {B}", "eject = 5")
    eject(world, A)
    assert served(world, get(), refuse(B)) == "balance, last_resort, retry"


@implementer(ISchedulerFactory, IScheduler)
class Broken:
    """A scheduler whose choices fail."""

    name, unit = "broken", EACH_REQUEST

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Broken:
        return self

    def choose(self, request: Request) -> Choosing:
        raise RuntimeError("broken")


def test_a_scheduler_that_fails(make: Make) -> None:
    world = make("scheduler = broken", f"server = {A}", f"server = {B}", schedulers=[Broken()])
    assert served(world, get()) == "balance, fallback"


def test_limits(make: Make) -> None:
    world = make(PHTTP, f"server = {A}", f"rule = name r path /a rate 1/h use server {A}")
    assert served(world, get()) == "rule=1, balance"
    assert served(world, get()) == "rule=1, rule_rate"
    world = make(*TWO, "client_rate = 1/h")
    assert served(world, get()) == "rule=1, balance"
    assert served(world, get()) == "client_limit"
    world = make(*TWO, "trusted_proxies = 192.0.2.1", "deny = 10.0.0.0/8")
    assert served(world, get("/a", "X-Forwarded-For: 10.1.1.1")) == "deny"


def test_those_that_are_too_slow(make: Make) -> None:
    world = make(*TWO, settings="response_timeout = 2 head_timeout = 2")
    assert served(world, get(method="POST"), lambda world: world.accepts(A), lambda world: world.passes(9)) == (
        "server_timeout"
    )
    assert served(world, b"GET / HTTP/1.1\r\n", lambda world: world.passes(9)) == "client_timeout"


def test_a_challenge(make: Make) -> None:
    world = make(*TWO)
    challenge = Challenge(HTTP_01, "shop.example", "token", "key")
    world.director.challenges.use(PendingChallenges.of([challenge]))
    assert served(world, get("/.well-known/acme-challenge/token")) == "challenge"


def test_a_system_without_descriptors(make: Make) -> None:
    def exhausted(world: World) -> None:
        assert world.called() == [A]
        failure = ConnectError(24, "Too many open files")
        failure.osError = 24
        world.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(failure))

    assert served(make(*TWO), get(), exhausted) == "no_descriptors"


def test_a_client_that_has_gone_first_has_none(make: Make) -> None:
    world = make("scheduler = http", *TWO[1:])
    log = log_of(world)
    client = world.client()
    client.closes()
    assert [line["why"] for line in log] == [None]
