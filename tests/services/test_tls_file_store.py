"""The files of TLS of a running switch: read for edits, watched, read again, and kept when a new version is bad."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from memory import log_into
from servers import free_address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.errors import Busy, NoTLS
from ktcpvs.inspect.views import Views
from ktcpvs.model import edits
from ktcpvs.model.language.parser import parse
from ktcpvs.model.settings import DAY
from ktcpvs.model.tls_files import TLSFile, files_of
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.tls_file_store import SECOND_LOOK_DELAY, TLSFileStore
from ktcpvs.system.tls_files import Contents, OwnAccess

INTERVAL = 10


class CountingAccess(OwnAccess):
    """read_paths: what was read, in that order."""

    def __init__(self) -> None:
        self.read_paths: list[str] = []

    def read(self, file: TLSFile) -> Contents:
        self.read_paths.append(file.path)
        return super().read(file)


class Switch:
    """A switch whose files are read at once, on a simulated clock that begins with the present. lines: its log. told:
    how often contents were replaced."""

    def __init__(self, now: float) -> None:
        self.lines: list[str] = []
        self.told = 0
        self.reactor: Any = MemoryReactorClock()
        self.context = Context(
            self.reactor, log_into(self.lines), Descriptors(100), wall=lambda: now + self.reactor.seconds()
        )
        self.access = CountingAccess()
        self.files = TLSFileStore(self.context, self.access)
        self.files.observe(self._replaced)
        self.director = Director(self.context, files=self.files)
        self.director.start()

    def _replaced(self) -> None:
        self.told += 1

    def submit(self, edit: edits.Edit) -> Sequence[str]:
        """Return the warnings of an edit. Raises its refusal."""
        return list(self.result(self.director.submit(edit)))

    def result(self, done: Deferred[Any]) -> Any:
        results: list[Any] = []
        done.addBoth(results.append)
        (result,) = results
        return result.raiseException() if hasattr(result, "raiseException") else result

    def load(self, *lines: str, start: str = "all", **services: Sequence[str]) -> Sequence[str]:
        """Load the service `s` with these lines, and others by their names."""
        texts = [
            f"Virtual {name} {{\nlisten = {free_address()} tls\nserver = 10.0.0.1:80\n" + "\n".join(each) + "\n}\n"
            for name, each in {"s": lines, **services}.items()
        ]
        load = parse("\n".join(texts))
        return self.submit(edits.Load(load.services, load.settings, start=start))

    def wait(self, seconds: float = INTERVAL, step: float = 0.5) -> list[str]:
        """Let time pass, in steps. Return what the log says meanwhile."""
        self.lines.clear()
        self.reactor.pump([step] * round(seconds / step))
        return list(self.lines)

    def names(self) -> list[str]:
        """The names of all certificates in use."""
        return [name for row in Views(self.director).view("certificates", None) for name in row["names"]]

    def close(self) -> None:
        self.director.end()
        self.director.stop()
        assert not self.reactor.getDelayedCalls()


@pytest.fixture
def switch() -> Iterator[Switch]:
    one = Switch(time.time())
    yield one
    one.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def site(authority: Authority) -> Path:
    """The file of a certificate for a.example."""
    return authority.daemon("site", "a.example")


def certbot(authority: Authority, folder: Path, *hosts: str, key_only: bool = False) -> None:
    """Put a new certificate into a folder of certbot's. key_only: only its key, and return before its chain."""
    pem = authority.daemon("site", *hosts).read_bytes()
    at = pem.index(b"-----BEGIN PRIVATE KEY")
    archive = folder.parent / "archive"
    for place in archive, folder:
        place.mkdir(exist_ok=True)
    number = len(list(archive.iterdir()))
    for name, data in (("privkey", pem[at:]), ("fullchain", pem[:at] + authority.pem.read_bytes())):
        (archive / f"{name}{number}.pem").write_bytes(data)
        (folder / f"{name}.new").symlink_to(archive / f"{name}{number}.pem")
        if not (key_only and name == "fullchain"):
            (folder / f"{name}.new").rename(folder / f"{name}.pem")


# Edits.


def test_an_edit_reads_what_no_running_service_has(switch: Switch, site: Path, authority: Authority) -> None:
    other, ca = authority.daemon("other", "b.example"), str(authority.pem)
    assert switch.load(f"certificate = {site}", start="nothing") == []
    assert switch.access.read_paths == [], "a stopped service needs nothing"
    switch.load(f"certificate = {site}", f"client_ca = {ca}", "client_certificate = required")
    assert switch.access.read_paths == [str(site), ca]
    switch.load(f"certificate = {site}", t=[f"certificate = {site}", f"certificate = {other}"])
    assert switch.access.read_paths[2:] == [str(other)]
    assert switch.names() == ["a.example", "b.example"]
    switch.load(f"certificate = {site}")
    assert switch.names() == ["a.example"]
    switch.submit(edits.StopService())
    assert switch.names() == []
    assert switch.told == 0


def test_a_bad_file_refuses_an_edit(switch: Switch, site: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(NoTLS, match=f"^service s: {missing}: No such file or directory$"):
        switch.load(f"certificate = {site}", f"client_ca = {missing}")
    assert switch.director.table.services == {}
    switch.load(f"certificate = {site}")
    with pytest.raises(NoTLS, match=f"^service t: {missing}: No such file or directory$"):
        switch.load(f"certificate = {site}", t=[f"certificate = {site}", f"tls_default = {missing}"])
    assert switch.names() == ["a.example"]


def test_an_edit_warns_of_certificates_that_clients_will_not_trust(switch: Switch, authority: Authority) -> None:
    expired, old = authority.daemon("expired", begins=-9, ends=-2), authority.daemon("old", begins=-9, ends=3)
    first, second = switch.load(f"certificate = {expired}", f"certificate = {old}")
    assert first.startswith(f"service s: {expired}: the certificate of expired expired on ")
    assert second.startswith(f"service s: {old}: the certificate of old expires on ")
    assert switch.load(f"certificate = {expired}", "maxclients = 5") == []


def test_a_table_that_ran_before_runs_without_a_certificate(switch: Switch, site: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.pem"
    load = parse(
        f"Virtual s {{\nlisten = {free_address()} tls\ncertificate = {late}\n}}\n"
        f"Virtual t {{\nlisten = {free_address()} tls\ncertificate = {site}\n}}\n"
    )
    load = edits.Load(load.services, load.settings, start="all")
    switch.result(switch.director.load_initial([load], is_strict=False))
    said = f"service s: {late}: No such file or directory; clients that need it are refused"
    assert said in switch.lines
    assert switch.names() == ["a.example"]
    row, _ = Views(switch.director).view("certificates", None)
    assert (row["file"], row["not_after"], row["services"]) == (str(late), None, ["s"])
    assert row["error"] == f"{late}: No such file or directory"
    switch.wait()
    shutil.copy(site, late)
    assert f"{late} is read again: a.example, until " in "\n".join(switch.wait())
    assert switch.names() == ["a.example", "a.example"]


# New versions.


def test_new_versions_are_found(switch: Switch, authority: Authority, tmp_path: Path) -> None:
    live = tmp_path / "live"
    certbot(authority, live, "a.example")
    switch.load(f"certificate = {live}", f"client_ca = {authority.pem}", "client_certificate = optional")
    assert switch.wait() == []
    assert len(switch.access.read_paths) == 2, "only what has changed is read"
    certbot(authority, live, "a.example", "b.example", "c.example", "d.example")
    (line,) = switch.wait()
    assert line.startswith(f"{live} is read again: a.example, b.example, c.example and 1 more, until 20")
    assert (switch.names(), switch.told) == (["a.example", "b.example", "c.example", "d.example"], 1)
    with authority.pem.open("ab") as ca:
        ca.write(Authority(tmp_path, "second").pem.read_bytes())
    assert switch.wait() == [f"{authority.pem} is read again: 2 CAs"]
    assert switch.told == 2


def test_a_file_that_is_only_touched_changes_nothing(switch: Switch, site: Path) -> None:
    switch.load(f"certificate = {site}")
    switch.wait()
    os.utime(site, (1, 1))
    assert switch.wait() == []
    assert len(switch.access.read_paths) == 2
    assert switch.told == 0


def test_a_bad_version_is_told_once_and_changes_nothing(switch: Switch, site: Path) -> None:
    switch.load(f"certificate = {site}")
    switch.wait()
    good = site.read_bytes()
    site.write_bytes(b"no certificate")
    why = f"{site}: no private key in PEM, or an unreadable one"
    assert switch.wait() == []
    assert switch.wait(SECOND_LOOK_DELAY) == [f"{why}; what was read before stays in use"]
    assert switch.wait(100) == []
    assert (switch.names(), switch.told) == (["a.example"], 0)
    (row,) = Views(switch.director).view("certificates", "s")
    assert (row["error"], row["services"]) == (why, ["s"])
    site.write_bytes(b"still none")
    assert switch.wait(2 * INTERVAL) == [], "it is the same error"
    site.unlink()
    assert switch.wait(2 * INTERVAL) == [f"{site}: No such file or directory; what was read before stays in use"]
    site.write_bytes(good)
    (line,) = switch.wait()
    assert line.startswith(f"{site} is read again: a.example, until ")
    assert switch.told == 0
    (row,) = Views(switch.director).view("certificates", None)
    assert row["error"] == ""


def test_a_pair_that_is_being_replaced_is_no_error(switch: Switch, authority: Authority, tmp_path: Path) -> None:
    live = tmp_path / "live"
    certbot(authority, live, "a.example")
    switch.load(f"certificate = {live}")
    switch.wait()
    certbot(authority, live, "new.example", key_only=True)
    assert switch.wait() == []
    (live / "fullchain.new").rename(live / "fullchain.pem")
    (line,) = switch.wait(SECOND_LOOK_DELAY)
    assert "is read again: new.example" in line
    assert switch.names() == ["new.example"]


def test_the_interval_is_a_setting(switch: Switch, authority: Authority, site: Path) -> None:
    switch.load(f"certificate = {site}")
    switch.submit(edits.Set({"certificate_check_interval": "0"}))
    switch.wait(2 * INTERVAL)
    authority.daemon("site", "b.example")
    assert switch.wait(300) == []
    switch.submit(edits.Set({"certificate_check_interval": "1"}))
    assert len(switch.wait(INTERVAL)) == 1
    authority.daemon("site", "c.example")
    assert len(switch.wait(1)) == 1


def test_an_administrator_has_them_read_again(switch: Switch, authority: Authority, site: Path) -> None:
    other = authority.daemon("other", "other.example")
    switch.load(f"certificate = {site}", f"certificate = {other}")
    assert switch.submit(edits.ReloadCertificates()) == []
    assert switch.told == 0
    authority.daemon("site", "b.example")
    other.write_bytes(b"")
    why = f"{other}: no private key in PEM, or an unreadable one"
    for _ in range(2):
        with pytest.raises(NoTLS, match=f"^{why}; what was read before stays in use$"):
            switch.submit(edits.ReloadCertificates())
    assert (switch.names(), switch.told) == (["b.example", "other.example"], 1)
    assert switch.lines.count(f"{why}; what was read before stays in use") == 1
    authority.daemon("other", "other.example", "second.example")
    assert switch.submit(edits.ReloadCertificates()) == []
    assert switch.names() == ["b.example", "other.example", "second.example"]


def test_they_are_read_again_while_a_table_is_on_trial(switch: Switch, site: Path, authority: Authority) -> None:
    load = parse(f"Virtual s {{\nlisten = {free_address()} tls\ncertificate = {site}\n}}")
    switch.submit(edits.Load(load.services, load.settings, confirm=60, start="all"))
    with pytest.raises(Busy):
        switch.submit(edits.StartService())
    authority.daemon("site", "b.example")
    switch.submit(edits.ReloadCertificates())
    assert switch.names() == ["b.example"]


def test_a_switch_that_ends_reads_nothing_again(switch: Switch, site: Path, authority: Authority) -> None:
    switch.load(f"certificate = {site}")
    switch.wait()
    switch.director.hand_over({})
    authority.daemon("site", "b.example")
    assert switch.wait(100) == []


def test_servers_are_verified_by_new_versions(switch: Switch, authority: Authority, tmp_path: Path) -> None:
    """Connections that are kept were verified by the old CAs, so they are not used again."""
    ca, shown = tmp_path / "servers.pem", authority.issue("switch")
    shutil.copy(authority.pem, ca)
    switch.load(f"server = 10.0.0.2:443 1 tls ca {ca} cert {shown}", f"certificate = {authority.daemon()}")
    service = switch.director.services["s"]
    tls, plain = (service.destinations[server.address] for server in reversed(service.config.servers))
    before, unchanged = service.connector(tls).key, service.connector(plain).key
    assert switch.submit(edits.ReloadCertificates()) == []
    assert service.connector(tls).key == before
    shutil.copy(Authority(tmp_path, "second").pem, ca)
    switch.submit(edits.ReloadCertificates())
    after = service.connector(tls).key
    assert after != before
    ca.write_text("no certificate")
    with pytest.raises(NoTLS):
        switch.submit(edits.ReloadCertificates())
    assert service.connector(tls).key == after
    authority.issue("switch")
    shutil.copy(Authority(tmp_path, "second").pem, ca)
    switch.submit(edits.ReloadCertificates())
    assert service.connector(tls).key not in (before, after)
    assert service.connector(plain).key == unchanged
    with pytest.raises(NoTLS, match=f"^service s: server = 10.0.0.2:443: ca {ca}x: No such file or directory$"):
        switch.load(f"server = 10.0.0.2:443 1 tls ca {ca}x", f"certificate = {authority.daemon()}")


# Expiry.


def test_the_log_warns_once_a_day(switch: Switch, authority: Authority) -> None:
    old = authority.daemon("old", begins=-20, ends=3)
    new = authority.daemon("new", begins=-1, ends=90)
    switch.load(f"certificate = {old}", f"certificate = {new}")
    said = f"{old}: the certificate of old expires on "
    assert [line.startswith(said) for line in switch.wait(2 * 3600, 600)] == [True]
    assert switch.wait(DAY - 3 * 3600, 600) == []
    assert [line.startswith(said) for line in switch.wait(3 * 3600, 600)] == [True]
    lines = switch.wait(3 * DAY, 600)
    assert len(lines) == 3
    assert lines[-1].startswith(f"{old}: the certificate of old expired on ")
    authority.daemon("old", begins=-1, ends=60)
    (line,) = switch.wait(3600, 600)
    assert line.startswith(f"{old} is read again")
    assert switch.wait(2 * DAY, 600) == []


# The view.


def test_the_view(switch: Switch, authority: Authority, site: Path) -> None:
    rsa = authority.daemon("rsa", "a.example", kind="RSA", begins=-5, ends=15)
    switch.load(
        f"certificate = {site}", f"client_ca = {authority.pem}", "client_certificate = optional",
        t=[f"certificate = {rsa}", f"certificate = {site}"],
    )  # fmt: skip
    rows = {row["file"]: row for row in Views(switch.director).view("certificates", None)}
    assert sorted(rows) == sorted(map(str, (site, rsa, authority.pem)))
    one = rows[str(rsa)]
    assert (one["names"], one["issuer"], one["kind"], one["use"]) == (["a.example"], "ca", "RSA", "certificate")
    assert one["left"] == pytest.approx(0.75, abs=0.01)
    assert one["not_after"] - one["not_before"] == 20 * DAY
    assert [rows[str(file)]["services"] for file in (rsa, site, authority.pem)] == [["t"], ["s", "t"], ["s"]]
    assert (rows[str(authority.pem)]["kind"], rows[str(authority.pem)]["subject"]) == ("CA", "ca")
    of_t = Views(switch.director).view("certificates", "t")
    assert sorted(row["file"] for row in of_t) == sorted(map(str, (site, rsa)))


def test_files_of_a_service(site: Path) -> None:
    text = f"Virtual s {{\nlisten = 127.0.0.1:1 tls\ncertificate = {site}\ntls_default = {site}\nclient_ca = /ca.pem\n"
    text += "server = 10.0.0.1:1 1 tls ca /ca.pem cert /a.pem\nserver = 10.0.0.2:1 1 tls ca /b.pem\n}"
    (service,) = parse(text).services.values()
    assert [(file.use, file.path, where) for file, where in files_of(service).items()] == [
        ("certificate", str(site), "service s: "),
        ("ca", "/ca.pem", "service s: "),
        ("cert", "/a.pem", "service s: server = 10.0.0.1:1: cert "),
        ("ca", "/b.pem", "service s: server = 10.0.0.2:1: ca "),
    ]
    plain = parse(f"Virtual s {{\nlisten = 127.0.0.1:1\ncertificate = {site}\n}}").services["s"]
    assert files_of(plain) == {}
