"""Listeners with TLS and behind proxies, in memory: what schedulers, servers and logs learn of their clients."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory import A, Peer, World, answer, get
from tls_peers import MemorySocket, TLSPeer, authority, client_context
from twisted.internet.address import IPv4Address

from ktcpvs.control.tcpvsadm import output
from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.http.fast_path import IS_COMPILED
from ktcpvs.inspect.views import Views
from ktcpvs.protocols.forwarding import certificate_line
from ktcpvs.protocols.proxy_protocol import LOCAL, ProxyHeaderReader, write_v1, write_v2
from ktcpvs.status.metrics import format_metrics
from ktcpvs.status.summary import summarize

HTTP = "scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}'
FIRST = "scheduler = http", f"server = {A}", f'rule = pattern ".*" use server {A}'
TCP = "scheduler = wlc", f"server = {A}"
PROXIES = "proxy_from = 10.0.0.0/8 2001:db8::/32"
SOURCE, DESTINATION = ("198.51.100.7", 5000), ("203.0.113.1", 443)

Make = Callable[..., World]


@pytest.fixture
def site() -> str:
    return f"certificate = {authority().daemon('listener-stages')}"


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds with the stages that their configuration asks for, and closes them with all that is left."""
    worlds: list[World] = []

    def make(*lines: str, **options: Any) -> World:
        worlds.append(World(*lines, **{"has_stages": True, **options}))
        return worlds[-1]

    yield make
    for world in worlds:
        for peer in world.peers:
            if peer.stream.is_open and not peer.line.disconnecting and not peer.line.aborted:
                peer.resets()
        world.close()


def over_tls(world: World, context: ssl.SSLContext | None = None, raw: Peer | None = None) -> TLSPeer:
    """A client that has completed its handshake."""
    return TLSPeer(MemorySocket(world, raw or world.knocks()), context or client_context())


# TLS.


@pytest.mark.parametrize("lines", [HTTP, FIRST, TCP], ids=["phttp", "http", "wlc"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_every_unit_over_tls(make: Make, site: str, lines: tuple[str, ...], version: ssl.TLSVersion) -> None:
    world = make(*lines, site, words="tls")
    client = over_tls(world, client_context(version))
    server = world.accepts(A) if lines == TCP else None  # before that, the client is not read
    client.sendall(get())
    server = server or world.accepts(A)
    world.turns(2)
    assert server.heard() == get()
    server.says(answer())
    assert client.recv(100) == answer()
    name = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
    assert world.live.preambles.handshakes == {(name, "full"): 1}


@pytest.mark.parametrize("lines", [HTTP, FIRST], ids=["phttp", "http"])
def test_clients_of_unknown_protocols_are_refused(make: Make, site: str, lines: tuple[str, ...]) -> None:
    """A server behind would get what it cannot read."""
    world = make(*lines, site, words="tls")
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        over_tls(world, client_context(protocols=["imap"]))
    assert world.live.preambles.handshakes == {("", "refused"): 1}
    assert world.live.preambles.refusals == {"TLS: the client speaks none of the protocols": 1}
    client = over_tls(world, client_context(protocols=["imap", "http/1.1"]))
    assert client.tls.selected_alpn_protocol() == "http/1.1"


def test_a_resumed_session_is_counted_as_one(make: Make, site: str) -> None:
    world = make(*HTTP, site, words="tls")
    context = client_context(ssl.TLSVersion.TLSv1_2)
    session = over_tls(world, context).tls.session
    raw = MemorySocket(world, world.knocks())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, False, "localhost", session)
    for _ in range(3):
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(10000))
    raw.sendall(outgoing.read())
    assert world.live.preambles.handshakes == {("TLSv1.2", "full"): 1, ("TLSv1.2", "resumed"): 1}


@pytest.mark.parametrize("mode", ["x_forwarded_proto = append", "forwarded = replace"])
def test_the_scheme_follows_the_connection(make: Make, site: str, mode: str) -> None:
    """Also where requests are equal byte for byte and one has been seen before."""
    world = make(*HTTP, site, mode, words="tls")
    plain, secure = world.client(), over_tls(world)
    server = None
    for _ in range(3):
        for client, scheme in (plain, b"http"), (secure, b"https"):
            if isinstance(client, TLSPeer):
                client.sendall(get())
            else:
                client.says(get())
            server = server or world.accepts(A)
            lines = server.heard().split(b"\r\n")
            told = [line for line in lines if b"orwarded" in line]
            name, _, _ = mode.partition(" = ")
            expected = b'for=192.0.2.1;proto=%b;host="h"' % scheme if name == "forwarded" else scheme
            assert told == [b"%b: %b" % ({"forwarded": b"Forwarded"}.get(name, b"X-Forwarded-Proto"), expected)]
            server.says(answer())
            assert (client.recv(100) if isinstance(client, TLSPeer) else client.heard()) == answer()


def test_the_cookie_follows_the_connection(make: Make, site: str) -> None:
    world = make("scheduler = chttp", f"server = {A}", site, words="tls")
    plain, secure = world.client(), over_tls(world)
    plain.says(get())
    server = world.accepts(A)
    server.says(answer())
    secure.sendall(get())
    server.says(answer())
    told = plain.heard(), secure.recv(1000)
    assert [b"; SameSite=Lax; Secure\r\n" in response for response in told] == [False, True]
    assert [b"; SameSite=Lax\r\n" in response for response in told] == [True, False]


@pytest.mark.skipif(not IS_COMPILED, reason="the fast path is not compiled here")
def test_the_fast_path_serves_clients_of_tls(make: Make, site: str) -> None:
    world = make(*HTTP, site, words="tls")
    client = over_tls(world)
    client.sendall(get())
    server = world.accepts(A)
    server.says(answer())
    client.recv(100)
    (connection,) = world.live.connections
    assert type(connection.client.dataReceived).__name__ == "Receiver"
    server.heard()
    client.sendall(get())
    assert connection.exchange.is_plain
    assert server.heard() == get()
    assert len(world.live.tls_cache.cached) == 1
    server.says(answer())
    assert client.recv(100) == answer()


@pytest.mark.parametrize("policy", ["optional", "required"])
def test_the_certificate_of_a_client_goes_to_servers(make: Make, site: str, policy: str) -> None:
    """Nobody else can put it there."""
    forged = "Client-Cert: :AAAA:", "client_cert: x", "Client-Cert-Chain: :AAAA:"
    ca = f"client_ca = {authority().pem}", f"client_certificate = {policy}", "client_cert_header = on"
    world = make(*HTTP, site, *ca, words="tls")
    own = authority().issue("alice")
    der = ssl.PEM_cert_to_DER_cert(own.read_text().partition("-----BEGIN PRIVATE")[0])
    secure, plain = over_tls(world, client_context(own=own)), world.client()
    server = None
    for _ in range(2):
        secure.sendall(get("/", *forged))
        server = server or world.accepts(A)
        assert server.heard() == get()[:3] + get("/")[3:-2] + certificate_line(der) + b"\r\n"
        server.says(answer())
        assert secure.recv(100) == answer()
        plain.says(get("/", *forged))
        assert server.heard() == get("/")
        server.says(answer())
        assert plain.heard() == answer()
    if policy == "optional":
        anonymous = over_tls(world)
        anonymous.sendall(get("/", *forged))
        assert server.heard() == get("/")


def test_without_the_option_the_field_passes(make: Make, site: str) -> None:
    world = make(*HTTP, site, words="tls")
    client = over_tls(world)
    client.sendall(get("/", "Client-Cert: x"))
    assert world.accepts(A).heard() == get("/", "Client-Cert: x")


def test_the_access_log_names_tls(make: Make, site: str) -> None:
    ca = f"client_ca = {authority().pem}", "client_certificate = optional"
    world = make(*HTTP, site, *ca, words="tls")
    written: list[bytes] = []

    class Log:
        write = staticmethod(written.append)

    log: Any = Log
    world.live.traffic.access_log.writer = AccessLogWriter(world.context, log, "json", "s", "phttp")
    world.live.apply_settings()
    own = authority().issue("alice")
    secure, plain = over_tls(world, client_context(own=own)), world.client()
    secure.sendall(get())
    server = world.accepts(A)
    server.says(answer())
    for _ in range(2):  # the second one takes the fast path
        secure.sendall(get())
        server.says(answer())
        plain.says(get())
        server.says(answer())
    told = [json.loads(line)["tls"] for line in written]
    der = ssl.PEM_cert_to_DER_cert(own.read_text().partition("-----BEGIN PRIVATE")[0])
    names = {
        "version": "TLSv1.3",
        "cipher": "TLS_AES_256_GCM_SHA384",
        "server_name": "localhost",
        "client_subject": "CN=alice",
        "client_fingerprint": hashlib.sha256(der).hexdigest(),
    }
    assert told == [names, names, None, names, None]


# https_only.


def test_requests_without_tls_are_redirected(make: Make, site: str) -> None:
    world = make(*HTTP, site, "https_only = on", words="tls")
    port = world.live.config.https_port
    client = world.client()
    for request, location in (
        (get("/a?b=c", "X: 1"), f"https://h:{port}/a?b=c"),
        (get("/a").replace(b"Host: h", b"Host: h:8080"), f"https://h:{port}/a"),
        (get("http://other/a"), f"https://other:{port}/a"),
        (b'GET /\xc3\xa9" HTTP/1.1\r\nHost: [::1]:80\r\n\r\n', f"https://[::1]:{port}/%C3%A9%22"),
        (get("*", method="OPTIONS"), f"https://h:{port}"),
        (
            get(method="POST", body=b"hello").replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"),
            f"https://h:{port}/a",
        ),
    ):
        client.says(request)
        heard = client.heard()
        assert heard.startswith(b"HTTP/1.1 308 Permanent Redirect\r\n")
        assert f"\r\nLocation: {location}\r\n".encode() in heard
        assert b"Connection" not in heard
    assert world.called() == []
    counters = world.live.traffic.counters
    assert (counters.refused, counters.refusals, counters.redirected) == (0, {}, {308: 6})
    assert world.live.requests == 6
    stats = Views(world.director).view("stats", None)
    assert "\n  redirected: 308 6\n" in output.format_stats(stats)
    metrics = b"".join(format_metrics(summarize(stats, [], 0.0, 0.0, {}))).decode()
    assert 'ktcpvs_service_redirects_total{service="s",code="308"} 6\n' in metrics
    assert "ktcpvs_service_refusals_total{" not in metrics
    secure = over_tls(world)
    secure.sendall(get())
    assert world.accepts(A).heard() == get()


def test_requests_that_name_no_host_cannot_be_redirected(make: Make, site: str) -> None:
    world = make(*HTTP, site, "https_only = on", words="tls")
    client = world.client()
    client.says(b"GET / HTTP/1.0\r\n\r\n")
    assert client.heard().startswith(b"HTTP/1.1 400 Bad Request\r\n")
    other = world.client()
    other.says(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
    heard = other.heard()
    assert b"\r\nConnection: close\r\n" in heard
    assert heard.startswith(b"HTTP/1.1 308 ")


# The limit of handshakes.


def test_a_full_listener_lets_clients_wait(make: Make, site: str) -> None:
    world = make(*HTTP, site, words="tls", settings="max_handshakes = 2")
    preambles, (at,) = world.live.preambles, world.live.config.addresses
    assert preambles.room(at) == 2
    first, second = preambles_of(world, 2)
    assert (preambles.room(at), preambles.pauses) == (0, 1)
    TLSPeer(MemorySocket(world, first), client_context())
    assert preambles.room(at) == 1
    second.says(b"GET / HTTP/1.1\r\n\r\n")
    assert preambles.room(at) == 2  # while it reads its last message
    assert len(preambles) == 1
    second.closes()
    assert (preambles.room(at), preambles.pauses, len(preambles)) == (2, 1, 0)


def preambles_of(world: World, count: int) -> list[Peer]:
    """Clients that the service's own listener has accepted."""
    (at,) = world.live.config.addresses
    stages = world.live.client_factory.stages
    begun = [world.live.preambles.begin(stages, ("192.0.2.1", 4711), at) for _ in range(count)]
    return [world.peer(preamble.stream) for preamble in begun if preamble is not None]


def test_handshakes_and_refusals_are_shown(make: Make, site: str) -> None:
    world = make(*HTTP, site, words="tls", settings="max_handshakes = 1")
    over_tls(world)
    for data in b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0\r\n", b"SSH-2.0\r\n":
        world.knocks().says(data)
    preambles_of(world, 1)
    world.live.preambles.room(world.live.config.address)
    stats = Views(world.director).view("stats", None)
    shown = output.format_stats(stats)
    assert "\n  handshakes: TLSv1.3 full 1, refused 3\n" in shown
    assert "\n  refused: 1 TLS: plain HTTP\n  refused: 2 TLS: this is not TLS\n" in shown
    assert "\n  max_handshakes reached: 1 times\n" in shown
    metrics = b"".join(format_metrics(summarize(stats, [], 0.0, 0.0, {}))).decode()
    name = "ktcpvs_service_"
    assert f'{name}handshakes_total{{service="s",version="TLSv1.3",outcome="full"}} 1\n' in metrics
    assert f'{name}handshakes_total{{service="s",version="",outcome="refused"}} 3\n' in metrics
    assert f'{name}preamble_refusals_total{{service="s",reason="TLS: this is not TLS"}} 2\n' in metrics
    assert f'{name}handshake_pauses_total{{service="s"}} 1\n' in metrics


# Access lists and limits.


def test_a_client_that_is_denied_costs_no_handshake(make: Make, site: str) -> None:
    world = make(*HTTP, site, "deny = 192.0.2.9", words="tls")
    assert world.live.client_factory.buildProtocol(IPv4Address("TCP", "192.0.2.9", 4711)) is None
    over_tls(world)
    assert world.live.traffic.admission.denied == 1
    assert (world.live.preambles.handshakes, world.live.preambles.refusals) == ({("TLSv1.3", "full"): 1}, {})


def test_a_client_that_a_proxy_names_is_denied_before_its_handshake(make: Make, site: str) -> None:
    """The proxy's own address counts only where it is the client itself."""
    world = make(*HTTP, site, PROXIES, "deny = 198.51.100.7 10.0.0.0/8", words="tls")
    denied, other = world.knocks("10.0.0.1"), world.knocks("10.0.0.1")
    denied.says(write_v2(SOURCE, DESTINATION))
    assert denied.line.aborted
    other.says(write_v2(("198.51.100.8", 5000), DESTINATION))
    over_tls(world, raw=other)
    itself = world.knocks("10.0.0.1")
    itself.says(LOCAL)
    assert itself.line.aborted
    assert world.live.traffic.admission.denied == 2
    assert (world.live.preambles.handshakes, world.live.preambles.refusals) == ({("TLSv1.3", "full"): 1}, {})


def test_handshakes_count_for_the_limits_of_their_client(make: Make, site: str) -> None:
    world = make(*HTTP, site, "client_connections = 1", words="tls")
    stalled = world.knocks()
    address = IPv4Address("TCP", "192.0.2.1", 4711)
    assert world.live.client_factory.buildProtocol(address) is None
    stalled.resets()
    over_tls(world)
    assert world.live.client_factory.buildProtocol(address) is None
    assert world.live.traffic.admission.limited == 2


# The PROXY protocol.


@pytest.mark.parametrize("lines", [HTTP, TCP], ids=["phttp", "wlc"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("words", ["", "tls"])
def test_servers_are_told_what_the_proxy_has_told(
    make: Make, site: str, lines: tuple[str, ...], version: str, words: str
) -> None:
    """Both addresses, and not those of the connection from the proxy."""
    server = f"server = {A} proxy {version}"
    world = make(*(server if line.startswith("server") else line for line in lines), PROXIES, site, words=words)
    raw = world.knocks("10.0.0.1")
    raw.says(write_v1(SOURCE, DESTINATION))
    client = over_tls(world, raw=raw) if words else MemorySocket(world, raw)
    if lines != TCP:  # else it is not read before there is a server
        client.sendall(get())
    header = ProxyHeaderReader().feed(world.accepts(A).heard())
    assert header is not None
    assert (header.source, header.destination) == (SOURCE, DESTINATION)


@pytest.mark.parametrize("lines", [HTTP, FIRST, TCP], ids=["phttp", "http", "wlc"])
@pytest.mark.parametrize("header", [write_v1(SOURCE, DESTINATION), write_v2(SOURCE, DESTINATION)], ids=["v1", "v2"])
def test_the_client_is_the_one_in_the_header(make: Make, lines: tuple[str, ...], header: bytes) -> None:
    world = make(*lines, PROXIES)
    client = world.knocks("10.0.0.1")
    client.says(header + get())
    world.accepts(A)
    (connection,) = world.live.connections
    assert connection.client_name == "198.51.100.7:5000"
    assert connection.dispatcher.request.client == "198.51.100.7"


def test_lists_limits_fields_and_logs_take_that_address(make: Make) -> None:
    world = make(*HTTP, PROXIES, "deny = 198.51.100.8", "client_connections = 1", "x_forwarded_for = append")
    denied, first, second = (world.knocks("10.0.0.1") for _ in range(3))
    denied.says(write_v1(("198.51.100.8", 1), DESTINATION) + get())
    assert denied.line.aborted
    first.says(write_v1(SOURCE, DESTINATION) + get())
    assert b"X-Forwarded-For: 198.51.100.7\r\n" in world.accepts(A).heard()
    second.says(write_v1(SOURCE, DESTINATION) + get())
    assert second.line.aborted
    assert (world.live.traffic.admission.denied, world.live.traffic.admission.limited) == (1, 1)


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"], ids=["LOCAL", "UNKNOWN"])
def test_a_proxy_may_speak_for_itself(make: Make, header: bytes) -> None:
    world = make(*HTTP, PROXIES)
    client = world.knocks("10.0.0.1")
    client.says(header + get())
    world.accepts(A)
    (connection,) = world.live.connections
    assert connection.client_name == "10.0.0.1:4711"


@pytest.mark.parametrize("lines", [HTTP, FIRST, TCP], ids=["phttp", "http", "wlc"])
def test_a_proxy_must_send_a_header(make: Make, lines: tuple[str, ...]) -> None:
    world = make(*lines, PROXIES)
    client, silent = world.knocks("10.0.0.1"), world.knocks("10.0.0.2")
    client.says(get())
    assert client.line.aborted
    world.passes(7)
    assert silent.line.aborted
    world.settle()
    assert world.called() == []
    assert world.live.preambles.refusals == {
        "PROXY: this is no PROXY header": 1,
        "PROXY: not complete within 5 seconds": 1,
    }


@pytest.mark.parametrize("lines", [HTTP, FIRST], ids=["phttp", "http"])
@pytest.mark.parametrize("header", [write_v1(SOURCE, DESTINATION), write_v2(SOURCE, DESTINATION)], ids=["v1", "v2"])
def test_others_must_not(make: Make, lines: tuple[str, ...], header: bytes) -> None:
    world = make(*lines, PROXIES)
    client, good = world.knocks(), world.knocks()
    client.says(header + get())
    assert client.line.aborted
    world.settle()
    assert world.live.preambles.refusals == {"PROXY: a header from a client outside of proxy_from": 1}
    good.says(get())
    assert world.accepts(A).heard() == get()


def test_others_have_the_time_that_they_have_without_proxies(make: Make) -> None:
    """A browser opens connections before it needs them."""
    world = make(*HTTP, PROXIES, settings="keepalive_timeout = 20 proxy_timeout = 2")
    client = world.knocks()
    world.passes(15)
    client.says(get())
    assert world.accepts(A).heard() == get()
    other = world.knocks()
    world.passes(23)
    assert other.line.aborted


def test_a_client_that_waits_for_its_server_is_not_read(make: Make) -> None:
    """In protocols whose servers speak first, nothing would ever come."""
    world = make(*TCP, PROXIES)
    client = world.knocks()
    server = world.accepts(A)
    server.says(b"220 hello\r\n")
    assert client.heard() == b"220 hello\r\n"


def test_tls_behind_a_proxy(make: Make, site: str) -> None:
    world = make(*HTTP, PROXIES, site, "x_forwarded_for = append", "x_forwarded_proto = append", words="tls")
    raw = world.knocks("10.0.0.1")
    raw.says(write_v2(SOURCE, DESTINATION))
    client = over_tls(world, raw=raw)
    client.sendall(get())
    heard = world.accepts(A).heard()
    assert b"X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n" in heard
    forging = world.knocks()
    forging.says(write_v2(SOURCE, DESTINATION))
    assert forging.line.aborted
    world.settle()
    assert world.live.preambles.refusals == {"PROXY: a header from a client outside of proxy_from": 1}


def test_clients_of_unix_sockets_count_as_proxies(make: Make) -> None:
    """They have no address that a list could name."""
    world = make(*HTTP, PROXIES)
    stream = world.live.client_factory.buildProtocol(None)
    assert stream is not None
    client = world.peer(stream)
    client.says(write_v1(SOURCE, DESTINATION) + get())
    world.accepts(A)
    (connection,) = world.live.connections
    assert connection.client_name == "198.51.100.7:5000"


def test_endpoints_know_ipv6(make: Make, tmp_path: Path) -> None:
    from twisted.internet.address import IPv6Address

    world = make(*HTTP, PROXIES)
    for address, is_proxy in (
        (IPv6Address("TCP", "2001:db8::1", 1), True),
        (IPv4Address("TCP", "192.0.2.1", 1), False),
    ):
        stream = world.live.client_factory.buildProtocol(address)
        assert stream is not None
        client = world.peer(stream)
        client.says(get())
        assert client.line.aborted == is_proxy
