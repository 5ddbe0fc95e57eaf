"""Challenges of ACME of kind tls-alpn-01 (RFC 8737) at listeners with TLS, in memory: what a CA sees of a listener, and
that other clients notice nothing."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cases import check_each
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ObjectIdentifier
from memory import A, World, answer, get
from tls_peers import MemorySocket, TLSPeer, authority, client_context
from twisted.internet.defer import Deferred

from ktcpvs.director.challenges import NodeChallenges
from ktcpvs.model.challenges import HTTP_01, TLS_ALPN_01, Challenge

HTTP = "scheduler = phttp", f"server = {A}"
ONE = Challenge(TLS_ALPN_01, "a.example", "tokenONE", "tokenONE.thumbprint")
ADDRESS = Challenge(TLS_ALPN_01, "192.0.2.7", "tokenTWO", "tokenTWO.thumbprint")
HERE = Challenge(TLS_ALPN_01, "localhost", "tokenTHREE", "tokenTHREE.thumbprint")
ACME_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")

Make = Callable[..., World]


@pytest.fixture
def site() -> str:
    return f"certificate = {authority().daemon('tls-challenges')}"


@pytest.fixture
def make() -> Iterator[Make]:
    worlds: list[World] = []

    def make(*lines: str, **options: Any) -> World:
        worlds.append(World(*lines, **{"has_stages": True, "words": "tls", **options}))
        return worlds[-1]

    yield make
    for world in worlds:
        world.reset_all()
        world.close()


def publish(world: World, *challenges: Challenge) -> None:
    outcome: list[Any] = []
    Deferred.fromCoroutine(NodeChallenges(world.director).publish(challenges)).addBoth(outcome.append)
    assert outcome == [None]


def asks(world: World, name: str | None, *protocols: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> TLSPeer:
    """A CA that has completed its handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(list(protocols or ("acme-tls/1",)))
    return TLSPeer(MemorySocket(world, world.knocks()), context, server_name=name)


def certificate(peer: TLSPeer) -> x509.Certificate:
    der = peer.tls.getpeercert(True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def check_answer(peer: TLSPeer, challenge: Challenge, name: x509.GeneralName) -> None:
    """Check all that RFC 8737 demands in section 3."""
    assert peer.tls.selected_alpn_protocol() == "acme-tls/1"
    found = certificate(peer)
    key = found.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    found.verify_directly_issued_by(found)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [name]
    identifier = found.extensions.get_extension_for_oid(ACME_IDENTIFIER)
    assert identifier.critical
    assert isinstance(identifier.value, x509.UnrecognizedExtension)
    assert identifier.value.value == b"\x04\x20" + hashlib.sha256(challenge.key_authorization.encode()).digest()
    assert found.not_valid_before_utc < found.not_valid_after_utc
    assert peer.recv(100) == b""
    assert not peer.is_truncated


def test_every_kind_of_service_answers(make: Make, site: str) -> None:
    ca = f"client_ca = {authority().pem}"
    cases: list[tuple[str, ...]] = [
        HTTP,
        (*HTTP, "http2 = only"),
        (*HTTP, ca, "client_certificate = required"),
        (*HTTP, "tls_default = refuse"),
        (*HTTP, "rule = path / use respond 403"),
        ("scheduler = http", f"server = {A}"),
        ("scheduler = wlc", f"server = {A}"),
    ]

    def check(lines: tuple[str, ...]) -> None:
        world = make(*lines, site)
        publish(world, ONE, ADDRESS)
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            check_answer(asks(world, "a.example", version=version), ONE, x509.DNSName("a.example"))
        reversed_name = "7.2.0.192.in-addr.arpa"  # RFC 8738, section 6
        check_answer(asks(world, reversed_name), ADDRESS, x509.IPAddress(ipaddress.ip_address("192.0.2.7")))
        assert world.live.preambles.handshakes["TLSv1.3", "full"] == 2
        assert not world.live.preambles.refusals
        assert not world.live.connections
        assert world.called() == []

    check_each(cases, check)


def test_other_clients_notice_nothing(make: Make, site: str) -> None:
    world = make(*HTTP, site)
    publish(world, ONE, HERE)
    context = client_context()
    context.set_alpn_protocols(["acme-tls/1", "http/1.1"])
    peer = TLSPeer(MemorySocket(world, world.knocks()), context)
    assert peer.tls.selected_alpn_protocol() == "http/1.1"
    peer.sendall(get())
    world.accepts(A).says(answer())
    assert peer.recv(1000) == answer()
    other = asks(world, "localhost", "acme-tls/1", "http/1.1")
    assert other.tls.selected_alpn_protocol() == "http/1.1"
    assert certificate(other).subject != certificate(asks(world, "localhost")).subject


def test_a_name_without_challenge_is_asked_for_in_vain(make: Make, site: str) -> None:
    """It is refused as any client is with an unknown protocol; a service that knows no protocol takes any."""
    world = make(*HTTP, site)

    def refused(name: str | None) -> None:
        with pytest.raises(ssl.SSLError, match="no application protocol"):
            asks(world, name)

    refused("a.example")
    publish(world, ONE, Challenge(HTTP_01, "b.example", "t", "k"))
    check_each(("b.example", "x.a.example", None), refused)
    check_answer(asks(world, "A.EXAMPLE."), ONE, x509.DNSName("a.example"))
    publish(world)  # the challenges of another publisher are all that there are now
    refused("a.example")
    plain = make("scheduler = wlc", f"server = {A}", site)
    assert asks(plain, "localhost").tls.selected_alpn_protocol() is None


def test_a_certificate_is_made_once_for_each_challenge(make: Make, site: str) -> None:
    world = make(*HTTP, site)
    publish(world, ONE)
    first = certificate(asks(world, "a.example"))
    assert certificate(asks(world, "a.example")) == first
    publish(world, Challenge(TLS_ALPN_01, "a.example", "other", "other.thumbprint"))
    assert certificate(asks(world, "a.example")) != first
