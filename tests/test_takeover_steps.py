"""The old daemon of a takeover: a fault before the commit changes nothing, one after it delays nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import log_into
from servers import free_address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue
from ktcpvs.model.edits import Set, StartService
from ktcpvs.model.language.parser import parse
from ktcpvs.model.tls_files import CERTIFICATE, TLSFile
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.services.ticket_secrets import SecretsRecord
from ktcpvs.system.steps import Steps
from ktcpvs.takeover.handover_source import HandoverConnection, HandoverSource
from ktcpvs.takeover.predecessors import Predecessors


class Fault(Exception):
    """The exception that tests make steps raise."""


class Sockets(InheritedSockets):
    """No inherited sockets. is_broken: looking for those of a service manager fails."""

    is_broken = False

    @property
    def activated(self) -> list[socket.socket]:
        if self.is_broken:
            raise Fault("broken")
        return []

    @activated.setter
    def activated(self, value: list[socket.socket]) -> None:
        assert value == []


class OldDaemon:
    """A daemon that is taken over. fails: called with each step's name, before it and, with "!" behind it, after it.
    committed: (pid file, process) of the new daemon. edits: the outcome of each edit."""

    def __init__(self) -> None:
        self.fails: Callable[[str], None] = lambda name: None
        self.lines: list[str] = []
        self.committed: list[tuple[str, int]] = []
        self.edits: list[str] = []
        log = log_into(self.lines)
        self.reactor = MemoryReactorClock()
        context = Context(self.reactor, log, Descriptors(100), steps=Steps(log, self.take))
        self.director = Director(context)
        self.edit(parse(f"Virtual s {{ listen = {free_address()} server = 10.0.0.1:80 }}"), StartService())
        self.control, self.other = socket.socketpair()
        self.sockets = Sockets()
        self.handover_source = HandoverSource(
            self.director, self.sockets, self.control, 0, lambda file, pid: self.committed.append((file, pid)),
            lambda: SecretsRecord(b"1" * 32, None, 0.0), None, Predecessors(),
        )  # fmt: skip
        self.connection = HandoverConnection(self, log)
        self.connection.transport = self  # type: ignore[assignment]
        self.socket = self.other
        self.began: list[Any] = []

    def take(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        self.fails(name)
        result = call(*arguments)
        self.fails(f"{name}!")
        return result

    def edit(self, *orders: Any) -> None:
        for order in orders:
            done = self.director.submit(order)
            done.addCallbacks(lambda _: self.edits.append("done"), lambda why: self.edits.append(why.getErrorMessage()))

    def begin(self) -> None:
        Deferred.fromCoroutine(self.handover_source.begin(self.connection, "1")).addBoth(self.began.append)

    def close(self) -> None:
        self.fails = lambda name: None
        self.director.end()
        self.director.stop()
        self.control.close()
        self.other.close()


@pytest.fixture
def daemon() -> Iterator[OldDaemon]:
    one = OldDaemon()
    yield one
    one.close()


STEPS = ("hand over: clients", "service s: hand over", "hand over: end", "hand over: edits")


@pytest.mark.parametrize("step", ["", *STEPS, *(f"{step}!" for step in STEPS)])
def test_a_fault_after_the_commit(daemon: OldDaemon, step: str) -> None:
    daemon.begin()
    daemon.edits.clear()
    daemon.edit(Set({"read_timeout": "7"}))
    assert daemon.edits == [], "edits wait"

    def fails(name: str) -> None:
        if name == step:
            raise Fault

    daemon.fails = fails
    daemon.handover_source.commit(daemon.connection, 1, "/run/pid")
    assert daemon.handover_source.is_committed
    assert len(daemon.committed) == (step != "hand over: end")
    if step not in ("hand over: clients", "service s: hand over"):
        assert not daemon.reactor.getReaders(), "it accepts nobody"
    assert len([line for line in daemon.lines if "internal error" in line]) == bool(step)
    if step == "hand over: edits":
        daemon.director.resume_edits()
    assert daemon.edits == ["done" if step == "hand over: clients" else "the daemon is ending"]


def test_a_fault_before_the_commit(daemon: OldDaemon) -> None:
    daemon.sockets.is_broken = True
    daemon.begin()
    assert "broken" in str(daemon.began)
    daemon.edits.clear()
    daemon.edit(Set({"read_timeout": "7"}))
    assert daemon.edits == ["done"], "edits go on at once"
    daemon.sockets.is_broken = False
    daemon.began.clear()
    daemon.begin()
    assert daemon.began[0]["sockets"] == 2, "and another may take over"
    daemon.handover_source.commit(daemon.connection, 1, "")
    assert daemon.committed


def test_files_of_tls_go_only_to_the_new_daemon_while_it_takes_over(daemon: OldDaemon) -> None:
    file = TLSFile(CERTIFICATE, "/nonexistent.pem")
    with pytest.raises(BadValue, match="no file is handed over"):
        daemon.handover_source.file_page(daemon.connection, file, 0)
    daemon.begin()
    assert daemon.handover_source.file_page(daemon.connection, file, 0) == {"page": b"", "pages": 0}
    with pytest.raises(BadValue, match="no file is handed over"):
        daemon.handover_source.file_page(HandoverConnection(daemon, daemon.director.context.log), file, 0)
