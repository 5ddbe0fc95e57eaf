"""The TLS of all services of a process: what an edit reads, what it shares, and what a reload changes."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from tls_peers import authority

from ktcpvs.errors import NoTLS
from ktcpvs.interfaces import CONNECTION, EACH_REQUEST
from ktcpvs.model.language.parser import parse
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols.client_hello import TLS_1_3, BadHello, ClientHello
from ktcpvs.services.tls_profiles import HTTP_PROTOCOLS, TLSProfiles

SECRET, OTHER_SECRET = b"1" * 32, b"2" * 32


def service(*lines: str, ident: str = "s") -> VirtualService:
    (found,) = parse(f"Virtual {ident} {{\nlisten = 127.0.0.1:443 tls\n" + "\n".join(lines) + "\n}\n").services.values()
    return found


def hello(name: str | None) -> ClientHello:
    return ClientHello(name, (), (TLS_1_3,), False, 0)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The file of a certificate for a.example."""
    return shutil.copy(authority().daemon("profiles-a", "a.example"), tmp_path / "site.pem")


def test_an_unusable_file_refuses_the_service(site: Path) -> None:
    missing = site.parent / "missing.pem"
    with pytest.raises(NoTLS, match=f"^service s: {missing}: No such file or directory$"):
        TLSProfiles().choice(service(f"certificate = {site}", f"certificate = {missing}"), CONNECTION)
    with pytest.raises(NoTLS, match=f"^service s: {missing}: No such file or directory$"):
        TLSProfiles().choice(service(f"certificate = {site}", f"tls_default = {missing}"), CONNECTION)
    with pytest.raises(NoTLS, match=f"^service s: {missing}: No such file or directory$"):
        TLSProfiles().choice(service(f"certificate = {site}", f"client_ca = {missing}"), CONNECTION)


def test_what_does_not_change_is_shared(site: Path) -> None:
    read: list[str] = []

    def counting(path: str) -> Any:
        from ktcpvs.system.certificates import read_certificates

        read.append(path)
        return read_certificates(path)

    profiles = TLSProfiles(counting)
    first = profiles.choice(service(f"certificate = {site}"), CONNECTION)
    assert profiles.choice(service(f"certificate = {site}", "maxclients = 5"), CONNECTION) is first
    assert read == [str(site)]
    other = profiles.choice(service(f"certificate = {site}", ident="other"), CONNECTION)
    stricter = profiles.choice(service(f"certificate = {site}", "tls_min = 1.3"), CONNECTION)
    assert len({first, other, stricter}) == 3
    assert len({one.contexts.profile.name for one in (first, other, stricter)}) == 3
    assert len(read) == 3
    del first, other, stricter
    gc.collect()
    assert list(profiles) == []


def test_only_requests_have_protocols(site: Path) -> None:
    profiles = TLSProfiles()
    assert profiles.choice(service(f"certificate = {site}"), EACH_REQUEST).contexts.profile.alpn == HTTP_PROTOCOLS
    assert profiles.choice(service(f"certificate = {site}"), CONNECTION).contexts.profile.alpn == ()


def test_the_default_is_for_unknown_names(site: Path) -> None:
    other = authority().daemon("profiles-b", "b.example")
    profiles = TLSProfiles()
    refusing = profiles.choice(service(f"certificate = {site}"), CONNECTION)
    for name in None, "b.example", "c.example":
        with pytest.raises(BadHello):
            refusing.choose(hello(name))
    assert refusing.choose(hello("a.example"))
    lenient = profiles.choice(service(f"certificate = {site}", f"tls_default = {other}"), CONNECTION)
    default = lenient.choose(hello(None))
    assert lenient.choose(hello("b.example")) is lenient.choose(hello("c.example")) is default
    assert lenient.choose(hello("a.example")) is not default


def test_a_reload_changes_what_new_handshakes_get(site: Path) -> None:
    profiles = TLSProfiles()
    tls = profiles.choice(service(f"certificate = {site}"), CONNECTION)
    before = tls.choose(hello("a.example"))
    assert profiles.reload() == []
    assert tls.choose(hello("a.example")) is before
    site.write_text("no certificate")
    (error,) = profiles.reload()
    assert error == f"{site}: no private key in PEM, or an unreadable one"
    assert profiles.reload() == []  # it has been reported
    assert tls.choose(hello("a.example")) is before
    shutil.copy(authority().daemon("profiles-new", "new.example"), site)
    assert profiles.reload() == []
    assert tls.choose(hello("new.example"))
    with pytest.raises(BadHello):
        tls.choose(hello("a.example"))


def test_an_error_of_two_services_is_one_line(site: Path) -> None:
    profiles = TLSProfiles()
    used = [profiles.choice(service(f"certificate = {site}", ident=ident), CONNECTION) for ident in ("one", "two")]
    site.write_text("no certificate")
    assert len(profiles.reload()) == 1
    assert [list(tls.files.errors) for tls in used] == [[str(site)], [str(site)]]


def test_sessions_of_clients_of_another_ca_are_not_resumed(site: Path) -> None:
    """The keys of tickets follow from what clients must show, which the file with the CAs says."""
    ca = site.parent / "ca.pem"
    shutil.copy(authority().pem, ca)
    profiles = TLSProfiles()
    config = service(f"certificate = {site}", f"client_ca = {ca}", "client_certificate = required")
    tls = profiles.choice(config, CONNECTION)
    contexts = tls.contexts
    assert profiles.reload() == []
    assert tls.contexts is contexts
    shutil.copy(Authority(site.parent, "others").pem, ca)
    assert profiles.reload() == []
    assert tls.contexts.profile.name != contexts.profile.name
    changed = tls.contexts
    ca.write_text("no certificate")
    assert profiles.reload() == [f"{ca}: no certificate in PEM, or an unreadable one"]
    assert profiles.reload() == []
    assert tls.contexts is changed


def test_processes_with_equal_secrets_have_equal_keys(site: Path) -> None:
    config = service(f"certificate = {site}")
    one, two = TLSProfiles(), TLSProfiles()
    ours, theirs = one.choice(config, CONNECTION), two.choice(config, CONNECTION)
    assert ours.tickets.current != theirs.tickets.current
    one.use_tickets(SECRET, None)
    two.use_tickets(SECRET, None)
    key = ours.tickets.current
    assert key == theirs.tickets.current
    one.use_tickets(OTHER_SECRET, SECRET)
    assert ours.tickets.current != key
    assert ours.tickets.find(key.name) == key
    later = one.choice(service(f"certificate = {site}", "tls_min = 1.3"), CONNECTION)
    two.use_tickets(OTHER_SECRET, None)
    same = two.choice(service(f"certificate = {site}", "tls_min = 1.3"), CONNECTION)
    assert later.tickets.current == same.tickets.current


def test_certificates_that_clients_will_not_trust_are_told(tmp_path: Path) -> None:
    expired = authority().daemon("profiles-expired", "a.example", begins=-9, ends=-2)
    told: list[str] = []
    profiles = TLSProfiles(warn=told.append)
    tls = profiles.choice(service(f"certificate = {expired}"), CONNECTION)
    (line,) = told
    assert line.startswith(f"service s: {expired}: the certificate of profiles-expired expired on ")
    assert profiles.choice(service(f"certificate = {expired}", "maxclients = 1"), CONNECTION) is tls
    assert len(told) == 1


def test_a_switch_without_tls_imports_nothing_for_certificates() -> None:
    """A switch without TLS runs where `cryptography` is not installed."""
    code = "import sys, ktcpvs.service, ktcpvs.workers.worker; print('ktcpvs.system.certificates' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
