"""The relay over real sockets: bytes, FINs, resets and back-pressure pass from one side to the other.

After each test no connection is counted any more, and no descriptor is left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import (
    LOOPBACK,
    SocketServer,
    Where,
    chunks,
    dial,
    digest_at_end,
    echo,
    ending,
    free_port,
    read_all,
    read_exactly,
    reset,
    sink,
    wait_for,
    written,
)

from .harness import PROMPT, Daemon

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]


@pytest.fixture(params=["uvloop", "epoll"])
def reactor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def relayed(daemon: Daemon, serve: Serve) -> Iterator[Callable[..., Where]]:
    """relayed(what): start a service with a SocketServer that does `what`; the service's address."""
    daemon.call("settings")  # our own control connection is counted
    before = daemon.descriptors()
    services = 0

    def relay(what: Callable[[socket.socket], object]) -> Where:
        nonlocal services
        services += 1
        port = free_port()
        daemon.service(f"service{services}", port, serve(what).address)
        return LOOPBACK, port

    yield relay
    daemon.wait_until_empty()
    wait_for(lambda: daemon.descriptors() <= before + services, "all descriptors to be closed")


def test_a_client_that_has_ended_gets_the_response(relayed: Callable[..., Where]) -> None:
    data = random.Random(1).randbytes(3_000_000)
    for size in (0, 1, len(data)):
        with dial(relayed(digest_at_end)) as client:
            client.sendall(data[:size])
            client.shutdown(socket.SHUT_WR)
            assert read_all(client).decode() == hashlib.sha256(data[:size]).hexdigest()


def test_a_server_that_has_ended_gets_what_the_client_sends(relayed: Callable[..., Where]) -> None:
    heard: list[str] = []

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"my last words")
        sock.shutdown(socket.SHUT_WR)
        heard.append(hashlib.sha256(read_all(sock)).hexdigest())

    data = random.Random(2).randbytes(3_000_000)
    with dial(relayed(serve)) as client:
        assert read_all(client) == b"my last words"
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        wait_for(lambda: heard)
    assert heard == [hashlib.sha256(data).hexdigest()]


def test_a_close_of_the_server_reaches_the_client(relayed: Callable[..., Where]) -> None:
    with dial(relayed(lambda sock: sock.sendall(b"bye"))) as client:
        assert read_all(client) == b"bye"


def test_a_reset_of_the_server_reaches_the_client(relayed: Callable[..., Where]) -> None:
    def serve(sock: socket.socket) -> None:
        read_exactly(sock, 5)
        reset(sock)

    with dial(relayed(serve)) as client:
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_200_connections_at_once_get_their_own_bytes_back(daemon: Daemon, relayed: Callable[..., Where]) -> None:
    where = relayed(echo)
    chance = random.Random(3)

    async def converse(seed: int) -> None:
        chance = random.Random(seed)
        data = chance.randbytes(int(2 ** chance.uniform(0, 18)))
        reader, writer = await asyncio.open_connection(*where)
        try:

            async def send() -> None:
                start = 0
                while start < len(data):
                    size = int(2 ** chance.uniform(0, 17))
                    writer.write(data[start : start + size])
                    await writer.drain()
                    start += size
                writer.write_eof()

            received = hashlib.sha256()
            sending = asyncio.ensure_future(send())
            while block := await reader.read(int(2 ** chance.uniform(3, 17))):
                received.update(block)
            await sending
            assert received.digest() == hashlib.sha256(data).digest()
        finally:
            writer.close()

    async def all_at_once() -> None:
        await asyncio.wait_for(asyncio.gather(*(converse(chance.randrange(1 << 32)) for _ in range(200))), 60)

    asyncio.run(all_at_once())
    stats = daemon.stats("service1")
    assert stats["stats"]["total"] == 200
    wait_for(lambda: daemon.active("service1") == 0)
    stats = daemon.stats("service1")
    assert stats["stats"]["bytes_in"] == stats["stats"]["bytes_out"] == stats["servers"][0]["stats"]["bytes_in"] > 0


KINDS = ("IPv4", "IPv6", "unix")


@pytest.mark.parametrize("client_kind", KINDS)
def test_all_kinds_of_addresses(daemon: Daemon, serve: Serve, tmp_path: Path, client_kind: str) -> None:
    def where(kind: str, name: str) -> Where:
        hosts = {"IPv4": LOOPBACK, "IPv6": "::1"}
        return (hosts[kind], free_port(hosts[kind])) if kind in hosts else str(tmp_path / name)

    data = random.Random(4).randbytes(500_000)
    for server_kind in KINDS:
        listen = where(client_kind, f"{server_kind}-listen")
        daemon.service(server_kind, written(listen), serve(digest_at_end, where(server_kind, "server")).address)
        with dial(listen) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client).decode() == hashlib.sha256(data).hexdigest()
        for _ in range(3):
            with dial(listen) as client:
                client.sendall(b"x")
        daemon.wait_until_empty()
        daemon.call("stop", server_kind)
        with pytest.raises(OSError, match=r"refused|No such file"):
            dial(listen)


def test_a_server_by_name(daemon: Daemon, serve: Serve) -> None:
    server, port = serve(echo), free_port()
    daemon.service("s", port, f"localhost:{server.port}")
    with dial((LOOPBACK, port)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
    daemon.wait_until_empty()


SLOW_CLIENTS = 20
MOST_MEMORY = 256 * 1024
MOST_BUFFERED = 24 << 20  # what the kernel's buffers on the way may hold for one connection


@pytest.mark.parametrize("zerocopy", [0, 1], ids=["copied", "auto"])
def test_a_slow_reader_holds_the_sender_back(daemon: Daemon, relayed: Callable[..., Where], zerocopy: int) -> None:
    """Servers send without end, clients read 1 MB/s: what waits is in the kernel and not in the switch."""
    sent: dict[int, int] = {}
    block = b"s" * 65536

    def pour(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        while True:
            sent[id(sock)] = sent.get(id(sock), 0) + sock.send(block)

    daemon.set(zerocopy_send=zerocopy, relay_after=0)
    where = relayed(pour)
    with dial(where) as first:  # what the first connection costs once is not counted
        read_exactly(first, 50_000_000)
    wait_for(lambda: not daemon.connections())
    sent.clear()
    before = daemon.memory()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(dial(where)) for _ in range(SLOW_CLIENTS)]
        read = 0
        began = time.monotonic()
        while (passed := time.monotonic() - began) < 2:
            while read < passed * 1_000_000 * SLOW_CLIENTS:
                for client in clients:
                    read += len(client.recv(32768))
            time.sleep(0.01)
        growth = daemon.memory() - before
        held = (sum(sent.values()) - read) / SLOW_CLIENTS
        assert growth / SLOW_CLIENTS < MOST_MEMORY
        assert held < MOST_BUFFERED
        seen = sum(sent.values())

        def senders_go_on() -> bool:
            """Read on: the kernel wants a third of its buffer free before it takes more."""
            return sum(len(client.recv(1 << 20)) for client in clients) > 0 and sum(sent.values()) > seen

        wait_for(senders_go_on, "the senders to go on")
    wait_for(lambda: not daemon.connections())


def test_a_server_that_does_not_read_holds_the_client_back(daemon: Daemon, relayed: Callable[..., Where]) -> None:
    go_on = threading.Event()
    heard: list[str] = []

    def serve(sock: socket.socket) -> None:
        go_on.wait(20)
        heard.append(hashlib.sha256(read_all(sock)).hexdigest())

    digest = hashlib.sha256()
    block = random.Random(5).randbytes(1 << 16)
    before = daemon.memory()
    with dial(relayed(serve)) as client:
        client.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 1 << 28:
                size = client.send(block)
                digest.update(block[:size])
                sent += size
        assert sent < MOST_BUFFERED
        assert daemon.memory() - before < 4 << 20
        go_on.set()
        client.settimeout(10)
        client.sendall(block)
        digest.update(block)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert heard == [digest.hexdigest()]


def test_read_timeout_closes_idle_connections(daemon: Daemon, relayed: Callable[..., Where]) -> None:
    daemon.set(read_timeout=1)
    where = relayed(echo)
    began = time.monotonic()
    with dial(where) as idle, dial(where) as busy:
        idle.settimeout(0.1)
        while True:
            busy.sendall(b"x")
            assert busy.recv(1) == b"x"
            with contextlib.suppress(TimeoutError):
                assert ending(idle)
                break
            assert time.monotonic() - began < PROMPT
        assert time.monotonic() - began >= 1
        busy.sendall(b"still here")
        assert read_exactly(busy, 10) == b"still here"


def test_a_new_read_timeout_applies_to_open_connections(daemon: Daemon, relayed: Callable[..., Where]) -> None:
    where = relayed(echo)
    with dial(where) as one, dial(where) as other:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        daemon.set(read_timeout=1)
        began = time.monotonic()
        assert ending(one)
        assert ending(other)
        assert time.monotonic() - began < PROMPT
    daemon.set(read_timeout=0)
    with dial(where) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"


def test_open_connections_are_listed(daemon: Daemon, relayed: Callable[..., Where]) -> None:
    with dial(relayed(echo)) as client:
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        (shown,) = daemon.connections()
        host, port = client.getsockname()
        assert shown["client"] == f"{host}:{port}"
        assert shown["state"] == "relaying"
        assert (shown["bytes_in"], shown["bytes_out"]) == (5, 5)
        assert daemon.stats("service1")["servers"][0]["stats"]["active"] == 1


def test_connections_that_end_at_random_moments_leave_nothing(daemon: Daemon, relayed: Callable[..., Where]) -> None:
    """FINs and resets of both sides, mixed at random."""
    chance = random.Random(6)

    def moody(sock: socket.socket) -> None:
        for data in chunks(sock):
            mood = data[0] % 4
            if mood == 0:
                reset(sock)
                return
            if mood == 1:
                return
            sock.sendall(data)
            if mood == 2:
                sock.shutdown(socket.SHUT_WR)
                sink(sock)
                return

    where = relayed(moody)
    waiting: list[Any] = []
    for _ in range(300):
        client = dial(where)
        with contextlib.suppress(OSError):
            client.sendall(chance.randbytes(chance.choice((1, 10, 100_000))))
        waiting.append(client)
        if chance.random() < 0.3:
            client = waiting.pop(chance.randrange(len(waiting)))
            if chance.random() < 0.5:
                reset(client)
            client.close()
    for client in waiting:
        client.close()
    daemon.wait_until_empty()
    assert daemon.stats("service1")["stats"]["total"] > 200  # one that was reset before its accept does not count


def test_resets_while_bytes_wait_in_both_directions(daemon: Daemon, relayed: Callable[..., Where]) -> None:

    def pour_and_sink(sock: socket.socket) -> None:
        pouring = threading.Thread(target=pour, args=(sock,))
        pouring.start()
        try:
            sink(sock)
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            pouring.join(10)

    def pour(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(b"p" * 65536)

    where = relayed(pour_and_sink)
    chance = random.Random(7)
    for _ in range(10):
        clients = [dial(where) for _ in range(10)]
        for client in clients:
            client.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                while chance.random() < 0.95:
                    client.sendall(b"c" * chance.choice((100, 100_000)))
            reset(client)
    daemon.wait_until_empty()
