"""The TLS of all services of a process: what an edit reads, what it shares, and what a reload changes."""

from __future__ import annotations

import contextlib
import gc
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from memory import log_into
from tls_peers import authority
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.errors import NoTLS
from ktcpvs.interfaces import CONNECTION, EACH_REQUEST, FIRST_REQUEST
from ktcpvs.model.language.parser import parse
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols.client_hello import TLS_1_3, BadHello, ClientHello
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.tls_file_store import TLSFileStore
from ktcpvs.services.tls_profiles import HTTP2_PROTOCOLS, HTTP_PROTOCOLS, ServiceTLS, TLSProfiles
from ktcpvs.system import tls_tickets

SECRET, OTHER_SECRET = b"1" * 32, b"2" * 32


def service(*lines: str, ident: str = "s") -> VirtualService:
    (found,) = parse(f"Virtual {ident} {{\nlisten = 127.0.0.1:443 tls\n" + "\n".join(lines) + "\n}\n").services.values()
    return found


def hello(name: str | None) -> ClientHello:
    return ClientHello(name, (), (TLS_1_3,), False, 0)


class Process:
    """The TLS of a process whose services are started one by one, and never stop."""

    def __init__(self) -> None:
        self.files = TLSFileStore(Context(MemoryReactorClock(), log_into([]), Descriptors(100)))
        self.profiles = TLSProfiles(self.files)
        self._services: list[VirtualService] = []

    def choice(self, config: VirtualService, unit: str = CONNECTION) -> ServiceTLS:
        Deferred.fromCoroutine(self.files.prepare([config], is_strict=True)).addErrback(
            lambda why: why.raiseException()
        )
        made = self.profiles.choice(config, unit)
        self._services.append(config)
        self.files.follow(self._services)
        return made

    def reload(self) -> list[str]:
        """Return the errors."""
        errors: list[str] = []
        Deferred.fromCoroutine(self.files.reload()).addCallback(lambda read: errors.extend(read[1]))
        return errors


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The file of a certificate for a.example."""
    return shutil.copy(authority().daemon("profiles-a", "a.example"), tmp_path / "site.pem")


def test_files_must_have_been_read(process: Process, site: Path) -> None:
    with pytest.raises(NoTLS, match=f"^service s: {site}: it has not been read$"):
        process.profiles.choice(service(f"certificate = {site}"), CONNECTION)


def test_what_does_not_change_is_shared(process: Process, site: Path) -> None:
    first = process.choice(service(f"certificate = {site}"))
    assert process.choice(service(f"certificate = {site}", "maxclients = 5")) is first
    other = process.choice(service(f"certificate = {site}", ident="other"))
    stricter = process.choice(service(f"certificate = {site}", "tls_min = 1.3"))
    assert len({first, other, stricter}) == 3
    assert len({one.contexts.profile.name for one in (first, other, stricter)}) == 3
    del first, other, stricter
    gc.collect()
    assert list(process.profiles) == []


def test_only_requests_have_protocols(process: Process, site: Path) -> None:
    config = service(f"certificate = {site}", "http2 = off")
    assert process.choice(config, EACH_REQUEST).contexts.profile.alpn == HTTP_PROTOCOLS
    assert process.choice(config, CONNECTION).contexts.profile.alpn == ()


def test_http2_is_offered_where_requests_are_chosen_for(process: Process, site: Path) -> None:
    config = service(f"certificate = {site}")
    assert process.choice(config, EACH_REQUEST).contexts.profile.alpn == HTTP2_PROTOCOLS == ("h2", *HTTP_PROTOCOLS)
    assert process.choice(config, FIRST_REQUEST).contexts.profile.alpn == HTTP_PROTOCOLS
    assert process.choice(config, CONNECTION).contexts.profile.alpn == ()
    config = service(f"certificate = {site}", "http2 = only")
    assert process.choice(config, EACH_REQUEST).contexts.profile.alpn == ("h2",)


def test_the_default_is_for_unknown_names(process: Process, site: Path) -> None:
    other = authority().daemon("profiles-b", "b.example")
    refusing = process.choice(service(f"certificate = {site}"))
    for name in None, "b.example", "c.example":
        with pytest.raises(BadHello):
            refusing.choose(hello(name))
    assert refusing.choose(hello("a.example"))
    lenient = process.choice(service(f"certificate = {site}", f"tls_default = {other}"))
    default = lenient.choose(hello(None))
    assert lenient.choose(hello("b.example")) is lenient.choose(hello("c.example")) is default
    assert lenient.choose(hello("a.example")) is not default


def test_a_reload_changes_what_new_handshakes_get(process: Process, site: Path) -> None:
    tls = process.choice(service(f"certificate = {site}"))
    before = tls.choose(hello("a.example"))
    assert process.reload() == []
    assert tls.choose(hello("a.example")) is before
    site.write_text("no certificate")
    assert process.reload() == [f"{site}: no private key in PEM, or an unreadable one"]
    assert tls.choose(hello("a.example")) is before
    shutil.copy(authority().daemon("profiles-new", "new.example"), site)
    assert process.reload() == []
    assert tls.choose(hello("new.example"))
    with pytest.raises(BadHello):
        tls.choose(hello("a.example"))


def test_an_error_of_two_services_is_one_line(process: Process, site: Path) -> None:
    used = [process.choice(service(f"certificate = {site}", ident=ident)) for ident in ("one", "two")]
    site.write_text("no certificate")
    assert len(process.reload()) == 1
    assert [tls.choose(hello("a.example")) is not None for tls in used] == [True, True]


def test_a_new_default_is_used(process: Process, site: Path) -> None:
    """The default may be none of the service's certificates."""
    other = site.parent / "other.pem"
    shutil.copy(authority().daemon("profiles-b", "b.example"), other)
    tls = process.choice(service(f"certificate = {site}", f"tls_default = {other}"))
    before = tls.choose(hello(None))
    shutil.copy(authority().daemon("profiles-c", "b.example"), other)
    assert process.reload() == []
    assert tls.choose(hello(None)) is not before
    assert tls.store.default[0].subject == "profiles-c"


def test_a_deleted_service_that_drains_keeps_what_it_has(process: Process, site: Path) -> None:
    tls = process.choice(service(f"certificate = {site}"))
    before = tls.choose(hello("a.example"))
    process.files.follow([])
    process.profiles.reload()
    assert tls.choose(hello("a.example")) is before


def test_sessions_of_clients_of_another_ca_are_not_resumed(process: Process, site: Path) -> None:
    """The keys of tickets follow from what clients must show, which the file with the CAs says."""
    ca = site.parent / "ca.pem"
    shutil.copy(authority().pem, ca)
    config = service(f"certificate = {site}", f"client_ca = {ca}", "client_certificate = required")
    tls = process.choice(config)
    contexts = tls.contexts
    assert process.reload() == []
    assert tls.contexts is contexts
    shutil.copy(Authority(site.parent, "others").pem, ca)
    assert process.reload() == []
    assert tls.contexts.profile.name != contexts.profile.name
    changed = tls.contexts
    ca.write_text("no certificate")
    assert process.reload() == [f"{ca}: no certificate in PEM, or an unreadable one"]
    assert tls.contexts is changed


def test_processes_with_equal_secrets_have_equal_keys(site: Path) -> None:
    config = service(f"certificate = {site}")
    one, two = Process(), Process()
    ours, theirs = one.choice(config), two.choice(config)
    assert ours.tickets.current != theirs.tickets.current
    one.profiles.use_tickets(SECRET, None)
    two.profiles.use_tickets(SECRET, None)
    key = ours.tickets.current
    assert key == theirs.tickets.current
    one.profiles.use_tickets(OTHER_SECRET, SECRET)
    assert ours.tickets.current != key
    assert ours.tickets.find(key.name) == key
    later = one.choice(service(f"certificate = {site}", "tls_min = 1.3"))
    two.profiles.use_tickets(OTHER_SECRET, None)
    same = two.choice(service(f"certificate = {site}", "tls_min = 1.3"))
    assert later.tickets.current == same.tickets.current


def shake_hands(tls: ServiceTLS, client: ssl.SSLContext, session: Any = None) -> tuple[bool, Any]:
    """Let a client connect to a service. Return (whether it has resumed the session, the session to go on from)."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname="a.example", session=session)
    ours = tls.choose(hello("a.example")).wrap_bio(to_server, to_client, server_side=True)
    for side in (theirs, ours) * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    ours.write(b"x")
    assert theirs.read(1) == b"x"
    return bool(theirs.session_reused), theirs.session


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def client(request: pytest.FixtureRequest) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority().pem)
    context.minimum_version = context.maximum_version = request.param
    return context


needs_tickets = pytest.mark.skipif(bool(tls_tickets.unavailable()), reason=tls_tickets.unavailable())


@needs_tickets
def test_sessions_outlive_one_rotation(site: Path, client: ssl.SSLContext) -> None:
    config = service(f"certificate = {site}")
    one, two = Process(), Process()
    ours, theirs = one.choice(config), two.choice(config)
    for process in one, two:
        process.profiles.use_tickets(SECRET, None)
    _, session = shake_hands(ours, client)
    assert shake_hands(theirs, client, session)[0]
    one.profiles.use_tickets(OTHER_SECRET, SECRET)
    resumed, renewed = shake_hands(ours, client, session)
    assert resumed
    one.profiles.use_tickets(b"3" * 32, OTHER_SECRET)
    assert not shake_hands(ours, client, session)[0]
    assert shake_hands(ours, client, renewed)[0], "the ticket of the first secret was replaced"


@needs_tickets
def test_sessions_outlive_a_new_certificate(process: Process, site: Path, client: ssl.SSLContext) -> None:
    tls = process.choice(service(f"certificate = {site}"))
    _, session = shake_hands(tls, client)
    shutil.copy(authority().daemon("profiles-new", "a.example"), site)
    process.reload()
    assert shake_hands(tls, client, session)[0]


@needs_tickets
@pytest.mark.parametrize(
    "lines", [("client_certificate = required",), ("client_certificate = optional",), ("tls_min = 1.3",), ()]
)
def test_sessions_are_not_resumed_by_another_profile(
    process: Process, site: Path, client: ssl.SSLContext, lines: tuple[str, ...]
) -> None:
    if "tls_min = 1.3" in lines and client.maximum_version == ssl.TLSVersion.TLSv1_2:
        pytest.skip("there is no handshake at all")
    ours = process.choice(service(f"certificate = {site}", f"client_ca = {authority().pem}"))
    ident = "s" if lines else "other"
    other = process.choice(service(f"certificate = {site}", f"client_ca = {authority().pem}", *lines, ident=ident))
    client.load_cert_chain(authority().issue("alice"))
    _, session = shake_hands(ours, client)
    assert shake_hands(ours, client, session)[0]
    assert not shake_hands(other, client, session)[0]


def test_a_switch_without_tls_imports_nothing_for_certificates() -> None:
    """A switch without TLS runs where `cryptography` is not installed."""
    code = (
        "import sys, ktcpvs.switch_service, ktcpvs.workers.worker; print('ktcpvs.system.certificates' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
