"""A commit cannot fail: if one of its steps raises, the edit is still in force and saved, and the next edit works."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import log_into
from servers import free_port
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.director.serving_processes import SingleProcess
from ktcpvs.health.active_checks import ActiveChecks
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.runtime.listening_sockets import ListeningSockets
from ktcpvs.system.steps import Steps

Take = Callable[..., Any]


class Fault(Exception):
    """The exception that tests make steps raise."""


class Opened(ListeningSockets):
    """opened: every socket that was ever opened."""

    def __init__(self) -> None:
        self.opened: list[socket.socket] = []

    def open(self, *arguments: Any) -> socket.socket:
        self.opened.append(super().open(*arguments))
        return self.opened[-1]


class Switch:
    """A director whose steps can be made to fail, with real listening sockets. steps: names of the steps taken."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.saved = Table()
        self.steps: list[str] = []
        self.refused: list[str] = []
        self.reactor = MemoryReactorClock()
        log = log_into(self.lines)
        self.sockets = Opened()
        steps = Steps(log, self.take)
        self.context = Context(self.reactor, log, Descriptors(100), sockets=self.sockets, steps=steps)
        self.fault: Callable[[str], None] = lambda name: None
        self.fault_after: Callable[[str], None] = lambda name: None
        self.processes = RecordingProcesses(self.context)
        self.director = Director(self.context, self._save, processes=self.processes)

    def take(self, name: str, call: Take, *arguments: Any) -> Any:
        self.steps.append(name)
        self.fault(name)
        result = call(*arguments)
        if inspect.iscoroutine(result):
            return self._awaited(name, result)
        self.fault_after(name)
        return result

    async def _awaited(self, name: str, result: Any) -> None:
        await result
        self.fault_after(name)

    async def _save(self, table: Table) -> None:
        await self.save(table)

    async def save(self, table: Table) -> None:
        self.saved = table

    def do(self, *orders: edits.Edit) -> None:
        for order in orders:
            self.director.submit(order).addErrback(lambda why: self.refused.append(why.getErrorMessage()))
        for _ in range(3):
            self.reactor.advance(0.5)  # listeners that retire

    def end(self) -> None:
        """End it, and leave nothing open."""
        self.fault = self.fault_after = lambda name: None
        self.director.end()
        self.director.stop()
        for sock in self.sockets.opened:
            sock.close()  # the step that closes it may not have been taken

    def checked(self) -> list[str]:
        assert isinstance(self.director.checks, ActiveChecks)
        return self.director.checks.services


class RecordingProcesses(SingleProcess):
    """The processes of a switch that has others. sent: what they were sent. replaced: how often all were replaced."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sent: list[str] = []
        self.replaced = 0

    def commands_for(self, edit: edits.Edit) -> str:
        return edit.name

    async def send(self, commands: str) -> None:
        self.sent.append(commands)

    def replace_all(self) -> None:
        self.replaced += 1


PORTS = [free_port() for _ in range(5)]


def configuration(number: int) -> edits.Load:
    """Two tables; from each to the other, services come and go, move, are checked and not, with other settings.

    No check, which nobody answers here, ends before the test: its result would be logged.
    """
    one, two, other, *three = PORTS
    service = (
        "Virtual {ident} {{ listen = 127.0.0.1:{port} scheduler = {scheduler} {more} server = 10.0.0.1:80 {servers} }}"
    )
    both = service.format(
        ident="both",
        port=one,
        scheduler="wlc",
        more=f"check = tcp check_timeout = 10 maxclients = {10 * number} access_log = /dev/null",
        servers=f"server = 10.0.0.{number + 1}:80",
    )
    moves = service.format(
        ident="moves", port=(two, other)[number - 1], scheduler="rr", more="", servers="server = 10.0.0.9:80"
    )
    comes = service.format(
        ident=f"only{number}", port=three[number - 1], scheduler="rr", more="check = tcp check_timeout = 10", servers=""
    )
    settings = f"global {{ max_backlog = {100 * number} relay_window = {1000 * number} }}"
    return parse("\n".join([settings, both, moves, comes]))


@pytest.fixture
def switch() -> Iterator[Switch]:
    one = Switch()
    one.do(configuration(1), edits.StartService())
    yield one
    one.end()


def change(switch: Switch) -> None:
    """The other table, all of it started."""
    switch.steps.clear()
    switch.processes.sent.clear()
    switch.do(configuration(2), edits.StartService())


def steps() -> list[str]:
    """All steps that this change takes."""
    switch = Switch()
    switch.do(configuration(1), edits.StartService())
    change(switch)
    taken = list(dict.fromkeys(switch.steps))
    switch.end()
    return taken


STEPS = steps()


def is_in_force(switch: Switch) -> bool:
    """True when the table is in force and saved, and no edit was refused."""
    wanted = configuration(2).apply(Table())
    return (
        switch.refused == []
        and switch.director.table.services == wanted.services
        and switch.director.expanded.services == wanted.services
        and switch.director.table.running == wanted.services.keys()
        and switch.context.settings == wanted.settings
        and switch.saved == switch.director.table
        and set(switch.director.services) == set(wanted.services)
    )


def runs(switch: Switch) -> bool:
    """True when everything that the table says is true of the running services."""
    services = switch.director.services
    listens = {name: listener.port for name, live in services.items() for listener in live.listeners.values()}
    servers = {name: sorted(map(str, live.destinations)) for name, live in switch.director.services.items()}
    return (
        listens == {"both": PORTS[0], "moves": PORTS[2], "only2": PORTS[4]}
        and servers["both"] == ["10.0.0.1:80", "10.0.0.3:80"]
        and {reader.socket.getsockname()[1] for reader in switch.reactor.getReaders()} == set(listens.values())
        and switch.checked() == ["both", "both", "only2"]
    )


def test_the_change_takes_every_kind_of_step() -> None:
    parts = (
        "stop",
        "change",
        "listen",
        "settings",
        "delete",
        "checks",
        "names",
        "other processes",
        "confirmation",
        "log",
    )
    assert [part for part in parts if not any(part in step for step in STEPS)] == []
    assert len(STEPS) > 30


def fault_in(step: str) -> Callable[[str], None]:
    """Return what raises Fault when it is called with the name of that step."""

    def fault(name: str) -> None:
        if name == step:
            raise Fault

    return fault


def test_without_a_fault(switch: Switch) -> None:
    change(switch)
    assert is_in_force(switch)
    assert runs(switch)
    assert switch.processes.sent == ["load-configfile", "start"]
    assert switch.lines[0] == "loaded: setting max_backlog: 2048 -> 100"
    assert all(line.startswith("loaded: ") for line in switch.lines)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_raises_at_its_end(switch: Switch, step: str) -> None:
    switch.fault_after = fault_in(step)
    change(switch)
    assert is_in_force(switch)
    assert runs(switch)
    assert f"internal error in the step '{step}'; the other steps follow" in switch.lines
    assert switch.processes.sent == ["load-configfile", "start"]
    assert (switch.processes.replaced > 0) == (step == "other processes")


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_raises_before_it_does_anything(switch: Switch, step: str) -> None:
    """All other steps are taken, and the next edit is carried out."""
    switch.fault = fault_in(step)
    change(switch)
    assert is_in_force(switch)
    assert f"internal error in the step '{step}'; the other steps follow" in switch.lines
    if "service" not in step:
        assert set(STEPS) - set(switch.steps) == set()
    assert switch.processes.sent == ([] if step == "other processes" else ["load-configfile", "start"])
    assert (switch.processes.replaced > 0) == (step == "other processes")
    switch.fault = lambda name: None
    switch.do(edits.EditServer("both", parse_address("10.0.0.1:80"), 7), edits.StopService("moves"))
    assert switch.refused == []
    (weighed,) = [one for one in switch.director.services["both"].usable if str(one.address) == "10.0.0.1:80"]
    assert weighed.weight == 7
    assert switch.saved == switch.director.table


@pytest.mark.parametrize("where", ["commands", "save"])
def test_a_fault_before_the_commit_refuses_the_edit_and_changes_nothing(switch: Switch, where: str) -> None:
    def broken(*arguments: Any) -> Any:
        raise Fault("broken")

    before, saved, readers = switch.director.table, switch.saved, list(switch.reactor.getReaders())
    if where == "save":
        switch.save = broken  # type: ignore[method-assign]
    else:
        switch.processes.commands_for = broken  # type: ignore[method-assign]
    switch.do(configuration(2))
    assert switch.refused == ["broken"]
    assert (switch.director.table, switch.saved, list(switch.reactor.getReaders())) == (before, saved, readers)
