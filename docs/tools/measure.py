"""Measure single parts, as docs/performance.md reports them.

    measure.py rules                        choosing by 10, 1,000 and 10,000 rules, without a socket
    measure.py conditions                   the same with conditions of all kinds, 10 on 3 hosts and 10,000 on 3,000
    measure.py admission                    lists of networks and limits for each client, without a socket
    measure.py http2                        small requests over HTTP/2 and their responses, in memory
    measure.py hashing                      keys that move when a server leaves, for the schedulers that hash
    measure.py memory PID PORT idle|slow    memory of one connection of a daemon whose server is 127.0.0.1:9001

For `memory`, start a daemon with a service at 127.0.0.1:PORT and that server, and raise `ulimit -n` to 8192.
"""

from __future__ import annotations

import gc
import random
import socket
import statistics
import sys
import threading
import time
import timeit
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.dispatch.admission import Admission
from ktcpvs.interfaces import ISchedulerFactory
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.network import Network, Networks
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols import http2 as protocol
from ktcpvs.runtime.context import Context
from ktcpvs.schedulers.chash import CHash
from ktcpvs.schedulers.http import HTTP
from ktcpvs.schedulers.maglev import Maglev
from ktcpvs.schedulers.sh import SH
from ktcpvs.schedulers.wlc import WLC
from ktcpvs.system.limits import calm_collector
from ktcpvs.system.log import EventLog

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CONNECTIONS = 500
SETTLES = 10.0
"""Seconds until memory is read."""


def rules(counts: Sequence[int] = (10, 1000, 10000), runs: int = 10) -> None:
    """Ask for the rule in the middle by 676 new paths, and by one path again and again; print the medians."""
    for count in counts:
        address = Inet("127.0.0.1", 80)
        configured = tuple(Rule(rf"^/customers/{n}/[a-z]+\.(html|css|js)$", (address,)) for n in range(count))
        config = VirtualService("web", servers=(RealServer(address),), rules=configured)
        view = ServiceView.of(config, {address: Destination(address)}, WLC())
        began = time.perf_counter()
        scheduler = HTTP().bind(view, None)
        bound = (time.perf_counter() - began) * 1000
        middle = f"/customers/{count // 2}/"
        assert scheduler.choose(Request(path=f"{middle}index.html".encode())).reason.startswith(
            f"rule {count // 2 + 1} "
        )
        new = [[f"{middle}{run}{a}{b}.html".encode() for a in LETTERS for b in LETTERS] for run in LETTERS[:runs]]
        first = statistics.median(time_of(scheduler.choose, paths) for paths in new)
        again = statistics.median(time_of(scheduler.choose, [f"{middle}index.html".encode()] * 1000) for _ in new)
        print(f"{count} rules: bound in {bound:.1f} ms; a choice {first:.2f} us, by a known path {again:.2f} us")


def time_of(choose: Callable[[Request], object], paths: list[bytes]) -> float:
    """Return the microseconds that a choice by one of `paths` takes in the mean."""
    request = Request()
    began = time.perf_counter()
    for path in paths:
        request.path = path
        choose(request)
    return (time.perf_counter() - began) / len(paths) * 1e6


MIXED = (
    'host h{h}.example pattern "^/p{n}/[a-z]+$"',
    "host h{h}.example path /q{n}/",
    'host *.h{h}.example header X-Beta "^{m}$"',
    "host h{h}.example from 10.{a}.{b}.0/24",
    'host h{h}.example method POST cookie c "^{n}$"',
)
BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Accept-Language: en-US,en;q=0.5",
    "Accept-Encoding: gzip, deflate", "Connection: keep-alive", "Upgrade-Insecure-Requests: 1", "Priority: u=0, i",
)  # fmt: skip


def conditions(counts: Sequence[tuple[int, int]] = ((10, 3), (10000, 3000)), runs: int = 10) -> None:
    """Ask for the rule in the middle by new requests of a browser, and by one again and again; then add a rule in front
    of all others. Prints medians, and the longest step of a binding."""
    for count, hosts in counts:
        address = Inet("127.0.0.1", 80)
        texts = [
            MIXED[n % len(MIXED)].format(n=n, h=n // len(MIXED) % hosts, m=n % 20, a=n >> 8 & 255, b=n & 255)
            for n in range(count)
        ]
        configured = tuple(Rule(text, (address,)) for text in texts)
        config = VirtualService("web", servers=(RealServer(address),), rules=configured)
        known = {address: Destination(address)}
        view = ServiceView.of(config, known, WLC())
        calm_collector()  # as in the daemon
        steps, scheduler = steps_of(HTTP().binding(view, None))
        middle = count // 2 // len(MIXED) * len(MIXED)
        host = f"Host: h{middle // len(MIXED) % hosts}.example"

        def asked(path: str, host: str = host, number: int = 0) -> Request:
            lines = "".join(f"{line}\r\n" for line in (host, *BROWSER, f"X-Number: {number}")).encode()
            return Request("192.0.2.1", b"GET", path.encode(), path.encode(), lines)

        one = asked(f"/p{middle}/index")
        assert scheduler.choose(one).reason.startswith(f"rule {middle + 1} ")
        new = [
            [asked(f"/p{middle}/{run}{a}{b}", number=ord(b)) for a in LETTERS for b in LETTERS]
            for run in LETTERS[:runs]
        ]
        first = statistics.median(time_of_requests(scheduler.choose, some) for some in new)
        again = statistics.median(time_of_requests(scheduler.choose, [one] * 1000) for _ in new)
        edited = evolve(config, rules=(Rule("host new.example", (address,)), *configured))
        seen, after = steps_of(ServiceView.building(edited, known, WLC(), before=view))
        again_steps, _ = steps_of(HTTP().binding(after, scheduler))
        print(
            f"{count} rules on {hosts} hosts: bound in {sum(steps):.1f} ms, step {max(steps):.1f} ms; a new choice "
            f"{first:.2f} us, a known one {again:.2f} us; an edit {sum(seen) + sum(again_steps):.1f} ms, "
            f"step {max(*seen, *again_steps):.1f} ms"
        )


def steps_of(steps: Generator[None, None, Any]) -> tuple[list[float], Any]:
    """Run a generator. Return the milliseconds of CPU time of each step, and what it returns."""
    taken: list[float] = []
    made: Any = None
    while made is None:
        began = time.process_time()
        try:
            next(steps)
        except StopIteration as end:
            made = end.value
        taken.append((time.process_time() - began) * 1000)
    return taken, made


def time_of_requests(choose: Callable[[Request], object], requests: list[Request]) -> float:
    """Return the microseconds that a choice for one of these takes in the mean."""
    began = time.perf_counter()
    for request in requests:
        choose(request)
    return (time.perf_counter() - began) / len(requests) * 1e6


def admission(counts: Sequence[int] = (1, 100, 10_000, 100_000), calls: int = 100_000) -> None:
    """Admit a client, and let clients with limits make requests; print the best of five runs."""
    context, peer = Context(MemoryReactorClock(), EventLog()), ("10.2.3.4", 99)

    def made(**options: Any) -> Admission:
        one = Admission(context, "s")
        one.configure(VirtualService("s", **options), "EACH_REQUEST")
        return one

    def report(name: str, call: Callable[[], object]) -> None:
        print(f"{name}: {min(timeit.repeat(call, number=calls, repeat=5)) / calls * 1e6:.2f} us")

    for count in counts:
        numbers = random.Random(1).sample(range(11 << 16, 200 << 16), count)
        one = made(deny=Networks.of(Network(32, number << 8, 24) for number in numbers))
        report(f"deny of {count} networks", partial(one.enter, peer))
    one = made(client_connections=10_000_000)
    report("client_connections, in and out", lambda: one.leave(one.enter(peer), 0))
    for name, value in (("client_rate", "10000000/s"), ("client_head_rate", 10_000_000)):
        limited = made(**{name: value})
        report(name, partial(limited.wait_time, limited.enter(peer), 60))


def http2(requests: int = 20_000) -> None:
    """Exchange small GETs with ten fields, 10 at a time, and calls of gRPC, and their responses; print the best of
    eleven runs for each end."""

    def report(name: str, request_of: Callable[[int], bytes], response_of: Callable[[int], bytes]) -> None:
        gc.disable()  # the daemon collects rarely
        runs = [_http2_run(requests, request_of, response_of) for _ in range(11)]
        gc.enable()
        best = [min(one) for one in zip(*runs, strict=True)]
        print(f"{name}: {best[0]:.2f} us a request and its response from a client, {best[1]:.2f} us to a server")

    def get(path: bytes) -> bytes:
        return b"GET %b HTTP/1.1\r\nHost: www.example.com\r\n%b\r\n" % (path, _BROWSER)

    def response(length: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (_LINES, length) + bytes(length)

    same, whole = get(b"/"), response(12)
    report("identical requests", lambda number: same, lambda number: whole)
    report("paths that differ", lambda number: get(b"/customers/%d/orders.html" % number), lambda number: whole)
    report(
        "paths and responses that differ",
        lambda number: get(b"/customers/%d/" % number),
        lambda number: response(1 + number % 900),
    )
    report("calls of gRPC", lambda number: _CALL, lambda number: _CALLED)


def _http2_run(
    requests: int, request_of: Callable[[int], bytes], response_of: Callable[[int], bytes]
) -> tuple[float, float]:
    """Return the microseconds that a server's end and a client's end take for a request and its response, both as bytes
    of HTTP/1.1."""
    server = protocol.Server(protocol.Limits(), joins_requests=True)
    client = protocol.Client(protocol.Limits(), joins_responses=True)
    for _ in range(2):
        server.receive(b"".join(client.take_output()), 0)
        client.receive(b"".join(server.take_output()), 0)
    spent_by_server = spent_by_client = 0.0
    for begin in range(0, requests, 10):
        asked = [request_of(number) for number in range(begin, begin + 10)]
        responses = [response_of(number) for number in range(begin, begin + 10)]
        began = time.process_time()
        for data in asked:
            client.request(data, b"https")
        said = b"".join(client.take_output())
        asked_at = time.process_time()
        events = server.receive(said, 0)
        for event, data in zip([event for event in events if isinstance(event, _REQUEST)], responses, strict=True):
            server.respond(event.stream_id, data, event.request.method)
        out = b"".join(server.take_output())
        answered_at = time.process_time()
        events = client.receive(out, 0)
        spent_by_client += asked_at - began + time.process_time() - answered_at
        spent_by_server += answered_at - asked_at
        assert sum(isinstance(event, protocol.WholeResponse) for event in events) == 10
    return spent_by_server / requests * 1e6, spent_by_client / requests * 1e6


_REQUEST = protocol.RequestReceived
_BROWSER = (
    b"User-Agent: Mozilla/5.0 (X11) Gecko\r\nAccept: text/html,*/*;q=0.8\r\nAccept-Language: en,de;q=0.7\r\n"
    b"Accept-Encoding: gzip, br\r\nReferer: https://www.example.com/a?b=c\r\nCookie: sid=0123456789abcdef\r\n"
)
_LINES = b"Server: nginx\r\nDate: Mon, 21 Oct 2013 20:13:21 GMT\r\nContent-Type: text/html\r\nVary: Accept\r\n"
_CALL = (
    b"POST /shop.Carts/Add HTTP/1.1\r\nHost: shop.example.com\r\nContent-Type: application/grpc\r\n"
    b"User-Agent: grpc-python/1.66.1\r\ngrpc-accept-encoding: identity, deflate, gzip\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: te\r\nTE: trailers\r\n\r\n8\r\n\0\0\0\0\3abc\r\n0\r\n\r\n"
)
_CALLED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"8\r\n\0\0\0\0\3abc\r\n0\r\ngrpc-status: 0\r\n\r\n"
)


def hashing(counts: Sequence[int] = (3, 10, 100), keys: int = 20_000) -> None:
    """Take one of some equal servers away; print the share of the keys that move, and of those that need not."""
    plugins: tuple[ISchedulerFactory, ...] = (SH(), CHash(), Maglev())
    clients = [f"10.{n // 62500}.{n // 250 % 250}.{n % 250}" for n in range(keys)]
    for count in counts:
        servers = tuple(Destination(Inet(f"10.0.{n}.1", 80)) for n in range(count))
        for plugin in plugins:
            before, after = (
                _servers_of(plugin.bind(ServiceView(VirtualService("web"), some), None), clients)
                for some in (servers, servers[1:])
            )
            moved = sum(one is not other for one, other in zip(before, after, strict=True))
            needless = moved - before.count(servers[0])
            largest = max(before.count(one) for one in servers) * count / keys
            print(
                f"{count:4} servers, {plugin.name:6}: {moved / keys:6.2%} of the keys move, {needless / keys:5.2%} "
                f"needlessly; the largest share is {largest:.2f} of the mean"
            )


def _servers_of(scheduler: Any, clients: list[str]) -> list[Destination]:
    return [scheduler.choose(Request(client)).destination for client in clients]


def memory(pid: int, port: int, kind: str) -> None:
    """Print the growth of the daemon's resident memory for each of 500 connections.

    idle: a small request has been answered. slow: the server sends 16 MiB, and no client reads.
    """
    response = bytes(12 if kind == "idle" else 16 << 20)

    def resident() -> int:
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    def send(server: socket.socket) -> None:
        try:
            server.recv(1000)
            server.sendall(response)
        except OSError:
            pass

    def serve(listener: socket.socket) -> None:
        kept = []
        while True:
            kept.append(listener.accept()[0])
            threading.Thread(target=send, args=(kept[-1],), daemon=True).start()

    threading.Thread(target=serve, args=(socket.create_server(("127.0.0.1", 9001), backlog=1024),), daemon=True).start()
    before = resident()
    clients = []
    for _ in range(CONNECTIONS):
        clients.append(socket.create_connection(("127.0.0.1", port)))
        clients[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(SETTLES)
    print(f"{(resident() - before) / CONNECTIONS:.1f} KiB a connection")


def main() -> None:
    match sys.argv[1:]:
        case ["rules"]:
            rules()
        case ["conditions"]:
            conditions()
        case ["admission"]:
            admission()
        case ["http2"]:
            http2()
        case ["hashing"]:
            hashing()
        case ["memory", pid, port, ("idle" | "slow") as kind]:
            memory(int(pid), int(port), kind)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
