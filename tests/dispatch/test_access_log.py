"""Access log entries of requests and connections: server, times, bytes, and how they ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import World, worlds

from ktcpvs.dispatch.access_log import AccessLogWriter

A, B = "10.0.0.1:80", "10.0.0.2:80"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\nUser-Agent: me\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Logged = tuple[World, list[dict[str, Any]]]
Make = Callable[..., Logged]


class Lines:
    """An access log in memory."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.told.append(json.loads(line))


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes a world whose service has an access log, and the list of its lines."""
    with worlds() as make:

        def new(scheduler: str, *servers: str, settings: str = "") -> Logged:
            used = " ".join(f"server {server}" for server in servers)
            rules = [f'rule = pattern ".*" use {used}'] if used else []
            world = make(f"scheduler = {scheduler}", *(f"server = {s}" for s in servers), *rules, settings=settings)
            world.context.wall = lambda: 1_700_000_000.0
            lines: Any = Lines()
            world.live.traffic.access_log.writer = AccessLogWriter(world.context, lines, "json", "s", scheduler)
            world.live.apply_settings()
            return world, lines.told

        yield new


def said(lines: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    return [[line[name] for name in names] for line in lines]


def test_a_request_and_its_times(make: Make) -> None:
    world, lines = make("phttp", A)
    client = world.client()
    client.says(GET)
    world.reactor.advance(0.25)
    server = world.accepts(A)
    world.reactor.advance(0.5)
    server.says(OK[:-1])
    assert lines == []
    world.reactor.advance(1.25)
    server.says(OK[-1:])
    assert client.heard() == OK
    (line,) = lines
    assert (line["service"], line["scheduler"], line["client"]) == ("s", "phttp", "192.0.2.1")
    assert (line["method"], line["target"], line["status"]) == ("GET", "/x", 200)
    assert line["server"] == A
    assert line["reason"] == "rule 1 '.*', the only server"
    assert (line["connect"], line["first"], line["total"]) == (0.25, 0.75, 2.0)
    assert (line["bytes_in"], line["bytes_out"], line["body_out"]) == (len(GET), len(OK), 2)
    assert (line["retries"], line["reused"], line["ending"]) == (0, False, "answered")
    client.says(GET)
    server.says(OK)
    assert said(lines, "connect", "reused", "bytes_in", "bytes_out") == [
        [0.25, False, len(GET), len(OK)],
        [0.0, True, len(GET), len(OK)],
    ]


def test_a_server_called_in_vain(make: Make) -> None:
    world, lines = make("phttp", A, B)
    client = world.client()
    client.says(GET)
    world.refuses(A)
    server = world.accepts(B)
    server.says(OK)
    assert said(lines, "server", "retries", "error") == [[B, 1, f"{A}: Connection was refused by other side"]]
    client.says(GET)
    world.accepts(A).says(OK)
    assert lines[-1]["error"] is None


def test_a_server_that_hangs_up(make: Make) -> None:
    world, lines = make("phttp", A)
    client = world.client()
    client.says(GET)
    world.accepts(A).closes()
    assert client.heard().startswith(b"HTTP/1.1 502 ")
    told = f"{A}: the server closed the connection before it answered"
    assert said(lines, "status", "retries", "error") == [[502, 1, told]]


@pytest.mark.parametrize("scheduler", ["wlc", "http"])
def test_a_whole_connection_without_a_server(make: Make, scheduler: str) -> None:
    world, lines = make(scheduler, A)
    client = world.client()
    if scheduler == "http":
        client.says(GET)
    world.refuses(A)
    world.settle()
    client.closes()
    assert said(lines, "error") == [[f"{A}: Connection was refused by other side"]]


def test_a_kept_connection_that_died(make: Make) -> None:
    world, lines = make("phttp", A)
    client = world.client()
    client.says(GET)
    server = world.accepts(A)
    server.says(OK)
    client.says(GET)
    server.resets()
    world.accepts(A).says(OK)
    assert said(lines, "retries", "reused") == [[0, False], [1, False]]


@pytest.mark.parametrize(
    ("sent", "status", "ending"),
    [
        (b"nonsense\r\n\r\n", 400, "400: this is not HTTP"),
        (b"GET /x HTTP/1.1\r\n\r\n", 400, "400: a request must have exactly one Host"),
        (GET, 503, "503: no server for this request"),
    ],
)
def test_what_the_switch_refuses(make: Make, sent: bytes, status: int, ending: str) -> None:
    world, lines = make("phttp")
    client = world.client()
    client.says(sent)
    answer = client.heard()
    body = len(answer.partition(b"\r\n\r\n")[2])
    assert said(lines, "status", "ending", "server", "bytes_out", "body_out") == [
        [status, ending, None, len(answer), body]
    ]


def test_a_refused_request_after_a_served_one_names_no_server(make: Make) -> None:
    world, lines = make("phttp", A)
    client = world.client()
    client.says(GET)
    world.accepts(A).says(OK)
    client.says(b"GET /x HTTP/1.1\r\n\r\n")
    assert said(lines, "status", "server") == [[200, A], [400, None]]


@pytest.mark.parametrize("answered", [0, 20, 41])
def test_a_client_that_goes_in_the_middle(make: Make, answered: int) -> None:
    world, lines = make("phttp", A)
    client = world.client()
    client.says(GET)
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok"[:answered] or b"H")
    client.resets()
    assert said(lines, "ending", "status") == [["client gone", 200 if answered == 41 else None]]


def test_a_server_that_does_not_answer_in_time(make: Make) -> None:
    world, lines = make("phttp", A, settings="response_timeout = 3")
    client = world.client()
    client.says(GET)
    world.accepts(A)
    world.passes(8)
    assert client.heard().startswith(b"HTTP/1.1 504")
    assert said(lines, "status", "ending") == [[504, "504: the server did not answer within 3 seconds"]]


def test_a_websocket_is_one_line_when_it_is_over(make: Make) -> None:
    world, lines = make("phttp", A)
    client = world.client()
    client.says(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    server = world.accepts(A)
    head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    server.says(head)
    server.says(b"12345")
    client.says(b"123")
    assert lines == []
    client.ends()
    server.ends()
    world.settle()
    assert said(lines, "status", "body_out", "ending") == [[101, 5, "finished"]]


@pytest.mark.parametrize("scheduler", ["http", "wlc"])
def test_a_connection_served_as_a_whole(make: Make, scheduler: str) -> None:
    world, lines = make(scheduler, A)
    client = world.client()
    if scheduler == "http":
        client.says(GET)
    world.reactor.advance(0.5)
    server = world.accepts(A)
    if scheduler == "wlc":
        client.says(GET)
    server.says(OK)
    client.ends()
    server.ends()
    world.settle()
    (line,) = lines
    assert (line["connect"], line["bytes_in"], line["bytes_out"]) == (0.5, len(GET), len(OK))
    assert (line["status"], line["first"], line["ending"]) == (None, None, "both directions ended")
    assert line["method"] == ("GET" if scheduler == "http" else None)


def test_a_refused_head(make: Make) -> None:
    world, lines = make("http", A)
    client = world.client()
    client.says(b"nonsense\r\n\r\n")
    client.ends()
    world.settle()
    assert said(lines, "status", "ending") == [[400, "400: this is not HTTP"]]


def test_without_a_log_nothing_is_noted(make: Make) -> None:
    world, lines = make("phttp", A)
    world.live.traffic.access_log.writer = None
    client = world.client()
    client.says(GET)
    world.accepts(A).says(OK)
    assert world.connection.dispatcher.entry is None
    assert lines == []
