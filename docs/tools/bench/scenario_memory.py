"""H: the memory of idle connections. O: of those that speak TLS. T: of those that speak HTTP/2 over TLS."""

from __future__ import annotations

import contextlib
import resource
import socket
import ssl
import struct
import time

from attrs import evolve

from bench import answers, certificate, peers, rounds
from bench.configurations import LOOPBACK, NAME, answer
from bench.counters import Memory, memory_of
from bench.failure import Failure
from bench.peers import HTTP, NGINX, OURS, Peer
from bench.results import Case, Figures, Goal, Scenario, median
from bench.scenario_requests import PATH, three_rules
from bench.workshop import KEPT_DESCRIPTORS, Workshop, servers

COUNTS = (5000, 15000)
QUICK_TLS = (500,)
"""Their handshakes take a while."""

WANTED, WANTED_TLS, WANTED_HTTP2 = 6.0, 20.0, 24.0
"""KiB."""

METRICS = ["resident", "proportional", "base"]

SETTLE = 0.5
"""Seconds before memory is looked at."""

REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
RESET = struct.pack("ii", 1, 0)
TRUSTING, TRUSTING_HTTP2 = answers.trusting_context(), answers.trusting_context()
TRUSTING_HTTP2.set_alpn_protocols(["h2"])


def _request_http2() -> bytes:
    """The preface, and the same request as frames: its field block has only literals without indexing."""
    fields = (b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"bench"), (b":path", PATH.encode())
    block = b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)
    headers = len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\1\0\0\0\0" + headers


REQUEST_HTTP2 = _request_http2()


def connect(peer: Peer) -> socket.socket:
    """A connection that has made one request and got its answer. Raises Failure when that was wrong."""
    sock = socket.create_connection((LOOPBACK, peer.port), timeout=30)
    is_http2 = False
    try:
        if peer.is_tls:
            context = TRUSTING_HTTP2 if peer.is_http2 else TRUSTING
            sock = context.wrap_socket(sock, server_hostname=NAME)
            is_http2 = sock.selected_alpn_protocol() == "h2"
        sock.sendall(REQUEST_HTTP2 if is_http2 else REQUEST)
        said = sock.recv(4096)
        while is_http2 and answer(1).encode() not in said:
            more = sock.recv(4096)
            if not more:
                break
            said += more
    except BaseException:
        sock.close()
        raise
    is_right = said.startswith(b"HTTP/1.1 200 ") and said.endswith(answer(1).encode())
    if not (is_right or (is_http2 and answer(1).encode() in said)) or is_http2 != peer.is_http2:
        sock.close()
        raise Failure(f"{peer.name} answers {said!r}")
    if isinstance(sock, ssl.SSLSocket):
        # What this side knows of TLS is not needed any more, and would take more memory than the proxy's side.
        sock = socket.socket(fileno=sock.detach())
    sock.setblocking(False)
    return sock


def drop(sock: socket.socket) -> None:
    """Close it with a reset, so that no port stays taken."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def alive(sock: socket.socket) -> bool:
    """True when the other side has not ended it."""
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def look(peer: Peer, counts: tuple[int, ...]) -> dict[int, tuple[Memory, Memory]]:
    """Number of idle connections -> memory before the first one, and now."""
    found = {}
    with contextlib.ExitStack() as stack:
        with contextlib.closing(connect(peer)):
            pass  # what the first request ever needs is not a connection's
        time.sleep(SETTLE)
        before = memory_of(peer.running.pid)
        held: list[socket.socket] = []
        for count in counts:
            while len(held) < count:
                held.append(connect(peer))
                stack.callback(drop, held[-1])
            time.sleep(SETTLE)
            found[count] = before, memory_of(peer.running.pid)
            if lost := sum(not alive(sock) for sock in held):
                raise Failure(f"{peer.name} has closed {lost} of {count} idle connections")
    return found


def possible(wanted: tuple[int, ...], descriptors: int) -> tuple[int, ...]:
    """As many connections as descriptors allow: a proxy wants two for each."""
    most = (descriptors - KEPT_DESCRIPTORS) // 2 // 100 * 100
    return tuple(dict.fromkeys(min(count, most) for count in wanted))


def run(shop: Workshop) -> Scenario:
    scenario = Scenario(
        "H",
        "Idle connections",
        "Clients connect, make one request as in A, and stay. The memory of the proxy, all its processes, before the "
        "first and after the last one, divided by their number. The kernel's socket buffers are not in it. Each round "
        "begins with new processes. nginx takes some of a connection's memory for all that it may have when it starts: "
        "that is in what it had before.",
        METRICS,
    )
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = COUNTS[:1] if shop.quick else COUNTS
    counts = possible(wanted, allowed)
    if counts != wanted:
        scenario.notes.append(
            f"{wanted[-1]:,} connections need {2 * wanted[-1] + KEPT_DESCRIPTORS:,} descriptors in the proxy "
            f"(`ulimit -n`) and this machine allows {allowed:,}: {counts[-1]:,} were measured instead."
        )
    measure(shop, scenario, counts)
    for case in scenario.cases:
        own = median(case.figures, OURS, "resident")
        scenario.goals.append(Goal(f"{case.label}: {OURS}", own, WANTED, at_most=True, unit="KiB"))
        scenario.goals += case.goals("resident", dict.fromkeys((HTTP, NGINX), 1.0))
    return scenario


def run_o(shop: Workshop) -> Scenario:
    work = "As H, with TLS 1.3 between the clients and the proxy."
    scenario = Scenario("O", "Idle connections that speak TLS", work, METRICS)
    counts = possible(QUICK_TLS if shop.quick else COUNTS[:1], resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    measure(shop, scenario, counts, str(certificate.make(shop)))
    for case in scenario.cases:
        own = median(case.figures, OURS, "resident")
        scenario.goals.append(Goal(f"{case.label}: {OURS}", own, WANTED_TLS, at_most=True, unit="KiB"))
    return scenario


def run_http2(shop: Workshop) -> Scenario:
    work = "As H, with HTTP/2 over TLS 1.3 between the clients and the proxy."
    scenario = Scenario("T", "Idle HTTP/2 connections over TLS", work, METRICS)
    counts = possible(QUICK_TLS if shop.quick else COUNTS[:1], resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    measure(shop, scenario, counts, str(certificate.make(shop)), is_http2=True)
    for case in scenario.cases:
        own = median(case.figures, OURS, "resident")
        scenario.goals.append(Goal(f"{case.label}: {OURS}", own, WANTED_HTTP2, at_most=True, unit="KiB"))
    return scenario


def measure(shop: Workshop, scenario: Scenario, counts: tuple[int, ...], pem: str = "", is_http2: bool = False) -> None:
    """Add a case for each number of connections. pem: the certificate of the proxies; an empty text: no TLS. is_http2:
    clients speak HTTP/2."""
    starts = peers.everybody(shop, "phttp", peers.haproxy_http, peers.nginx_proxy)
    tables: dict[int, Figures] = {count: {} for count in counts}
    how_often = 1 if shop.quick else shop.rounds
    for number in range(1, how_often + 1):
        with servers(shop) as behind, contextlib.ExitStack() as stack:
            site = three_rules(behind, clients=max(counts) + KEPT_DESCRIPTORS // 2)
            site = evolve(site, certificate=pem, is_http2=is_http2)
            for peer in peers.start_all(stack, starts, site):
                for count, (before, after) in look(peer, counts).items():
                    measured: rounds.Measured = {
                        "resident": (after.resident - before.resident) / 1024 / count,
                        "proportional": (after.proportional - before.proportional) / 1024 / count,
                        "base": before.resident / (1 << 20),
                    }
                    for key, value in measured.items():
                        tables[count].setdefault(peer.name, {}).setdefault(key, []).append(value)
                    what = f"{scenario.letter}, {count:,} connections: round {number} of {how_often}"
                    shop.say(f"{what}, {peer.name}: {measured['resident']:.2f} KiB each")
    scenario.how = f"{how_often} {'round' if how_often == 1 else 'rounds'}"
    scenario.cases = [Case(f"{count:,} connections", tables[count]) for count in counts]
