"""Certificates of listeners: files and their mistakes, and the choice by name."""

from __future__ import annotations

import datetime
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from authority import CLIENT, SERVER, Authority
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import NoTLS
from ktcpvs.system.certificates import (
    CertificateStore,
    ServerCertificate,
    read_certificates,
    read_client_certificate,
)

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def made(*names: str, days: int = 30, kind: str = "ECDSA", begins: int = -10) -> ServerCertificate:
    name = names[0] if names else ""
    return ServerCertificate(
        f"{name}-{kind}-{days}", names, name, "ca", NOW + begins * DAY, NOW + days * DAY, kind, False, b""
    )


def chosen(store: CertificateStore, name: str | None) -> list[str]:
    return [one.file for one in store.choose(name, NOW)]


# The choice.


def test_exact_before_wildcard() -> None:
    exact, wildcard, other = made("www.a.example"), made("*.a.example"), made("b.example")
    store = CertificateStore([wildcard, exact, other])
    assert store.choose("www.a.example", NOW) == (exact,)
    assert store.choose("mail.a.example", NOW) == (wildcard,)
    assert store.choose("a.example", NOW) == ()
    assert store.choose("x.mail.a.example", NOW) == ()
    assert store.choose("*.a.example", NOW) == (wildcard,)
    assert store.choose("example", NOW) == ()


@pytest.mark.parametrize("outdated", [{"days": -1}, {"begins": 1}])
def test_a_valid_wildcard_before_an_exact_one_that_is_not(outdated: dict[str, Any]) -> None:
    exact, wildcard = made("www.a.example", **outdated), made("*.a.example", days=5)
    assert CertificateStore([exact, wildcard]).choose("www.a.example", NOW) == (wildcard,)
    assert CertificateStore([exact]).choose("www.a.example", NOW) == (exact,)
    both = CertificateStore([made("*.a.example", days=-2), exact])
    assert both.choose("www.a.example", NOW) == (exact,)


def test_one_for_each_kind_of_key() -> None:
    old, new, weak = made("a.example", days=3), made("a.example", days=60), made("a.example", kind="RSA")
    store = CertificateStore([weak, old, new])
    assert store.choose("a.example", NOW) == (new, weak)
    assert CertificateStore([weak, made("a.example", days=-3)]).choose("a.example", NOW) == (weak,)


def test_without_a_match_the_default_decides() -> None:
    one, default = made("a.example"), made("default.example")
    store = CertificateStore([one], [default])
    assert store.choose("b.example", NOW) == store.choose(None, NOW) == (default,)
    refusing = CertificateStore([one])
    assert refusing.choose("b.example", NOW) == refusing.choose(None, NOW) == ()


NAMES = st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "*.a.example", "*.b.a.example", "*.example"])
MADE = st.builds(
    lambda names, days, kind: made(*names, days=days, kind=kind),
    st.lists(NAMES, min_size=1, max_size=3, unique=True),
    st.integers(-5, 5).filter(bool),
    st.sampled_from(["RSA", "ECDSA"]),
)


@given(st.lists(MADE, max_size=8), st.sampled_from(["a.example", "b.a.example", "c.b.a.example", "example"]))
def test_no_other_choice_is_better(certificates: list[ServerCertificate], name: str) -> None:
    def rank(one: ServerCertificate) -> tuple[bool, bool]:
        return one.is_valid(NOW), name in one.names

    wildcard = "*." + name.partition(".")[2]
    matching = [one for one in certificates if name in one.names or wildcard in one.names]
    found = CertificateStore(certificates).choose(name, NOW)
    assert bool(found) == bool(matching)
    assert len({one.kind for one in found}) == len(found)
    for one in found:
        assert one in matching
        assert rank(one) == max(map(rank, matching)) or not any(map(ServerCertificate.is_valid, [one], [NOW]))


# Files.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def split(file: Path) -> tuple[bytes, bytes]:
    """(certificate, key)"""
    pem = file.read_bytes()
    at = pem.index(b"-----BEGIN PRIVATE KEY")
    return pem[:at], pem[at:]


def certbot(authority: Authority, folder: Path, *hosts: str) -> Path:
    chain, key = split(authority.daemon("site", *hosts))
    folder.mkdir(exist_ok=True)
    (folder / "fullchain.pem").write_bytes(chain + authority.pem.read_bytes())
    (folder / "privkey.pem").write_bytes(key)
    return folder


def test_one_file(authority: Authority) -> None:
    (found,) = read_certificates(str(authority.daemon("lb1", "WWW.A.example", "*.b.example", "127.0.0.1")))
    assert found.names == ("www.a.example", "*.b.example", "127.0.0.1")
    assert (found.subject, found.issuer, found.kind, found.is_self_signed) == ("lb1", "ca", "ECDSA", False)
    assert "PRIVATE" not in repr(found)


def test_a_folder_of_certbots(authority: Authority, tmp_path: Path) -> None:
    folder = certbot(authority, tmp_path / "live", "a.example")
    (found,) = read_certificates(str(folder))
    assert found.file == str(folder / "fullchain.pem")
    assert found.pem.count(b"BEGIN CERTIFICATE") == 2


def test_a_folder_of_files(authority: Authority, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    for name in "ab":
        shutil.copy(authority.daemon(name, f"{name}.example"), folder / f"{name}.pem")
    (folder / "README").write_text("no certificate")
    assert [one.names for one in read_certificates(str(folder))] == [("a.example",), ("b.example",)]


def test_a_certificate_for_servers_to_see(authority: Authority) -> None:
    found = read_client_certificate(str(authority.issue("switch")))
    assert (found.subject, found.names) == ("switch", ())
    file = authority.daemon("listener")
    with pytest.raises(NoTLS, match="is not for clients: its extendedKeyUsage lacks clientAuth"):
        read_client_certificate(str(file))
    with pytest.raises(NoTLS, match="No such file or directory"):
        read_client_certificate(str(file.with_name("missing.pem")))


def refusal(path: Path) -> str:
    with pytest.raises(NoTLS) as caught:
        read_certificates(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "bad.pem"
    assert refusal(file) == f"{file}: No such file or directory"
    good, other = authority.daemon("good"), authority.daemon("other")
    (certificate, key), (_, other_key) = split(good), split(other)
    file.write_bytes(certificate)
    assert refusal(file) == f"{file}: no private key in PEM, or an unreadable one"
    file.write_bytes(key)
    assert refusal(file) == f"{file}: no certificate in PEM, or an unreadable one"
    file.write_bytes(certificate.replace(certificate[100:104], b"AAAA") + key)
    assert refusal(file) == f"{file}: no certificate in PEM, or an unreadable one"
    file.write_bytes(certificate + other_key)
    assert refusal(file) == f"{file}: the key does not belong to the certificate of good in {file}"
    assert "is for no host: it needs a subjectAltName" in refusal(authority.issue("nameless", purposes=(SERVER,)))
    assert "is not for servers" in refusal(authority.issue("client", "a.example", purposes=(CLIENT,)))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no certificates in this folder" in refusal(empty)
    folder = certbot(authority, tmp_path / "live", "a.example")
    (folder / "privkey.pem").unlink()
    assert refusal(folder) == f"{folder}/privkey.pem: No such file or directory"


def test_chains(authority: Authority, tmp_path: Path) -> None:
    middle = Authority(tmp_path, "middle", authority)
    certificate, key = split(middle.daemon("site", "a.example"))
    file = tmp_path / "chain.pem"
    file.write_bytes(certificate + middle.pem.read_bytes() + authority.pem.read_bytes() + key)
    assert read_certificates(str(file))[0].issuer == "middle"
    file.write_bytes(certificate + middle.pem.read_bytes() + key)
    read_certificates(str(file))
    file.write_bytes(certificate + authority.pem.read_bytes() + middle.pem.read_bytes() + key)
    assert "the chain is broken: site is not signed by ca, which follows it (the order is: " in refusal(file)


def test_a_chain_without_its_intermediate(authority: Authority, tmp_path: Path) -> None:
    """A certificate that says where its issuer's is to be found was not signed by a root."""
    middle = Authority(tmp_path, "middle", authority)
    where = x509.UniformResourceIdentifier("http://ca.example/middle.der")
    access = x509.AuthorityInformationAccess(
        [x509.AccessDescription(x509.oid.AuthorityInformationAccessOID.CA_ISSUERS, where)]
    )
    file = middle.daemon("site", "a.example", extensions=[access])
    assert "the chain is incomplete: the certificate of middle must follow" in refusal(file)
    certificate, key = split(file)
    file.write_bytes(certificate + middle.pem.read_bytes() + key)
    read_certificates(str(file))


def test_an_encrypted_key(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    certificate, key = split(authority.daemon("good"))
    loaded = serialization.load_pem_private_key(key, None)
    form, encrypted = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    file = tmp_path / "encrypted.pem"
    file.write_bytes(certificate + loaded.private_bytes(serialization.Encoding.PEM, form, encrypted))
    assert "the key is encrypted" in refusal(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(authority: Authority) -> None:
    file = authority.daemon()
    file.chmod(0)
    assert refusal(file) == f"{file}: Permission denied"
