"""The names of CAs in the request for a client's certificate, which TLS 1.2 sends unencrypted."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest
from authority import Authority
from cryptography import x509

from ktcpvs.system import client_authorities, openssl
from ktcpvs.system.client_authorities import name_authorities


def server_context(certificate: Path, *authorities: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata="".join(one.pem.read_text() for one in authorities))
    return context


def first_flight(context: ssl.SSLContext) -> bytes:
    """Return the bytes of a server before its client has shown anything."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = trusting.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in client, server:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return to_client.read()


def subject(authority: Authority) -> bytes:
    return x509.load_pem_x509_certificate(authority.pem.read_bytes()).subject.public_bytes()


def test_the_authorities_are_named(tmp_path: Path) -> None:
    assert openssl.unavailable() == ""
    one, two = Authority(tmp_path, "authority one"), Authority(tmp_path, "authority two")
    other = Authority(tmp_path, "another")
    context = server_context(other.daemon(), one, two)
    before = first_flight(context)
    assert subject(one) not in before
    assert name_authorities(context)
    flight = first_flight(context)
    assert subject(one) in flight
    assert subject(two) in flight
    names = [len(subject(authority)).to_bytes(2) + subject(authority) for authority in (one, two)]
    all_names = len(b"".join(names)).to_bytes(2)  # RFC 5246, section 7.4.4: the list, and nothing behind it
    assert any(all_names + first + second in flight for first, second in (names, names[::-1]))


def test_too_many_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_authorities, "MAX_NAMED", 1)
    one, two = Authority(tmp_path, "authority one"), Authority(tmp_path, "authority two")
    context = server_context(one.daemon(), one, two)
    assert not name_authorities(context)
    assert subject(two) not in first_flight(context)
