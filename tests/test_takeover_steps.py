"""The daemon that is taken over: a fault before the commit changes nothing, one after it holds nothing up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import free_address
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, formatEvent

from ktcpvs.model.edits import Set, StartService
from ktcpvs.model.language.parser import parse
from ktcpvs.runtime.context import Context, Descriptors
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.services.director import Director
from ktcpvs.system.log import EventLog
from ktcpvs.system.steps import Steps
from ktcpvs.takeover.handover_source import HandoverConnection, HandoverSource


class Fault(Exception):
    """What the tests make steps raise."""


class Given:
    """A daemon that hands over. fails: called with each step's name, before it and, with "!" behind it, after it."""

    def __init__(self) -> None:
        self.fails: Callable[[str], None] = lambda name: None
        self.lines: list[str] = []
        self.given: list[tuple[str, int]] = []
        self.edits: list[str] = []
        log = EventLog(logger=Logger(observer=lambda event: self.lines.append(formatEvent(event))))
        self.reactor = MemoryReactorClock()
        context = Context(self.reactor, log, Descriptors(100))
        context.steps = Steps(log, self.take)
        self.director = Director(context)
        self.edit(parse(f"Virtual s {{ listen = {free_address()} server = 10.0.0.1:80 }}"), StartService())
        self.control, self.other = socket.socketpair()
        self.giver = HandoverSource(
            self.director, InheritedSockets(), self.control, 0, lambda file, pid: self.given.append((file, pid))
        )
        self.heir = HandoverConnection(self, log)
        self.heir.transport = self  # type: ignore[assignment]
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
        Deferred.fromCoroutine(self.giver.begin(self.heir, "1")).addBoth(self.began.append)

    def close(self) -> None:
        self.fails = lambda name: None
        self.director.end()
        self.director.stop()
        self.control.close()
        self.other.close()


@pytest.fixture
def daemon() -> Iterator[Given]:
    one = Given()
    yield one
    one.close()


STEPS = ("hand over: clients", "service s: hand over", "hand over: end", "hand over: edits")


@pytest.mark.parametrize("step", ["", *STEPS, *(f"{step}!" for step in STEPS)])
def test_a_fault_after_the_commit(daemon: Given, step: str) -> None:
    daemon.begin()
    daemon.edits.clear()
    daemon.edit(Set({"read_timeout": "7"}))
    assert daemon.edits == [], "edits wait"

    def fails(name: str) -> None:
        if name == step:
            raise Fault

    daemon.fails = fails
    daemon.giver.commit(daemon.heir, 1, "/run/pid")
    assert daemon.giver.is_over
    assert len(daemon.given) == (step != "hand over: end")
    if step not in ("hand over: clients", "service s: hand over"):
        assert not daemon.reactor.getReaders(), "it accepts nobody"
    assert len([line for line in daemon.lines if "internal error" in line]) == bool(step)
    if step == "hand over: edits":
        daemon.director.go_on()
    assert daemon.edits == ["done" if step == "hand over: clients" else "the daemon is ending"]


def test_a_fault_before_the_commit(daemon: Given) -> None:
    class Unreadable(InheritedSockets):
        @property
        def lasting(self) -> Any:
            raise Fault("broken")

    daemon.giver._sockets = Unreadable.__new__(Unreadable)
    daemon.begin()
    assert "broken" in str(daemon.began)
    daemon.edits.clear()
    daemon.edit(Set({"read_timeout": "7"}))
    assert daemon.edits == ["done"], "edits go on at once"
    daemon.giver._sockets = InheritedSockets()
    daemon.began.clear()
    daemon.begin()
    assert daemon.began[0]["sockets"] == 2, "and another may take over"
    daemon.giver.commit(daemon.heir, 1, "")
    assert daemon.given
