"""The director carries an edit out as a whole or not at all, and touches nothing that the edit does not change."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from servers import free_port
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, Busy, CannotListen, CannotSave, NoSuchScheduler, NoTLS, Refusal
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.model.tls import ServerTLS
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.listener import HANDSHAKE_POLL_INTERVAL
from ktcpvs.system.log import EventLog


class Switch:
    """A director with real listening sockets; everything else is a fake."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.saved: list[Table] = []
        self.disk_is_full = False
        self.before_save: Callable[[], Awaitable[None] | None] = lambda: None
        self.director = Director(Context(self.reactor, EventLog(), Descriptors(100)), self.save)

    async def save(self, table: Table) -> None:
        awaited = self.before_save()
        if awaited is not None:
            await awaited
        if self.disk_is_full:
            raise CannotSave("the disk is full")
        self.saved.append(table)

    def do(self, edit: edits.Edit) -> None:
        failures: list[Any] = []
        done = self.director.submit(edit).addErrback(failures.append)
        self.reactor.advance(HANDSHAKE_POLL_INTERVAL)  # a listener that is replaced makes its first check
        assert done.called
        for failure in failures:
            failure.raiseException()

    def load(self, text: str) -> None:
        self.do(parse(text))

    def listening(self) -> set[int]:
        return {reader.socket.getsockname()[1] for reader in self.reactor.getReaders()}

    def listener(self, ident: str) -> Any:
        return next(iter(self.director.services[ident].listeners.values()))


@pytest.fixture
def switch() -> Iterator[Switch]:
    one = Switch()
    yield one
    one.director.end()


def test_start_and_stop(switch: Switch) -> None:
    port = free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{port} }}")
    assert switch.listening() == set()
    switch.do(edits.StartService("a"))
    assert switch.listening() == {port}
    switch.do(edits.StartService("a"))
    switch.do(edits.StopService("a"))
    assert switch.listening() == set()
    assert switch.director.table.running == frozenset()


def test_a_port_that_is_taken_refuses_the_whole_edit(switch: Switch) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        taken, port = other.getsockname()[1], free_port()
        switch.load(f"Virtual a {{ listen = 127.0.0.1:{port} }} Virtual b {{ listen = 127.0.0.1:{taken} }}")
        before = switch.director.table
        with pytest.raises(CannotListen, match=f"127.0.0.1:{taken}: this daemon listens there already"):
            switch.do(edits.StartService())
        assert switch.director.table is before
        assert switch.listening() == set()
        with contextlib.closing(socket.create_server(("127.0.0.1", port))):
            pass  # what had been opened for `a` was given back


def test_an_unknown_scheduler_names_the_known_ones(switch: Switch) -> None:
    with pytest.raises(
        NoSuchScheduler, match="no scheduler 'zzz'; there are: chash, chttp, first, fo, hhttp, http, lc, "
    ):
        switch.do(edits.AddService("a", {"scheduler": "zzz"}))
    assert switch.director.table.services == {}


def test_balance_takes_only_schedulers_that_choose_per_connection(switch: Switch) -> None:
    with pytest.raises(
        BadValue, match="balance = http: it chooses per request; balance needs a scheduler that chooses per connection"
    ):
        switch.load("Virtual a { balance = http }")
    with pytest.raises(NoSuchScheduler, match="no scheduler 'nope'"):
        switch.load("Virtual a { balance = nope }")
    switch.load("Virtual a { balance = rr }")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("scheduler = wcl", "x.conf:3:17: service a: no scheduler 'wcl'; did you mean 'wlc'?"),
        (
            "scheduler = chash kee 3",
            "x.conf:3:17: service a: scheduler = chash kee 3: this scheduler has no option 'kee'",
        ),
        ("balance = nope", "x.conf:3:15: service a: no scheduler 'nope'"),
        ("balance = phttp", "x.conf:3:15: service a: balance = phttp: it chooses per request"),
        ("scheduler = wlc fallback = http", "x.conf:3:32: service a: fallback = http: it chooses per request"),
        ("rule = path / balance rrr use server [::1]:1", "x.conf:3:27: service a: no scheduler 'rrr'"),
        ("rule = path / balance http use server [::1]:1", "x.conf:3:27: service a: balance http of a rule: it chooses"),
    ],
)
def test_a_file_is_refused_with_the_place_of_the_scheduler(switch: Switch, line: str, why: str) -> None:
    text = f"Virtual b {{ scheduler = rr }}\nVirtual a {{\n    {line}\n    server = [::1]:1\n}}"
    with pytest.raises(Refusal) as refused:
        switch.do(parse(text, "x.conf"))
    assert str(refused.value).startswith(why)
    assert type(refused.value) is (NoSuchScheduler if "no scheduler" in why else BadValue)
    assert switch.director.table.services == {}


def test_an_edit_that_cannot_be_saved_is_not_carried_out(switch: Switch) -> None:
    port = free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{port} }}")
    switch.disk_is_full = True
    before = switch.director.table
    with pytest.raises(CannotSave):
        switch.do(edits.StartService("a"))
    assert switch.director.table is before
    assert switch.listening() == set()
    switch.disk_is_full = False
    switch.do(edits.StartService("a"))
    assert switch.saved[-1].running == {"a"}


def test_an_edit_that_changes_nothing_is_not_saved(switch: Switch) -> None:
    switch.load("Virtual a { }")
    saves = len(switch.saved)
    switch.do(edits.StopService())
    assert len(switch.saved) == saves


def test_load_does_not_touch_services_that_it_does_not_change(switch: Switch) -> None:
    a, b, c = free_port(), free_port(), free_port()
    text = "Virtual {0} {{ listen = 127.0.0.1:{1}\n server = 10.0.0.1:80 {2} }}\n"
    switch.load(text.format("same", a, 1) + text.format("changed", b, 1) + text.format("removed", c, 1))
    switch.do(edits.StartService())
    same, changed = switch.director.services["same"], switch.director.services["changed"]
    schedulers = same.selector.scheduler, changed.selector.scheduler
    listeners = [dict(one.listeners) for one in (same, changed)]
    switch.load(text.format("same", a, 1) + text.format("changed", b, 5) + text.format("new", free_port(), 1))
    assert switch.listening() == {a, b}
    assert [dict(one.listeners) for one in (same, changed)] == listeners
    assert same.selector.scheduler is schedulers[0]
    assert changed.selector.scheduler is not schedulers[1]
    assert [d.weight for d in changed.destinations.values()] == [5]
    assert "removed" not in switch.director.services
    assert switch.director.table.running == {"same", "changed"}


def test_listen_moves_to_another_port(switch: Switch) -> None:
    old, new = free_port(), free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{old} }}")
    switch.do(edits.StartService("a"))
    switch.do(edits.EditService("a", {"port": new}))
    assert switch.listening() == {new}


def test_listen_moves_on_its_own_port(switch: Switch) -> None:
    port = free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{port} }}")
    switch.do(edits.StartService("a"))
    first = switch.listener("a").socket
    switch.do(edits.EditService("a", {"listen": parse_address("0.0.0.0")}))
    assert first.fileno() == -1
    assert switch.listener("a").socket.getsockname() == ("0.0.0.0", port)
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))


def test_two_services_swap_their_ports_in_one_load(switch: Switch) -> None:
    one, two = free_port(), free_port()
    text = "Virtual a {{ listen = 127.0.0.1:{} }} Virtual b {{ listen = 127.0.0.1:{} }}"
    switch.load(text.format(one, two))
    switch.do(edits.StartService())
    switch.load(text.format(two, one))
    assert switch.listener("a").socket.getsockname()[1] == two
    assert switch.listener("b").socket.getsockname()[1] == one


def test_a_listener_is_added_and_removed_beside_the_others(switch: Switch) -> None:
    one, two, three = free_port(), free_port(), free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{one} listen = 127.0.0.1:{two} }}")
    switch.do(edits.StartService("a"))
    live = switch.director.services["a"]
    assert switch.listening() == {one, two}
    first, second = live.listeners.values()
    switch.do(edits.AddListener("a", parse_address(f"127.0.0.1:{three}")))
    assert switch.listening() == {one, two, three}
    assert list(live.listeners.values())[:2] == [first, second]
    switch.do(edits.DeleteListener("a", parse_address(f"127.0.0.1:{one}")))
    assert switch.listening() == {two, three}
    assert (first.closed, second.closed) == (True, False)
    assert [str(address) for address in live.listeners] == [f"127.0.0.1:{two}", f"127.0.0.1:{three}"]
    switch.do(edits.StopService("a"))
    assert switch.listening() == set()


def test_one_of_several_listeners_moves_on_its_own_port(switch: Switch) -> None:
    one, two = free_port(), free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{one} listen = 127.0.0.1:{two} }}")
    switch.do(edits.StartService("a"))
    live = switch.director.services["a"]
    kept, moved = live.listeners.values()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{one} listen = 0.0.0.0:{two} }}")
    assert [listener.socket.getsockname() for listener in live.listeners.values()] == [
        ("127.0.0.1", one),
        ("0.0.0.0", two),
    ]
    assert (kept.closed, moved.closed) == (False, True)
    assert next(iter(live.listeners.values())) is kept


def test_an_added_listener_that_cannot_listen_changes_nothing(switch: Switch) -> None:
    one, two = free_port(), free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{one} }}")
    switch.do(edits.StartService("a"))
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        text = f"Virtual a {{ listen = 127.0.0.1:{two} listen = 127.0.0.1:{other.getsockname()[1]} }}"
        with pytest.raises(CannotListen):
            switch.load(text)
    assert switch.listening() == {one}
    with contextlib.closing(socket.create_server(("127.0.0.1", two))):
        pass  # what had been opened was given back


def test_a_file_that_cannot_be_used_refuses_the_edit(switch: Switch) -> None:
    line = "server = 10.0.0.1:443 1 tls"
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{free_port()} {line} ca /nowhere.pem }}")
    with pytest.raises(NoTLS, match=r"^service a: server = 10\.0\.0\.1:443: ca /nowhere\.pem: No such file"):
        switch.do(edits.StartService("a"))
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{free_port()} {line} }}")
    switch.do(edits.StartService("a"))
    table = switch.director.table
    with pytest.raises(NoTLS, match="missing name"):
        switch.do(edits.AddServer("a", parse_address("unix:/run/app.sock"), 1, 0, {"tls": ServerTLS()}))
    assert switch.director.table is table


def test_an_edit_that_cannot_listen_leaves_the_old_listener(switch: Switch) -> None:
    port = free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{port} }}")
    switch.do(edits.StartService("a"))
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other, pytest.raises(CannotListen):
        switch.do(edits.EditService("a", {"port": other.getsockname()[1]}))
    assert switch.listening() == {port}
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port))


def test_a_unix_socket_comes_and_goes_with_its_service(switch: Switch, tmp_path: Path) -> None:
    path = tmp_path / "s"
    switch.load(f"Virtual a {{ listen = unix:{path} }}")
    switch.do(edits.StartService("a"))
    assert path.is_socket()
    switch.do(edits.StopService("a"))
    assert not path.exists()


def test_settings_are_in_force_at_once(switch: Switch) -> None:
    switch.do(edits.Set({"debug_level": "5", "read_timeout": "9"}))
    assert switch.director.context.log.level == 5
    assert switch.director.context.settings.read_timeout == 9


def test_no_edit_is_taken_while_the_daemon_ends(switch: Switch) -> None:
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{free_port()} }}")
    switch.do(edits.StartService())
    switch.director.end()
    assert switch.listening() == set()
    with pytest.raises(Busy, match="the daemon is ending"):
        switch.do(edits.Flush())
    assert switch.director.table.running == {"a"}


def test_edits_wait_for_each_other(switch: Switch) -> None:
    """While one is being saved, the next does not begin."""
    from twisted.internet.defer import Deferred

    gates: list[Deferred[None]] = []

    async def wait() -> None:
        gates.append(Deferred())
        await gates[-1]

    switch.before_save = wait
    done: list[str] = []
    for name in ("a", "b"):
        switch.director.submit(edits.AddService(name)).addCallback(lambda _, name=name: done.append(name))
    assert len(gates) == 1
    assert done == []
    gates[0].callback(None)
    assert done == ["a"]
    gates[1].callback(None)
    assert done == ["a", "b"]
    assert list(switch.director.table.services) == ["a", "b"]


def test_a_scheduler_that_cannot_be_bound_refuses_the_edit(switch: Switch) -> None:
    class Picky:
        name, unit = "picky", "CONNECTION"

        def bind(self, service: Any, previous: Any) -> Any:
            if len(service.destinations) > 1:
                raise Refusal("one server is all I can do")
            return self

        def choose(self, request: Any) -> None:
            return None

    switch.director.schedulers().known["picky"] = Picky()
    switch.do(edits.AddService("a", {"scheduler": "picky", "listen": parse_address(f"127.0.0.1:{free_port()}")}))
    switch.do(edits.AddServer("a", parse_address("10.0.0.1:80")))
    switch.do(edits.StartService("a"))
    with pytest.raises(Refusal, match="one server is all I can do"):
        switch.do(edits.AddServer("a", parse_address("10.0.0.2:80")))
    assert len(switch.director.table.service("a").servers) == 1


@pytest.mark.parametrize("start", edits.STARTS)
def test_services_started_by_a_load_on_trial_stop_when_it_is_undone(switch: Switch, start: str) -> None:
    old, idle, new = free_port(), free_port(), free_port()
    before = f"Virtual old {{ listen = 127.0.0.1:{old} }} Virtual idle {{ listen = 127.0.0.1:{idle} }}"
    switch.load(before)
    switch.do(edits.StartService("old"))
    text = f"{before} Virtual new {{ listen = 127.0.0.1:{new} }}"
    switch.do(evolve(parse(text), start=start, confirm=5))
    assert switch.listening() == {"nothing": {old}, "new": {old, new}, "all": {old, idle, new}}[start]
    switch.reactor.advance(5)
    assert switch.listening() == {old}
    assert list(switch.director.table.services) == ["old", "idle"]
    assert switch.director.table.running == {"old"}


# The secret of cookies.


def use_cookie_secret(switch: Switch, secret: bytes) -> None:
    done = switch.director.between_edits(lambda: switch.director.cookie_secret.use(secret))
    switch.reactor.advance(HANDSHAKE_POLL_INTERVAL)
    assert done.called
    failures: list[Any] = []
    done.addErrback(failures.append)
    for failure in failures:
        failure.raiseException()


def cookie_names(switch: Switch, ident: str) -> set[bytes]:
    return set(switch.director.services[ident].traffic.selector.scheduler._named)


def test_services_sign_cookies_with_another_secret_and_go_on(switch: Switch) -> None:
    port = free_port()
    switch.load(f"Virtual a {{ listen = 127.0.0.1:{port} scheduler = chttp server = 127.0.0.1:81 }}")
    switch.do(edits.StartService("a"))
    before, listener = cookie_names(switch, "a"), switch.listener("a")
    use_cookie_secret(switch, b"s" * 32)
    after = cookie_names(switch, "a")
    assert after.isdisjoint(before)
    assert switch.listener("a") is listener
    assert switch.listening() == {port}
    switch.do(edits.Set({"cookie_key": "of-the-settings"}))
    keyed = cookie_names(switch, "a")
    assert keyed.isdisjoint(after)
    use_cookie_secret(switch, b"t" * 32)
    assert cookie_names(switch, "a") == keyed
    use_cookie_secret(switch, b"s" * 32)
    switch.do(edits.Set({"cookie_key": ""}))
    assert cookie_names(switch, "a") == after
