"""All relays behave alike, and count every byte.

After each test no connection is counted any more, and only descriptors that are kept for later connections are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_servers import WebSocketEcho
from overlap import takes_back
from servers import (
    LOOPBACK,
    SocketServer,
    Where,
    dial,
    digest_at_end,
    echo,
    ending,
    free_port,
    read_all,
    read_exactly,
    reset,
    speak_first,
    wait_for,
)
from websockets.asyncio.client import connect

from ktcpvs.errors import BadValue
from ktcpvs.model.service import RELAYS

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

BULK = random.Random(8).randbytes(20_000_000)

WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin", "--inh-caps=-bpf,-net_admin,-sys_admin")
"""Runs a program of root without the capabilities of the kernel relay."""

Serve = Callable[..., SocketServer]


@pytest.fixture(params=["uvloop", "epoll"])
def reactor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=RELAYS)
def relay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Relayed:
    """Starts services whose option relay is `relay`."""

    def __init__(self, daemon: Daemon, serve: Serve, relay: str) -> None:
        self.daemon = daemon
        self._serve = serve
        self._relay = relay
        self.services = 0

    def __call__(self, what: Callable[[socket.socket], object], **options: str) -> Where:
        """Start a service with a SocketServer that does `what`; return the service's address."""
        self.services += 1
        port = free_port()
        server = self._serve(what).address
        self.daemon.service(f"service{self.services}", port, server, relay=self._relay, **options)
        return LOOPBACK, port

    def counted(self) -> tuple[int, int]:
        """Bytes from clients and to clients, as the first service and its server count them."""
        service = self.daemon.stats("service1")
        stats, server = service["stats"], service["servers"][0]["stats"]
        assert (stats["bytes_in"], stats["bytes_out"]) == (server["bytes_in"], server["bytes_out"])
        return stats["bytes_in"], stats["bytes_out"]


@pytest.fixture
def relayed(daemon: Daemon, serve: Serve, relay: str) -> Iterator[Relayed]:
    daemon.call("settings")  # our own control connection is counted
    before = daemon.descriptors()
    relayed = Relayed(daemon, serve, relay)
    yield relayed
    daemon.wait_until_empty()
    wait_for(lambda: daemon.descriptors() <= before + relayed.services, "all descriptors to be closed")


def test_a_client_that_has_ended_gets_the_response(relayed: Relayed) -> None:
    where = relayed(digest_at_end)
    for size in (0, 1, 3_000_000):
        with dial(where) as client:
            client.sendall(BULK[:size])
            client.shutdown(socket.SHUT_WR)
            assert read_all(client).decode() == hashlib.sha256(BULK[:size]).hexdigest()
    relayed.daemon.wait_until_empty()
    assert relayed.counted() == (3_000_001, 3 * 64)


def test_a_server_that_has_ended_gets_what_the_client_sends(relayed: Relayed) -> None:
    heard: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"my last words")
        sock.shutdown(socket.SHUT_WR)
        heard.append(read_all(sock))

    with dial(relayed(serve)) as client:
        assert read_all(client) == b"my last words"
        client.sendall(BULK[:3_000_000])
        client.shutdown(socket.SHUT_WR)
        wait_for(lambda: heard)
    assert heard == [BULK[:3_000_000]]


def test_a_server_may_send_first(relayed: Relayed) -> None:
    with dial(relayed(speak_first(b"220 hello\r\n"))) as client:
        assert read_exactly(client, 11) == b"220 hello\r\n"
        client.sendall(b"and back")
        assert read_exactly(client, 8) == b"and back"


def test_20_million_bytes_each_way_at_once(relayed: Relayed) -> None:
    heard: list[str] = []

    def both(sock: socket.socket) -> None:
        sending = threading.Thread(target=send, args=(sock,))
        sending.start()
        heard.append(hashlib.sha256(read_all(sock)).hexdigest())
        sending.join(20)

    def send(sock: socket.socket) -> None:
        sock.sendall(BULK[::-1])
        sock.shutdown(socket.SHUT_WR)

    def ask() -> None:
        client.sendall(BULK)
        client.shutdown(socket.SHUT_WR)

    with dial(relayed(both)) as client:
        asking = threading.Thread(target=ask)
        asking.start()
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(BULK[::-1]).digest()
        asking.join(20)
        wait_for(lambda: heard)
    assert heard == [hashlib.sha256(BULK).hexdigest()]
    relayed.daemon.wait_until_empty()
    assert relayed.counted() == (len(BULK), len(BULK))


def test_bytes_pass_while_an_engine_takes_over(relayed: Relayed) -> None:
    """Bytes go both ways before, while and after an engine takes over, which for `auto` is after `relay_after`."""
    relayed.daemon.set(relay_rate=0, relay_after=1)
    with dial(relayed(echo)) as client:
        sent = turn = 0
        taken_over_at = None
        began = time.monotonic()
        while taken_over_at is None or turn < taken_over_at + 1000:
            block = BULK[turn : turn + 1 + 31 * (turn % 1000)]
            client.sendall(block)
            assert read_exactly(client, len(block)) == block
            sent += len(block)
            turn += 1
            if turn % 50 == 0 and taken_over_at is None:
                relay = relayed.daemon.stats("service1")["stats"]["relay"]
                if relay["joined"][relay["in_use"]]:
                    taken_over_at = turn
                assert time.monotonic() - began < TIMEOUT, relay
                time.sleep(0.02)  # until the switch looks, other tests need the processor
        wait_for(lambda: relayed.counted() == (sent, sent))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may repair connections")
def test_retransmitted_bytes_are_relayed_once(relayed: Relayed) -> None:
    """The sender repeats some bytes in packets that are cut differently."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(dial(relayed(echo)))
        for again in (0, 1, 5, 9):
            client = stack.enter_context(takes_back(client, again))
            client.sendall(b"0123456789"[10 - again :] + b"0123456789")
            assert read_exactly(client, 10) == b"0123456789"
            client.sendall(b"0123456789" * 1000)
            assert read_exactly(client, 10_000) == b"0123456789" * 1000
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    relayed.daemon.wait_until_empty()
    assert relayed.counted() == (40_040, 40_040)


def test_an_urgent_byte_keeps_its_place(relayed: Relayed) -> None:
    heard: list[bytes] = []
    with dial(relayed(lambda sock: heard.append(read_all(sock)))) as client:
        for number in range(5):
            client.sendall(b"a%d" % number)
            client.send(b"!", socket.MSG_OOB)
        client.shutdown(socket.SHUT_WR)
        wait_for(lambda: heard)
    assert heard == [b"a0!a1!a2!a3!a4!"]


def test_a_reset_of_the_client_reaches_the_server(relayed: Relayed) -> None:
    ends: list[str] = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"x")
        try:
            read_all(sock)
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    with dial(relayed(serve)) as client:
        assert client.recv(1) == b"x"
        reset(client)
        wait_for(lambda: ends)
    assert ends == ["reset"]


def test_a_reset_of_the_server_reaches_the_client_after_what_it_sent(relayed: Relayed) -> None:
    gone = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"w" * 50_000)
        gone.wait(10)
        reset(sock)

    with dial(relayed(serve)) as client:
        assert read_exactly(client, 50_000) == b"w" * 50_000
        gone.set()
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_reset_after_an_end_is_still_a_reset(relayed: Relayed) -> None:
    """The client has ended; a reset of the server must not become a FIN."""

    def serve(sock: socket.socket) -> None:
        read_all(sock)
        reset(sock)

    with dial(relayed(serve)) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_the_access_log_counts_every_byte(relayed: Relayed, tmp_path: Path) -> None:
    log = tmp_path / "log"
    where = relayed(digest_at_end, access_log=str(log), access_log_format="json")
    with dial(where) as client:
        client.sendall(BULK[:1_234_567])
        client.shutdown(socket.SHUT_WR)
        read_all(client)
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    told = json.loads(log.read_text())
    assert (told["bytes_in"], told["bytes_out"]) == (1_234_567, 64)
    relayed.daemon.call("edit_service", "service1", access_log="off")  # its file is closed


def test_open_connections_are_listed(relayed: Relayed) -> None:
    with dial(relayed(echo)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        (shown,) = relayed.daemon.connections()
        assert (shown["state"], shown["bytes_in"], shown["bytes_out"]) == ("relaying", 5, 5)


def test_read_timeout_closes_only_idle_connections(relayed: Relayed) -> None:
    relayed.daemon.set(read_timeout=1)
    where = relayed(echo)
    with dial(where) as idle, dial(where) as busy:
        idle.settimeout(0.1)
        while True:
            busy.sendall(b"x")
            assert busy.recv(1) == b"x"
            with contextlib.suppress(TimeoutError):
                assert ending(idle)
                break
        busy.sendall(b"still here")
        assert read_exactly(busy, 10) == b"still here"


def test_a_connection_drains_when_its_service_stops(relayed: Relayed) -> None:
    with dial(relayed(echo)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        relayed.daemon.set(drain_timeout=60)
        relayed.daemon.call("stop")
        client.sendall(BULK[:100_000])
        assert read_exactly(client, 100_000) == BULK[:100_000]
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


def test_a_connection_that_does_not_drain_is_reset(relayed: Relayed) -> None:
    with dial(relayed(echo)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        relayed.daemon.set(drain_timeout=0)
        relayed.daemon.call("stop")
        with pytest.raises(ConnectionResetError):
            read_all(client)


async def converse(address: str) -> None:
    """Send short messages in turns, then 10 MiB of long ones while they come back.

    Only the short ones are compressed by the WebSocket: both ends would take most of the test's time for the others.
    """
    async with connect(address) as websocket:
        for turn in range(40):
            await websocket.send(b"%d " % turn + b"x" * turn)
            assert await websocket.recv() == b"%d " % turn + b"x" * turn
    async with connect(address, max_size=None, compression=None) as websocket:
        blocks = [os.urandom(1 << 18) for _ in range(40)]

        async def send() -> None:
            for block in blocks:
                await websocket.send(block)

        sending = asyncio.ensure_future(send())
        for block in blocks:
            assert await websocket.recv() == block
        await sending


@pytest.fixture(scope="module")
def websocket_echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSocketEcho]:
    server = WebSocketEcho(tmp_path_factory.mktemp("websocket"))
    yield server
    server.stop()


def test_a_websocket_after_its_upgrade(daemon: Daemon, websocket_echo: WebSocketEcho, relay: str) -> None:
    daemon.set(relay_after=0)
    port = free_port()
    rules = ((".*", websocket_echo.address),)
    daemon.service("chat", port, websocket_echo.address, scheduler="phttp", relay=relay, rules=rules)
    asyncio.run(asyncio.wait_for(converse(f"ws://{LOOPBACK}:{port}/chat"), TIMEOUT))
    daemon.wait_until_empty()
    stats = daemon.stats("chat")["stats"]
    assert min(stats["bytes_in"], stats["bytes_out"]) > 40 << 18


# Listings.

NO_CONNECTIONS = {"copy": 0, "splice": 0, "kernel": 0}


def test_stats_name_the_relay_in_use(daemon: Daemon, serve: Serve) -> None:
    server = serve(echo).address
    for relay in ("copy", "splice"):
        daemon.service(relay, free_port(), server, relay=relay)
        assert daemon.stats(relay)["stats"]["relay"] == {"in_use": relay, "why": "", "joined": NO_CONNECTIONS}
    daemon.service("off", free_port(), server)
    daemon.set(zerocopy_send=0)
    refused = {"in_use": "copy", "why": "zerocopy_send = 0", "joined": NO_CONNECTIONS}
    assert daemon.stats("off")["stats"]["relay"] == refused
    shown = daemon.adm("--stats").stdout.splitlines()
    lines = [line for line in shown if line.startswith("  relay ")]
    assert lines == ["  relay copy", "  relay copy (zerocopy_send = 0)", "  relay splice"] or lines == [
        "  relay copy",
        "  relay splice",
        "  relay copy (zerocopy_send = 0)",
    ]


def test_the_option_relay_is_listed_and_saved_when_it_is_set(daemon: Daemon, serve: Serve) -> None:
    server = serve(echo).address
    daemon.service("web", free_port(), server)
    assert "relay" not in daemon.adm("--list").stdout
    daemon.adm("-E", "-i", "web", "relay=splice")
    assert "    relay = splice\n" in daemon.adm("--list").stdout
    assert "    relay = splice\n" in daemon.adm("--save").stdout


def test_splice_uses_pipes(daemon: Daemon, serve: Serve) -> None:
    """Some of them stay open for later connections."""

    def pipes() -> int:
        folder = f"/proc/{daemon.pid}/fd"
        return sum(os.readlink(f"{folder}/{name}").startswith("pipe:") for name in os.listdir(folder))

    port = free_port()
    daemon.service("s", port, serve(digest_at_end).address, relay="splice")
    daemon.service("other", other := free_port(), serve(echo).address, relay="copy")
    with dial((LOOPBACK, other)) as client:
        client.sendall(b"x")
        client.recv(1)
    with dial((LOOPBACK, port)) as client:
        client.sendall(BULK)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).decode() == hashlib.sha256(BULK).hexdigest()
    assert pipes() >= 2


REFUSAL = "service web: relay = kernel: needs CAP_BPF and CAP_NET_ADMIN; relay = auto takes what there is"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give rights away")


@pytest.mark.starts
@as_root
@pytest.mark.parametrize("workers", [0, 2])
def test_a_daemon_without_the_rights_refuses_the_kernel(
    make_daemon: Callable[..., Daemon], serve: Serve, workers: int
) -> None:
    daemon = make_daemon(workers=workers)
    daemon.prefix(*WITHOUT_RIGHTS)
    daemon.start()
    port = free_port()
    daemon.service("web", port, serve(echo).address)
    with pytest.raises(BadValue, match=f"^{REFUSAL}$"):
        daemon.call("edit_service", "web", relay="kernel")
    refused = daemon.adm("-E", "-i", "web", "relay=kernel", check=False)
    assert (refused.returncode, refused.stderr) == (1, f"tcpvsadm: edit-service web: {REFUSAL}\n")
    relay = {"in_use": "splice", "why": "", "joined": NO_CONNECTIONS}
    wait_for(lambda: daemon.stats("web")["stats"]["relay"] == relay)
    assert "\n  relay splice\n" in daemon.adm("--stats").stdout
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"


@pytest.mark.starts
@as_root
def test_a_state_file_with_relay_kernel_is_loaded_without_the_rights(
    make_daemon: Callable[..., Daemon], serve: Serve, tmp_path: Path
) -> None:
    """The service runs with another relay, and the log says why."""
    daemon = make_daemon("--state", tmp_path / "state.json")
    daemon.prefix(*WITHOUT_RIGHTS)
    daemon.start()
    port = free_port()
    daemon.service("web", port, serve(echo).address, relay="splice")
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    state = tmp_path / "state.json"
    state.write_text(state.read_text().replace("relay = splice", "relay = kernel"))
    daemon.start()
    assert daemon.stats("web")["relay"] == "kernel"
    assert daemon.stats("web")["stats"]["relay"]["in_use"] == "copy"
    daemon.wait_for_log("service web copies: kernel: needs CAP_BPF and CAP_NET_ADMIN")
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
