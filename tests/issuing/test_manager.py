"""Certificates are ordered, renewed and kept, on a simulated clock, with a CA that fails as tests say."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from memory import log_into
from scripted_ca import ScriptedCA
from servers import free_address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.acme.access import NO_STATE, IssuedAccess
from ktcpvs.acme.client import RenewalInfo
from ktcpvs.acme.manager import CertificateManager
from ktcpvs.acme.problems import ACMEProblem
from ktcpvs.acme.record import Record
from ktcpvs.acme.schedule import Window
from ktcpvs.acme.store import PEM_FILE, STATE_FILE, CertificateFolder
from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, NoTLS
from ktcpvs.inspect.views import Views
from ktcpvs.model import edits
from ktcpvs.model.acme_sharing import Leadership, SharedValue, SharedValues
from ktcpvs.model.language.parser import parse
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.tls_file_store import TLSFileStore
from ktcpvs.startup_report import certificate_lines

DAY = 86400.0
NOW = 1_900_000_000.0


class Switch:
    """A switch with a folder, whose CA is `ca`. chance: the random number that it gets. lines: its log."""

    def __init__(
        self,
        path: Path,
        ca: ScriptedCA,
        start: float,
        leadership: Leadership | None = None,
        shared: SharedValues | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.ca = ca
        self.chance = 0.0
        self.reactor: Any = MemoryReactorClock()
        self.context = Context(
            self.reactor, log_into(self.lines), Descriptors(100), wall=lambda: start + self.reactor.seconds()
        )
        self.folder = CertificateFolder(str(path))
        files = TLSFileStore(self.context, IssuedAccess(None, self.folder, self.context.wall))
        self.director = Director(self.context, files=files)
        self.manager = CertificateManager(
            self.director,
            self.folder,
            ca,
            lambda settings: ca,
            lambda: self.chance,
            leadership,
            shared,
            in_thread=maybeDeferred,
        )
        self.director.issuer = self.manager
        self.director.start()

    def close(self) -> None:
        self.director.end()
        self.director.stop()

    def result(self, done: Deferred[Any]) -> Any:
        results: list[Any] = []
        done.addBoth(results.append)
        (result,) = results
        return result.raiseException() if hasattr(result, "raiseException") else result

    def load(self, *certificates: str, settings: str = "") -> Any:
        lines = "\n".join(f"certificate = {one}" for one in certificates)
        text = (
            f"global {{ {settings} }}\nVirtual s {{\nlisten = {free_address()} tls\n{lines}\nserver = 10.0.0.1:80\n}}"
        )
        load = parse(text)
        return self.result(self.director.submit(evolve(load, start="all")))

    def wait(self, seconds: float = 5.0) -> None:
        """Let time pass, as the manager sleeps."""
        ends = self.reactor.seconds() + seconds
        self.reactor.advance(0)
        while self.reactor.seconds() < ends:
            calls = [call.getTime() for call in self.reactor.getDelayedCalls()]
            until = min([ends, *calls])
            self.reactor.advance(max(until - self.reactor.seconds(), 0.0))

    def skip(self, seconds: float) -> None:
        """Let a long time pass at once, and then a minute."""
        self.reactor.advance(seconds)
        self.wait(61)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(Views(self.director).view("certificates", None))

    def row(self) -> dict[str, Any]:
        (row,) = self.rows
        return row

    def said(self, text: str) -> int:
        return sum(text in line for line in self.lines)


@pytest.fixture
def ca(tmp_path: Path) -> ScriptedCA:
    return ScriptedCA(tmp_path)


@pytest.fixture
def now() -> float:
    return time.time()


@pytest.fixture
def switch(tmp_path: Path, ca: ScriptedCA, now: float) -> Iterator[Switch]:
    switch = Switch(tmp_path / "state.acme", ca, now)
    yield switch
    switch.close()


def test_a_service_starts_with_a_self_signed_certificate_and_gets_the_real_one(switch: Switch, ca: ScriptedCA) -> None:
    assert switch.load("acme a.example b.example") == []
    row = switch.row()
    assert (row["issuer"], row["names"]) == ("self-signed by ktcpvs", ["a.example", "b.example"])
    assert row["acme"]["state"] == "waiting"
    assert row["warning"].endswith("the certificate in use is self-signed until the CA has issued one")
    (line,) = certificate_lines(switch.director)
    assert line == f"a.example, b.example ({row['file']}): self-signed until the CA has issued a certificate"
    switch.manager.start()
    switch.wait()
    row = switch.row()
    assert (row["issuer"], row["warning"], row["error"]) == ("issuing", "", "")
    (line,) = certificate_lines(switch.director)
    assert line.startswith("1 certificate; the first to expire is a.example, b.example (")
    assert (row["acme"]["state"], row["acme"]["failures"], row["acme"]["error"]) == ("valid", 0, "")
    assert (
        switch.said("certificate for a.example, b.example: issued by acme-v02.api.letsencrypt.org, valid until ") == 1
    )
    assert [(one.name, one.kind) for one in ca.was_published] == [("a.example", "http-01"), ("b.example", "http-01")]
    assert ca.published == [], "challenges are withdrawn"
    assert ca.calls.count("new_order") == 1


def test_files_are_for_the_user_of_the_daemon_only(switch: Switch) -> None:
    os.umask(0)
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    found = [Path(switch.folder.path), *Path(switch.folder.path).rglob("*")]
    assert {path.name.partition("-")[0] for path in found} >= {"certificate.pem", "state.json", "a.example"}
    assert {oct(path.stat().st_mode & 0o777) for path in found if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in found if path.is_file()} == {"0o600"}


def test_a_restart_uses_what_is_kept(switch: Switch, ca: ScriptedCA, tmp_path: Path, now: float) -> None:
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    again = Switch(tmp_path / "state.acme", ca, now + 5)
    again.load("acme a.example")
    assert again.row()["issuer"] == "issuing"
    again.manager.start()
    again.wait()
    assert ca.calls.count("new_order") == 1
    again.close()


def test_renewal_at_a_third_of_the_lifetime(switch: Switch, ca: ScriptedCA) -> None:
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    row = switch.row()
    due = row["acme"]["next"]
    assert due == pytest.approx(row["not_after"] - (row["not_after"] - row["not_before"]) / 3)
    ca.ends = 180
    switch.skip(due - switch.context.wall() - 70)
    assert ca.calls.count("new_order") == 1
    switch.wait(70)
    assert ca.calls.count("new_order") == 2
    assert ca.replaced[1].startswith("-----BEGIN CERTIFICATE-----")
    assert switch.row()["not_after"] > row["not_after"]
    assert switch.said("certificate for a.example: renewed by ") == 1


def test_the_ca_says_when_to_renew(switch: Switch, ca: ScriptedCA) -> None:
    wall = switch.context.wall()
    ca.window = Window(wall + 10 * DAY, wall + 11 * DAY)
    switch.chance = 0.5
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    assert switch.row()["acme"]["next"] == wall + 10.5 * DAY
    ca.window = Window(wall - 10 * DAY, wall - 9 * DAY)  # it has revoked the certificate
    switch.skip(6 * 3600 + 120)
    assert ca.calls.count("new_order") == 2, "the new one serves for an hour, though the CA says the same of it"
    switch.skip(3600)
    assert ca.calls.count("new_order") == 3


def test_a_renewal_on_request_while_the_ca_is_asked_when_to_renew(switch: Switch, ca: ScriptedCA) -> None:
    wall = switch.context.wall()
    ca.window = Window(wall + 10 * DAY, wall + 11 * DAY)
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    answer = ca.renewal_info

    def answer_slowly(pem: str) -> RenewalInfo | None:
        ca.renewal_info = answer  # type: ignore[method-assign]
        switch.result(switch.director.submit(edits.RenewCertificate("a.example")))
        return answer(pem)

    ca.renewal_info = answer_slowly  # type: ignore[method-assign]
    switch.skip(6 * 3600 + 120)
    assert ca.calls.count("new_order") == 2


def test_a_failure_keeps_the_old_certificate_and_is_told_once(switch: Switch, ca: ScriptedCA) -> None:
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    before = switch.row()
    ca.problems["finalize"] = ACMEProblem("a.example: policy forbids it (rejectedIdentifier)")
    switch.result(switch.director.submit(edits.RenewCertificate("A.example.")))
    switch.wait()
    row = switch.row()
    assert (row["not_after"], row["issuer"]) == (before["not_after"], "issuing")
    assert (row["acme"]["state"], row["acme"]["failures"]) == ("failed", 1)
    assert row["acme"]["error"] == "a.example: policy forbids it (rejectedIdentifier)"
    assert 300 - 10 <= row["acme"]["next"] - switch.context.wall() <= 330
    text = "issues none: a.example: policy forbids it (rejectedIdentifier); the one until "
    assert switch.said(text) == 1
    for _ in range(3):
        switch.skip(switch.row()["acme"]["next"] - switch.context.wall())
    assert switch.row()["acme"]["failures"] == 4
    assert switch.said(text) == 1, "the same reason is told once"
    ca.problems.clear()
    switch.skip(4 * 3600)
    assert (switch.row()["acme"]["state"], switch.row()["acme"]["error"]) == ("valid", "")


def test_a_name_that_the_ca_refuses(switch: Switch, ca: ScriptedCA) -> None:
    ca.state = "invalid"
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    row = switch.row()
    assert row["acme"]["error"] == "a.example: no such name (dns)"
    assert row["issuer"] == "self-signed by ktcpvs"
    assert ca.published == []
    ca.state = "ready"
    switch.skip(400)
    assert switch.row()["issuer"] == "issuing"
    kinds = [one.kind for one in ca.was_published]
    assert kinds == ["http-01", "tls-alpn-01"], "another kind may pass where the first one did not"


def test_a_rate_limit_is_waited_for(switch: Switch, ca: ScriptedCA) -> None:
    ca.problems["new_order"] = ACMEProblem("too many certificates (rateLimited)", retry_after=7 * 3600.0)
    switch.load("acme a.example", "acme b.example")
    switch.manager.start()
    switch.wait(2)
    for _ in range(6):
        switch.skip(3500)
    assert ca.calls.count("new_order") == 2, "once for each"
    ca.problems.clear()
    switch.skip(2 * 3600)
    assert {row["acme"]["state"] for row in switch.rows} == {"valid"}


def test_a_ca_that_is_down_is_asked_for_one_certificate_at_a_time(switch: Switch, ca: ScriptedCA) -> None:
    down = ACMEProblem("https://ca/dir: Connection refused", is_of_ca=True, is_order_lost=False)
    ca.problems["new_order"] = down
    switch.load("acme a.example", "acme b.example", "acme c.example")
    switch.manager.start()
    switch.wait(200)
    assert ca.calls.count("new_order") == 1
    assert {row["acme"]["state"] for row in switch.rows} == {"failed"}
    assert {row["acme"]["error"] for row in switch.rows} == {"https://ca/dir: Connection refused"}
    ca.problems.clear()
    switch.wait(200)
    assert {row["acme"]["state"] for row in switch.rows} == {"valid"}


class Leader:
    """The leader of a cluster, until it resigns. Provides Leadership."""

    def __init__(self) -> None:
        self.is_leader = True
        self.leader = "b"

    def observe(self, changed: Callable[[], object]) -> None:
        pass

    async def resign(self) -> None:
        self.is_leader = False


def test_a_node_that_cannot_reach_the_ca_lets_another_one_order(tmp_path: Path, ca: ScriptedCA, now: float) -> None:
    for problem, leads in (
        (ACMEProblem("the CA refuses", is_of_ca=True), True),
        (ACMEProblem("no route to the CA", is_of_ca=True, is_unreachable=True, is_order_lost=False), False),
    ):
        leader = Leader()
        switch = Switch(tmp_path / str(leads), ca, now, leader)
        ca.problems["new_order"] = problem
        switch.load("acme a.example")
        switch.manager.start()
        switch.wait()
        assert leader.is_leader is leads
        assert switch.row()["acme"]["error"] == str(problem)
        if not leads:
            refused: list[Any] = []
            Deferred.fromCoroutine(switch.manager.renew("a.example")).addErrback(refused.append)
            assert str(refused[0].value) == (
                "this switch orders no certificates now; node b does: give this command there"
            )
        switch.close()


def test_what_cannot_be_read_holds_up_no_other_certificate(switch: Switch, tmp_path: Path) -> None:
    """An order in place of an unreadable one might be one too many for the CA."""
    switch.load("acme a.example", "acme b.example")
    switch.manager.start()
    switch.wait()
    (kept,) = (path for path in tmp_path.rglob("state.json") if "a.example" in str(path))
    content = kept.read_bytes()
    kept.unlink()
    os.mkfifo(kept)
    again = Switch(tmp_path / "state.acme", switch.ca, time.time())
    again.load("acme a.example", "acme b.example", "acme c.example")
    again.manager.start()
    again.wait()
    rows = {row["acme"]["names"][0]: row["acme"] for row in again.rows}
    assert (rows["a.example"]["state"], rows["a.example"]["error"]) == (
        "failed", f"{kept} cannot be read: not a regular file",
    )  # fmt: skip
    assert (rows["b.example"]["state"], rows["c.example"]["state"]) == ("valid", "valid")
    assert again.said("certificate for a.example: ") == 1
    kept.unlink()
    kept.write_bytes(content)
    again.skip(61)
    assert again.said("certificate for a.example: ") == 1
    assert {row["acme"]["state"] for row in again.rows} == {"valid"}
    again.close()


class Values:
    """What another node has stored."""

    is_complete = True

    def __init__(self, *records: Record) -> None:
        self._values = {
            f"acme:certificate:{one.key}": SharedValue(one.encode(with_certificate=True), number)
            for number, one in enumerate(records, 7)
        }

    def names(self) -> Sequence[str]:
        return list(self._values)

    def get(self, name: str) -> SharedValue | None:
        return self._values.get(name)

    async def put(self, name: str, value: bytes, revision: int) -> bool:
        return False

    async def delete(self, name: str, revision: int) -> bool:
        return False

    def observe(self, changed: Callable[[], object]) -> None:
        pass


def test_a_node_that_cannot_read_its_file_takes_the_certificate_of_another_one(
    switch: Switch, ca: ScriptedCA, tmp_path: Path
) -> None:
    """Whether the certificate or the state cannot be read. Meanwhile, what cannot be saved holds up no other one."""
    switch.load("acme a.example", "acme b.example")
    switch.manager.start()
    switch.wait()
    folder = CertificateFolder(str(tmp_path / "state.acme"))
    records = folder.load(["a.example"]), folder.load(["b.example"])
    for file in (PEM_FILE, STATE_FILE):
        (path,) = (found for found in tmp_path.rglob(f"state.acme/*/*/{file}") if "a.example" in str(found))
        path.unlink()
        path.mkdir()
        leader = Leader()
        leader.is_leader = False
        other = Switch(tmp_path / "state.acme", ca, time.time(), leader, Values(*records))
        other.load("acme a.example", "acme b.example")
        other.manager.start()
        other.wait()
        rows = {row["acme"]["names"][0]: row["acme"]["state"] for row in other.rows}
        assert rows["b.example"] == "valid"
        assert rows["a.example"] != "valid"  # a folder is in the way
        path.rmdir()
        os.mkfifo(path)
        other.skip(61)
        assert {row["acme"]["state"] for row in other.rows} == {"valid"}
        assert other.said("certificate for a.example: another node has obtained it") == 1
        assert path.is_file()
        other.close()


def test_an_order_goes_on_after_a_restart(switch: Switch, ca: ScriptedCA, tmp_path: Path, now: float) -> None:
    switch.load("acme a.example")
    switch.manager.start()
    ca.state = "processing"
    switch.wait()
    assert switch.row()["acme"]["state"] == "ordering"
    switch.close()
    switch.wait(30)
    ca.state = "ready"
    again = Switch(tmp_path / "state.acme", ca, now + 40)
    again.load("acme a.example")
    again.manager.start()
    again.wait()
    assert again.row()["issuer"] == "issuing"
    assert ca.calls.count("new_order") == 1
    again.close()


def test_a_certificate_with_another_name_does_not_take_it_from_the_others(switch: Switch, ca: ScriptedCA) -> None:
    switch.load("acme a.example b.example")
    switch.manager.start()
    switch.wait()
    ca.problems["new_order"] = ACMEProblem("no")
    switch.load("acme a.example b.example c.example")
    switch.wait()
    found = {(row["issuer"], *row["names"]) for row in switch.rows}
    assert found == {("issuing", "a.example", "b.example"), ("self-signed by ktcpvs", "c.example")}
    ca.problems.clear()
    switch.skip(400)
    assert [row["names"] for row in switch.rows] == [["a.example", "b.example", "c.example"]]


def test_another_directory_replaces_the_certificate(switch: Switch, ca: ScriptedCA) -> None:
    switch.load("acme a.example", settings="acme_directory = letsencrypt-staging")
    switch.manager.start()
    switch.wait()
    assert switch.said("issued by acme-staging-v02.api.letsencrypt.org") == 1
    switch.result(switch.director.submit(edits.Set({"acme_directory": "letsencrypt"})))
    switch.wait()
    assert ca.calls.count("new_order") == 2
    assert ca.replaced == ["", ""], "the certificate of another CA is none that this one could replace"
    assert switch.row()["acme"]["directory"] == "https://acme-v02.api.letsencrypt.org/directory"


def test_a_certificate_that_lacks_a_name_is_not_used(switch: Switch, ca: ScriptedCA) -> None:
    ca.issues_for = ("other.example",)
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    assert switch.row()["issuer"] == "self-signed by ktcpvs"
    assert switch.row()["acme"]["error"] == "the certificate that the CA has issued is not for a.example"


def test_challenges_that_cannot_be_answered(switch: Switch, ca: ScriptedCA) -> None:
    ca.publish_refusal = "worker 1 does not respond"
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    assert switch.row()["acme"]["error"] == "challenges cannot be answered: worker 1 does not respond"
    assert "answer" not in ca.calls


def test_only_names_of_running_services_are_renewed_on_request(switch: Switch) -> None:
    with pytest.raises(BadValue, match=r"^x.example: no certificate = acme has this name: no running service has such"):
        switch.result(switch.director.submit(edits.RenewCertificate("x.example")))
    switch.load("acme a.example b.example")
    switch.manager.start()
    switch.wait()
    with pytest.raises(BadValue, match=r"they are for a\.example, b\.example$"):
        switch.result(switch.director.submit(edits.RenewCertificate("x.example")))


def test_a_damaged_file_is_ordered_again(switch: Switch, ca: ScriptedCA, tmp_path: Path, now: float) -> None:
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    path = Path(switch.folder.pem_path(("a.example",)))
    path.write_text("damaged")
    path.with_name("state.json").unlink()
    again = Switch(tmp_path / "state.acme", ca, now + 10)
    again.load("acme a.example")
    assert again.row()["issuer"] == "self-signed by ktcpvs"
    again.manager.start()
    again.wait()
    assert again.row()["issuer"] == "issuing"
    again.close()


def test_without_a_state_file_a_service_is_refused(tmp_path: Path) -> None:
    context = Context(MemoryReactorClock(), log_into([]), Descriptors(100))  # type: ignore[no-untyped-call]
    files = TLSFileStore(context, IssuedAccess(None, None, context.wall))
    director = Director(context, files=files)
    load = parse(f"Virtual s {{ listen = {free_address()} tls certificate = acme a.example }}")
    refused: list[Any] = []
    director.submit(evolve(load, start="all")).addErrback(refused.append)
    assert refused[0].check(NoTLS)
    assert str(refused[0].value) == f"service s: {NO_STATE}"


def test_a_folder_of_another_user_is_told(switch: Switch, ca: ScriptedCA) -> None:
    Path(switch.folder.path).mkdir(mode=0o700)
    Path(switch.folder.path).chmod(0o777)
    switch.load("acme a.example")
    switch.manager.start()
    switch.wait()
    assert "is writable by other users, so keys are not safe there" in switch.row()["acme"]["error"]
