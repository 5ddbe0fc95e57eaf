"""Connections whose relay changes during their life, over real sockets and on both reactors: nothing is lost.

Tests set the wheel's ticks themselves.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reactors import ReactorThread, descriptors, flushed, settled
from servers import LOOPBACK, dial, free_port, read_all, read_exactly, reset, wait_for

from ktcpvs.director.director import Director
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.model.edits import EditService, StartService
from ktcpvs.model.language.parser import parse
from ktcpvs.relay import handover
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.engines import Relays
from ktcpvs.relay.handover import EARLY_CHECK_DELAY, MAX_ATTEMPTS
from ktcpvs.relay.splice import SpliceRelay
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.services.running import RunningService
from ktcpvs.system import bpf
from ktcpvs.system.log import NON_FATAL, EventLog

BULK = random.Random(1).randbytes(32_000_000)
"""More than the kernel's buffers hold."""

HEAD = b"GET /images/x HTTP/1.1\r\nHost: h\r\n\r\n"


class Spliced(Relays):
    """Relays of which `auto` splices. fails: how many times making one fails; asked: how many times one was
    requested."""

    fails = 0
    asked = 0
    engine = "splice"

    def in_use(self, wish: str, zerocopy: int, is_tcp: bool = True) -> tuple[str, str]:
        return ("copy", "") if wish == "copy" else (self.engine, "")

    def make(self, *arguments: Any) -> Any:
        self.asked += 1
        if self.fails:
            self.fails -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().make(*arguments)


class Switch:
    """A switch with one service in front of one server. said: lines of its log since the service serves."""

    def __init__(self, thread: ReactorThread, where: Any, *lines: str, listen: str | None = None) -> None:
        self.thread = thread
        self.said: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
        self.listener.bind(where)
        self.listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18
        )  # set explicitly, so that the kernel does not adjust it
        self.listener.listen(100)
        self.listener.settimeout(10)
        server = f"unix:{where}" if isinstance(where, str) else "{}:{}".format(*self.listener.getsockname())
        self.port = free_port()
        self.where: Any = (LOOPBACK, self.port) if listen is None else listen.removeprefix("unix:")
        self.text = f"Virtual s {{ listen = {listen or f'{LOOPBACK}:{self.port}'}\nserver = {server}\n"
        self.text += "\n".join((f'rule = pattern ".*" use server {server}', *lines)) + "\n}\n"
        self._stack = contextlib.ExitStack()
        thread.run(self._start)

    def _start(self) -> None:
        log = EventLog(NON_FATAL)
        log.event = lambda level, form, **values: self._note(level, form, values)  # type: ignore[method-assign]
        self.relays = Spliced(self.thread.reactor, 1000)
        self.context = Context(self.thread.reactor, log, Descriptors(1000), relays=self.relays)
        self.director = Director(self.context)
        self.configure()
        self.does(StartService("s"))
        (listener,) = self.live.listeners.values()
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # accepted sockets inherit it
        self.said.clear()

    def configure(self, settings: str = "relay_rate = 0") -> None:
        """Configure the switch; by default, every connection with traffic is handed over."""
        self.does(parse(f"global {{ {settings} }}\n{self.text}"))

    def _note(self, level: int, form: str, values: dict[str, Any]) -> None:
        if level <= NON_FATAL:
            self.said.append(form.format(**values))

    def does(self, edit: Any) -> None:
        failures: list[Any] = []
        self.director.submit(edit).addErrback(failures.append)
        for failure in failures:
            failure.raiseException()

    @property
    def live(self) -> RunningService:
        return self.director.services["s"]

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.thread.run(self.context.wheel.tick)

    def join(self) -> Joined:
        """Return a client that is joined to its server."""
        client = self._stack.enter_context(dial(self.where))
        return self.joined(client)

    def joined(self, client: socket.socket) -> Joined:
        known = set(self.live.connections)
        server, _ = self.listener.accept()
        self._stack.enter_context(server)
        server.settimeout(10)
        wait_for(lambda: any(one.relay is not None for one in set(self.live.connections)), "both to be joined")
        assert len(known) <= 1
        (connection,) = self.live.connections
        return Joined(self, connection, client, server)

    def close(self) -> None:
        self._stack.close()
        wait_for(lambda: not self.live.connections, "all connections to end")
        assert self.context.descriptors.used == 0
        self.thread.run(self.director.end)
        self.thread.run(self.director.stop)
        self.listener.close()


class Joined:
    """The sockets of a client and its server, and the connection between them."""

    def __init__(
        self, switch: Switch, connection: ClientConnection, client: socket.socket, server: socket.socket
    ) -> None:
        self.switch = switch
        self.connection = connection
        self.client = client
        self.server = server

    @property
    def is_spliced(self) -> bool:
        return isinstance(self.connection.relay, SpliceRelay)

    def is_handed_over(self) -> None:
        wait_for(lambda: self.is_spliced and self.connection.handover is None, "the engine to take over")

    def stays(self) -> None:
        """Check that the connection is copied, and will be until it ends."""
        wait_for(lambda: self.connection.handover is None, "all attempts to be over")
        assert isinstance(self.connection.relay, CopyRelay)

    def talk(self) -> None:
        """Send something in each direction."""
        for one, other, data in (self.client, self.server, b"question"), (self.server, self.client, b"answer"):
            one.sendall(data)
            assert read_exactly(other, len(data)) == data

    def fill(self) -> int:
        """Let the client send until nothing is accepted any more. Return the number of bytes."""
        relay: Any = self.connection.relay
        sent = still = 0
        self.client.setblocking(False)
        while still < 30:  # checks in which nothing has moved, and something waits to be sent
            before = sent, relay.inward.bytes
            with contextlib.suppress(BlockingIOError):
                sent += self.client.send(BULK[sent : sent + 100_000])
            waits = not self.switch.thread.run(flushed, relay.inward.target)
            if not waits or before != (sent, relay.inward.bytes):
                still = 0
            else:
                still += 1
                time.sleep(0.01)  # the kernel moves accepted bytes a little later
        self.client.settimeout(10)
        assert sent < len(BULK)
        return sent

    def moved(self) -> tuple[int, int]:
        moved: tuple[int, int] = self.switch.thread.run(self.connection.moved)
        return moved

    def is_held(self) -> bool:
        """Return whether neither side is read because something must be sent first."""
        waits = self.connection.handover
        return waits is not None and waits.is_flushing


@pytest.fixture(scope="module")
def thread(thread: ReactorThread) -> ReactorThread:
    first = Switch(thread, (LOOPBACK, 0), WLC)  # descriptors that the reactor opens once are not counted
    first.join().talk()
    first.close()
    return thread


Make = Callable[..., Switch]


@pytest.fixture
def make(thread: ReactorThread) -> Iterator[Make]:
    """Makes switches with a server for each, and checks that nothing is left of them."""
    thread.failures.clear()
    before = settled(thread)
    made: list[Switch] = []

    def new(*lines: str, where: Any = (LOOPBACK, 0), **others: Any) -> Switch:
        made.append(Switch(thread, where, *lines, **others))
        return made[-1]

    yield new
    for switch in made:
        switch.close()
    wait_for(lambda: descriptors() <= before, "all descriptors to be closed")
    assert thread.failures == []


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an attempt last until it succeeds or is ended."""
    monkeypatch.setattr(handover, "FLUSH_DELAYS", (0.005,) * 100_000)


WLC = "scheduler = wlc"


# When a hand-over happens.


def test_an_engine_asked_for_by_its_name_takes_over_at_once(make: Make) -> None:
    one = make(WLC, "relay = splice").join()
    one.is_handed_over()
    one.talk()
    assert one.moved() == (8, 6)


def test_auto_waits_until_it_is_worth_it(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    one.talk()
    switch.ticks(1)
    one.talk()
    assert not one.is_spliced
    switch.ticks(1)
    one.is_handed_over()
    one.talk()
    assert one.moved() == (24, 18)


def test_with_0_seconds_auto_does_not_wait(make: Make) -> None:
    switch = make(WLC)
    switch.thread.run(switch.does, parse("global { relay_after = 0 }\n" + switch.text))
    switch.join().is_handed_over()


def test_a_copying_relay_has_no_timer(make: Make) -> None:
    switch = make(WLC, "relay = copy")
    before = switch.context.wheel.pending
    one = switch.join()
    assert one.connection.handover is None
    assert switch.context.wheel.pending == before + 1  # the read timeout
    switch.ticks(5)
    one.talk()
    one.stays()
    assert switch.relays.asked == 0


def test_a_short_connection_leaves_no_timer(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    one.talk()
    assert one.connection.handover is not None
    one.client.close()
    assert read_all(one.server) == b""
    one.server.close()
    wait_for(lambda: not switch.live.connections)
    assert one.connection.handover is None
    assert switch.context.wheel.pending == 0
    switch.ticks(5)
    assert switch.relays.asked == 0


def test_one_whose_service_copies_by_now_stays_as_it_is(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    switch.thread.run(switch.does, EditService("s", {"relay": "copy"}))
    switch.ticks(2)
    one.stays()
    assert switch.relays.asked == 0


def test_one_that_is_ending_stays_as_it_is(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    one.client.shutdown(socket.SHUT_WR)
    assert read_all(one.server) == b""
    switch.ticks(2)
    one.stays()
    one.server.sendall(b"last words")
    one.server.close()
    assert read_all(one.client) == b"last words"
    assert switch.relays.asked == 0


# Data during a hand-over.


def test_a_head_stays_before_what_follows_it(make: Make) -> None:
    switch = make("scheduler = http", "relay = splice")
    with dial(switch.where) as client:
        client.sendall(HEAD[:10])
        client.sendall(HEAD[10:] + BULK[:100_000])
        one = switch.joined(client)
        assert read_exactly(one.server, len(HEAD) + 100_000) == HEAD + BULK[:100_000]
        one.is_handed_over()
        one.talk()
        assert one.moved() == (len(HEAD) + 100_000 + 8, 6)


def test_a_server_that_speaks_first(make: Make) -> None:
    switch = make(WLC, "relay = splice")
    with dial(switch.where) as client:
        server, _ = switch.listener.accept()
        with server:
            server.sendall(b"220 hello\r\n" + BULK[:500_000])
            assert read_exactly(client, 11 + 500_000) == b"220 hello\r\n" + BULK[:500_000]
            (connection,) = switch.live.connections
            wait_for(lambda: isinstance(connection.relay, SpliceRelay))


class Pouring:
    """Sends blocks until it is stopped, and then ends. Its peer, `into`, reads all of them in small pieces."""

    def __init__(self, sock: socket.socket, into: socket.socket, seed: int) -> None:
        self.goes_on = True
        self.sent = self.received = 0
        self._digests = hashlib.sha256(), hashlib.sha256()
        self._threads = [
            threading.Thread(target=self._send, args=(sock, random.Random(seed)), daemon=True),
            threading.Thread(target=self._receive, args=(into,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, sock: socket.socket, chance: random.Random) -> None:
        while self.goes_on:
            start = chance.randrange(1_000_000)
            block = BULK[start : start + int(2 ** chance.uniform(0, 18))]
            sock.sendall(block)
            self._digests[0].update(block)
            self.sent += len(block)
        sock.shutdown(socket.SHUT_WR)

    def _receive(self, sock: socket.socket) -> None:
        while block := sock.recv(200_000):
            self._digests[1].update(block)
            self.received += len(block)

    def ends(self) -> int:
        """Check that everything arrived as it was sent. Return the number of bytes."""
        self.goes_on = False
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        assert self._digests[0].digest() == self._digests[1].digest()
        assert self.sent == self.received
        return self.sent


def test_bulk_in_both_directions_passes_unharmed(make: Make) -> None:
    switch = make(WLC)
    switch.thread.run(switch.does, parse("global { relay_after = 0 }\n" + switch.text))
    for seed in range(10):
        with dial(switch.where) as client:
            one = switch.joined(client)
            inward, outward = Pouring(client, one.server, seed), Pouring(one.server, client, -seed)

            def is_over(one: Joined = one) -> bool:
                switch.ticks(1)
                return one.connection.handover is None

            wait_for(is_over, "an engine to take over, or all attempts to be over")
            before = inward.received, outward.received
            goal = [count + 1_000_000 for count in before]
            wait_for(lambda: inward.received > goal[0] and outward.received > goal[1])  # noqa: B023
            total = inward.ends(), outward.ends()
            wait_for(lambda: not switch.live.connections)
        assert (switch.live.traffic.counters.ended_in, switch.live.traffic.counters.ended_out) == total
        switch.live.traffic.counters.ended_in = switch.live.traffic.counters.ended_out = 0
    assert switch.relays.asked > 0


def only_bulk(switch: Switch) -> None:
    """Configure the defaults: only bulk is handed over."""
    switch.thread.run(switch.configure, "")


def test_what_is_not_bulk_is_copied_for_ever(make: Make) -> None:
    """Without a large read, there is no hand-over that could have a timer."""
    switch = make(WLC)
    only_bulk(switch)
    one = switch.join()
    for _ in range(5):
        one.talk()
        switch.ticks(2)
    assert isinstance(one.connection.relay, CopyRelay)
    assert switch.relays.asked == 0
    waits = one.connection.handover
    if one.connection.client.reports_bulk:
        assert waits is None
    else:
        assert waits is not None
        assert waits.is_scheduled


def test_bulk_is_handed_over_when_its_time_has_come(make: Make) -> None:
    switch = make(WLC)
    only_bulk(switch)
    one = switch.join()
    one.talk()
    switch.ticks(3)
    sending = Pouring(one.server, one.client, 1)
    wait_for(lambda: sending.received > 80_000_000 or one.is_spliced)
    switch.ticks(1)
    one.is_handed_over()
    sending.ends()


def test_bulk_is_seen_before_its_time_has_come(make: Make) -> None:
    """Transports on uvloop report large reads."""
    switch = make(WLC)
    only_bulk(switch)
    one = switch.join()
    relay = one.connection.relay
    pouring = Pouring(one.server, one.client, 1)
    early = one.connection.client.reports_bulk
    if early:
        one.is_handed_over()
    else:
        wait_for(lambda: pouring.received > 100_000_000)
        assert one.connection.relay is relay
    pouring.ends()
    assert switch.live.traffic.relay.joined == {"copy": not early, "splice": early, "kernel": 0}


def test_a_lot_at_once_is_not_yet_bulk(make: Make) -> None:
    switch = make(WLC)
    only_bulk(switch)
    one = switch.join()
    relay = one.connection.relay
    for _ in range(3):
        one.server.sendall(BULK[:300_000])
        assert read_exactly(one.client, 300_000) == BULK[:300_000]
        time.sleep(2 * EARLY_CHECK_DELAY)
    assert one.connection.relay is relay


@pytest.mark.parametrize("relay", ["copy", "splice", "kernel"])
@pytest.mark.parametrize("read_timeout", [0, 4])
def test_a_client_that_never_reads_is_reset_after_both_have_ended(make: Make, relay: str, read_timeout: int) -> None:
    if relay == "kernel" and bpf.available() is not None:
        pytest.skip(str(bpf.available()))
    switch = make(WLC, f"relay = {relay}")
    switch.relays.engine = relay
    settings = f"linger_timeout = 1 keepalive_timeout = 4 read_timeout = {read_timeout} relay_window = 64"
    switch.thread.run(switch.configure, settings)
    with dial(switch.where) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one = switch.joined(client)
        wait_for(lambda: one.connection.handover is None, "the engine to take over")
        sending = threading.Thread(target=one.server.sendall, args=(BULK[:200_000],), daemon=True)
        sending.start()
        sending.join(10)
        one.server.shutdown(socket.SHUT_WR)
        client.shutdown(socket.SHUT_WR)
        assert read_all(one.server) == b""
        for _ in range(30):
            switch.ticks(1)
            if not switch.live.connections:
                break
            time.sleep(0.05)
        wait_for(lambda: not switch.live.connections, "the connection to end")


# Peers with unsent data.


@pytest.mark.usefixtures("patient")
def test_what_is_buffered_goes_out_first(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    sent = one.fill()
    switch.ticks(2)
    wait_for(one.is_held)
    one.server.sendall(b"back")  # not read for now
    assert not one.is_spliced
    assert read_exactly(one.server, sent) == BULK[:sent]
    one.is_handed_over()
    assert read_exactly(one.client, 4) == b"back"
    one.talk()
    assert one.moved() == (sent + 8, 4 + 6)


def test_a_peer_that_does_not_read_is_copied_as_before(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    sent = one.fill()
    waits = one.connection.handover
    assert waits is not None
    for attempt in range(1, MAX_ATTEMPTS + 1):
        switch.ticks(2)
        wait_for(lambda: waits.attempts == attempt and not one.is_held())  # noqa: B023
        one.server.sendall(b"meanwhile")
        assert read_exactly(one.client, 9) == b"meanwhile"
    one.stays()
    assert switch.relays.asked == 0
    assert read_exactly(one.server, sent) == BULK[:sent]
    inward = Pouring(one.client, one.server, 7)
    assert inward.ends() == one.moved()[0] - sent
    assert one.moved()[1] == 9 * MAX_ATTEMPTS


def test_a_later_attempt_succeeds(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    sent = one.fill()
    waits = one.connection.handover
    switch.ticks(2)
    wait_for(lambda: waits is not None and waits.attempts == 1 and not one.is_held())
    assert read_exactly(one.server, sent) == BULK[:sent]
    one.talk()
    assert not one.is_spliced
    switch.ticks(2)
    one.is_handed_over()
    one.talk()
    assert one.moved() == (sent + 16, 12)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("end", "ending"), [("server", "reset"), ("expired", "drain timeout")])
def test_it_may_end_while_it_waits(make: Make, end: str, ending: str) -> None:
    switch = make(WLC)
    one = switch.join()
    one.fill()
    switch.ticks(2)
    wait_for(one.is_held)
    if end == "expired":
        switch.thread.run(one.connection.expire)
    else:
        reset(one.server)
    wait_for(lambda: not switch.live.connections)
    assert one.connection.handover is None
    assert one.connection.ending == ending
    assert switch.relays.asked == 0


@pytest.mark.usefixtures("patient")
def test_a_client_that_resets_while_it_is_not_read_is_heard_of_when_it_is(make: Make) -> None:
    switch = make(WLC)
    one = switch.join()
    sent = one.fill()
    switch.ticks(2)
    wait_for(one.is_held)
    reset(one.client)
    data = bytearray()

    def read_on() -> None:
        while block := one.server.recv(1 << 20):
            data.extend(block)

    with pytest.raises(ConnectionResetError):
        read_on()
    assert BULK[:sent].startswith(data)  # data that the switch had not read is lost
    wait_for(lambda: not switch.live.connections)
    assert one.connection.ending in ("client gone", "reset")


# Without an engine.


def test_without_descriptors_it_is_copied_and_that_is_said_once(make: Make) -> None:
    switch = make(WLC, "relay = splice")
    switch.relays.fails = 1
    one = switch.join()
    one.stays()
    switch.ticks(5)
    one.talk()
    assert one.moved() == (8, 6)
    assert switch.relays.asked == 1
    host, port = one.client.getsockname()
    assert switch.said == [f"service s: {host}:{port} is not relayed by splice: {os.strerror(errno.EMFILE)}"]


@pytest.mark.usefixtures("patient")
def test_without_descriptors_after_a_wait_it_is_read_again(make: Make) -> None:
    switch = make(WLC)
    switch.relays.fails = 1
    one = switch.join()
    sent = one.fill()
    switch.ticks(2)
    wait_for(one.is_held)
    assert read_exactly(one.server, sent) == BULK[:sent]
    one.stays()
    one.talk()
    assert one.fill() > 0  # and a full peer still pauses the other side
    assert len(switch.said) == 1


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_unix_socket_is_nothing_for_the_kernel(make: Make, tmp_path: Path, side: str) -> None:
    path = str(tmp_path / "socket")
    switch = make(WLC, listen=f"unix:{path}") if side == "client" else make(WLC, where=path)
    switch.relays.engine = "kernel"
    switch.thread.run(switch.live.apply_settings)
    one = switch.join()
    switch.ticks(2)
    one.stays()
    one.talk()
    assert switch.relays.asked == 0


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_unix_socket_is_spliced(make: Make, tmp_path: Path, side: str) -> None:
    path = str(tmp_path / "socket")
    switch = make(WLC, listen=f"unix:{path}") if side == "client" else make(WLC, where=path)
    one = switch.join()
    switch.ticks(2)
    one.is_handed_over()
    one.talk()


# Actions of the owner after a hand-over.


def test_it_ends_as_any_other(make: Make) -> None:
    switch = make(WLC, "relay = splice")
    one = switch.join()
    one.is_handed_over()
    one.client.sendall(b"question")
    one.client.shutdown(socket.SHUT_WR)
    assert read_all(one.server) == b"question"
    one.server.sendall(b"answer")
    one.server.close()
    assert read_all(one.client) == b"answer"
    wait_for(lambda: not switch.live.connections)
    assert one.connection.ending == "both directions ended"
    assert (switch.live.traffic.counters.ended_in, switch.live.traffic.counters.ended_out) == (8, 6)


def test_the_read_timeout_sees_what_the_engine_relays(make: Make) -> None:
    switch = make(WLC, "relay = splice")
    switch.thread.run(switch.does, parse("global { read_timeout = 5 }\n" + switch.text))
    one = switch.join()
    one.is_handed_over()
    for _ in range(4):
        switch.ticks(4)
        one.talk()
    assert one.connection in switch.live.connections
    switch.ticks(12)
    wait_for(lambda: not switch.live.connections)
    assert one.connection.ending == "read timeout"


def test_it_drains_and_is_ended(make: Make) -> None:
    switch = make(WLC, "relay = splice")
    one = switch.join()
    one.is_handed_over()
    switch.thread.run(switch.live.stop)
    one.talk()
    switch.thread.run(switch.live.end_all)
    wait_for(lambda: not switch.live.connections)
    with pytest.raises(ConnectionResetError):
        read_all(one.client)
