"""The example ktcpvs-redis with a real Redis: each tenant has its server; without Redis the fallback serves."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, Program, Redis, answers, free_port, wait_for

from .harness import ROOT, TIMEOUT, Daemon
from .test_plugin import install
from .test_wlc import run

pytestmark = [pytest.mark.e2e, pytest.mark.programs]

Make = Callable[..., Daemon]

EXAMPLE = ROOT / "docs/examples/ktcpvs-redis"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The folder where the plugin is installed, and that of its dependency."""
    folder = tmp_path_factory.mktemp("plugin") / "site"
    install(EXAMPLE, folder)
    needs = find_spec("txredisapi")
    assert needs is not None
    assert needs.origin is not None
    return folder, Path(needs.origin).parent


class Store:
    """A Redis that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program: Program = Redis(folder)
        assert isinstance(self._program, Redis)
        self.port, self.address = self._program.port, self._program.address

    def do(self, *command: str) -> str:
        """Run redis-cli; return its output."""
        return run("redis-cli", "-h", LOOPBACK, "-p", str(self.port), *command)

    def signal(self, number: int) -> None:
        os.kill(self._program.process.pid, number)

    def stop(self) -> None:
        self._program.process.kill()
        self._program.stop()
        self._program.process.wait()

    def start(self) -> None:
        """Start it again, empty."""
        command: Any = self._program.process.args
        self._program = Program("redis-server", command[1:], self._folder)
        self._program.wait_until(lambda: answers(self.port))

    def wait_for_the_switch(self) -> None:
        """Wait until another client than redis-cli is connected."""
        wait_for(lambda: "connected_clients:2" in self.do("INFO", "clients"), timeout=TIMEOUT)


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store(tmp_path)
    monkeypatch.setenv("KTCPVS_REDIS", store.address)
    yield store
    store.stop()


def get(port: int, tenant: str | bytes | None = None) -> str:
    """Send a request; return the name of the server."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/", headers={} if tenant is None else {"X-Tenant": tenant})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body.decode().split()[0]
    finally:
        connection.close()


def loaded(daemon: Daemon, web: list[Nginx], scheduler: str = "redis", settings: str = "") -> int:
    """Start a service `web` with all three servers; return its port. Its fallback gives a client address one server."""
    port = free_port()
    lines = "\n".join(f"server = {server.address}" for server in web)
    head = f"listen = {LOOPBACK}:{port} scheduler = {scheduler} fallback = sh"
    daemon.call("load", f"global {{ {settings} }} Virtual web {{ {head} {lines} }}")
    daemon.call("start")
    return port


@pytest.mark.parametrize("reactor", ["uvloop", "epoll"])
def test_each_tenant_gets_its_server(
    make_daemon: Make, redis: Store, plugin: tuple[Path, ...], web: list[Nginx], reactor: str
) -> None:
    daemon = make_daemon(python_path=plugin, reactor=reactor)
    daemon.start()
    port = loaded(daemon, web)
    redis.wait_for_the_switch()
    for number, server in enumerate(web):
        redis.do("SET", f"ktcpvs:web:tenant {number}", server.address)
        redis.do("SET", f"ktcpvs:other:tenant {number}", web[0].address)
    redis.do("SET", "ktcpvs:web:elsewhere", "127.0.0.1:1")
    redis.do("SET", "ktcpvs:web:a number", "1.5")
    assert [get(port, f"tenant {number}") for number in (0, 1, 2) * 3] == ["r1", "r2", "r3"] * 3
    for tenant in (None, "", "elsewhere", "a number", "unknown", "tenant 0:", b"\xff", "x" * 5000):
        assert len({get(port, tenant) for _ in range(20)}) > 1, tenant
    redis.do("SET", "ktcpvs:web:tenant 0", web[1].address)
    assert [get(port, "tenant 0") for _ in range(3)] == ["r2"] * 3
    explained = daemon.call("explain", "web", "GET", "/", [("X-Tenant", "tenant 0")])
    assert explained["answer"] == {
        "outcome": "server",
        "server": web[1].address,
        "reason": "the tenant's server",
        "why": "balance",
    }
    daemon.call("edit_server", "web", web[1].address, 0)
    assert "r2" not in [get(port, "tenant 0") for _ in range(10)]


def test_without_redis_the_fallback_serves(
    make_daemon: Make, redis: Store, plugin: tuple[Path, ...], web: list[Nginx]
) -> None:
    daemon = make_daemon(python_path=plugin)
    daemon.may_log_tracebacks = True
    daemon.start()
    fallen = get(loaded(daemon, web, "sh"))
    port = loaded(daemon, web)
    own = next(server for server in web if server.name != fallen)
    redis.wait_for_the_switch()
    redis.do("SET", "ktcpvs:web:acme", own.address)
    redis.do("LPUSH", "ktcpvs:web:list", own.address)
    assert [get(port, "acme") for _ in range(5)] == [own.name] * 5
    assert get(port, "list") == fallen
    daemon.wait_for_log("WRONGTYPE")

    redis.stop()
    wait_for(lambda: get(port, "acme") == fallen)
    assert [get(port, "acme") for _ in range(5)] == [fallen] * 5
    daemon.wait_for_log(f"no connection to Redis at {redis.address}")
    assert len({get(port) for _ in range(40)}) > 1, "those without a tenant need no Redis"

    redis.start()
    redis.do("SET", "ktcpvs:web:acme", own.address)
    wait_for(lambda: get(port, "acme") == own.name, timeout=TIMEOUT)
    assert [get(port, "acme") for _ in range(5)] == [own.name] * 5


def test_a_redis_that_hangs_delays_only_its_tenants(
    make_daemon: Make, redis: Store, plugin: tuple[Path, ...], web: list[Nginx]
) -> None:
    daemon = make_daemon(python_path=plugin)
    daemon.start()
    fallen = get(loaded(daemon, web, "sh"))
    port, quick = loaded(daemon, web, settings="choose_timeout = 3600"), free_port()
    daemon.service(
        "quick", quick, *(server.address for server in web), scheduler="phttp", rules=((".*", web[0].address),)
    )
    own = next(server for server in web if server.name != fallen)
    redis.wait_for_the_switch()
    redis.do("SET", "ktcpvs:web:acme", own.address)
    with ThreadPoolExecutor(10) as tenants:
        redis.signal(signal.SIGSTOP)
        asked = [tenants.submit(get, port, "acme") for _ in range(10)]
        wait_for(lambda: [one["state"] for one in daemon.connections()].count("choosing") == 10)
        assert [get(quick) for _ in range(5)] == ["r1"] * 5
        assert all(get(port) for _ in range(5))
        assert not any(one.done() for one in asked)
        redis.signal(signal.SIGCONT)
        assert [one.result() for one in asked] == [own.name] * 10

        daemon.set(choose_timeout=1)
        redis.signal(signal.SIGSTOP)
        asked = [tenants.submit(get, port, "acme") for _ in range(10)]
        explained = daemon.call("explain", "web", "GET", "/", [("X-Tenant", "acme")])
        assert "fallback sh, since the scheduler took more than 1 seconds" in explained["answer"]["reason"]
        assert [one.result() for one in asked] == [fallen] * 10
        redis.signal(signal.SIGCONT)
    wait_for(lambda: get(port, "acme") == own.name, timeout=TIMEOUT)
    assert [get(port, "acme") for _ in range(5)] == [own.name] * 5
