"""The commands that a supervisor's director sends to its workers, their order, and the sockets that it opens for
them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory import log_into
from servers import free_port
from tls_peers import authority
from twisted.internet.interfaces import IUNIXTransport
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.protocols import amp
from zope.interface import implementer

from ktcpvs.control.client_protocol import QuietAMP
from ktcpvs.control.commands import OF_EDIT
from ktcpvs.control.pages import PAGE_SIZE
from ktcpvs.director.preparation import no_stages
from ktcpvs.errors import Refusal
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.challenges import HTTP_01, Challenge
from ktcpvs.model.language.parser import parse
from ktcpvs.runtime.challenges import PendingChallenges
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.tls_file_store import TLSFileStore
from ktcpvs.system.shared import SharedTable
from ktcpvs.system.tls_files import decode
from ktcpvs.workers import commands
from ktcpvs.workers.shared_counters import SlotAllocator
from ktcpvs.workers.supervisor import Supervisor
from ktcpvs.workers.worker_processes import WorkerProcess

SIZE = 2


@implementer(IUNIXTransport)
class Transport(StringTransport):
    """descriptors: those that were sent."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors: list[int] = []

    def sendFileDescriptor(self, descriptor: int) -> None:
        self.descriptors.append(descriptor)


class Supervised:
    """A supervisor whose workers have links and no processes. transports: of the links. outcomes: of edits."""

    def __init__(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.outcomes: list[Any] = []
        self.slots = SlotAllocator(SharedTable(SIZE + 1))
        log = log_into([])
        self.context = Context(self.reactor, log, Descriptors(100), counters=self.slots.counters(SIZE))
        self.files = TLSFileStore(self.context)
        self.supervisor = Supervisor(self.context, SIZE, self.slots, self._save, lambda: None, no_stages, self.files)
        self.director = self.supervisor.director
        self.workers: Any = self.director.processes
        self.transports: list[Transport] = []
        for worker in self.supervisor.workers.all:
            transport = Transport()
            worker.link = QuietAMP()
            worker.link.makeConnection(transport)
            worker.pid = 4711 + worker.index
            worker.mark_ready()
            self.transports.append(transport)

    async def _save(self, table: Any) -> None:
        pass

    def submit(self, *orders: edits.Edit) -> None:
        for order in orders:
            self.director.submit(order).addBoth(self.outcomes.append)
            self.answer()
            assert list(self.outcomes[-1]) == [], self.outcomes[-1]

    def worker(self, number: int) -> WorkerProcess:
        return self.supervisor.workers.all[number - 1]

    def heard(self) -> list[list[amp.AmpBox]]:
        """Return the commands that each worker has received since the last call."""
        boxes = [list(amp.parseString(transport.value())) for transport in self.transports]
        for transport in self.transports:
            transport.clear()
        return boxes

    def answer(self) -> list[list[str]]:
        """Let each worker answer everything. Return the names of the commands."""
        names = []
        for number, boxes in enumerate(self.heard(), 1):
            for box in boxes:
                answer = amp.AmpBox({amp.ANSWER: box[amp.ASK]})
                self.worker(number).link.dataReceived(answer.serialize())  # type: ignore[union-attr]
            names.append([box[amp.COMMAND].decode() for box in boxes])
        return names


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    one = Supervised()
    yield one
    one.director.end()
    one.director.stop()


def configuration(port: int) -> edits.Edit:
    return parse(f"Virtual a {{ listen = 127.0.0.1:{port}\n server = 10.0.0.1:80 }}")


def test_a_worker_gets_slots_then_its_socket_then_the_edit(supervised: Supervised) -> None:
    supervised.submit(configuration(free_port()))
    supervised.director.submit(edits.StartService("a")).addBoth(supervised.outcomes.append)
    assert supervised.answer() == [["PassListener", "StartService"]] * SIZE, "slots have been sent with the service"
    descriptors = [transport.descriptors for transport in supervised.transports]
    (sockets,) = supervised.director.sockets_of("a").values()
    assert descriptors == [[sock.fileno()] for sock in sockets]
    supervised.director.submit(edits.AddServer("a", parse_address("10.0.0.2:80"))).addBoth(supervised.outcomes.append)
    ((slots, edit), _) = supervised.heard()
    assert (slots[amp.COMMAND], edit[amp.COMMAND]) == (b"AssignSlots", b"AddServer")
    assert b"10.0.0.2:80" in slots[b"slots"]
    assert b"10.0.0.1:80" not in slots[b"slots"], "known slots are not sent again"


def test_an_edit_is_done_when_all_workers_have_answered(supervised: Supervised) -> None:
    supervised.director.submit(configuration(free_port())).addBoth(supervised.outcomes.append)
    first, second = supervised.heard()
    for box in first:
        supervised.worker(1).link.dataReceived(amp.AmpBox({amp.ANSWER: box[amp.ASK]}).serialize())  # type: ignore[union-attr]
    assert supervised.outcomes == []
    for box in second:
        supervised.worker(2).link.dataReceived(amp.AmpBox({amp.ANSWER: box[amp.ASK]}).serialize())  # type: ignore[union-attr]
    assert [list(outcome) for outcome in supervised.outcomes] == [[]]


def test_a_refused_edit_reaches_no_worker(supervised: Supervised) -> None:
    failures: list[Any] = []
    supervised.director.submit(edits.AddService("a", {"scheduler": "zzz"})).addErrback(failures.append)
    assert failures
    assert supervised.heard() == [[], []]


def test_a_service_that_stops_has_no_sockets(supervised: Supervised) -> None:
    port = free_port()
    supervised.submit(configuration(port), edits.StartService("a"))
    (before,) = supervised.director.sockets_of("a").values()
    assert len(before) == SIZE
    supervised.submit(edits.StopService("a"))
    assert supervised.director.sockets_of("a") == {}
    assert [sock.fileno() for sock in before] == [-1] * SIZE


def test_a_takeover_tells_each_worker_whether_its_socket_is_left_over(supervised: Supervised) -> None:
    supervised.submit(configuration(free_port()), edits.StartService("a"))
    ((address, sockets),) = supervised.director.sockets_of("a").items()
    supervised.director.hand_over({address: 1})
    boxes = supervised.heard()
    assert [[box[amp.COMMAND] for box in each] for each in boxes] == [[b"HandOver"]] * SIZE
    assert [each[0][b"left_over"] for each in boxes] == [b"", len(str(address)).to_bytes(2) + str(address).encode()]
    assert [sock.fileno() for sock in sockets] == [-1] * SIZE, "the workers and the new daemon have them"


def tls_configuration(port: int, certificate: Path) -> edits.Load:
    load = parse(f"Virtual a {{ listen = 127.0.0.1:{port} tls\n certificate = {certificate}\n server = 10.0.0.1:80 }}")
    return edits.Load(load.services, load.settings, start="all")


def passed(boxes: list[amp.AmpBox]) -> list[tuple[str, Any]]:
    """Return (path, contents) of the files that these commands pass, as a worker receives them."""
    found, pages = [], b""
    for box in boxes:
        if box[amp.COMMAND] != b"PassFile":
            continue
        pages = (b"" if box[b"is_first"] == b"True" else pages) + box[b"page"]
        assert len(box[b"page"]) <= PAGE_SIZE
        if box[b"is_last"] == b"True":
            found.append((box[b"path"].decode(), decode(json.loads(pages))))
    return found


def names(boxes: list[amp.AmpBox]) -> list[str]:
    return [box[amp.COMMAND].decode() for box in boxes]


def test_a_worker_gets_certificates_before_the_edit_that_needs_them(supervised: Supervised, tmp_path: Path) -> None:
    site = authority().daemon("passed", "a.example")
    supervised.director.submit(tls_configuration(free_port(), site)).addBoth(supervised.outcomes.append)
    for boxes in supervised.heard():
        assert names(boxes) == ["AssignSlots", "PassFile", "PassListener", "Upload", "Load"]
        ((path, (certificate,)),) = passed(boxes)
        assert (path, certificate.names) == (str(site), ("a.example",))
        assert b"PRIVATE KEY" in certificate.pem


def test_new_versions_go_to_all_workers_and_to_new_ones(supervised: Supervised, tmp_path: Path) -> None:
    site = tmp_path / "site.pem"
    shutil.copy(authority().daemon("passed", "a.example"), site)
    supervised.submit(tls_configuration(free_port(), site))
    shutil.copy(authority().daemon("passed", "b.example"), site)
    done: list[Any] = []
    supervised.director.submit(edits.ReloadCertificates()).addBoth(done.append)
    for worker, boxes in zip(supervised.supervisor.workers.all, supervised.heard(), strict=True):
        ((path, (certificate,)),) = passed(boxes)
        assert (path, certificate.names) == (str(site), ("b.example",))
        assert done == [], "the command is done when all workers have them"
        for box in boxes:
            worker.link.dataReceived(amp.AmpBox({amp.ANSWER: box[amp.ASK]}).serialize())  # type: ignore[union-attr]
    assert done == [()]


def test_files_that_no_service_needs_are_dropped_after_the_edit(supervised: Supervised) -> None:
    site = authority().daemon("passed", "a.example")
    supervised.submit(tls_configuration(free_port(), site))
    supervised.director.submit(edits.StopService("a")).addBoth(supervised.outcomes.append)
    for boxes in supervised.heard():
        assert names(boxes) == ["StopService", "DropFile"]
        assert boxes[1][b"path"].decode() == str(site)


def test_a_new_worker_gets_all_files_and_the_secrets_of_tickets(supervised: Supervised, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(80):
        shutil.copy(authority().daemon("passed", "a.example"), folder / f"{number}.pem")
    supervised.submit(tls_configuration(free_port(), folder))
    supervised.supervisor.use_tickets(b"1" * 32, None)
    supervised.supervisor.use_tickets(b"2" * 32, b"1" * 32)
    first, _ = supervised.heard()
    assert [(box[b"current"], box[b"previous"]) for box in first] == [(b"1" * 32, b""), (b"2" * 32, b"1" * 32)]
    director = supervised.director
    supervised.workers.introduce(supervised.worker(1), director.table, director.names.resolution, [])
    boxes, others = supervised.heard()
    assert others == []
    assert names(boxes).count("PassFile") > 1, "they do not fit into one page"
    ((path, certificates),) = passed(boxes)
    assert (path, len(certificates)) == (str(folder), 80)
    (tickets,) = [box for box in boxes if box[amp.COMMAND] == b"UseTickets"]
    assert (tickets[b"current"], tickets[b"previous"]) == (b"2" * 32, b"1" * 32)
    order = names(boxes)
    assert order.index("Begin") < order.index("PassFile") < order.index("Load")


def test_all_workers_are_ready_when_the_last_one_is(supervised: Supervised) -> None:
    supervised.worker(2).is_ready = False
    fired: list[Any] = []
    supervised.director.processes.ready().addBoth(fired.append)
    assert fired == []
    assert supervised.director.processes.describe() == "1 of 2 workers serve"
    with contextlib.suppress(Exception):
        supervised.supervisor.workers.ended(supervised.worker(2), "it was killed", 1.0)
    assert [failure.type for failure in fired] == [Refusal]
    assert "worker 2 cannot begin" in fired[0].getErrorMessage()


def test_only_the_replacement_of_a_worker_that_has_served_may_lack_a_scheduler(supervised: Supervised) -> None:
    """At the start and in a takeover, a worker that cannot bind a scheduler refuses the table."""
    director, units = supervised.director, {"wlc": "connection", "site": "each request"}

    def sent() -> list[str]:
        one = supervised.worker(1)
        supervised.workers.introduce(one, director.table, director.names.resolution, [], units=units)
        boxes = supervised.heard()[0]
        return [str(box[b"schedulers"]) for box in boxes if box[amp.COMMAND] == b"StandIn"]

    assert sent() == []
    supervised.workers.worker_is_ready()
    (schedulers,) = sent()
    assert all(name in schedulers for name in units)


def test_a_dead_worker_counts_nothing(supervised: Supervised) -> None:
    supervised.submit(configuration(free_port()))
    slot = supervised.slots.table.row(supervised.slots.slots["a", "10.0.0.1:80"])
    slot[0], slot[1] = 3, 4
    supervised.supervisor.workers.ended(supervised.worker(1), "it was killed", 1.0)
    assert list(slot[:SIZE]) == [0, 4]


def test_what_checks_find_is_sent_to_all_workers(supervised: Supervised) -> None:
    supervised.submit(configuration(free_port()))
    supervised.submit(edits.EditService("a", {"check": "tcp"}), edits.StartService("a"))
    service = supervised.director.services["a"]
    (server,) = service.usable
    for _ in range(service.config.check_fall):
        service.health.checked(server, "it does not answer")
    for boxes in supervised.heard():
        (update,) = boxes
        assert update[amp.COMMAND] == b"UpdateHealth"
        (sent,) = amp.parseString(update[b"servers"])
        assert sent == {
            b"ident": b"a", b"address": b"10.0.0.1:80", b"is_up": b"False", b"why": b"it does not answer",
            b"weight": b"",
        }  # fmt: skip
    assert supervised.director.checked_servers.down() == [("a", "10.0.0.1:80", "it does not answer")]


def test_commands_to_workers_have_names_of_their_own() -> None:
    """A worker takes the commands of administrators on the same connection."""
    own = {kind.commandName for kind in vars(commands).values() if isinstance(kind, type) and kind is not amp.Command}
    assert not own.intersection(command.commandName for command in OF_EDIT.values())


def test_workers_and_new_workers_get_the_secret_for_cookies(supervised: Supervised) -> None:
    supervised.submit(tls_configuration(free_port(), authority().daemon("passed", "a.example")))
    director = supervised.director
    secret, key = b"s" * 32, director.context.key
    director.between_edits(lambda: director.cookie_secret.use(secret)).addBoth(supervised.outcomes.append)
    for boxes in supervised.heard():
        assert names(boxes) == ["UseCookieSecret"]
        assert boxes[0][b"secret"] == secret
    supervised.workers.introduce(supervised.worker(1), director.table, director.names.resolution, [])
    boxes = supervised.heard()[0]
    assert names(boxes).index("UseCookieSecret") < names(boxes).index("Load")
    assert [box[b"key"] for box in boxes if box[amp.COMMAND] == b"Begin"] == [key]
    assert [box[b"secret"] for box in boxes if box[amp.COMMAND] == b"UseCookieSecret"] == [secret]


def test_workers_and_new_workers_answer_challenges(supervised: Supervised) -> None:
    """The director waits for every worker; one that begins meanwhile gets what is pending."""
    many = [Challenge(HTTP_01, f"{number}.example", f"t{number}", f"t{number}.k") for number in range(33)]
    done: list[Any] = []
    supervised.director.challenges.use(PendingChallenges.of(many)).addBoth(done.append)
    assert not done
    first, second = supervised.heard()
    assert names(first) == names(second) == ["UseChallenges"] * 2
    assert told(first) == many
    for number, boxes in enumerate((first, second), 1):
        for box in boxes:
            assert not done
            supervised.worker(number).link.dataReceived(  # type: ignore[union-attr]
                amp.AmpBox({amp.ANSWER: box[amp.ASK]}).serialize()
            )
    assert done == [None]
    director = supervised.director
    supervised.workers.introduce(supervised.worker(1), director.table, director.names.resolution, [])
    boxes = supervised.heard()[0]
    assert told(boxes) == many
    supervised.director.challenges.use(PendingChallenges())
    (box,) = supervised.heard()[1]
    assert told([box]) == []


def told(boxes: list[amp.AmpBox]) -> list[Challenge]:
    """Return the challenges that a worker was told."""
    found = [commands.UseChallenges.parseArguments(box, None) for box in boxes if box[amp.COMMAND] == b"UseChallenges"]
    assert [one["is_first"] for one in found] == [True, *[False] * (len(found) - 1)]
    assert [one["is_last"] for one in found] == [*[False] * (len(found) - 1), True]
    return [Challenge(**challenge) for one in found for challenge in one["challenges"]]
