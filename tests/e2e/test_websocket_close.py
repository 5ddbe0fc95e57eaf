"""Real WebSocket programs: their server drains, and they connect to another one."""

from __future__ import annotations

import contextlib
import threading

import pytest
from servers import wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from .chat import Chat, dial_websocket
from .harness import Daemon
from .one_service import ident_of, start, with_workers

pytestmark = pytest.mark.e2e

SECONDS = "websocket_close_timeout = 20"


def read_all(client: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        for _ in client:
            pass


def ended_with(client: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        client.recv(timeout=20)
    return client.close_code


@with_workers
def test_a_server_is_deployed(
    daemon: Daemon, chats: tuple[Chat, Chat], stack: contextlib.ExitStack, workers: int
) -> None:
    """The clients of one server are told to connect again, and come to the other one; --wait sees the first empty."""
    a, b = chats
    port = start(daemon, f"server = {a.address}", f"server = {b.address}", SECONDS)
    clients = [stack.enter_context(dial_websocket(port)) for _ in range(4)]
    names = [client.recv(timeout=20) for client in clients]
    leaving = [client for client, name in zip(clients, names, strict=True) if name == "a"]
    staying = [client for client, name in zip(clients, names, strict=True) if name == "b"]
    assert leaving
    assert staying
    drained = threading.Thread(target=lambda: daemon.adm("--drain", "-r", a.address, "-i", ident_of(port), "--wait"))
    drained.start()
    for client in leaving:
        assert ended_with(client) == 1012
        with dial_websocket(port) as again:
            assert again.recv(timeout=20) == "b"
    drained.join(30)
    assert not drained.is_alive()
    wait_for(lambda: a.codes == [1012] * len(leaving))
    for client in staying:
        client.send("x")
        assert client.recv(timeout=20) == "x"


def test_large_messages_are_whole(daemon: Daemon, chats: tuple[Chat, Chat]) -> None:
    """A client that sends all the time loses no message that was on its way to the server."""
    a, b = chats
    port = start(daemon, f"server = {a.address}", f"server = {b.address} 0", SECONDS)
    sent = 0
    with dial_websocket(port) as client:
        assert client.recv(timeout=20) == "a"
        reader = threading.Thread(target=read_all, args=(client,))
        reader.start()
        with contextlib.suppress(ConnectionClosed):
            while True:
                client.send(bytes(100_000))
                sent += 1
                if sent == 20:
                    daemon.adm("--drain", "-r", a.address, "-i", ident_of(port))
        reader.join(30)
        assert client.close_code == 1012
    wait_for(lambda: a.codes == [1012])
    assert all(message == bytes(100_000) for message in a.received)
    assert len(a.received) >= sent - 1  # the last send may have failed


def test_a_daemon_that_ends(new_daemon: Daemon, chats: tuple[Chat, Chat]) -> None:
    port = start(new_daemon, f"server = {chats[0].address}", SECONDS)
    with dial_websocket(port) as client:
        assert client.recv(timeout=20) == "a"
        new_daemon.set(unload=1)
        assert ended_with(client) == 1012
    assert new_daemon.wait() == 0
