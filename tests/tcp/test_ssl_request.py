"""PostgreSQL by server name: the switch answers an SSLRequest, and sends one to the server that the hello chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory import Peer, World, log_into, worlds

from ktcpvs.protocols.postgresql import GSSENC_REQUEST, SSL_REQUEST

A, B = "10.0.0.1:5432", "10.0.0.2:5432"
HELLOS = Path(__file__).parents[1] / "protocols" / "corpus" / "hellos"
HELLO = (HELLOS / "openssl-tls13.bin").read_bytes()
NO_NAME = (HELLOS / "openssl-no-name.bin").read_bytes()
STARTUP = bytes.fromhex("0000000c00030000") + b"a\0b\0"
SERVICE = (
    "scheduler = sni",
    "starttls = postgresql",
    f"server = {A}",
    f"server = {B}",
    f"rule = host www.example.com use server {A}",
    f'rule = pattern ".*" use server {B}',
)
NO_DEFAULT = SERVICE[:-1]
ALERT = b"\x15\x03\x03\0\2\2"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""
    with worlds(*SERVICE, settings="connect_timeout = 3") as make:
        yield make


def asks(world: World, hello: bytes = HELLO) -> Peer:
    """A client that has asked for TLS, and sent its hello after the answer."""
    client = world.client()
    client.says(SSL_REQUEST)
    assert client.heard() == b"S"
    client.says(hello)
    return client


@pytest.mark.parametrize("size", [1, 3, 10000])
def test_the_server_is_asked_too_and_then_gets_the_hello(make: Make, size: int) -> None:
    world = make()
    client = world.client()
    for start in range(0, 8, size):
        client.says(SSL_REQUEST[start : start + size])
    assert client.heard() == b"S"
    for start in range(0, len(HELLO), size):
        client.says(HELLO[start : start + size])
    server = world.accepts(A)
    assert server.heard() == SSL_REQUEST
    assert client.heard() == b""
    server.says(b"S")
    assert server.heard() == HELLO
    server.says(b"hello")
    client.says(b"more")
    assert (client.heard(), server.heard()) == (b"hello", b"more")
    client.resets()


def test_a_hello_without_a_request_passes_untouched(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(HELLO)
    assert world.accepts(A).heard() == HELLO
    client.resets()


def test_gss_is_declined_and_tls_may_follow(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(GSSENC_REQUEST)
    assert client.heard() == b"N"
    client.says(SSL_REQUEST)
    assert client.heard() == b"S"
    client.says(NO_NAME)
    server = world.accepts(B)
    server.says(b"S")
    assert server.heard() == SSL_REQUEST + NO_NAME
    client.resets()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"N", "the server does not speak TLS (ssl = off in postgresql.conf)"),
        (b"SE", "the server sends more than its answer"),
        (b"EFATAL", "the server answers 'EFATAL', and not S or N"),
    ],
)
def test_a_server_that_does_not_agree_counts_as_not_connected(make: Make, answer: bytes, why: str) -> None:
    lines: list[str] = []
    world = make(log=log_into(lines), settings="debug_level = 1")
    client = asks(world)
    world.accepts(A).says(answer)
    world.turns(1)
    assert client.heard() == ALERT + b"\x28"
    assert f"SSLRequest: {why}" in "\n".join(lines)
    client.resets()
    (first, _) = world.live.destinations.values()
    assert first.retries == 1


def test_a_server_that_leaves_or_is_silent_counts_as_not_connected(make: Make) -> None:
    for leave in (Peer.ends, Peer.resets, lambda _: None):
        world = make()
        client = asks(world)
        leave(world.accepts(A))
        world.passes(6)
        assert client.heard() == ALERT + b"\x28"
        client.resets()


def test_another_server_of_the_rule_is_tried(make: Make) -> None:
    both = f"rule = host www.example.com use server {A} server {B}"
    world = make(*SERVICE[:-2], both)
    client = asks(world)
    world.accepts(A).says(b"N")
    world.turns(1)
    server = world.accepts(B)
    server.says(b"S")
    assert server.heard() == SSL_REQUEST + HELLO
    client.resets()


def test_a_client_that_leaves_while_the_server_is_asked_leaves_nothing_behind(make: Make) -> None:
    world = make()
    client = asks(world)
    server = world.accepts(A)
    client.resets()
    assert server.line.aborted


def test_a_service_that_stops_meanwhile_leaves_nothing_behind(make: Make) -> None:
    world = make(settings="drain_timeout = 0")
    asks(world)
    server = world.accepts(A)
    world.live.stop()
    world.passes(2)
    assert server.line.aborted


def test_what_follows_a_request_before_its_answer_is_refused(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(SSL_REQUEST + HELLO)
    assert client.heard() == b""
    assert not world.called()
    client.resets()
    assert world.live.traffic.counters.refusals == {400: 1}


def test_other_bytes_after_the_answer_never_get_the_default_rule(make: Make) -> None:
    world = make(*SERVICE, "not_tls = default")
    client = asks(world, STARTUP)
    assert client.heard() == b""
    assert not world.called()
    client.resets()


def test_a_client_without_tls_is_told_so(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(STARTUP)
    told = client.heard()
    assert told.startswith(b"E")
    assert b"\0C28000\0Mthis service requires TLS: connect with sslmode=require, or a stricter one\0\0" in told
    client.resets()


def test_a_client_without_tls_may_get_the_default_rule(make: Make) -> None:
    world = make(*SERVICE, "not_tls = default")
    client = world.client()
    client.says(STARTUP)
    assert world.accepts(B).heard() == STARTUP
    client.resets()


def test_a_name_without_a_rule_is_refused_with_an_alert(make: Make) -> None:
    world = make(*NO_DEFAULT)
    client = asks(world, NO_NAME)
    assert client.heard() == ALERT + b"\x28"
    client.resets()


def test_a_client_that_stops_within_its_request_is_refused_in_time(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(SSL_REQUEST[:5])
    world.passes(12)
    assert world.live.traffic.counters.refusals == {408: 1}
    client.resets()
