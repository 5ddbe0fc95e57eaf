"""Challenges of ACME of kind http-01 on every kind of connection: what a CA gets, and what other clients do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cases import check_each
from memory import A, World, answer, get, worlds
from test_http2_client_connection import H2Client
from tls_peers import authority
from twisted.internet.defer import Deferred

from ktcpvs.director.challenges import MAX_CHALLENGES, MAX_PENDING_TIME, MAX_RESTORED_TIME, NodeChallenges
from ktcpvs.errors import BadValue, Busy
from ktcpvs.model.challenges import HTTP_01, TLS_ALPN_01, Challenge
from ktcpvs.protocols.http1 import plain, plain_python

PATH = "/.well-known/acme-challenge/"
ONE = Challenge(HTTP_01, "a.example", "tokenONE_-", "tokenONE_-.thumbprint")
TWO = Challenge(HTTP_01, "b.example", "tokenTWO", "tokenTWO.thumbprint")
SERVICE = (f"server = {A}", "scheduler = phttp")

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*SERVICE) as make:
        yield make


class Node:
    """The challenges of a world's switch."""

    def __init__(self, world: World) -> None:
        self.challenges = NodeChallenges(world.director)

    def publish(self, *challenges: Challenge) -> list[Any]:
        """Publish, and return what has become of it: None, or a failure."""
        return self._done(self.challenges.publish(challenges))

    def withdraw(self, *challenges: Challenge) -> None:
        assert self._done(self.challenges.withdraw(challenges)) == [None]

    def _done(self, work: Any) -> list[Any]:
        outcome: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(outcome.append)
        return outcome


def redirecting(make: Make) -> World:
    """A service that redirects all requests to HTTPS."""
    site = f"certificate = {authority().daemon('challenges')}"
    world = make(*SERVICE, site, "https_only = on", words="tls")
    assert world.live.config.https_port is not None
    return world


def published(world: World, *challenges: Challenge) -> Node:
    node = Node(world)
    assert node.publish(*(challenges or (ONE,))) == [None]
    return node


def response(challenge: Challenge = ONE, *lines: str, with_body: bool = True) -> bytes:
    body = challenge.key_authorization.encode()
    head = "\r\n".join(
        (
            "HTTP/1.1 200 OK", "Content-Type: application/octet-stream", f"Content-Length: {len(body)}",
            "Cache-Control: no-store", *lines,
        )
    )  # fmt: skip
    return head.encode() + b"\r\n\r\n" + (body if with_body else b"")


def test_a_ca_gets_the_key_authorization(make: Make) -> None:
    world = make()
    published(world, ONE, TWO)
    client = world.client()
    for challenge in (ONE, TWO, ONE):
        client.says(get(PATH + challenge.token, "User-Agent: CA"))
        assert client.heard() == response(challenge)
    client.says(get(PATH + ONE.token, method="HEAD"))
    assert client.heard() == response(with_body=False)
    client.says(get(PATH + ONE.token, "Connection: close"))
    assert client.heard() == response(ONE, "Connection: close")
    assert world.called() == []


def test_it_comes_before_rules_redirects_rates_and_header_edits(make: Make) -> None:
    limits = ("client_rate = 1", "client_burst = 1")
    cases: list[tuple[str, ...]] = [
        (*SERVICE, "rule = path / use respond 403"),
        (*SERVICE, *limits),
        (*SERVICE, "rule = path / rate 1/s use respond 200"),
        (*SERVICE, 'response_header = X-Own "1"'),
        ("scheduler = chttp", f"server = {A}", "rule = path / use respond 403"),
        ("scheduler = phttp", "redirect = 10.0.0.9:80"),
        ("scheduler = phttp",),  # without a server
    ]

    def check(lines: tuple[str, ...]) -> None:
        world = make(*lines)
        published(world)
        client = world.client()
        for _ in range(4):
            client.says(get(PATH + ONE.token))
            assert client.heard() == response()

    check_each(cases, check)


def test_it_comes_before_the_redirect_to_https(make: Make) -> None:
    world = redirecting(make)
    node = published(world)
    client = world.client()
    for _ in range(2):
        client.says(get(PATH + ONE.token))
        assert client.heard() == response()
        client.says(get(PATH + "unknown"))
        assert client.heard().startswith(b"HTTP/1.1 308 ")
    node.withdraw(ONE)
    client.says(get(PATH + ONE.token))
    assert client.heard().startswith(b"HTTP/1.1 308 ")


def test_other_requests_go_the_usual_way(make: Make) -> None:
    for scanner in (None, plain_python.RequestScanner):
        world = make()
        if scanner is not None:
            world.live.cache.use(scanner, plain.scan_response)
            world.live.apply_settings()
        client = world.client()
        client.says(get(PATH + ONE.token))
        server = world.accepts(A)

        def passes(request: bytes, client: Any = client, server: Any = server) -> None:
            client.says(request)
            assert server.heard().startswith(request[:20])
            server.says(answer())
            assert client.heard() == answer()

        assert server.heard() == get(PATH + ONE.token)
        server.says(answer())
        assert client.heard() == answer()
        for _ in range(2):
            passes(get(PATH + ONE.token))  # the head cache knows it now
        node = published(world)
        client.says(get(PATH + ONE.token))
        assert client.heard() == response()
        for path in ("unknown", ONE.token + "x", ONE.token[:-1], "", f"{ONE.token}?x", f"%74{ONE.token[1:]}"):
            passes(get(PATH + path))
        passes(get("/a"))
        passes(get(PATH + ONE.token, "Content-Length: 1", method="POST", body=b"x"))
        node.withdraw(ONE)
        passes(get(PATH + ONE.token))
        assert world.context.challenges.responses is None


def test_requests_cost_nothing_more_while_no_challenge_is_pending(make: Make) -> None:
    """The caches call the scanner itself, and not a function around it."""
    world = make()

    def scanner() -> object:
        return getattr(world.live.cache.scan, "__self__", None)

    assert isinstance(scanner(), plain.RequestScanner)
    node = published(world)
    assert scanner() is None
    node.withdraw(ONE)
    assert isinstance(scanner(), plain.RequestScanner)
    assert world.live.traffic.challenges is None


def test_pipelined_requests_and_one_in_pieces(make: Make) -> None:
    world = make()
    published(world, ONE, TWO)
    client = world.client()
    client.says(get(PATH + ONE.token) + get("/a") + get(PATH + TWO.token))
    server = world.accepts(A)
    server.says(answer())
    assert client.heard() == response() + answer() + response(TWO)
    whole = get(PATH + ONE.token)
    for at in range(len(whole)):
        client.says(whole[at : at + 1])
    assert client.heard() == response()
    client.says(b"GET http://a.example" + PATH.encode() + ONE.token.encode() + b" HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert client.heard() == response()


@pytest.mark.parametrize("scheduler", ["http", "tcp"])
def test_connections_that_are_relayed_as_a_whole(make: Make, scheduler: str) -> None:
    """A service that reads the first request answers; one that reads nothing relays."""
    world = make(f"server = {A}", f"scheduler = {'http' if scheduler == 'http' else 'wlc'}", *REDIRECTED[scheduler])
    published(world)
    client = world.client()
    if scheduler == "tcp":
        server = world.accepts(A)
        client.says(get(PATH + ONE.token))
        assert server.heard() == get(PATH + ONE.token)
        return
    client.says(get(PATH + ONE.token))
    assert client.heard() == response(ONE, "Connection: close")
    client.ends()
    other = world.client()
    other.says(get(PATH + "unknown"))
    assert other.heard().startswith(b"HTTP/1.1 403 ")
    head = world.client()
    head.says(get(PATH + ONE.token, method="HEAD"))
    assert head.heard() == response(ONE, "Connection: close", with_body=False)


REDIRECTED = {"http": ("rule = path / use respond 403",), "tcp": ()}


def test_streams_of_http2(make: Make) -> None:
    """With prior knowledge, and where no other version is spoken."""
    world = redirecting(make)
    published(world)
    client = H2Client(world)
    client.asks(1, PATH + ONE.token)
    client.asks(3, PATH + ONE.token, "HEAD")
    client.asks(5, "/a")
    client.asks(7, PATH + ONE.token)
    body = ONE.key_authorization.encode()
    assert [client.got(stream) for stream in (1, 3, 7)] == [
        ("200", body, True),
        ("200", b"", True),
        ("200", body, True),
    ]
    assert client.got(5)[0] == "308"


def test_a_client_that_is_denied_is_rejected_before_its_request(make: Make) -> None:
    world = make(*SERVICE, "deny = 192.0.2.0/24")
    published(world)
    assert world.comes("192.0.2.1") is None


def test_a_proxy_that_tells_a_denied_client(make: Make) -> None:
    world = make(*SERVICE, "trusted_proxies = 192.0.2.1", "deny = 203.0.113.0/24")
    published(world)
    client = world.client()
    for path, expected in ((PATH + ONE.token, b"HTTP/1.1 200 "), ("/a", b"HTTP/1.1 403 ")):
        client.says(get(path, "X-Forwarded-For: 203.0.113.7"))
        assert client.heard().startswith(expected)


def test_services_that_begin_or_change_meanwhile_answer_too(make: Make) -> None:
    world = make()
    published(world)
    world.load(*SERVICE, "rule = path / use respond 403", settings="head_size = 4096")
    client = world.client()
    client.says(get(PATH + ONE.token))
    assert client.heard() == response()


def test_a_challenge_expires_at_last(make: Make) -> None:
    world = make()
    node = published(world)
    node.publish(TWO)
    node.withdraw(TWO)
    node.publish(TWO)
    world.passes(MAX_PENDING_TIME - 1)
    assert len(node.challenges.own) == 2
    world.passes(3)
    assert not node.challenges.own
    assert world.context.challenges.responses is None


def test_those_of_the_daemon_before_are_answered_for_a_while(make: Make) -> None:
    world = make()
    node = Node(world)
    node.challenges.restore([ONE])
    client = world.client()
    client.says(get(PATH + ONE.token))
    assert client.heard() == response()
    world.passes(MAX_RESTORED_TIME + 2)
    assert world.context.challenges.responses is None


def test_there_may_not_be_too_many(make: Make) -> None:
    world = make()
    many = [Challenge(HTTP_01, "a", f"t{number}", "k") for number in range(MAX_CHALLENGES)]
    node = published(world, *many)
    (failure,) = node.publish(ONE)
    assert failure.check(BadValue)
    assert node.publish(*many[:3]) == [None]
    node.withdraw(many[0])
    assert node.publish(ONE) == [None]


def test_those_of_a_cluster_and_those_of_this_node(make: Make) -> None:
    world = make()
    node = published(world)
    client = world.client()

    def answers(*expected: Challenge) -> bool:
        return set(world.context.challenges.challenges) == set(expected)

    Deferred.fromCoroutine(node.challenges.share([ONE, TWO]))
    assert answers(ONE, TWO)
    node.withdraw(ONE)
    assert answers(ONE, TWO)
    client.says(get(PATH + TWO.token))
    assert client.heard() == response(TWO)
    Deferred.fromCoroutine(node.challenges.share([]))
    assert answers()


def test_a_daemon_that_ends_publishes_nothing(make: Make) -> None:
    world = make()
    node = Node(world)
    world.director.hand_over({})
    (failure,) = node.publish(ONE)
    assert failure.check(Busy)
    assert not world.context.challenges.challenges


def test_a_challenge_of_another_kind_is_not_answered_by_http(make: Make) -> None:
    world = make()
    published(world, Challenge(TLS_ALPN_01, "a.example", ONE.token, "k"))
    assert world.context.challenges.responses is None
