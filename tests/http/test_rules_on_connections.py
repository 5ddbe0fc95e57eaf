"""Rules with conditions on client connections: the same servers with and without the fast path and its caches."""

from __future__ import annotations

from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, C, Peer, World, answer
from naive_rules import naive, request, rule_texts

from ktcpvs.model.conditions import KINDS
from ktcpvs.model.scheduling import BoundRule
from ktcpvs.protocols.http1 import plain_python

SERVERS = (A, B, C)
CLIENTS = ("10.1.2.3", "192.0.2.1", "2001:db8::1")


class Side:
    """A service with these rules. kind: "compiled" or "python", the scanner of the fast path; "general": without it."""

    def __init__(self, texts: list[str], kind: str, scheduler: str = "phttp") -> None:
        self.servers: list[tuple[str, Peer]] = []
        lines = [f"server = {server}" for server in SERVERS]
        for number, text in enumerate(texts):
            written = text if text.startswith(_BEGINNINGS) else f'pattern "{text}"'
            lines.append(f"rule = name n{number} {written} use server {SERVERS[number % len(SERVERS)]}")
        self.world = World(f"scheduler = {scheduler}", *lines)
        if kind == "python":
            self.world.live.cache.use(plain_python.RequestScanner, plain_python.scan_response)
        self.world.live.apply_settings()
        self.world.live.cache.is_enabled = kind != "general"
        self.rules: tuple[BoundRule, ...] = self.world.live.selector.scheduler.rules
        self.clients: dict[str, Peer] = {}

    def serves(self, client: str, data: bytes) -> str:
        """Send a request; return the server that gets it, or the status with which it is refused."""
        if client not in self.clients or not self.clients[client].is_open:
            peer = self.world.comes(client)
            assert peer is not None
            self.clients[client] = peer
        self.clients[client].says(data)
        called = self.world.called()
        if called:
            self.servers.append((called[0], self.world.connects()))
        for address, server in self.servers:
            if server.is_open and server.heard():
                server.says(answer())
                self.world.settle()
                assert self.clients[client].heard().startswith(b"HTTP/1.1 200 ")
                return address
        status = self.clients[client].heard().split(b" ")[1].decode()
        self.world.settle()
        return status

    def close(self) -> None:
        for client in self.clients.values():
            if client.stream.is_open:
                client.resets()
        for _, server in self.servers:
            if server.stream.is_open and not server.line.disconnecting and not server.line.aborted:
                server.resets()
        self.world.close()


_BEGINNINGS = tuple(f"{word} " for word in (*KINDS, "not"))

PATHS = ("/", "/a", "/a/", "/a/b", "/b?x=1", "/x/..%2fa/", "/%61?y=a&x=b")
LINES = (
    ("Host: a",),
    ("Host: b.a",),
    ("host: C", "x: 1"),
    ("Host: a", "X: a", "Cookie: x=1"),
    ("Host: x.b.a", "Cookie: y=b; x=a", "y: 1"),
    ("Connection: keep-alive", "Host: a", "x: 1"),
)
ASKED = st.lists(
    st.tuples(
        st.sampled_from(CLIENTS),
        st.sampled_from(PATHS),
        st.sampled_from(LINES),
        st.sampled_from(("GET", "GET", "DELETE")),
    ),
    min_size=1,
    max_size=8,
)


def head(path: str, lines: tuple[str, ...], method: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "", "")).encode()


@examples(150)
@given(st.lists(rule_texts, min_size=1, max_size=6, unique=True), ASKED)
def test_the_fast_path_serves_as_the_rules_say(texts: list[str], asked: list[Any]) -> None:
    sides = [Side(texts, kind) for kind in ("compiled", "python", "general")]
    for client, path, lines, method in [*asked, *asked]:
        seen = request(path, *lines, method=method, client=client, port=0)
        place = naive(sides[0].rules, seen)
        for side in sides:
            served = side.serves(client, head(path, lines, method))
            if place is None:
                assert served == "503"
            else:
                assert served == SERVERS[(side.rules[place].number - 1) % len(SERVERS)]
    for side in sides:
        side.close()


@pytest.mark.parametrize("kind", ["compiled", "python", "general"])
@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_equal_bytes_of_two_clients_may_go_to_two_servers(kind: str, scheduler: str) -> None:
    side = Side(["from 10.0.0.0/8", "share 100%"], kind, scheduler)
    data = head("/a", ("Host: h",), "GET")
    for _ in range(3):
        assert side.serves("10.0.0.1", data) == A
        assert side.serves("192.0.2.1", data) == B
    side.close()
