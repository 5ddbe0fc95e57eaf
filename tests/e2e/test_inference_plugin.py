"""The example ktcpvs-inference in a real switch, with servers that stream events and have metrics."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from servers import LOOPBACK, free_port, wait_for

from .harness import ROOT, TIMEOUT, Daemon
from .test_plugin import install

pytestmark = [pytest.mark.e2e, pytest.mark.packages]

Make = Callable[..., Daemon]

EXAMPLE = ROOT / "docs/examples/ktcpvs-inference"

TOKENS = ("data: one\n\n", "data: two\n\n", "data: [DONE]\n\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def do_GET(self) -> None:
        body = self.server.metrics.encode()
        self.server.looks += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("X-Server", self.server.address)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for token in TOKENS:
            self.wfile.write(f"{len(token):x}\r\n{token}\r\n".encode())
            assert self.server.goes_on.wait(TIMEOUT)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class ModelServer(ThreadingHTTPServer):
    """A server like vLLM. goes_on: it waits for this after each event. looks: how often its metrics were read."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Handler)
        self.address = f"{LOOPBACK}:{self.server_address[1]}"
        self.bodies: list[bytes] = []
        self.looks = 0
        self.goes_on = Event()
        self.goes_on.set()
        self.tell(0)
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def tell(self, waiting: int) -> None:
        self.metrics = f'vllm:num_requests_running{{model_name="m"}} 0.0\nvllm:num_requests_waiting {waiting}.0\n'


@pytest.fixture
def models() -> Iterator[dict[str, ModelServer]]:
    """Three servers, by address."""
    servers = [ModelServer() for _ in range(3)]
    yield {server.address: server for server in servers}
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the plugin is installed."""
    folder = tmp_path_factory.mktemp("plugin") / "site"
    install(EXAMPLE, folder)
    return folder


@pytest.fixture
def daemon(make_daemon: Make, plugin: Path, workers: int) -> Daemon:
    daemon = make_daemon("--workers", str(workers), python_path=(plugin,))
    daemon.start()
    return daemon


def started(daemon: Daemon, models: dict[str, ModelServer], options: str = "metrics_interval 0.1") -> int:
    """Start a service with all servers; return its port."""
    port = free_port()
    daemon.adm("-A", "-i", "llm", "-s", f"inference {options}", "-l", f"{LOOPBACK}:{port}")
    for address in models:
        daemon.adm("-a", "-i", "llm", "-r", address)
    daemon.adm("--start")
    return port


def body_of(*turns: str) -> bytes:
    roles = ("user", "assistant") * len(turns)
    messages = [{"role": role, "content": content} for role, content in zip(roles, turns, strict=False)]
    system = {"role": "system", "content": "You are brief. " * 40}
    return json.dumps({"model": "m", "stream": True, "messages": [system, *messages]}).encode()


def ask(port: int, body: bytes, **headers: str) -> str:
    """Ask for a completion; return the address of the server."""
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)) as client:
        client.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **headers})
        response = client.getresponse()
        assert response.status == 200, response.read()
        assert response.read().decode() == "".join(TOKENS)
        return str(response.headers["X-Server"])


@pytest.mark.parametrize("workers", [0, 2])
def test_conversations_keep_their_server_and_events_pass_as_they_come(
    daemon: Daemon, models: dict[str, ModelServer], tmp_path: Path
) -> None:
    port = started(daemon, models)
    first = [ask(port, body_of(f"question {number}")) for number in range(20)]
    later = [ask(port, body_of(f"question {number}", "well", "and " * 30_000)) for number in range(20)]
    assert first == later
    printed = tmp_path / "prompt.json"
    for number in range(4):
        printed.write_bytes(body_of(f"question {number}", "well", "and " * 30_000))
        explained = daemon.adm("--explain", "-i", "llm", "POST /v1/chat/completions", "--body", printed).stdout
        assert f"Answer: {first[number]}\n" in explained
    assert set(first) == set(models)
    assert body_of("question 0", "well", "and " * 30_000) in models[first[0]].bodies, "the whole body has passed"

    server = models[first[0]]
    server.goes_on.clear()
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)) as client:
        client.request("POST", "/v1/chat/completions", body_of("question 0"))
        response = client.getresponse()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.read1() == TOKENS[0].encode(), "the first event comes while the server goes on"
        server.goes_on.set()
        assert response.read().decode() == "".join(TOKENS[1:])


def test_a_server_with_a_queue_is_passed_over_until_its_metrics_say_otherwise(
    daemon: Daemon, models: dict[str, ModelServer]
) -> None:
    port = started(daemon, models)
    usual = ask(port, body_of("hello"))
    models[usual].tell(7)
    wait_for(lambda: ask(port, body_of("hello")) != usual, timeout=TIMEOUT)
    shown = daemon.adm("--explain", "-i", "llm", "POST /v1/chat/completions").stdout
    assert re.search(rf"{usual}: 0 of this switch; [67] of others, 7 waiting", shown), shown
    models[usual].metrics += "#" * (1 << 21)
    wait_for(lambda: ask(port, body_of("hello")) == usual, timeout=TIMEOUT)
    models[usual].tell(7)
    wait_for(lambda: ask(port, body_of("hello")) != usual, timeout=TIMEOUT)

    models[usual].tell(0)
    wait_for(lambda: ask(port, body_of("hello")) == usual, timeout=TIMEOUT)
    daemon.adm("-E", "-i", "llm", "-s", "inference metrics_interval 0.1 session_header X-Session by system")
    assert len({ask(port, body_of(str(number)), **{"X-Session": "a"}) for number in range(5)}) == 1
    daemon.adm("-E", "-i", "llm", "-s", "inference by system max_waiting 0")
    assert len({ask(port, body_of(str(number))) for number in range(5)}) == 1
    assert "no body" in daemon.adm("--explain", "-i", "llm", "POST /v1/chat/completions").stdout
    models[usual].tell(7)
    daemon.adm("-E", "-i", "llm", "-s", "inference metrics_interval 0")
    assert ask(port, body_of("hello")) == usual, "the queue is not looked at"


def test_nobody_looks_at_metrics_when_the_service_is_gone(daemon: Daemon, models: dict[str, ModelServer]) -> None:
    started(daemon, models)
    server = next(iter(models.values()))
    wait_for(lambda: server.looks > 2, timeout=TIMEOUT)
    daemon.adm("--reload-schedulers", "inference")
    seen = server.looks
    wait_for(lambda: server.looks > seen + 2, timeout=TIMEOUT)
    daemon.adm("-E", "-i", "llm", "-s", "wlc")
    other = free_port()
    daemon.adm("-A", "-i", "other", "-s", "inference metrics_interval 0.1", "-l", f"{LOOPBACK}:{other}")
    second = list(models.values())[1]
    daemon.adm("-a", "-i", "other", "-r", second.address)
    daemon.adm("--start", "-i", "other")
    before, first_looks = second.looks, server.looks
    wait_for(lambda: second.looks > before + 10, timeout=TIMEOUT)
    assert server.looks <= first_looks + 1, "at most the one that was under way"
