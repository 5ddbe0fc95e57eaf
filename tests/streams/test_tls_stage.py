"""TLS at a listener and towards servers over real sockets: the choice of a certificate, client certificates, sessions,
refusals, and peers that other people wrote."""

from __future__ import annotations

import contextlib
import functools
import gc
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from authority import CLIENT, Authority
from reactors import ReactorThread
from servers import LOOPBACK, free_port, program, read_all, read_exactly, wait_for
from tls_peers import TLSPeer, authority, client_context
from twisted.internet.error import ConnectError

from ktcpvs.errors import NoTLS
from ktcpvs.model.address import Inet
from ktcpvs.model.options import OFF
from ktcpvs.model.tls import ServerTLS
from ktcpvs.streams.accept import adopt_socket
from ktcpvs.streams.connector import ConnectionOptions, Connector
from ktcpvs.streams.preamble import Preamble, Stage
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_buffers import buffers_of
from ktcpvs.streams.tls_connect import TLSFailed
from ktcpvs.streams.tls_stage import ContextChoice, TLSStage
from ktcpvs.system import tls_contexts, tls_tickets
from ktcpvs.system.certificates import CertificateStore, read_certificates
from ktcpvs.system.timer_wheel import TimerWheel
from ktcpvs.system.tls_contexts import ClientContexts, ClientTLS, ServerContexts, TLSProfile
from ktcpvs.system.tls_tickets import TicketKeys

SECRET, OTHER_SECRET = b"1" * 32, b"2" * 32


@functools.cache
def certificate(*hosts: str, kind: str = "ECDSA") -> Any:
    (read,) = read_certificates(str(authority().daemon(f"{kind}-{hosts[0]}".replace("*", "_"), *hosts, kind=kind)))
    return read


@functools.cache
def strangers() -> Authority:
    return Authority(authority().folder, "strangers")


STORE = ["a.example", "*.a.example"]


def default_store() -> CertificateStore:
    site = certificate("localhost", "127.0.0.1")
    return CertificateStore([site, certificate("localhost", kind="RSA"), *map(certificate, STORE)], [site])


class Listener:
    """Accepts clients, whose connections begin with a TLS stage, and echoes what they send.

    streams: of the clients that have completed it; refusals: the reasons of the others.
    """

    def __init__(
        self,
        thread: ReactorThread,
        profile: TLSProfile | None = None,
        store: CertificateStore | None = None,
        tickets: TicketKeys | None = None,
        timeout: int = 10,
    ) -> None:
        self.thread = thread
        self.streams: list[Stream] = []
        self.refusals: list[str] = []
        self.gone_count = 0
        self.failed = 0
        contexts = ServerContexts(profile or TLSProfile("site", alpn=("http/1.1",)), tickets)
        self.choice = ContextChoice(contexts, store or default_store())
        self.stage = TLSStage(self.choice, buffers_of(thread.reactor), timeout)
        self._wheel = TimerWheel(thread.reactor, lambda: self.refusals.append("a timer has failed"))
        thread.run(self._wheel.start)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, peer = self._listener.accept()
                self.thread.reactor.callFromThread(self._begin, client, peer)

    def _begin(self, client: socket.socket, peer: Any) -> None:
        preamble = Preamble([self.stage], peer, self._wheel, self)
        adopt_socket(self.thread.reactor, client, peer, preamble.stream)

    def admits(self, preamble: Preamble) -> bool:
        raise AssertionError("this stage finds no address")

    def completed(self, preamble: Preamble, rest: bytes) -> None:
        stream = preamble.stream
        self.streams.append(stream)
        stream.dataReceived = lambda data: stream.write(data)
        if rest:
            stream.write(rest)
        stream.ended = stream.close
        stream.lost = lambda clean: None

    def refused(self, preamble: Preamble, reason: str) -> None:
        self.refusals.append(reason)

    def left(self, preamble: Preamble, reason: str) -> None:
        self.refusals.append(reason)

    def stage_failed(self, stage: Stage | None) -> None:
        self.failed += 1

    def gone(self, preamble: Preamble) -> None:
        self.gone_count += 1

    def connect(self) -> socket.socket:
        return socket.create_connection((LOOPBACK, self.port), timeout=10)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for stream in self.streams:
            self.thread.run(stream.abort)
        self.thread.run(self._wheel.stop)
        assert self.failed == 0


@pytest.fixture
def listen(thread: ReactorThread) -> Iterator[Callable[..., Listener]]:
    with contextlib.ExitStack() as stack:

        def make(*arguments: Any, **named: Any) -> Listener:
            made = Listener(thread, *arguments, **named)
            stack.callback(made.close)
            return made

        yield make


def echoed(peer: Any) -> None:
    peer.sendall(b"hello")
    assert read_exactly(peer, 5) == b"hello"


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client(listen: Callable[..., Listener], version: ssl.TLSVersion) -> None:
    listener = listen()
    with listener.connect() as sock:
        context = client_context(version)
        context.set_alpn_protocols(["h2", "http/1.1"])
        peer = TLSPeer(sock, context)
        echoed(peer)
        (stream,) = listener.streams
        facts = stream.tls
        assert facts is not None
        assert (facts.sni, facts.alpn, facts.is_resumed) == ("localhost", "http/1.1", False)
        assert facts.version == {772: "TLSv1.3", 771: "TLSv1.2"}[version]
        peer.notify()
        assert peer.recv(1) == b""
        assert not peer.is_truncated


def test_a_hello_byte_by_byte(listen: Callable[..., Listener]) -> None:
    listener = listen()

    class Dripping:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.recv = sock.recv

        def sendall(self, data: bytes) -> None:
            for at in range(len(data)):
                self.sock.sendall(data[at : at + 1])

    with listener.connect() as sock:
        echoed(TLSPeer(Dripping(sock), client_context()))


class Joining:
    """Sends the last message of the handshake, the client's second flight, in one piece with what follows."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.recv = sock.recv
        self.held = b""
        self.flights = 0

    def sendall(self, data: bytes) -> None:
        self.flights += 1
        self.held += data
        if self.flights != 2:
            held, self.held = self.held, b""
            self.sock.sendall(held)


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 40_000])
def test_data_that_comes_with_the_end_of_the_handshake(listen: Callable[..., Listener], size: int) -> None:
    listener = listen()
    with listener.connect() as sock:
        peer = TLSPeer(Joining(sock), client_context(ssl.TLSVersion.TLSv1_3))
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        peer.sendall(data)
        assert read_exactly(peer, size) == data
        peer.notify()
        assert peer.recv(1) == b""
        assert not peer.is_truncated


def test_an_end_that_comes_with_the_end_of_the_handshake(listen: Callable[..., Listener]) -> None:
    listener = listen()
    with listener.connect() as sock:
        peer = TLSPeer(Joining(sock), client_context(ssl.TLSVersion.TLSv1_3))
        peer.notify()
        assert peer.recv(1) == b""
        assert not peer.is_truncated
    assert listener.refusals == []


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("a.example", "ECDSA-a.example"),
        ("www.a.example", "ECDSA-_.a.example"),
        ("A.Example", "ECDSA-a.example"),
        ("unknown.example", "ECDSA-localhost"),
        (None, "ECDSA-localhost"),
    ],
)
def test_the_certificate(listen: Callable[..., Listener], name: str | None, subject: str) -> None:
    listener = listen()
    context = client_context()
    context.check_hostname = False
    with listener.connect() as sock:
        peer = TLSPeer(sock, context, server_name=name)
        shown: Any = peer.tls.getpeercert()
        assert shown["subject"] == ((("commonName", subject),),)


def test_rsa_for_clients_that_know_no_other(listen: Callable[..., Listener]) -> None:
    listener = listen()
    for ciphers, subject in ("ECDHE+aRSA", "RSA-localhost"), ("ECDHE+aECDSA", "ECDSA-localhost"):
        context = client_context(ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        with listener.connect() as sock:
            shown: Any = TLSPeer(sock, context).tls.getpeercert()
            assert shown["subject"] == ((("commonName", subject),),)


def test_without_a_default_unknown_names_are_refused(listen: Callable[..., Listener]) -> None:
    listener = listen(store=CertificateStore([certificate("a.example")]))
    for name in ("unknown.example", None):
        context = client_context()
        context.check_hostname = False
        with listener.connect() as sock, pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            TLSPeer(sock, context, server_name=name)
    reasons = ["TLS: the client asks for a server name without certificate", "TLS: the client asks for no server name"]
    wait_for(lambda: listener.refusals == reasons)


# Client certificates.


MUST_FAIL = "refused"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("policy", "shows", "outcome"),
    [
        ("off", None, ""),
        ("off", "good", ""),
        ("optional", None, ""),
        ("optional", "good", "CN=alice"),
        ("optional", "stranger", MUST_FAIL),
        ("optional", "expired", MUST_FAIL),
        ("required", None, MUST_FAIL),
        ("required", "good", "CN=alice"),
        ("required", "stranger", MUST_FAIL),
        ("required", "expired", MUST_FAIL),
    ],
)
def test_client_certificates(
    listen: Callable[..., Listener], version: ssl.TLSVersion, policy: str, shows: str | None, outcome: str
) -> None:
    own = {
        None: None,
        "good": authority().issue("alice", purposes=(CLIENT,)),
        "stranger": strangers().issue("mallory", purposes=(CLIENT,)),
        "expired": authority().issue("late", purposes=(CLIENT,), begins=-9, ends=-2),
    }[shows]
    listener = listen(TLSProfile("mtls", client_ca=str(authority().pem), client_certificate=policy))
    with listener.connect() as sock:
        fails = outcome == MUST_FAIL
        with pytest.raises(ssl.SSLError, match=r"(?i)alert") if fails else contextlib.nullcontext():
            echoed(TLSPeer(sock, client_context(version, own)))
    if outcome == MUST_FAIL:
        wait_for(lambda: len(listener.refusals) == 1)
        expected = {None: "peer did not return a certificate", "expired": "certificate has expired"}
        assert expected.get(shows, "unable to get local issuer certificate") in listener.refusals[0]
        assert listener.streams == []
        return
    facts = listener.streams[0].tls
    assert facts is not None
    assert facts.certificate_subject == outcome
    assert len(facts.certificate_fingerprint) == (64 if outcome else 0)


def test_a_profile_without_its_ca() -> None:
    with pytest.raises(NoTLS, match="client_ca"):
        ServerContexts(TLSProfile("mtls", client_certificate="required"))
    with pytest.raises(NoTLS, match="no cipher"):
        ServerContexts(TLSProfile("site", ciphers="NONSENSE"))
    with pytest.raises(NoTLS, match=r"/nowhere\.pem: No such file"):
        ServerContexts(TLSProfile("site", client_ca="/nowhere.pem"))


# Sessions.


def visit(
    listener: Listener, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bool, ssl.SSLSession]:
    """(whether the session was resumed, a new session)"""
    count = len(listener.streams)
    with (
        listener.connect() as sock,
        context.wrap_socket(sock, server_hostname="localhost", session=session) as peer,
    ):
        echoed(peer)
        facts = listener.streams[count].tls
        assert facts is not None
        assert facts.is_resumed == peer.session_reused
        assert peer.session is not None
        return facts.is_resumed, peer.session


@pytest.fixture(params=["compiled", "plain"])
def tickets_form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of the callback of tickets."""
    is_compiled = request.param == "compiled"
    if is_compiled and not tls_tickets.IS_COMPILED:
        pytest.skip("the extension is not installed")
    use_tickets = functools.partial(tls_tickets.use_tickets, is_compiled=is_compiled)
    monkeypatch.setattr(tls_contexts, "use_tickets", use_tickets)


def test_the_compiled_callback_is_tested_where_it_can_be_built() -> None:
    assert tls_tickets.IS_COMPILED or shutil.which("cc") is None


@pytest.mark.usefixtures("tickets_form")
@pytest.mark.parametrize("policy", ["off", "required"])
@pytest.mark.parametrize("version", VERSIONS)
def test_sessions(listen: Callable[..., Listener], version: ssl.TLSVersion, policy: str) -> None:
    """Two listeners with the same keys stand for two workers."""
    assert tls_tickets.unavailable() == ""
    ca = str(authority().pem) if policy == "required" else ""
    site, other_site = (TLSProfile(name, client_ca=ca, client_certificate=policy) for name in ("site", "other"))
    one = listen(site, tickets=TicketKeys("site", SECRET))
    two = listen(site, tickets=TicketKeys("site", SECRET))
    rotated_keys = TicketKeys("site", OTHER_SECRET, SECRET)
    rotated = listen(site, tickets=rotated_keys)
    other = listen(other_site, tickets=TicketKeys("other", SECRET))
    own = authority().issue("alice", purposes=(CLIENT,)) if policy == "required" else None
    context = client_context(version, own)
    resumed, session = visit(one, context)
    assert not resumed
    assert visit(one, context, session)[0]
    assert visit(two, context, session)[0]
    if policy == "required":
        facts = two.streams[-1].tls
        assert facts is not None
        assert facts.certificate_subject == "CN=alice"
    assert not visit(other, context, session)[0]
    resumed, renewed = visit(rotated, context, session)
    assert resumed
    assert not visit(one, context, renewed)[0], "a ticket is renewed with the current key"
    rotated_keys.rotate(b"3" * 32, OTHER_SECRET)
    assert not visit(rotated, context, session)[0], "keys before the previous one are forgotten"
    assert visit(rotated, context, renewed)[0]


@pytest.mark.usefixtures("tickets_form")
def test_a_client_of_tls_1_3_resumes_again_and_again_with_new_tickets(listen: Callable[..., Listener]) -> None:
    """It uses each ticket once, so a resumed connection must bring another."""
    listener = listen(TLSProfile("site"), tickets=TicketKeys("site", SECRET))
    context = client_context(ssl.TLSVersion.TLSv1_3)
    _, session = visit(listener, context)
    for _ in range(4):
        resumed, renewed = visit(listener, context, session)
        assert resumed
        assert renewed.id != session.id
        session = renewed


@pytest.mark.usefixtures("tickets_form")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_public_session_does_not_open_a_private_site(
    listen: Callable[..., Listener], version: ssl.TLSVersion
) -> None:
    public = listen(TLSProfile("public"), tickets=TicketKeys("public", SECRET))
    profile = TLSProfile("private", client_ca=str(authority().pem), client_certificate="required")
    private = listen(profile, tickets=TicketKeys("private", SECRET))
    context = client_context(version)
    _, session = visit(public, context)
    with pytest.raises((ssl.SSLError, EOFError)):
        visit(private, context, session)
    # Even with the very same ticket keys, the session's context keeps them apart.
    keys = TicketKeys("private", SECRET)
    shared = TicketKeys("public", SECRET)
    keys.keys = shared.keys
    same_keys = listen(profile, tickets=keys)
    with pytest.raises((ssl.SSLError, EOFError, IndexError)):
        visit(same_keys, context, session)
    assert private.streams == same_keys.streams == []


@pytest.mark.parametrize("version", VERSIONS)
def test_both_forms_of_the_callback_accept_tickets_of_the_other(
    listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch, version: ssl.TLSVersion
) -> None:
    """A daemon with the extension may take over from one without it."""
    if not tls_tickets.IS_COMPILED:
        pytest.skip("the extension is not installed")
    compiled = listen(tickets=TicketKeys("site", SECRET))
    plain_form = functools.partial(tls_tickets.use_tickets, is_compiled=False)
    monkeypatch.setattr(tls_contexts, "use_tickets", plain_form)
    plain = listen(tickets=TicketKeys("site", SECRET))
    context = client_context(version)
    session = None
    for listener, is_known in (compiled, False), (plain, True), (compiled, True):
        resumed, session = visit(listener, context, session)
        assert resumed == is_known


def test_keys_of_a_wrong_size_make_no_tickets(listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    if not tls_tickets.IS_COMPILED:
        pytest.skip("the extension is not installed")
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    keys = TicketKeys("site", SECRET)
    keys.keys = (evolve(keys.current, encryption=b"short"),)
    listener = listen(tickets=keys)
    with listener.connect() as sock, contextlib.suppress(ssl.SSLError, EOFError):
        TLSPeer(sock, client_context())
    wait_for(lambda: len(listener.refusals) == 1)
    (report,) = reports
    assert str(report.exc_value) == "a ticket key has a part of another size than 32 bytes"


# Refusals.


def test_plain_http(listen: Callable[..., Listener]) -> None:
    listener = listen()
    with listener.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        response = read_all(sock)
    assert response.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"https://" in response
    wait_for(lambda: listener.refusals == ["TLS: plain HTTP"])
    wait_for(lambda: listener.gone_count == 1)


def test_a_long_plain_request_gets_the_response_too(listen: Callable[..., Listener]) -> None:
    """Closed at once, it would be reset, and its system might drop the response."""
    listener = listen()
    with listener.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\n\r\n" + bytes(1_000_000))
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("data", [bytes(50), b"SSH-2.0-x\r\n", b"\xff" * 2000], ids=["zeros", "SSH", "ones"])
def test_garbage(listen: Callable[..., Listener], data: bytes) -> None:
    listener = listen()
    with listener.connect() as sock:
        sock.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)
    wait_for(lambda: len(listener.refusals) == listener.gone_count == 1)


def test_half_a_record(listen: Callable[..., Listener]) -> None:
    listener = listen()
    with listener.connect() as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)
    wait_for(lambda: listener.refusals == ["TLS: the client has ended the connection"])


def test_a_stalled_handshake(listen: Callable[..., Listener]) -> None:
    listener = listen(timeout=1)
    with listener.connect() as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        with contextlib.suppress(ConnectionResetError):
            read_all(sock)
    wait_for(lambda: listener.refusals == ["TLS: not complete within 1 seconds"])


def test_other_protocols_and_versions(listen: Callable[..., Listener]) -> None:
    listener = listen(TLSProfile("site", minimum="1.3", alpn=("http/1.1",)))
    context = client_context()
    context.set_alpn_protocols(["h2"])
    with listener.connect() as sock, pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        TLSPeer(sock, context)
    with listener.connect() as sock, pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        TLSPeer(sock, client_context(ssl.TLSVersion.TLSv1_2))
    reasons = ["TLS: the client speaks none of the protocols", "TLS: unsupported protocol"]
    wait_for(lambda: listener.refusals == reasons)


# Peers that other people wrote.


def run(*command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program(command[0]), *command[1:]], input=stdin, capture_output=True, timeout=30)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl(listen: Callable[..., Listener], version: str) -> None:
    listener = listen()
    where = f"{LOOPBACK}:{listener.port}"
    command = ["openssl", "s_client", "-connect", where, "-servername", "localhost", version, "-quiet"]
    ran = run(*command, "-verify_return_error", "-CAfile", str(authority().pem), "-no_ign_eof", stdin=b"hello\n")
    assert ran.returncode == 0, ran.stderr
    wait_for(lambda: len(listener.streams) == 1 and not listener.streams[0].is_open)


def test_openssl_cannot_renegotiate(listen: Callable[..., Listener]) -> None:
    listener = listen()
    where = f"{LOOPBACK}:{listener.port}"
    command = ["openssl", "s_client", "-connect", where, "-tls1_2", "-CAfile", str(authority().pem)]
    ran = run(*command, "-servername", "localhost", stdin=b"R\n")
    assert b"no renegotiation" in ran.stderr


def test_openssl_updates_its_keys(listen: Callable[..., Listener]) -> None:
    listener = listen()
    with subprocess.Popen(
        [
            *(program("openssl"), "s_client", "-connect", f"{LOOPBACK}:{listener.port}", "-tls1_3"),
            *("-servername", "localhost", "-CAfile", str(authority().pem)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(20, process.kill)  # else a line that does not come would be waited for in vain
        watchdog.start()
        wait_for(lambda: listener.streams)
        for line in (b"one\n", b"K\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            if line == b"K\n":
                time.sleep(0.5)  # openssl takes a line for a command only where it comes by itself
            else:
                assert line in iter(process.stdout.readline, b"")
        process.stdin.close()
        assert process.wait(10) == 0
        watchdog.cancel()


def test_gnutls(listen: Callable[..., Listener]) -> None:
    listener = listen()
    command = ["gnutls-cli", "--x509cafile", str(authority().pem), "-p", str(listener.port), "localhost"]
    ran = run(*command, stdin=b"hello\n")
    assert ran.returncode == 0, ran.stderr
    assert b"Handshake was completed" in ran.stdout


def test_curl(listen: Callable[..., Listener]) -> None:
    listener = listen()
    url = f"https://localhost:{listener.port}/"
    ran = run("curl", "--http0.9", "-sS", "--cacert", str(authority().pem), "--max-time", "3", url)
    assert b"GET / HTTP/1.1" in ran.stdout, ran.stderr


# Towards servers.


@pytest.fixture
def connector(thread: ReactorThread) -> Callable[..., Connector]:
    contexts = ClientContexts()

    def make(port: int, name: str = "localhost", timeout: float = 10, proxy: str = OFF, **tls: Any) -> Connector:
        settings = ServerTLS(**{"ca": str(authority().pem), **tls})
        options = ConnectionOptions(ClientTLS(contexts.context(settings), name), proxy)
        return Connector(thread.reactor, Inet(LOOPBACK, port), timeout, options)

    return make


def opened(thread: ReactorThread, connector: Connector) -> tuple[Stream, bytearray]:
    stream, received = Stream(), bytearray()
    stream.dataReceived = received.extend
    thread.run(connector.connect_stream, stream)
    return stream, received


def test_a_server(thread: ReactorThread, listen: Callable[..., Listener], connector: Callable[..., Connector]) -> None:
    listener = listen(tickets=TicketKeys("site", SECRET))
    made = connector(listener.port)
    for is_resumed in (False, True, True):
        stream, received = opened(thread, made)
        thread.run(stream.write, b"hello")
        wait_for(lambda: received == b"hello")  # noqa: B023
        assert stream.tls is not None
        assert stream.tls.is_resumed == is_resumed
        thread.run(stream.close)
        wait_for(lambda: not stream.is_open)  # noqa: B023


def test_connectors_of_equal_keys(listen: Callable[..., Listener], connector: Callable[..., Connector]) -> None:
    one, same = connector(1), connector(1)
    assert one.key == same.key
    own = str(authority().issue("alice"))
    others = [
        connector(1, "other"),
        connector(1, ca=None, is_verified=False),
        connector(1, ca=None),
        connector(1, cert=own),
        connector(1, proxy="v1"),
        connector(1, proxy="v2"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 7
    assert repr(one) == f"<Connector to {LOOPBACK}:1 by TLS>"
    assert repr(others[-1]) == f"<Connector to {LOOPBACK}:1 by TLS with PROXY v2>"


def test_a_file_that_has_changed_makes_another_key(connector: Callable[..., Connector], tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority().pem.read_bytes())
    before = connector(1, ca=str(file))
    assert connector(1, ca=str(file)).key == before.key
    file.write_bytes(Authority(tmp_path, "other").pem.read_bytes())
    assert connector(1, ca=str(file)).key != before.key


@pytest.mark.parametrize(
    ("tls", "reason"),
    [
        ({"ca": None}, "unable to get local issuer certificate"),
        ({"name": "other.example"}, "hostname mismatch, certificate is not valid for 'other.example'"),
        ({"name": LOOPBACK}, ""),
        ({"name": "other.example", "ca": None, "is_verified": False}, ""),
    ],
)
def test_verification(
    thread: ReactorThread,
    listen: Callable[..., Listener],
    connector: Callable[..., Connector],
    tls: dict[str, Any],
    reason: str,
) -> None:
    made = connector(listen().port, **tls)
    if not reason:
        stream, _ = opened(thread, made)
        thread.run(stream.close)
        return
    with pytest.raises(TLSFailed) as caught:
        opened(thread, made)
    assert str(caught.value) == f"TLS: {reason}"
    assert caught.value.is_untrusted


def test_an_expired_server(
    thread: ReactorThread, listen: Callable[..., Listener], connector: Callable[..., Connector]
) -> None:
    (expired,) = read_certificates(str(authority().daemon("expired", begins=-9, ends=-2)))
    with pytest.raises(TLSFailed, match="TLS: certificate has expired"):
        opened(thread, connector(listen(store=CertificateStore([expired])).port))


@pytest.mark.parametrize("shows", [True, False])
def test_a_server_that_demands_a_certificate(
    thread: ReactorThread, listen: Callable[..., Listener], connector: Callable[..., Connector], shows: bool
) -> None:
    profile = TLSProfile("private", client_ca=str(authority().pem), client_certificate="required")
    listener = listen(profile)
    stream, received = Stream(), bytearray()
    ends: list[tuple[bool, str]] = []
    stream.dataReceived = received.extend
    stream.lost = lambda clean: ends.append((clean, stream.failure))
    made = connector(listener.port, cert=str(authority().issue("alice")) if shows else None)
    thread.run(made.connect_stream, stream)  # with TLS 1.3 a client is complete before the server has looked
    thread.run(stream.write, b"hello")
    refused = (False, "the peer sent an alert: certificate required")
    wait_for(lambda: received == b"hello" if shows else ends == [refused])
    thread.run(stream.abort)


def test_servers_without_tls(thread: ReactorThread, connector: Callable[..., Connector]) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        for answer, reason in (b"HTTP/1.1 400 Bad Request\r\n\r\n", "wrong version number"), (b"", "has ended"):

            def serve(answer: bytes = answer) -> None:
                with listener.accept()[0] as sock:
                    sock.recv(10000)
                    sock.sendall(answer)

            server = threading.Thread(target=serve)
            server.start()
            with pytest.raises(TLSFailed, match=reason):
                opened(thread, connector(listener.getsockname()[1]))
            server.join()
        with pytest.raises(TLSFailed, match=r"not complete within 0\.2 seconds"):
            opened(thread, connector(listener.getsockname()[1], timeout=0.2))
    with pytest.raises(ConnectError):
        opened(thread, connector(free_port()))


def test_files_of_a_server_that_cannot_be_used(connector: Callable[..., Connector], tmp_path: Path) -> None:
    with pytest.raises(NoTLS, match=r"/nowhere\.pem: No such file"):
        connector(1, ca="/nowhere.pem")
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(NoTLS, match=r"empty\.pem: no certificate in PEM"):
        connector(1, ca=str(empty))
    with pytest.raises(NoTLS, match=r"empty\.pem: no certificate with its key"):
        connector(1, cert=str(empty))


def test_openssl_as_the_server(thread: ReactorThread, connector: Callable[..., Connector]) -> None:
    port = free_port()
    command = [program("openssl"), "s_server", "-accept", str(port), "-www", "-cert", str(authority().daemon())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            made = connector(port)

            def tried() -> Any:
                with contextlib.suppress(ConnectError):
                    return opened(thread, made)
                return None

            stream, received = wait_for(tried)
            thread.run(stream.write, b"GET / HTTP/1.0\r\n\r\n")
            wait_for(lambda: b"Ciphers supported" in received)
        finally:
            process.kill()
    wait_for(lambda: not stream.is_open or thread.run(stream.abort) or True)


def test_what_an_idle_connection_takes(listen: Callable[..., Listener]) -> None:
    """The memory of Python's side; OpenSSL's own is measured by the benchmark."""
    listener = listen()
    context = client_context()
    peers = []

    def more(count: int) -> None:
        for _ in range(count):
            peer = TLSPeer(listener.connect(), context)
            echoed(peer)
            peers.append(peer.raw)

    more(5)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    more(20)
    gc.collect()
    each = (tracemalloc.get_traced_memory()[0] - before) / 20
    tracemalloc.stop()
    for sock in peers:
        sock.close()
    assert each < 12_000
