"""X-Ktcpvs-Why: clients of trusted networks that ask for it get it, on every way that a response can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, World, answer, get, worlds

from ktcpvs.http.why_field import FIELD_NAME, WhyField
from ktcpvs.model.network import parse_networks
from ktcpvs.model.scheduling import Request

ASKS = f"{FIELD_NAME}: 1"
LINES = ("scheduler = phttp", f"server = {A}", "why_for = 192.0.2.0/24")
Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*LINES) as make:
        yield make


def field_of(response: bytes) -> str | None:
    """Return the value of the field; None: there is none. It may be there once."""
    found = [line for line in response.split(b"\r\n") if line.lower().startswith(b"x-ktcpvs-why:")]
    assert len(found) < 2
    return found[0].partition(b": ")[2].decode() if found else None


def test_who_gets_it(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", ASKS))
    server = world.accepts(A)
    assert b"X-Ktcpvs-Why: 1\r\n" in server.heard()
    server.says(answer(b"hello", "X-Ktcpvs-Why: forged"))
    assert field_of(client.heard()) == f'balance, server="{A}"'
    for lines, expected in (([ASKS], f'balance, server="{A}"'), ([], None), ([f"{FIELD_NAME}: 0"], None)):
        client.says(get("/a", *lines))  # on a kept connection, by the fast path
        server.says(answer(b"hello", "x-ktcpvs-why: forged"))
        assert field_of(client.heard()) == expected


def test_others_get_none_not_even_that_of_a_server(make: Make) -> None:
    world = make()
    stranger = world.comes("198.51.100.1")
    assert stranger is not None
    server: Any = None
    for _ in range(2):
        stranger.says(get("/a", ASKS))
        server = [server, *world.accepts_all()][-1]
        server.says(answer(b"hello", "X-Ktcpvs-Why: forged"))
        assert field_of(stranger.heard()) is None


def test_without_why_for_nothing_is_touched(make: Make) -> None:
    world = make(*LINES[:2])
    client = world.client()
    server: Any = None
    for _ in range(2):
        client.says(get("/a", ASKS))
        server = [server, *world.accepts_all()][-1]
        server.says(answer(b"hello", "X-Ktcpvs-Why: of the server"))
        assert field_of(client.heard()) == "of the server"


def test_the_client_behind_a_trusted_proxy_counts(make: Make) -> None:
    world = make(*LINES[:2], "why_for = 10.0.0.0/8", "trusted_proxies = 192.0.2.1")
    client = world.client()
    client.says(get("/a", ASKS, "X-Forwarded-For: 10.1.2.3"))
    server = world.accepts(A)
    server.says(answer())
    assert field_of(client.heard()) == f'balance, server="{A}"'
    client.says(get("/a", ASKS, "X-Forwarded-For: 198.51.100.1"))
    server.says(answer())
    assert field_of(client.heard()) is None


@pytest.mark.parametrize(
    ("lines", "data", "expected"),
    [
        (["rule = path /no use respond 403"], get("/no", ASKS), "rule=1, respond"),
        (["rule = path /old use redirect /new"], get("/old", ASKS), "rule=1, redirect"),
        ([f"rule = path /b use server {A}"], get("/a", ASKS), "no_server"),
        (["client_rate = 1/h"], get("/a", ASKS), "client_limit"),
        (["uri_size = 100"], get("/" + "x" * 200, ASKS), None),  # nothing of that head is believed
    ],
)
def test_responses_of_the_switch_itself(make: Make, lines: list[str], data: bytes, expected: str | None) -> None:
    world = make(*LINES, *lines)
    client = world.client()
    if "client_rate" in lines[0]:
        client.says(get())
        world.accepts(A).says(answer())
        client.heard()
    client.says(data)
    assert field_of(client.heard()) == expected


def test_a_rule_with_edits_and_a_server_that_has_failed(make: Make) -> None:
    rule = f'rule = path /a response_header X-A "b" response_header {FIELD_NAME} "c" use server {A} server {B}'
    world = make(*LINES, f"server = {B}", rule)
    client = world.client()
    client.says(get("/a", ASKS))
    world.refuses(A)
    world.accepts(B).says(answer())
    heard = client.heard()
    assert b"X-A: b\r\n" in heard
    assert field_of(heard) == f'rule=1, balance, retry, server="{B}"'


@pytest.mark.parametrize("client", ["", "10.0.0.1", "2001:db8::1", "fe80::1%eth0"])
def test_clients_of_no_network(client: str) -> None:
    field = WhyField(parse_networks("192.0.2.0/24"))
    assert field.line(Request(client, lines=b"X-Ktcpvs-Why: 1\r\n"), "balance", A) == b""


def test_a_name_of_a_server_cannot_break_the_field() -> None:
    field = WhyField(parse_networks("192.0.2.0/24"))
    line = field.line(Request("::ffff:192.0.2.1", lines=b"x-ktcpvs-why: 1\r\n"), "hash", 'unix:/a"b\\c\r\né')
    assert line.count(b"\r\n") == 1
    assert line == b'X-Ktcpvs-Why: hash, server="unix:/a\\"b\\\\c???"\r\n'
