"""The choice of a relay for a service by what the machine supports, and the life of its resources."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from memory import World
from reactors import Lines, ReactorThread, descriptors, settled
from servers import free_address, wait_for
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.dispatch.service_context import RelayChoice
from ktcpvs.errors import BadValue
from ktcpvs.inspect.views import Views
from ktcpvs.model.edits import Edit, EditService, Load, StartService
from ktcpvs.model.language.parser import parse
from ktcpvs.model.service import RELAYS
from ktcpvs.relay import splice
from ktcpvs.relay.engines import Relays
from ktcpvs.relay.splice import SpliceRelay
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.system.log import EventLog
from ktcpvs.system.timer_wheel import TimerWheel

RIGHTS = "needs CAP_BPF and CAP_NET_ADMIN"
NO_SPLICE = "this Python or its system has no splice(2) or no epoll(7)"


def relays(kernel: str | None = None, splice: str | None = None) -> Relays:
    """The relays of a machine. kernel, splice: the reason why it does not support that engine; None: it does."""
    return Relays(MemoryReactorClock(), 1000, lambda: kernel, lambda: splice)


# Selection.


def test_where_all_relays_are_supported_each_service_gets_its_own() -> None:
    every = relays()
    used = {wish: every.in_use(wish, 1) for wish in RELAYS}
    assert used == {"auto": ("splice", ""), "kernel": ("kernel", ""), "splice": ("splice", ""), "copy": ("copy", "")}
    assert [every.refusal(wish) for wish in RELAYS] == [None, None, None, None]


def test_what_is_not_possible_has_its_reason() -> None:
    none = relays(RIGHTS, NO_SPLICE)
    assert none.in_use("kernel", 1) == ("copy", f"kernel: {RIGHTS}")
    assert none.in_use("auto", 1) == none.in_use("splice", 1) == ("copy", f"splice: {NO_SPLICE}")
    assert none.in_use("copy", 1) == ("copy", "")
    assert [none.refusal(wish) for wish in RELAYS] == [None, RIGHTS, NO_SPLICE, None]


def test_auto_never_takes_the_kernel() -> None:
    """`auto` must never be slower than copying, but the kernel relay is slower for small messages on busy cores."""
    assert relays().in_use("auto", 1) == ("splice", "")
    assert relays(splice=NO_SPLICE).in_use("auto", 1) == ("copy", f"splice: {NO_SPLICE}")


def test_zerocopy_send_switches_auto_alone() -> None:
    every = relays()
    assert every.in_use("auto", 0) == ("copy", "zerocopy_send = 0")
    assert every.in_use("kernel", 0) == ("kernel", "")
    assert every.in_use("splice", 0) == ("splice", "")


def test_the_kernel_is_for_tcp_only() -> None:
    every = relays()
    assert every.in_use("kernel", 1, is_tcp=False) == ("copy", "kernel: not TCP")
    assert every.in_use("auto", 1, is_tcp=False) == every.in_use("splice", 1, is_tcp=False) == ("splice", "")


def test_support_is_tried_once_and_only_when_it_is_needed() -> None:
    tried: list[str] = []

    def kernel() -> str:
        tried.append("kernel")
        return RIGHTS

    some = Relays(MemoryReactorClock(), 1000, kernel, lambda: tried.append("splice"))
    some.in_use("copy", 1)
    some.in_use("auto", 0)
    assert tried == []
    for _ in range(3):
        some.in_use("auto", 1)
        some.refusal("kernel")
        some.in_use("splice", 1)
    assert tried == ["splice", "kernel"]


def test_support_is_tried_again_where_there_were_no_descriptors() -> None:
    outcomes: list[OSError | None] = [OSError(errno.EMFILE, "Too many open files"), None]

    def find() -> str | None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return None

    some = Relays(MemoryReactorClock(), 1000, lambda: None, find)
    assert some.in_use("auto", 1) == ("copy", "splice: Too many open files")
    assert some.in_use("auto", 1) == ("splice", "")


def test_splice_cannot_be_tried_without_descriptors() -> None:
    """Also where there are some, but not as many as the trial needs."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 64, before[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(4):  # a pipe and two sockets
            with pytest.raises(OSError, match="Too many open files"):
                splice.available()
            os.close(taken.pop())
        assert splice.available() is None
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_connections_are_counted_for_every_relay() -> None:
    assert set(RelayChoice().joined) == set(RELAYS) - {"auto"}


# Resources.


@pytest.mark.parametrize("name", ["auto", "copy", "other"])
def test_what_is_no_engine_cannot_be_made(name: str) -> None:
    nobody: Any = None
    with pytest.raises(ValueError, match=name):
        relays().make(name, nobody, nobody, nobody, lambda: None)


def test_what_relays_share_is_made_when_the_first_is_and_given_back(thread: ReactorThread, tmp_path: Path) -> None:
    lines = Lines(thread, "accepted", socket.AF_INET, tmp_path)
    (inner, _), (outer, _) = lines.line(), lines.line()
    wheel = TimerWheel(thread.reactor, lambda: None)
    before = settled(thread)
    some: Relays = thread.run(Relays, thread.reactor, 1000)
    assert descriptors() == before
    try:

        def make() -> list[object]:
            return [some.make("splice", inner.stream, outer.stream, wheel, lambda: None) for _ in range(3)]

        made = thread.run(make)
        assert [type(one) for one in made] == [SpliceRelay] * 3
        assert descriptors() == before + 1  # the epoll instance; pipes are made with the first bytes
    finally:
        thread.run(some.close)
        thread.run(some.close)
        lines.close()
    del made
    gc.collect()
    wait_for(lambda: descriptors() < before, "all descriptors to be closed")


# The director.


def load_edit(*lines: str, settings: str = "") -> Load:
    text = "\n".join(lines)
    edit: Load = parse(f"global {{ {settings} }}\nVirtual web {{\nserver = 10.0.0.1:80\n{text}\n}}\n")
    return edit


class Machine:
    """A director on a machine with or without the kernel relay. said: lines of the log."""

    def __init__(self, kernel: str | None) -> None:
        self.log = EventLog()
        self.context = Context(MemoryReactorClock(), self.log, Descriptors(1000), relays=relays(kernel))
        self.director = Director(self.context)

    def does(self, edit: Edit) -> None:
        """Carry the edit out, or raise its refusal."""
        self._awaits(self.director.submit(edit))

    def begins_with(self, *edits: Edit) -> None:
        """Carry out edits that restore a table from before."""
        self._awaits(self.director.load_initial(edits, is_strict=False))

    def _awaits(self, done: Deferred[Any]) -> None:
        failures: list[object] = []
        done.addErrback(failures.append)
        for failure in failures:
            failure.raiseException()  # type: ignore[attr-defined]

    def load(self, *lines: str, settings: str = "") -> None:
        self.does(load_edit(*lines, settings=settings))

    def stats(self) -> object:
        return Views(self.director).view("stats", "web")["services"][0]["stats"]["relay"]

    def close(self) -> None:
        self.director.end()


@pytest.fixture
def poor() -> Iterator[Machine]:
    machine = Machine(RIGHTS)
    yield machine
    machine.close()


@pytest.fixture
def rich() -> Iterator[Machine]:
    machine = Machine(None)
    yield machine
    machine.close()


def test_a_relay_that_the_machine_has_not_is_refused_and_nothing_is_changed(poor: Machine) -> None:
    poor.load("relay = auto")
    before = poor.director.table
    why = rf"^service web: relay = kernel: {RIGHTS}; relay = auto takes what there is$"
    with pytest.raises(BadValue, match=why):
        poor.does(EditService("web", {"relay": "kernel"}))
    with pytest.raises(BadValue, match=why):
        poor.load("relay = kernel")
    assert poor.director.table is before
    poor.does(EditService("web", {"relay": "splice"}))
    assert poor.director.table.services["web"].relay == "splice"


def test_the_kernel_is_refused_for_a_unix_socket(rich: Machine, tmp_path: Path) -> None:
    why = r"^service web: relay = kernel: not TCP; relay = auto takes what there is$"
    with pytest.raises(BadValue, match=why):
        rich.load(f"listen = unix:{tmp_path}/socket", "relay = kernel")
    rich.load("listen = 127.0.0.1:81", "relay = kernel")
    with pytest.raises(BadValue, match=why):
        rich.does(EditService("web", {"listen": parse_unix(tmp_path)}))
    rich.load(f"listen = unix:{tmp_path}/socket", "relay = splice")


def parse_unix(folder: Path) -> object:
    return parse(f"Virtual web {{ listen = unix:{folder}/socket }}").services["web"].address


def test_other_edits_of_a_service_whose_relay_went_away_are_taken(poor: Machine) -> None:
    poor.begins_with(load_edit("relay = kernel"))
    poor.does(EditService("web", {"maxclients": 5}))
    assert poor.director.table.services["web"].relay == "kernel"
    with pytest.raises(BadValue):
        poor.does(EditService("web", {"listen": parse("Virtual web { listen = h:1 }").services["web"].listen}))


@pytest.mark.parametrize(
    ("lines", "settings", "relay"),
    [
        ((), "", ("splice", "")),
        (("relay = kernel",), "", ("kernel", "")),
        (("relay = copy",), "", ("copy", "")),
        (("relay = splice",), "zerocopy_send = 0", ("splice", "")),
        ((), "zerocopy_send = 0", ("copy", "zerocopy_send = 0")),
        (("listen = unix:FOLDER/socket",), "", ("splice", "")),
        (("relay = kernel", "server = unix:FOLDER/server"), "", ("kernel", "")),
    ],
)
def test_stats_say_which_relay_serves(
    rich: Machine, tmp_path: Path, lines: tuple[str, ...], settings: str, relay: tuple[str, str]
) -> None:
    if not any(line.startswith("listen") for line in lines):
        lines = (*lines, f"listen = {free_address()}")
    rich.load(*(line.replace("FOLDER", str(tmp_path)) for line in lines), settings=settings)
    assert rich.stats() is None
    rich.does(StartService("web"))
    assert rich.stats() == {"in_use": relay[0], "why": relay[1], "joined": NONE}


NONE = {"copy": 0, "splice": 0, "kernel": 0}


def test_servers_with_unix_sockets_only_leave_nothing_to_the_kernel(rich: Machine, tmp_path: Path) -> None:
    rich.does(parse(f"Virtual web {{ listen = {free_address()} relay = kernel server = unix:{tmp_path}/server }}"))
    rich.does(StartService("web"))
    assert rich.stats() == {"in_use": "copy", "why": "kernel: not TCP", "joined": NONE}


def test_a_setting_changes_what_serves_at_once(rich: Machine) -> None:
    rich.load(f"listen = {free_address()}", settings="zerocopy_send = 0 relay_after = 7")
    rich.does(StartService("web"))
    live = rich.director.services["web"]
    assert (live.traffic.relay.engine, live.traffic.relay.after) == ("copy", 7)
    rich.load(f"listen = {live.config.address}", settings="relay_after = 9")
    assert (live.traffic.relay.engine, live.traffic.relay.after) == ("splice", 9)
    rich.does(EditService("web", {"relay": "splice"}))
    assert (live.traffic.relay.engine, live.traffic.relay.after) == ("splice", 0)


def test_what_ran_before_copies_where_its_relay_went_away(poor: Machine) -> None:
    said: list[str] = []
    poor.context.log.warn = lambda form, **values: said.append(form.format(**values))  # type: ignore[method-assign]
    poor.begins_with(load_edit(f"listen = {free_address()}", "relay = kernel"), StartService("web"))
    poor.does(EditService("web", {"maxclients": 5}))
    assert poor.stats() == {"in_use": "copy", "why": f"kernel: {RIGHTS}", "joined": NONE}
    assert said == [f"service web copies: kernel: {RIGHTS}"]


def test_a_world_without_sockets_has_none_to_hand_over() -> None:
    """Transports in memory have no sockets, so bytes are copied whatever relay is configured."""
    world = World("scheduler = wlc", "server = 10.0.0.1:80", "relay = splice")
    client = world.client()
    server = world.accepts("10.0.0.1:80")
    world.passes(3)
    client.says(b"hello")
    assert server.heard() == b"hello"
    assert world.connection.handover is None
    client.resets()
    world.close()
