"""The PROXY protocol to servers: headers that our own reader reads back, and when a connector sends them."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reactors import ReactorThread
from servers import LOOPBACK, read_exactly, wait_for
from tls_peers import TLSPeer, authority, tls_contexts

from ktcpvs.model.address import Inet
from ktcpvs.model.tls import ServerTLS
from ktcpvs.protocols.proxy_protocol import Address, ProxyHeader, ProxyHeaderReader
from ktcpvs.streams.connector import ConnectionOptions, Connector
from ktcpvs.streams.contract import TLSFacts
from ktcpvs.streams.origin import Origin, common_name, proxy_header
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_connect import TLSFailed
from ktcpvs.streams.tls_handshake import distinguished_name
from ktcpvs.system.tls_contexts import ClientContexts, ClientTLS

CLIENT = ("192.0.2.7", 4711)
CALLED = ("198.51.100.1", 443)
ORIGIN = Origin(CLIENT, CALLED)

addresses = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=60)
names = st.from_regex(r"[a-z0-9.-]{1,60}", fullmatch=True)


@st.composite
def tls_facts(draw: st.DrawFn) -> TLSFacts:
    certificate = draw(st.sampled_from([None, b"DER"]))
    return TLSFacts(
        version=draw(st.sampled_from(["TLSv1.2", "TLSv1.3"])),
        sni=draw(st.none() | names),
        alpn=draw(st.sampled_from([None, "http/1.1", "h2"])),
        cipher="TLS_AES_128_GCM_SHA256",
        is_resumed=draw(st.booleans()),
        certificate=certificate,
        certificate_subject="CN=alice" if certificate else "",
    )


def read(header: bytes) -> ProxyHeader:
    found = ProxyHeaderReader().feed(header)
    assert found is not None
    assert found.size == len(header)
    return found


def in_one_family(source: Address, called: Address) -> tuple[Address, Address]:
    """Both as the header has them: an IPv4 address beside an IPv6 address is mapped, and read back as it was."""
    pairs = [(ipaddress.ip_address(host), port) for host, port in (source, called)]
    shown = [(getattr(host, "ipv4_mapped", None) or host, port) for host, port in pairs]
    (first, first_port), (second, second_port) = shown
    return (str(first), first_port), (str(second), second_port)


@given(addresses, addresses, st.none() | tls_facts(), st.none() | names, st.sampled_from(["v1", "v2"]))
def test_what_the_server_reads(
    source: Address, called: Address, tls: TLSFacts | None, server_name: str | None, version: str
) -> None:
    found = read(proxy_header(version, Origin(source, called, server_name, tls), Stream()))
    assert (found.version, found.is_local) == (int(version[1]), False)
    assert (found.source, found.destination) == in_one_family(source, called)
    if version == "v1":
        return
    tlvs = found.tlvs
    assert tlvs.authority == (tls.sni if tls is not None else server_name)
    assert tlvs.unique_id is not None
    assert len(tlvs.unique_id) == 32
    if tls is None:
        assert (tlvs.tls, tlvs.alpn) == (None, None)
        return
    assert tlvs.alpn == (tls.alpn.encode() if tls.alpn else None)
    told = tlvs.tls
    assert told is not None
    assert (told.is_tls, told.version, told.cipher) == (True, tls.version, tls.cipher)
    shown = tls.certificate is not None
    assert (told.had_certificate, told.is_verified) == (shown, shown)
    assert told.has_certificate == (shown and not tls.is_resumed)
    assert told.common_name == ("alice" if shown else None)


def test_unique_ids_differ() -> None:
    ids = [read(proxy_header("v2", ORIGIN, Stream())).tlvs.unique_id for _ in range(100)]
    assert len(set(ids)) == 100


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_client_on_a_unix_socket(version: str) -> None:
    found = read(proxy_header(version, Origin(), Stream()))
    assert (found.is_local, found.source, found.destination) == (False, None, None)


@given(texts, st.lists(st.tuples(st.sampled_from(["organizationName", "countryName"]), texts), max_size=3))
def test_common_names(name: str, others: list[tuple[str, str]]) -> None:
    subject = distinguished_name([*(((kind, text),) for kind, text in others), (("commonName", name),)])
    assert common_name(subject) == (name if name.isprintable() else None)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("", None),
        ("O=Example", None),
        ("O=x\\,CN=mallory", None),
        ("O=x\\+CN=mallory,CN=alice", "alice"),
        ("UID=1+CN=alice,CN=above", "alice"),
        ("CN=M\\C3\\BCller", "Müller"),
        ("CN=a\\0Ab", None),
        ("CN=\\20a\\,b\\\\", " a,b\\"),
    ],
)
def test_the_common_name_of_a_subject(subject: str, name: str | None) -> None:
    assert common_name(subject) == name


# Over connections.


class Server:
    """A listening socket of a server that is told its clients."""

    def __init__(self) -> None:
        self.listener = socket.create_server((LOOPBACK, 0))
        self.port = self.listener.getsockname()[1]

    def accept(self) -> socket.socket:
        peer, _ = self.listener.accept()
        peer.settimeout(10)
        return peer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with server.listener:
        yield server


def header_of(peer: socket.socket) -> ProxyHeader:
    """Read exactly one header."""
    reader = ProxyHeaderReader()
    while (found := reader.feed(read_exactly(peer, 1))) is None:
        pass
    return found


def options(version: str, tls: bool = False) -> ConnectionOptions:
    context = ClientContexts().context(ServerTLS(ca=str(authority().pem)))
    return ConnectionOptions(ClientTLS(context, "localhost") if tls else None, version)


@pytest.mark.parametrize("origin", [ORIGIN, None])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("bare", [False, True])
def test_the_header_comes_first(
    thread: ReactorThread, server: Server, version: str, origin: Origin | None, bare: bool
) -> None:
    connector = Connector(thread.reactor, Inet(LOOPBACK, server.port), 10, options(version))
    stream, failures = Stream(), list[Any]()
    poller = thread.run(SocketPoller, thread.reactor) if bare else None
    client = None if origin is None else lambda: origin

    def connected(stream: Stream) -> None:
        stream.write(b"hello")

    thread.run(lambda: connector.begin(stream, connected, failures.append, poller, client) and None)
    with server.accept() as peer:
        found = header_of(peer)
        assert read_exactly(peer, 5) == b"hello"
        if origin is not None:
            assert (found.is_local, found.source, found.destination) == (False, CLIENT, CALLED)
        elif version == "v2":
            assert found.is_local
        else:
            assert (found.source, found.destination) == (peer.getpeername(), peer.getsockname())
        thread.run(stream.close)
    wait_for(lambda: not stream.is_open)
    if poller is not None:
        thread.run(poller.close)
    assert failures == []


def test_the_header_comes_before_tls(thread: ReactorThread, server: Server) -> None:
    context, _ = tls_contexts(ssl.TLSVersion.TLSv1_3)
    told: list[ProxyHeader] = []

    def serve() -> None:
        with server.accept() as peer, contextlib.suppress(ConnectionResetError):
            told.append(header_of(peer))
            TLSPeer(peer, context, server_side=True).sendall(b"welcome")
            peer.recv(1)

    serving = threading.Thread(target=serve)
    serving.start()
    connector = Connector(thread.reactor, Inet(LOOPBACK, server.port), 10, options("v2", tls=True))
    stream, received = Stream(), bytearray()
    stream.dataReceived = received.extend
    thread.run(connector.connect_stream, stream, lambda: ORIGIN)
    wait_for(lambda: received == b"welcome")
    thread.run(stream.abort)
    serving.join()
    assert (told[0].source, told[0].destination) == (CLIENT, CALLED)


def test_a_server_that_does_not_expect_it(thread: ReactorThread, server: Server) -> None:
    """A server of TLS takes the header for a broken ClientHello."""
    context, _ = tls_contexts(ssl.TLSVersion.TLSv1_3)

    def serve() -> None:
        with server.accept() as peer, contextlib.suppress(ssl.SSLError, EOFError, OSError):
            TLSPeer(peer, context, server_side=True)

    serving = threading.Thread(target=serve)
    serving.start()
    connector = Connector(thread.reactor, Inet(LOOPBACK, server.port), 10, options("v1", tls=True))
    with pytest.raises(TLSFailed, match=r"^TLS: .*; does it expect the PROXY protocol \(proxy v1\)\?$"):
        thread.run(connector.connect_stream, Stream())
    serving.join()


def test_a_certificate_that_is_refused_needs_no_hint(thread: ReactorThread, server: Server) -> None:
    context, _ = tls_contexts(ssl.TLSVersion.TLSv1_3)

    def serve() -> None:
        with server.accept() as peer, contextlib.suppress(ssl.SSLError, EOFError, OSError):
            header_of(peer)
            TLSPeer(peer, context, server_side=True)

    serving = threading.Thread(target=serve)
    serving.start()
    tls = ClientTLS(ClientContexts().context(ServerTLS(ca=str(authority().pem))), "other.example")
    connector = Connector(thread.reactor, Inet(LOOPBACK, server.port), 10, ConnectionOptions(tls, "v2"))
    with pytest.raises(TLSFailed, match=r"certificate is not valid for 'other\.example'$"):
        thread.run(connector.connect_stream, Stream())
    serving.join()


@pytest.mark.parametrize(("proxy", "hint"), [("off", ""), ("v2", "; does it expect the PROXY protocol (proxy v2)?")])
def test_its_hint(thread: ReactorThread, proxy: str, hint: str) -> None:
    connector = Connector(thread.reactor, Inet(LOOPBACK, 80), 10, ConnectionOptions(proxy=proxy))
    assert (connector.hint, connector.is_for_one_client) == (hint, proxy != "off")
