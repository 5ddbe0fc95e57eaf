"""TLS passed through: the ClientHello chooses the server, and reaches it untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory import World, worlds

A, B = "10.0.0.1:443", "10.0.0.2:443"
HELLOS = Path(__file__).parents[1] / "protocols" / "corpus" / "hellos"
HELLO = (HELLOS / "openssl-tls13.bin").read_bytes()
NO_NAME = (HELLOS / "openssl-no-name.bin").read_bytes()
NAME = "www.example.com"
SNI = ("scheduler = sni", f"server = {A}", f"server = {B}", f"rule = host {NAME} use server {A}")
DEFAULT = (*SNI, f'rule = pattern ".*" use server {B}')
ALERT = b"\x15\x03\x03\0\2\2"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""
    with worlds() as make:
        yield make


@pytest.mark.parametrize("size", [1, 7, 100, 10000])
def test_the_name_chooses_and_the_bytes_pass_untouched(make: Make, size: int) -> None:
    world = make(*DEFAULT)
    client = world.client()
    for start in range(0, len(HELLO), size):
        client.says(HELLO[start : start + size])
    server = world.accepts(A)
    assert server.heard() == HELLO
    server.says(b"hello")
    client.says(b"more")
    assert (client.heard(), server.heard()) == (b"hello", b"more")
    client.resets()


def test_a_client_without_a_name_gets_the_default_rule(make: Make) -> None:
    world = make(*DEFAULT)
    client = world.client()
    client.says(NO_NAME)
    assert world.accepts(B).heard() == NO_NAME
    client.resets()


def test_a_name_without_a_rule_is_refused_with_an_alert(make: Make) -> None:
    world = make(*SNI)
    client = world.client()
    client.says(NO_NAME)
    assert client.heard() == ALERT + b"\x28"
    client.resets()
    assert world.live.traffic.counters.refusals == {503: 1}


def test_what_is_not_tls_is_refused(make: Make) -> None:
    world = make(*DEFAULT)
    client = world.client()
    client.says(b"GET / HTTP/1.1\r\n\r\n")
    assert client.heard() == b""
    client.resets()
    assert world.live.traffic.counters.refusals == {400: 1}


def test_what_is_not_tls_may_go_to_the_default_rule(make: Make) -> None:
    world = make(*DEFAULT, "not_tls = default")
    client = world.client()
    client.says(b"SSH-2.0-x\r\n")
    assert world.accepts(B).heard() == b"SSH-2.0-x\r\n"
    client.resets()


def test_a_malformed_hello_gets_its_alert(make: Make) -> None:
    world = make(*DEFAULT)
    client = world.client()
    client.says(b"\x16\x03\x01\0\x04\2\0\0\0")
    assert client.heard().startswith(ALERT)
    client.resets()


def test_a_client_that_is_silent_or_leaves(make: Make) -> None:
    world = make(*DEFAULT)
    slow, leaving = world.client(), world.client()
    slow.says(HELLO[:20])
    leaving.says(HELLO[:20])
    leaving.resets()
    world.reactor.pump([1.0] * 12)
    assert world.live.traffic.counters.refusals == {408: 1}
    slow.resets()
