"""Servers by name: addresses and SRV records that change, name servers that fail or do not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nameserver import NameServer
from servers import LOOPBACK, SocketServer, dial, free_port, read_all, speak_first, wait_for
from twisted.names import dns

from .harness import TCPVSADM, TIMEOUT, Daemon, command, environment
from .test_changes import Wrk

pytestmark = pytest.mark.e2e

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")

Make = Callable[..., Daemon]


@pytest.fixture
def names() -> Iterator[NameServer]:
    names = NameServer()
    yield names
    names.stop()


@pytest.fixture
def there(serve: Callable[..., SocketServer]) -> int:
    """The port on which a server listens at each of HOSTS; it sends its host."""
    port = free_port()
    for host in HOSTS:
        serve(speak_first(host.encode()), (host, port))
    return port


def served(port: int, clients: int = 24) -> set[str]:
    """Connect so many clients; return the hosts that serve them, "" for none."""
    said = set()
    for _ in range(clients):
        with dial((LOOPBACK, port)) as client:
            client.shutdown(socket.SHUT_WR)
            said.add(read_all(client).decode())
    return said


def becomes(port: int, *hosts: str) -> None:
    """Wait until these hosts serve, and no other."""
    wait_for(lambda: served(port) == {*hosts}, f"{hosts} to serve", timeout=TIMEOUT)


@pytest.mark.parametrize(("reactor", "workers"), [("epoll", 0), ("uvloop", 2)])
def test_each_address_of_a_name_is_a_server(
    make_daemon: Make, names: NameServer, there: int, workers: int, stack: contextlib.ExitStack
) -> None:
    daemon = make_daemon("--nameserver", names.address, workers=workers)
    daemon.start()
    daemon.set(resolve_least=1)
    names.says("api.test", *HOSTS[:2])
    port = free_port()
    daemon.service("web", port, (f"api.test:{there}", 5))
    becomes(port, *HOSTS[:2])
    servers = daemon.stats("web")["servers"]
    assert [(one["address"], one["name"], one["weight"]) for one in servers] == [
        (f"{host}:{there}", f"api.test:{there}", 5) for host in HOSTS[:2]
    ]
    assert f"-> {HOSTS[0]}:{there} (api.test:{there})" in daemon.adm("--list", "--stats", "-n").stdout
    assert f"server = api.test:{there} 5" in daemon.adm("--save").stdout
    daemon.wait_for_log(f"api.test is {HOSTS[0]}, {HOSTS[1]}; before: not known")
    assert sum(one["stats"]["total"] for one in servers) >= 12

    with dial((LOOPBACK, port)) as lasting:  # its server goes
        while lasting.recv(100).decode() != HOSTS[0]:
            lasting.close()
            lasting = stack.enter_context(dial((LOOPBACK, port)))
        names.says("api.test", *HOSTS[1:])
        becomes(port, *HOSTS[1:])
        lasting.settimeout(0.2)
        with pytest.raises(TimeoutError):  # and it is left alone meanwhile
            lasting.recv(1)

    asked = names.count("api.test")
    names.fails("api.test")
    wait_for(lambda: names.count("api.test") > asked)
    assert served(port) == {*HOSTS[1:]}
    daemon.wait_for_log(f"api.test is not found: its name servers have failed; it stays {HOSTS[1]}, {HOSTS[2]}")
    names.fails("api.test", dns.ENAME)
    asked = names.count("api.test")
    wait_for(lambda: names.count("api.test") > asked)
    assert served(port) == {*HOSTS[1:]}
    assert daemon.log().count("api.test is not found") == 1
    names.says("api.test", HOSTS[0])
    becomes(port, HOSTS[0])
    if workers:
        names.is_silent = True
        daemon.set(debug_level=3)
        for worker in daemon.workers():
            os.kill(worker, signal.SIGKILL)  # the new worker learns what the name means
        daemon.wait_for_log("serves, process", workers)
        assert served(port) == {HOSTS[0]}
        assert [one["address"] for one in daemon.stats("web")["servers"]] == [f"{HOSTS[0]}:{there}"]
    refused = daemon.adm("-e", "-i", "web", "-r", f"{HOSTS[0]}:{there}", "-w", 2, check=False)
    which = f"it is one address of api.test:{there}, which can be changed as a whole"
    assert refused.stderr == f"tcpvsadm: edit-server web: service web has no server {HOSTS[0]}:{there}: {which}\n"
    daemon.adm("-d", "-i", "web", "-r", f"api.test:{there}")
    assert served(port) == {""}


def test_a_name_is_looked_up_again_when_its_ttl_is_over(make_daemon: Make, names: NameServer, there: int) -> None:
    daemon = make_daemon("--nameserver", names.address)
    daemon.start()
    daemon.set(resolve_least=1)
    names.says("long.test", HOSTS[0], ttl=3600)
    names.says("short.test", HOSTS[1], ttl=0)
    port = free_port()
    daemon.service("web", port, f"long.test:{there}", f"short.test:{there}")
    becomes(port, *HOSTS[:2])
    wait_for(lambda: names.count("short.test") >= 3, timeout=TIMEOUT)
    assert names.count("long.test") == 1


def test_wait_drains_all_servers_of_a_name(
    make_daemon: Make, names: NameServer, there: int, stack: contextlib.ExitStack
) -> None:
    daemon = make_daemon("--nameserver", names.address)
    daemon.start()
    names.says("api.test", *HOSTS[:2])
    port = free_port()
    daemon.service("web", port, f"api.test:{there}", f"{HOSTS[2]}:{there}")
    becomes(port, *HOSTS)
    client = stack.enter_context(dial((LOOPBACK, port)))
    while client.recv(100).decode() == HOSTS[2]:
        client = stack.enter_context(dial((LOOPBACK, port)))
    words = [*command("tcpvsadm", TCPVSADM), "--control", daemon.control, "-e", "-i", "web", "-r", f"api.test:{there}"]
    with subprocess.Popen(
        [*words, "-w", "0", "--wait"], stdout=subprocess.PIPE, text=True, env=environment()
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline().startswith("1 client connection, oldest ")
        client.close()
        assert waiting.stdout.read() == "drained\n"
    assert served(port) == {HOSTS[2]}


def test_a_takeover_hands_over_the_addresses_of_names(make_daemon: Make, names: NameServer, there: int) -> None:
    old = make_daemon("--nameserver", names.address)
    old.start()
    names.says("api.test", HOSTS[0])
    port = free_port()
    old.service("web", port, f"api.test:{there}")
    becomes(port, HOSTS[0])
    names.is_silent = True
    new = make_daemon("--nameserver", names.address, "--takeover", old.control, control=old.control)
    new.run()
    new.wait_for_log("taken over from")
    assert old.wait() == 0
    assert served(port) == {HOSTS[0]}


def test_a_name_with_100_addresses(make_daemon: Make, names: NameServer) -> None:
    """The name server's answer comes over TCP."""
    daemon = make_daemon("--nameserver", names.address)
    daemon.start()
    names.says("many.test", *(f"127.1.0.{number}" for number in range(1, 101)), ttl=3600)
    daemon.service("web", free_port(), "many.test:80")
    wait_for(lambda: len(daemon.stats("web")["servers"]) == 64, timeout=TIMEOUT)
    daemon.wait_for_log("many.test has 100 addresses; 64 of them serve")
    daemon.set(resolve_addresses=1024)
    wait_for(lambda: len(daemon.stats("web")["servers"]) == 100, timeout=TIMEOUT)


@pytest.mark.load
def test_changes_of_a_name_under_load_fail_no_request(
    make_daemon: Make,
    names: NameServer,
    serve: Callable[..., SocketServer],
    stack: contextlib.ExitStack,
    tmp_path: Path,
) -> None:
    daemon = make_daemon("--nameserver", names.address, workers=2)
    daemon.start()
    daemon.set(resolve_least=1)
    there = free_port()
    for host in HOSTS:
        serve(_http, (host, there))
    names.says("api.test", HOSTS[0], ttl=0)
    port = free_port()
    rules = ((".*", f"api.test:{there}"),)
    daemon.service("web", port, f"api.test:{there}", scheduler="phttp", rules=rules)
    wait_for(lambda: daemon.stats("web")["servers"][0]["name"], timeout=TIMEOUT)
    load = Wrk(tmp_path, port, 16, "--timeout", "2s")
    stack.callback(load.kill)
    for place in range(4):
        changes = daemon.log().count("api.test is ")
        names.says("api.test", HOSTS[(place + 1) % 3], HOSTS[(place + 2) % 3], ttl=0)
        daemon.wait_for_log("api.test is ", changes + 1)
    answered, wrong = load.stop()
    assert answered > 0
    assert wrong == []


def _http(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * data.count(b"\r\n\r\n"))


@pytest.mark.parametrize(
    ("text", "said"), [("here", "'here': expected an IP address"), ("1.2.3.4:x", "unknown port name 'x'")]
)
def test_a_malformed_name_server_is_refused(make_daemon: Make, text: str, said: str) -> None:
    assert said in make_daemon("--nameserver", text).refused()


def test_checks_send_the_name_as_host_and_rules_use_all_its_servers(
    make_daemon: Make, names: NameServer, serve: Callable[..., SocketServer]
) -> None:
    daemon = make_daemon("--nameserver", names.address)
    daemon.start()
    heard: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        while data := sock.recv(65536):
            heard.append(data)
            here = sock.getsockname()[0].encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(here), here))

    there, port = free_port(), free_port()
    for host in HOSTS[:2]:
        serve(answer, (host, there))
    names.says("api.test", *HOSTS[:2])
    name = f"api.test:{there}"
    options = {"check": "http /well", "check_interval": 1, "balance": "rr"}
    daemon.service("web", port, name, scheduler="phttp", rules=(("/x", name),), **options)
    checked = f"GET /well HTTP/1.1\r\nHost: {name}\r\n".encode()
    wait_for(lambda: len([one for one in heard if one.startswith(checked)]) >= 2, str(heard))
    said = daemon.json("--explain", "-i", "web", "GET", "/x")
    assert said["answer"]["server"] in [f"{host}:{there}" for host in HOSTS[:2]]
    assert [one["address"] for one in said["servers"]] == [f"{host}:{there}" for host in HOSTS[:2]]
    asked = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    served_by = set()
    for _ in range(4):
        with dial((LOOPBACK, port)) as client:
            client.sendall(asked)
            served_by.add(read_all(client).rpartition(b"\r\n\r\n")[2].decode())
    assert served_by == {*HOSTS[:2]}


SRV = "srv:_http._tcp.api.test"


def _says_where(sock: socket.socket) -> None:
    """Respond to each request with the address and the port that the client has connected to."""
    while data := sock.recv(65536):
        here = "{}:{}".format(*sock.getsockname()).encode()
        for _ in range(data.count(b"\r\n\r\n")):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(here), here))


def get_each(port: int, requests: int = 24) -> list[str]:
    """Send so many requests; return the sorted texts of the responses, each once."""
    said = set()
    for _ in range(requests):
        with dial((LOOPBACK, port)) as client:
            client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            head, _, body = read_all(client).partition(b"\r\n\r\n")
            said.add(body.decode() if b" 200 " in head else head.split(b" ")[1].decode())
    return sorted(said)


@pytest.mark.parametrize("workers", [0, 2])
def test_srv_records_are_servers_with_ports_weights_and_priorities(
    make_daemon: Make, names: NameServer, serve: Callable[..., SocketServer], workers: int
) -> None:
    daemon = make_daemon("--nameserver", names.address, workers=workers)
    daemon.start()
    daemon.set(resolve_least=1)
    first, second, third, spare = (serve(_says_where) for _ in range(4))
    one, two, three, four = (each.address for each in (first, second, third, spare))
    port = free_port()
    options = {
        "check": "http /",
        "check_interval": 1,
        "check_fall": 1,
        "check_rise": 1,
        "check_timeout": 30,
        "balance": "wrr",
    }
    daemon.service("web", port, (SRV, 3), scheduler="phttp", rules=(("/x", SRV),), **options)
    assert get_each(port, 1) == ["503"]
    assert [(each["address"], each["health"]["state"]) for each in daemon.stats("web")["servers"]] == [
        (SRV, "unresolved")
    ]
    daemon.wait_for_log(f"{SRV} is not found: the name does not exist; no server of it is used until it is")

    names.says("node-1.test", LOOPBACK)
    ports = [int(each.rpartition(":")[2]) for each in (one, two, three, four)]
    records = [(0, 20, ports[0], "node-1.test"), (0, 10, ports[1], "node-1.test"), (7, 1, ports[3], "node-1.test")]
    names.lists("_http._tcp.api.test", *records)
    wait_for(lambda: get_each(port) == sorted((one, two)), "two targets to serve", timeout=TIMEOUT)
    servers = daemon.stats("web")["servers"]
    assert [(each["address"], each["name"], each["weight"], each["priority"]) for each in servers] == [
        *sorted([(one, SRV, 60, 0), (two, SRV, 30, 0)], key=lambda each: int(each[0].rpartition(":")[2])),
        (four, SRV, 3, 1),
    ]
    assert f"server = {SRV} 3" in daemon.adm("--save").stdout
    assert f"-> {one} ({SRV})" in daemon.adm("--list", "--stats", "-n").stdout
    said = daemon.json("--explain", "-i", "web", "GET", "/x")
    assert {each["address"]: each["state"] for each in said["servers"]} == {one: "up", two: "up", four: "standby"}

    names.lists("_http._tcp.api.test", (0, 0, ports[2], "node-1.test"), records[2], along=False)
    wait_for(lambda: get_each(port) == [three], "the new target to serve", timeout=TIMEOUT)
    third.stop()
    wait_for(lambda: get_each(port, 4) == [four], "the target of the next priority to serve", timeout=TIMEOUT)
    asked = names.count("_http._tcp.api.test", dns.SRV)
    names.fails("_http._tcp.api.test", dns.ENAME)
    wait_for(lambda: names.count("_http._tcp.api.test", dns.SRV) > asked)
    assert get_each(port, 4) == [four]
    if workers:
        for worker in daemon.workers():
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: get_each(port, 4) == [four], "new workers to know the targets", timeout=TIMEOUT)
    refused = daemon.adm("-e", "-i", "web", "-r", four, "-w", 2, check=False)
    assert f"it is one address of {SRV}, which can be changed as a whole" in refused.stderr
    daemon.adm("-e", "-i", "web", "-r", SRV, "-w", 0)
    assert get_each(port, 1) == ["503"]
    daemon.adm("--del-rule", "-i", "web", "-r", SRV, "-p", "/x")
    daemon.adm("-d", "-i", "web", "-r", SRV)
    daemon.adm("-a", "-i", "web", "-r", "srv:web.test", "-w", 1)
    assert "server = srv:web.test 1" in daemon.adm("--list").stdout


def test_a_takeover_hands_over_the_targets_of_srv_records(make_daemon: Make, names: NameServer, there: int) -> None:
    old = make_daemon("--nameserver", names.address)
    old.start()
    names.says("node.test", HOSTS[0])
    names.lists("web.test", (0, 1, there, "node.test"))
    port = free_port()
    old.service("web", port, "srv:web.test")
    becomes(port, HOSTS[0])
    names.is_silent = True
    new = make_daemon("--nameserver", names.address, "--takeover", old.control, control=old.control)
    new.run()
    new.wait_for_log("taken over from")
    assert old.wait() == 0
    assert served(port) == {HOSTS[0]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_name_that_is_not_found_is_shown(make_daemon: Make, names: NameServer, there: int, workers: int) -> None:
    daemon = make_daemon("--nameserver", names.address, workers=workers)
    daemon.start()
    daemon.set(resolve_least=1)
    port = free_port()
    daemon.service("web", port)
    names.fails("gone.test", dns.ENAME)
    server = f"gone.test:{there}"
    done = daemon.adm("-a", "-i", "web", "-r", server)
    assert done.stderr == f"tcpvsadm: warning: server {server} is unresolved: the name does not exist\n"
    assert f"    # {server} unresolved: the name does not exist\n" in daemon.adm("--list").stdout
    assert f"{server}  1        -       " in daemon.adm("--list", "--stats", "-n").stdout
    assert "     unresolved since 2" in daemon.adm("--list", "--stats").stdout
    assert "unresolved" in daemon.adm("--explain", "-i", "web").stdout
    names.says("gone.test", HOSTS[0])
    becomes(port, HOSTS[0])
    assert "unresolved" not in daemon.adm("--list").stdout + daemon.adm("--list", "--stats").stdout
    assert daemon.adm("-a", "-i", "web", "-r", f"gone.test:{free_port()}").stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-a", "-i", "web", "-r", "srv:web.test:80"), "leave out the port, which each target of SRV records has"),
        (("-a", "-i", "web", "-r", "srv:10.0.0.1"), "expected a DNS name (example: srv:_http._tcp.api.example)"),
        (("-E", "-i", "web", "redirect=srv:web.test"), "only servers of a service may come from SRV records"),
        (("--add-listener", "-i", "web", "-l", "srv:web.test"), "only servers of a service may come from SRV records"),
        (("-a", "-i", "web", "-r", "srv:web.test", "tls"), "missing name, which its certificate must have"),
    ],
)
def test_srv_names_stand_where_servers_stand(make_daemon: Make, words: tuple[str, ...], said: str) -> None:
    daemon = make_daemon()
    daemon.start()
    daemon.service("web", free_port(), "127.0.0.1:1", scheduler="phttp")
    refused = daemon.adm(*words, check=False)
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
