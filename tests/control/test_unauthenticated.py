"""TLS clients of the control connection, in memory: real TLS on both sides, and a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, formatEvent
from twisted.protocols import amp
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.test.iosim import FakeTransport, connect
from zope.interface import implementer

from ktcpvs.control import commands
from ktcpvs.control.certificates import load_context
from ktcpvs.control.endpoints import TLSFiles
from ktcpvs.control.server import ControlFactory
from ktcpvs.control.unauthenticated import RefusalLog, TLSControlFactory
from ktcpvs.director.director import Director
from ktcpvs.errors import NoTLS
from ktcpvs.inspect.views import Views
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.system.log import DAEMON, EventLog
from tests.authority import SERVER, Authority


@implementer(IOpenSSLClientConnectionCreator)
class Client:
    """A client that trusts every daemon. cert: its certificate; None: it has none."""

    def __init__(self, cert: Path | None = None, newest: int = SSL.TLS1_3_VERSION) -> None:
        self.context = SSL.Context(SSL.TLS_METHOD)
        self.context.set_max_proto_version(newest)
        if newest < SSL.TLS1_2_VERSION:
            self.context.set_cipher_list(b"ALL:@SECLEVEL=0")
        if cert is not None:
            self.context.use_certificate_file(str(cert))
            self.context.use_privatekey_file(str(cert))

    def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class World:
    """A daemon in memory. lines: the lines of its log."""

    def __init__(self, ca: Authority) -> None:
        self.lines: list[str] = []
        self.clock: Any = MemoryReactorClock()
        logger = Logger(namespace="test", observer=lambda event: self.lines.append(formatEvent(event)))
        log = EventLog(DAEMON, logger)
        director = Director(Context(self.clock, log, Descriptors(100)))
        self.view = Views(director).view
        self.submit = director.submit
        self.settings = Settings(control_handshakes=3)
        self.control = ControlFactory(self, log)  # type: ignore[arg-type]
        cert = str(ca.daemon())
        self.tls_factory = TLSControlFactory(
            self.control, load_context(TLSFiles(cert, cert, str(ca.pem))), lambda: self.settings, log, self.clock
        )
        self._factory = self.tls_factory.over_tls()

    def connect(self, client: Any, within: Protocol | None = None) -> Any:
        """Connect a TLS connection creator, or a protocol that sends any bytes. Returns the pump of both ends."""
        server = self._factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4711))
        if not isinstance(client, Protocol):
            inner = Factory.forProtocol(lambda: within or Protocol())
            client = TLSMemoryBIOFactory(client, True, inner, self.clock).buildProtocol(None)
        peer = IPv4Address("TCP", "192.0.2.7", 4711)
        pump = connect(server, FakeTransport(server, True, None, peer), client, FakeTransport(client, False))
        pump.flush()
        return pump

    def passes(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds * 10) or [0])


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def world(ca: Authority) -> World:
    return World(ca)


class Sends(Protocol):
    """Sends one text at once, and then nothing."""

    def __init__(self, what: bytes) -> None:
        self._what = what

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._what)


MakeClient = Callable[[Authority, Authority], Any]
REFUSED_CLIENTS: dict[str, MakeClient] = {
    "the client has no certificate": lambda ca, other: Client(),
    "its certificate is signed by other, which is not trusted": lambda ca, other: Client(other.issue("mallory")),
    "the certificate of alice expired on 20": lambda ca, other: Client(ca.issue("alice", begins=-9, ends=-2)),
    "the certificate of alice is not valid before 20": lambda ca, other: Client(ca.issue("alice", begins=2)),
    "the certificate of lb2 is not for this purpose": lambda ca, other: Client(
        ca.issue("lb2", "lb2.example", purposes=(SERVER,))
    ),
    "the client does not speak TLS correctly (unsupported protocol)": lambda ca, other: Client(
        ca.issue("alice"), SSL.TLS1_1_VERSION
    ),
    "the client does not speak TLS correctly (http request)": lambda ca, other: Sends(b"GET / HTTP/1.1\r\n\r\n"),
    "the client does not speak TLS correctly (": lambda ca, other: Sends(
        amp.AmpBox({amp.COMMAND: b"Flush", amp.ASK: b"1"}).serialize()
    ),
}


@pytest.mark.parametrize("why", REFUSED_CLIENTS)
def test_clients_that_are_refused_in_the_handshake(world: World, ca: Authority, tmp_path: Path, why: str) -> None:
    (tmp_path / "other").mkdir()
    world.connect(REFUSED_CLIENTS[why](ca, Authority(tmp_path / "other", "other")))
    (line,) = world.lines
    assert line.startswith(f"control connection refused: 192.0.2.7:4711: {why}")
    assert not world.control.connections, "none became an administrator"
    assert not world.tls_factory.clients
    world.tls_factory.refusals.close()
    assert not world.clock.getDelayedCalls()


MALFORMED = [(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09"), (b"\x0c\x05alice", b"\x13\x05al\xff\xfee")]
"""In DER: version 3 becomes 10; a common name that should be ASCII and is not."""


@pytest.mark.parametrize(("what", "instead"), MALFORMED)
def test_a_malformed_certificate(world: World, ca: Authority, what: bytes, instead: bytes) -> None:
    alice = ca.issue("alice")
    good = crypto.load_certificate(crypto.FILETYPE_PEM, alice.read_bytes())
    der = crypto.dump_certificate(crypto.FILETYPE_ASN1, good)
    assert what in der
    (ca.folder / "malformed.der").write_bytes(der.replace(what, instead))
    client = Client()
    client.context.use_certificate_file(str(ca.folder / "malformed.der"), crypto.FILETYPE_ASN1)
    client.context.use_privatekey_file(str(alice))
    world.connect(client)
    (line,) = world.lines
    assert line.startswith("control connection refused: 192.0.2.7:4711: ")
    assert line.isprintable()


def test_a_client_with_a_certificate_is_an_administrator(world: World, ca: Authority) -> None:
    (ca.folder / "between").mkdir()
    between = Authority(ca.folder / "between", "between", above=ca)
    bob = between.issue("bob\n[root] came")
    bob.write_bytes(bob.read_bytes() + between.pem.read_bytes())
    client = Client()
    client.context.use_certificate_chain_file(str(bob))
    client.context.use_privatekey_file(str(bob))
    for creator, name in ((Client(ca.issue("alice")), "alice"), (client, r"bob\n[root] came")):
        end = amp.AMP()
        pump = world.connect(creator, end)
        answers: list[Any] = []
        end.callRemote(commands.Read, view="table").addCallback(answers.append)
        while not answers:
            world.passes(0)  # small writes wait for a turn of the reactor
            pump.flush()
        assert b'"services"' in answers[0]["page"]
        assert world.lines[-1] == f"administrator connected: {name} from 192.0.2.7:4711"
        world.passes(100)
        assert len(world.control.connections) == 1, "the handshake timeout does not apply any more"
        assert end.transport is not None
        end.transport.loseConnection()
        pump.flush()
        assert world.lines[-1] == f"administrator disconnected: {name} from 192.0.2.7:4711"
    assert not world.control.connections


def test_unauthenticated_clients_are_limited_in_time_and_number(world: World) -> None:
    silent = [world.connect(Protocol()) for _ in range(3)]
    assert world.lines == []
    world.passes(5)
    world.connect(Sends(b"\x16\x03\x01\x02\x00\x01"))  # the beginning of a handshake
    silent[0].flush()
    assert [pump.serverIO.disconnecting for pump in silent] == [True, False, False]
    why = "it was the oldest of more than 3 clients without a certificate"
    assert world.lines == [f"control connection refused: 192.0.2.7:4711: {why}"]
    world.passes(4.9)
    assert len(world.tls_factory.clients) == 3
    world.passes(0.2)
    assert len(world.tls_factory.clients) == 1, "the last one connected later"
    world.passes(5)
    assert not world.tls_factory.clients
    refused = "control connection refused: 192.0.2.7:4711: no certificate within 10 s"
    more = "control connections refused: 1 more since the last such line"
    assert world.lines[1:] == [refused, more, refused]


def test_refusals_make_one_line_per_second() -> None:
    lines: list[str] = []
    clock: Any = MemoryReactorClock()
    refused = RefusalLog(EventLog(0, Logger(observer=lambda event: lines.append(formatEvent(event)))), clock)
    for _ in range(3):
        for _ in range(1000):
            refused.add("a", "why")
        clock.advance(1)
    clock.pump([1.0] * 5)
    refused.add("b", "why")
    refused.add("c", "why")
    refused.close()
    more = "control connections refused: {} more since the last such line"
    assert lines == [
        "control connection refused: a: why",
        more.format(999),
        more.format(1000),
        more.format(1000),
        "control connection refused: b: why",
        more.format(1),
    ]
    assert not clock.getDelayedCalls()


def test_new_certificates_hold_for_new_connections(world: World, ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    new = Authority(tmp_path / "new", "new")
    cert = str(new.daemon("lb1"))
    alice, carol = Client(ca.issue("alice")), Client(new.issue("carol"))
    here = world.connect(alice)
    world.tls_factory.context = load_context(TLSFiles(cert, cert, str(new.pem)))
    world.connect(carol)
    world.connect(alice)
    assert world.lines[-1].endswith("its certificate is signed by ca, which is not trusted")
    assert len(world.control.connections) == 2
    assert not here.serverIO.disconnecting


# Files.


def _encrypted(path: Path) -> Path:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(path.read_bytes(), None)
    secret = form.BestAvailableEncryption(b"secret")
    path.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, secret))
    return path


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


BROKEN = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("word", "file", "why"),
    [
        ("cert", lambda ca: ca.folder / "nope", r"cert=/\S+/nope: No such file or directory"),
        ("cert", lambda ca: ca.folder, r"cert=/\S+: Is a directory"),
        ("cert", lambda ca: _written(ca.folder / "x", "text"), r"cert=/\S+/x: no certificate in PEM"),
        (
            "cert",
            lambda ca: _written(ca.folder / "x", BROKEN),
            r"cert=/\S+/x: no certificate in PEM, or an unreadable one",
        ),
        ("ca", lambda ca: _written(ca.folder / "x", ""), r"ca=/\S+/x: no certificate in PEM"),
        ("key", lambda ca: ca.pem, r"key=/\S+: no private key in PEM"),
        (
            "key",
            lambda ca: ca.daemon("lb2"),
            r"key=/\S+/lb2-ca.pem: the key does not belong to the certificate of lb1 in cert=\S+",
        ),
        ("key", lambda ca: _encrypted(ca.daemon("lb2")), r"key=/\S+: the key is encrypted, .* 'openssl pkey' "),
    ],
)
def test_files_that_cannot_be_used(ca: Authority, word: str, file: Callable[[Authority], Path], why: str) -> None:
    cert = str(ca.daemon("lb1"))
    given = {"cert": cert, "key": cert, "ca": str(ca.pem), word: str(file(ca))}
    with pytest.raises(NoTLS, match=why):
        load_context(TLSFiles(**given))


def test_a_daemon_certificate_that_clients_will_not_trust(ca: Authority) -> None:
    def defect(cert: Path) -> str:
        return load_context(TLSFiles(str(cert), str(cert), str(ca.pem))).server_defect()

    assert defect(ca.daemon()) == ""
    assert defect(ca.issue("lb1", "lb1.example", purposes=())) == ""
    assert defect(ca.daemon(begins=-9, ends=-1)).startswith("the certificate of lb1 expired on ")
    assert defect(ca.daemon(begins=1)).startswith("the certificate of lb1 is not valid before ")
    assert defect(ca.issue("lb1", "lb1.example")).endswith("lb1 is not for a daemon: it lacks serverAuth")
    assert defect(ca.issue("lb1", purposes=(SERVER,))).endswith("is for no host: it lacks a subjectAltName")
