"""Several workers are one switch: limits and counts hold over all workers, and edits reach all of them."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import (
    LOOPBACK,
    Nginx,
    SocketServer,
    answers,
    dial,
    echo,
    echoes,
    free_port,
    read_all,
    read_exactly,
    speak_first,
    wait_for,
)
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.usage import UsageError

from ktcpvs.control.client import connect
from ktcpvs.errors import BadAddress, CannotListen, Refusal
from ktcpvs.tap import Options

from .harness import TIMEOUT, ControlThread, Daemon, add_fatal_scheduler, has_ended

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]
Serve = Callable[..., SocketServer]


@pytest.fixture
def workers() -> int:
    return 2


def connected(stack: contextlib.ExitStack, port: int) -> socket.socket:
    return stack.enter_context(dial((LOOPBACK, port)))


def greetings(port: int, count: int, stack: contextlib.ExitStack) -> list[str]:
    """Open `count` connections; return the greetings of their servers."""
    return [connected(stack, port).recv(1).decode() for _ in range(count)]


def greeted(port: int, count: int = 40) -> set[str]:
    """The greetings that `count` connections get."""
    with contextlib.ExitStack() as stack:
        return set(greetings(port, count, stack))


def is_quiet(client: socket.socket) -> bool:
    """True when nothing comes for a moment."""
    client.settimeout(0.3)
    try:
        client.recv(1, socket.MSG_PEEK)
        return False
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)


def speaks_http(name: bytes, gate: threading.Event | None = None) -> Callable[[socket.socket], None]:
    """A small HTTP server that responds to every request with its name, and to /slow when the gate is open."""

    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            while line := stream.readline():
                while stream.readline().strip():
                    pass
                if b" /slow " in line:
                    assert gate is not None
                    gate.wait(TIMEOUT)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    return serve


def get(port: int, path: str = "/", *lines: str) -> tuple[str, str]:
    """Send a request on a new connection; return (head, body) of the response."""
    with dial((LOOPBACK, port)) as client:
        head = [f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]
        client.sendall("\r\n".join(head).encode())
        head_of_answer, _, body = read_all(client).decode().partition("\r\n\r\n")
        return head_of_answer, body


def bodies(port: int, path: str, count: int = 40) -> set[str]:
    return {get(port, path)[1] for _ in range(count)}


# One switch.


def test_loading_a_file_with_start_starts_new_services(daemon: Daemon, serve: Serve) -> None:
    """It happens in one step in all workers. A service that an administrator has stopped stays stopped."""
    old, new = free_port(), free_port()
    blocks = {
        port: f"Virtual s{port} {{ listen = {LOOPBACK}:{port} scheduler = wlc server = {server.address} }}\n"
        for port, server in ((old, serve(speak_first(b"a"))), (new, serve(speak_first(b"b"))))
    }
    taken = blocks[new].replace(f":{new} ", f":{serve(echo).port} ")
    daemon.adm("-f", "-", input=blocks[old])
    refused = daemon.adm("-f", "-", "--start", input=blocks[old] + taken, check=False)
    assert "listens there already" in refused.stderr
    assert [service["ident"] for service in daemon.call("table")["services"]] == [f"s{old}"]
    daemon.adm("-f", "-", "--start", input=blocks[old] + blocks[new])
    assert greeted(new) == {"b"}
    assert not answers(old)
    empty = daemon.adm("--restore", input="# nothing\n", check=False)
    assert (empty.returncode, empty.stderr.count("\n")) == (1, 1)
    assert empty.stderr.startswith("tcpvsadm: restore: <stdin>: the configuration is empty, and would delete all ")
    assert greeted(new) == {"b"}
    daemon.adm("--restore", "--allow-empty", input="# nothing\n")
    assert daemon.call("table")["services"] == []
    assert not answers(new)


@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_a_service_without_rules_uses_all_its_servers(daemon: Daemon, serve: Serve, scheduler: str) -> None:
    """In all workers, also before its first rule is added and after its last one is deleted."""
    a, b = (serve(speaks_http(name)).address for name in (b"a", b"b"))
    port = free_port()
    daemon.service("s", port, a, b, scheduler=scheduler)
    assert bodies(port, "/x") == {"a", "b"}
    daemon.call("add_rule", "s", "^/x", b)
    assert bodies(port, "/x") == {"b"}
    assert get(port, "/y")[0].split()[1] == "503"
    daemon.call("delete_rule", "s", "^/x", b)
    assert bodies(port, "/y") == {"a", "b"}


def test_workers_count_connections_together(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    """Each worker chooses by the connections of all workers, and listings show the sums."""
    names = ("a", "b", "c", "d")
    servers, port = [serve(speak_first(name.encode())) for name in names], free_port()
    daemon.service("s", port, *(server.address for server in servers))
    clients = [connected(stack, port) for _ in range(40)]
    got = []
    for client in clients:
        got.append(client.recv(1).decode())
        client.sendall(b"12345")
        assert read_exactly(client, 5) == b"12345"
    by_all = daemon.json("--connections")
    assert Counter(one["worker"] for one in by_all).keys() == {1, 2}
    assert len(by_all) == 40
    assert {one["client"] for one in by_all} == {"{}:{}".format(*client.getsockname()) for client in clients}
    seen = daemon.stats("s")
    assert sum(seen["stats"].pop("relay")["joined"].values()) == 40
    assert seen["stats"] == {
        "active": 40, "total": 40, "refused": 0, "refusals": {}, "redirected": {}, "responses": {}, "queued": 0,
        "requests": 0, "broken_responses": 0, "denied": 0,
        "limited": 0, "paused_listeners": 0, "waiting_streams": 0, "handshakes": {}, "preambles": {}, "rules": {},
        "choose_overruns": 0,
        "handshake_pauses": 0, "scheduler_failures": 0, "scheduler_failing": 0,
        "http2_glitches": 0, "http2_floods": 0, "rebalancing": 0, "bytes_in": 200, "bytes_out": 240,
    }  # fmt: skip
    assert sum(row["stats"]["bytes_out"] for row in seen["servers"]) == 240
    for client in clients[:5]:
        client.close()
    wait_for(lambda: daemon.active("s") == 35)
    assert daemon.stats("s")["stats"]["bytes_in"] == 200
    stack.close()
    daemon.wait_until_empty()
    assert daemon.stats("s")["stats"]["total"] == 40


def test_wlc_spreads_connections_evenly_over_both_workers(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    servers, port = [serve(speak_first(name)) for name in (b"a", b"b", b"c", b"d")], free_port()
    daemon.service("s", port, *(server.address for server in servers))
    assert Counter(greetings(port, 40, stack)) == {"a": 10, "b": 10, "c": 10, "d": 10}
    assert [row["stats"]["active"] for row in daemon.stats("s")["servers"]] == [10] * 4
    daemon.call("edit_server", "s", servers[0].address, 3)
    assert Counter(greetings(port, 20, stack)) == {"a": 20}


def test_maxclients_holds_over_both_workers(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address, maxclients=20)
    clients = []
    for _ in range(20):
        clients.append(connected(stack, port))
        assert echoes(clients[-1])
    assert {one["worker"] for one in daemon.connections()} == {1, 2}
    late = [connected(stack, port) for _ in range(4)]
    for client in late:
        client.sendall(b"?")
    assert all(is_quiet(client) for client in late)
    assert server.accepted == 20
    for client in clients[:4]:  # some were served by one worker and some by the other
        client.close()
    for client in late:
        assert read_exactly(client, 1) == b"?"
    assert daemon.active("s") == 20


def test_maxconn_holds_over_both_workers_and_waiting_clients_are_served(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port)
    daemon.call("add_server", "s", server.address, maxconn=3)
    clients = []
    for _ in range(3):
        clients.append(connected(stack, port))
        assert echoes(clients[-1])
    late = [connected(stack, port) for _ in range(20)]
    for client in late:
        client.sendall(b"?")
    wait_for(lambda: daemon.stats("s")["stats"]["queued"] == 20)
    assert {one["worker"] for one in daemon.connections() if one["state"] == "queued"} == {1, 2}
    assert server.accepted == 3
    for client in clients:
        client.close()
    wait_for(lambda: daemon.stats("s")["stats"]["queued"] <= 17)
    wait_for(lambda: server.accepted >= 6)
    time.sleep(0.3)
    assert server.accepted <= 7  # two workers may see the same room at the same moment
    left = set(late)
    while left:  # one that is served and leaves makes room for another, at whichever worker it waits
        answered, _, _ = select.select(list(left), [], [], TIMEOUT)
        assert answered, f"{len(left)} are not served"
        for client in answered:
            assert read_exactly(client, 1) == b"?"
            client.close()
            left.remove(client)
    assert daemon.stats("s")["servers"][0]["stats"]["total"] == 23
    daemon.wait_until_empty()


def test_a_session_is_the_same_in_both_workers(daemon: Daemon, serve: Serve) -> None:
    servers, port = [serve(speaks_http(name)) for name in (b"a", b"b", b"c")], free_port()
    rules = tuple((".*", server.address) for server in servers)
    daemon.service("s", port, *(server.address for server in servers), scheduler="chttp", rules=rules)
    for _ in range(3):
        head, first = get(port)
        cookie = next(line for line in head.splitlines() if line.lower().startswith("set-cookie:"))
        session = "Cookie: " + cookie.partition(":")[2].split(";")[0].strip()
        assert {get(port, "/", session)[1] for _ in range(20)} == {first}
    assert bodies(port, "/") == {"a", "b", "c"}


def test_both_workers_serve_a_unix_socket(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    path = f"{tmp_path}/s"
    daemon.service("s", f"unix:{path}", serve(echo).address)
    for _ in range(20):
        assert echoes(stack.enter_context(dial(path)))
    assert daemon.active("s") == 20
    daemon.call("stop", "s")
    assert not os.path.exists(path)


# Edits: when the daemon answers, all workers have applied the edit.


def test_every_edit_is_in_force_in_both_workers_when_it_is_answered(daemon: Daemon, serve: Serve) -> None:
    one, other, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.service("s", port, one.address)
    assert greeted(port) == {"1"}
    daemon.call("add_server", "s", other.address)
    assert greeted(port) == {"1", "2"}
    daemon.call("edit_server", "s", one.address, 0)
    assert greeted(port) == {"2"}
    daemon.call("edit_server", "s", one.address, 1)
    daemon.call("delete_server", "s", other.address)
    assert greeted(port) == {"1"}
    daemon.call("add_server", "s", other.address)
    daemon.call("edit_service", "s", scheduler="rr")
    assert greeted(port, 2) | greeted(port) == {"1", "2"}
    daemon.call("delete_server", "s", one.address)
    daemon.call("edit_service", "s", redirect=one.address)
    daemon.call("edit_server", "s", other.address, 0)
    assert greeted(port) == {"1"}

    moved = free_port()
    daemon.call("edit_service", "s", port=moved)
    assert greeted(moved) == {"1"}
    assert not answers(port)
    daemon.call("edit_service", "s", listen=f"0.0.0.0:{moved}")
    assert greeted(moved) == {"1"}
    daemon.call("stop", "s")
    assert not answers(moved)
    daemon.call("start", "s")
    assert greeted(moved) == {"1"}
    daemon.call("stop")
    daemon.call("delete_service", "s")
    daemon.service("s", moved, other.address)
    assert greeted(moved) == {"2"}


def test_rules_and_configurations_reach_both_workers(daemon: Daemon, serve: Serve, tmp_path: Path) -> None:
    one, other, port = serve(speaks_http(b"1")), serve(speaks_http(b"2")), free_port()
    daemon.service("s", port, one.address, other.address, scheduler="phttp", rules=((".*", one.address),))
    assert bodies(port, "/images/") == {"1"}
    daemon.call("add_rule", "s", "^/images/", other.address)
    assert bodies(port, "/images/") == {"2"}
    daemon.call("delete_rule", "s", "^/images/", other.address)
    assert bodies(port, "/images/") == {"1"}
    daemon.set(uri_size=64)
    assert {get(port, "/" + "x" * 100)[0].split()[1] for _ in range(40)} == {"414"}
    file = tmp_path / "configuration"
    file.write_text(
        f"Virtual s {{ listen = {LOOPBACK}:{port} scheduler = phttp server = {other.address}\n"
        f'rule = pattern ".*" use server {other.address} }}\n'
    )
    daemon.adm("-f", file)
    assert bodies(port, "/images/") == {"2"}


def test_a_refused_edit_changes_nothing_in_any_worker(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    one, other, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.service("s", port, one.address)
    before, pids = daemon.call("table"), daemon.workers()
    taken = stack.enter_context(socket.socket())
    taken.bind((LOOPBACK, free_port()))
    taken.listen()
    with pytest.raises(CannotListen):
        daemon.call("edit_service", "s", port=taken.getsockname()[1])
    with pytest.raises(Refusal):
        daemon.call("edit_service", "s", scheduler="no-such")
    with pytest.raises(BadAddress):
        daemon.call("add_server", "s", "127.0.0.1:99999")
    with pytest.raises(CannotListen):
        daemon.call(
            "load",
            f"Virtual s {{ listen = {LOOPBACK}:{taken.getsockname()[1]} scheduler = wlc server = {other.address} }}",
        )
    assert daemon.call("table") == before
    assert greeted(port) == {"1"}
    assert daemon.workers() == pids


def test_many_servers_with_long_names(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack, control_thread: ControlThread
) -> None:
    """Each server has its counters; listings of several administrators at once do not mix."""
    server, port, ident = serve(speak_first(b"1")), free_port(), "日" * 128
    others = [f"unix:/{number:->106}" for number in range(600)]
    servers = "".join(f"server = {address} 0\n" for address in others)
    block = f"Virtual {ident} {{ listen = {LOOPBACK}:{port} scheduler = wlc\n{servers} server = {server.address} 1 }}"
    daemon.call("load", block)
    daemon.call("start", ident)
    pids = daemon.workers()
    assert greetings(port, 10, stack) == ["1"] * 10

    async def look() -> list[Any]:
        reactor = control_thread.reactor
        switches = [await connect(reactor, daemon.control) for _ in range(5)]
        looks: list[Deferred[Any]] = [Deferred.fromCoroutine(switch.stats()) for switch in switches[:3]]
        looks += [Deferred.fromCoroutine(switch.connections()) for switch in switches[3:]]
        found = await gatherResults(looks)
        for switch in switches:
            switch.close()
        return list(found)

    for found in control_thread.run(look):
        rows = found["services"][0]["servers"] if isinstance(found, dict) else found
        assert len(rows) == (601 if isinstance(found, dict) else 10)
        assert not isinstance(found, dict) or rows[-1]["stats"]["active"] == 10
    assert daemon.active(ident) == 10
    assert daemon.workers() == pids


# A worker dies.


def test_a_worker_that_dies_loses_only_its_own_connections(
    daemon: Daemon, serve: Serve, stack: contextlib.ExitStack
) -> None:
    """Under load: no client is refused, and each client loses at most one request."""
    servers, port = [serve(echo), serve(echo)], free_port()
    daemon.service("s", port, *(server.address for server in servers))
    clients = [connected(stack, port) for _ in range(20)]
    assert all(echoes(client) for client in clients)
    worker_of = {one["client"]: one["worker"] for one in daemon.connections()}
    theirs = [worker_of["{}:{}".format(*client.getsockname())] for client in clients]
    assert set(theirs) == {1, 2}

    done: list[int] = []
    lost: list[int] = []
    refused: list[OSError] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            try:
                with dial((LOOPBACK, port), timeout=TIMEOUT) as client:
                    (done if echoes(client) else lost).append(client.fileno())
            except OSError as error:
                refused.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(done) > 50)
    victim = daemon.workers()[0]
    os.kill(victim, signal.SIGKILL)
    waiting = [connected(stack, port) for _ in range(20)]  # about half of them come to the dead one's socket
    daemon.wait_until_workers_serve(but=(victim,))
    assert all(echoes(client) for client in waiting)
    so_far = len(done)
    wait_for(lambda: len(done) > so_far + 50)
    over.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not refused, refused
    assert len(lost) <= len(threads)

    alive = [echoes(client) for client in clients]
    assert set(zip(theirs, alive, strict=True)) in ({(1, False), (2, True)}, {(1, True), (2, False)})
    living = 20 + sum(alive)
    wait_for(lambda: daemon.active("s") == living)
    assert len(daemon.connections()) == living
    assert sum(row["stats"]["active"] for row in daemon.stats("s")["servers"]) == living
    more = [connected(stack, port) for _ in range(40)]  # wlc does not count the dead: these even out
    assert all(echoes(client) for client in more)
    rows = [row["stats"]["active"] for row in daemon.stats("s")["servers"]]
    assert sum(rows) == living + 40
    assert abs(rows[0] - rows[1]) <= 2  # two workers may choose at the same moment


@pytest.mark.long
def test_workers_that_die_are_replaced(daemon: Daemon, serve: Serve, stack: contextlib.ExitStack) -> None:
    """Clients that connect meanwhile wait; edits are answered; the supervisor leaks no descriptors."""
    one, other, port = serve(speak_first(b"1")), serve(speak_first(b"2")), free_port()
    daemon.service("s", port, one.address)
    before = daemon.descriptors()
    for turn in range(4):
        pids = tuple(daemon.workers())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        clients = [connected(stack, port) for _ in range(8)]
        for client in clients:
            client.settimeout(TIMEOUT)  # they wait until processes have started
        daemon.call("add_server" if turn % 2 == 0 else "delete_server", "s", other.address)
        assert {client.recv(1) for client in clients} <= {b"1", b"2"}
        for client in clients:
            client.close()
        daemon.wait_until_workers_serve(but=pids)
        wait_for(lambda: daemon.active("s") == 0)
        assert greeted(port) == ({"1", "2"} if turn % 2 == 0 else {"1"})
    wait_for(lambda: daemon.descriptors() <= before, f"the descriptors of {daemon.pid} to be {before}")


def test_a_new_worker_knows_which_servers_are_down(daemon: Daemon, web: list[Nginx]) -> None:
    """Also when the table is so long that the worker reads it in a thread: the health comes right behind it."""
    (bad, good), port = web[:2], free_port()
    good.file("healthy", 100)
    options = "check_interval = 1 check_timeout = 5 check_rise = 1 check_fall = 1"
    check = f'check = http "/files/healthy" expect 200 {options}'
    service = f"Virtual s {{ listen = {LOOPBACK}:{port} scheduler = wlc {check}"
    rules = "".join(f'rule = pattern "^/{number}/" use server {good.address}\n' for number in range(2000))
    other = f"Virtual long {{ listen = {LOOPBACK}:{free_port()} scheduler = phttp server = {good.address}\n{rules}}}\n"
    text = f"{other}{service} server = {bad.address} server = {good.address} }}\n"
    daemon.call("load", text, start="all")
    wait_for(lambda: [row["health"]["state"] for row in daemon.stats("s")["servers"]] == ["down", "up"], "the check")
    pids = tuple(daemon.workers())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    daemon.wait_until_workers_serve(but=pids)
    request = b"GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    names = set()
    for _ in range(40):
        with dial((LOOPBACK, port)) as client:
            client.sendall(request)
            names.add(read_all(client).partition(b"\r\n\r\n")[2].split()[0].decode())
    assert names == {good.name}


@pytest.mark.starts
@pytest.mark.long
def test_workers_that_hang_or_cannot_start_are_replaced(
    make_daemon: Make, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    file, plugins = tmp_path / "fatal", tmp_path / "plugins"
    add_fatal_scheduler(plugins, "fatal", file)
    daemon = make_daemon(workers=2, python_path=(plugins,), preloaded_workers=False)
    daemon.start()
    server, port = serve(echo), free_port()
    daemon.service("s", port, server.address, scheduler="fatal")
    daemon.wait_until_workers_serve()

    # A worker hangs: it is replaced, also when no command comes, and edits and listings are answered.
    daemon.set(worker_timeout=3)
    for ask in (lambda: None, lambda: daemon.set(read_timeout=33), lambda: daemon.stats("s")):
        victim = daemon.workers()[0]
        os.kill(victim, signal.SIGSTOP)
        ask()
        daemon.wait_until_workers_serve(but=(victim,))
        assert has_ended(victim)
    assert daemon.log().count("is killed: it has not responded for 3 s") >= 3, daemon.log()
    daemon.set(worker_timeout=0)

    # The system has no descriptors for a while.
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (10, limits[1]))
    victim = daemon.workers()[0]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_for_log("cannot start: ")
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
    daemon.wait_until_workers_serve(but=(victim,))

    # No worker can start: the daemon retries with pauses, and can be administered.
    file.touch()
    for pid in daemon.workers():
        os.kill(pid, signal.SIGKILL)
    daemon.wait_for_log("exit code 7", 2)
    daemon.wait_for_log("the last words")
    time.sleep(4)
    tried = daemon.log().count("exit code 7")
    assert tried <= 14, f"{tried} starts in 4 seconds"
    waiting = [connected(stack, port) for _ in range(4)]
    daemon.call("edit_service", "s", scheduler="wlc")  # and with it all is well
    daemon.wait_until_workers_serve()
    assert all(echoes(client) for client in waiting)


_PLUGIN = """
import os

from twisted.plugin import IPlugin
from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, ISchedulerFactory
from ktcpvs.schedulers.wlc import WLC


@implementer(IPlugin, ISchedulerFactory)
class Site:
    name = "site"
    unit = CONNECTION

    def bind(self, service, previous):
        if os.path.exists("{file}"):
            raise OSError("no list of servers")
        return WLC().bind(service, previous)


site = Site()
"""


@pytest.mark.starts
@pytest.mark.long
def test_a_new_worker_that_cannot_load_or_bind_a_scheduler_serves_by_the_fallback(
    make_daemon: Make, serve: Serve, tmp_path: Path
) -> None:
    file, plugins = tmp_path / "no_list", tmp_path / "plugins"
    plugin = plugins / "twisted/plugins/site_plugin.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(_PLUGIN.format(file=file))
    daemon = make_daemon(workers=2, python_path=(plugins,), preloaded_workers=False)
    daemon.may_log_tracebacks = True
    daemon.start()
    server, port, other = serve(echo), free_port(), free_port()
    daemon.service("s", port, server.address, scheduler="site")
    daemon.service("other", other, server.address, scheduler="wlc")
    daemon.wait_until_workers_serve()

    def all_are_served() -> None:
        for address in (port, other):
            for _ in range(12):
                with dial((LOOPBACK, address)) as client:
                    assert echoes(client)

    def failures() -> int:
        return int(daemon.stats("s")["stats"]["scheduler_failures"])

    def replace_a_worker() -> None:
        victim = daemon.workers()[0]
        os.kill(victim, signal.SIGKILL)
        daemon.wait_until_workers_serve(but=(victim,))

    # It cannot be loaded: the other service is not concerned, and the statistics show what is wrong.
    plugin.write_text("this is no Python")
    with pytest.raises(Refusal, match="what was loaded before stays in use"):
        daemon.call("reload_schedulers")
    replace_a_worker()
    all_are_served()
    assert "service s: scheduler site is missing, and fallback wlc chooses: no scheduler 'site'" in daemon.log()
    assert failures() > 0

    # Once it is mended, a reload ends that.
    plugin.write_text(_PLUGIN.format(file=file))
    daemon.call("reload_schedulers")
    daemon.wait_until_workers_serve()
    before = failures()
    all_are_served()
    assert failures() == before

    # It cannot be bound.
    file.touch()
    replace_a_worker()
    all_are_served()
    daemon.wait_for_log("chooses: scheduler site cannot serve s: OSError('no list of servers')")
    assert failures() > before


# The end of the daemon.


def test_a_daemon_with_a_configuration_logs_reloads_and_drains(
    make_daemon: Make, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    gate, port, log, file = threading.Event(), free_port(), tmp_path / "access.log", tmp_path / "configuration"
    one, other = serve(speaks_http(b"1")), serve(speaks_http(b"2", gate))
    stack.callback(gate.set)

    def write(server: str) -> None:
        file.write_text(
            f"Virtual s {{ listen = {LOOPBACK}:{port} scheduler = phttp access_log = {log}\n"
            f'server = {server} rule = pattern ".*" use server {server} }}\n'
        )

    write(one.address)
    daemon = make_daemon("--config", file, workers=2)
    daemon.start()
    daemon.wait_until_workers_serve()
    pids = daemon.workers()
    kept = [connected(stack, port) for _ in range(20)]

    def ask(number: int) -> bytes:
        for place, client in enumerate(kept):
            client.sendall(b"GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (number, place))
        answered = [read_exactly(client, len(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1")) for client in kept]
        assert len(set(answered)) == 1
        return answered[0][-1:]

    def logged(path: Path, number: int) -> bool:
        """True when each request of that `ask` has a whole line, and no other has."""
        lines = path.read_text().splitlines() if path.exists() else []
        found = sorted(int(line.split('"GET /')[1].split("/")[1].split()[0]) for line in lines if f"/{number}/" in line)
        return found == list(range(20)) and all(line.count('"GET /') == 1 for line in lines)

    assert ask(1) == b"1"
    assert {shown["worker"] for shown in daemon.connections()} == {1, 2}
    wait_for(lambda: logged(log, 1), "a line for each request")
    log.rename(tmp_path / "old")
    daemon.signal(signal.SIGUSR1)
    wait_for(log.exists)
    daemon.set(debug_level=0)  # answered by both, after they were told of the new file
    assert ask(2) == b"1"
    wait_for(lambda: logged(log, 2), "all lines in the new file")

    write(other.address)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_log("is loaded")
    assert ask(3) == b"2"
    assert daemon.workers() == pids

    # SIGTERM, while an edit is under way: requests that are being served get their responses.
    for client in kept:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_for(lambda: daemon.stats("s")["servers"][0]["stats"]["active"] == 20)
    daemon.set(worker_timeout=0)
    os.kill(pids[0], signal.SIGSTOP)
    edit = threading.Thread(target=daemon.set, kwargs={"read_timeout": 77})
    edit.start()
    wait_for(lambda: 77 in [setting["value"] for setting in daemon.call("settings")])
    daemon.signal(signal.SIGTERM)
    daemon.wait_for_log("ending: ")
    os.kill(pids[0], signal.SIGCONT)
    edit.join(TIMEOUT)
    wait_for(lambda: not answers(port))
    gate.set()
    assert all(read_all(client).endswith(b"2") for client in kept)
    assert daemon.wait() == 0
    assert all(has_ended(pid) for pid in pids)


def test_connections_that_do_not_drain_are_counted_in_the_log(
    make_daemon: Make, serve: Serve, stack: contextlib.ExitStack
) -> None:
    server, port = serve(echo), free_port()
    daemon = make_daemon(workers=2)
    daemon.start()
    daemon.service("s", port, server.address)
    daemon.set(drain_timeout=1)
    daemon.wait_until_workers_serve()
    clients = [connected(stack, port) for _ in range(20)]
    assert all(echoes(client) for client in clients)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    counts = re.findall(r"worker [12]: (\d+) connections have not drained and are closed", daemon.log())
    assert sum(map(int, counts)) == 20


def test_workers_of_a_killed_supervisor_drain_and_end(
    make_daemon: Make, serve: Serve, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    """The next daemon has the table, and serves at once beside them."""
    server, port = serve(echo), free_port()
    daemon = make_daemon("--state", tmp_path / "state", workers=2, preloaded_workers=False)
    daemon.start()
    daemon.service("s", port, server.address)
    daemon.wait_until_workers_serve()
    old = [connected(stack, port) for _ in range(20)]
    assert all(echoes(client) for client in old)
    assert {shown["worker"] for shown in daemon.connections()} == {1, 2}
    before, pids = daemon.call("table"), daemon.workers()
    os.kill(pids[0], signal.SIGSTOP)  # one hangs just then
    daemon.kill()
    wait_for(lambda: not answers(port), "the workers to listen no more")
    assert all(echoes(client) for client in old)
    daemon.start()
    daemon.wait_until_workers_serve(but=tuple(pids))
    assert daemon.call("table") == before
    new = [connected(stack, port) for _ in range(20)]
    assert all(echoes(client) for client in [*old, *new])
    assert daemon.active("s") == 20
    for client in old:
        client.close()
    wait_for(lambda: all(has_ended(pid) for pid in pids), "the old workers to end")
    assert all(echoes(client) for client in new)


# The command line.


def meant(*arguments: str) -> Any:
    """Parse the command line of `ktcpvs`."""
    options = Options()  # type: ignore[no-untyped-call]
    options.parseOptions(list(arguments))  # type: ignore[no-untyped-call]
    return options


@pytest.mark.parametrize("value", ["x", "-1", "65", "1.5", "", "٣"])
def test_a_bad_number_of_workers_is_refused(value: str) -> None:
    with pytest.raises(UsageError) as refused:
        meant("--workers", value)
    assert str(refused.value) == f"--workers {value}: expected auto, or a number from 0 to 64"


@pytest.mark.parametrize(("value", "number"), [("0", 0), ("1", 1), ("64", 64)])
def test_a_number_of_workers(value: str, number: int) -> None:
    assert meant("--workers", value)["workers"] == number


def test_by_default_each_core_has_a_worker() -> None:
    found: list[Any] = []
    cores = os.sched_getaffinity(0)
    try:
        for some in (cores, {min(cores)}):
            os.sched_setaffinity(0, some)
            found.append(meant()["workers"])
    finally:
        os.sched_setaffinity(0, cores)
    assert found == [len(cores) if len(cores) > 1 else 0, 0]


def test_an_address_belongs_to_one_service(daemon: Daemon, serve: Serve) -> None:
    server, port = serve(speak_first(b"1")), free_port()
    daemon.service("first", port, server.address)
    daemon.adm("-A", "-i", "second", "-s", "wlc", "-l", f"{LOOPBACK}:{port}")
    refused = daemon.adm("--start", "-i", "second", check=False)  # until now it may have the address
    assert refused.returncode == 1
    why = f"service second: service first listens on {LOOPBACK}:{port} too, on this switch: give one of them another"
    assert why in refused.stderr
    assert answers(port)
