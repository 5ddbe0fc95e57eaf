"""After a scale-out, real WebSocket clients come to the new server, and no request fails meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from http2_client import HTTP2Client
from servers import LOOPBACK, Nginx, SocketServer, dial, echo, wait_for
from websockets.exceptions import ConnectionClosed

from .chat import Chat, dial_websocket
from .harness import Daemon
from .one_service import edit, ident_of, start, with_workers

pytestmark = [pytest.mark.e2e, pytest.mark.together]

SECONDS = "websocket_close_timeout = 20"
COUNT = 12


class Member:
    """A client that connects again when it is told so. names, places: the servers and the own ports that it has
    had. codes: of Close frames."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.names: list[str] = []
        self.codes: list[int | None] = []
        self.failures: list[Exception] = []
        self.places: list[int] = []
        self._is_leaving = False
        self._has_come = threading.Event()
        self.thread = threading.Thread(target=self._stay)
        self.thread.start()
        assert self._has_come.wait(30)

    def _stay(self) -> None:
        try:
            while not self._is_leaving:
                with dial_websocket(self._port) as self._socket:
                    self.names.append(str(self._socket.recv(timeout=20)))
                    self.places.append(self._socket.local_address[1])
                    self._has_come.set()
                    with contextlib.suppress(ConnectionClosed):
                        self._socket.recv()
                    if not self._is_leaving:
                        self.codes.append(self._socket.close_code)
        except Exception as failure:
            self.failures.append(failure)

    def leave(self) -> None:
        self._is_leaving = True
        self._socket.close()
        self.thread.join(30)


class Visitor:
    """Requests pages over one HTTP/2 connection all the time. statuses: of the responses."""

    def __init__(self, port: int) -> None:
        self.statuses: list[int] = []
        self.failures: list[Exception] = []
        self._is_leaving = False
        self.thread = threading.Thread(target=lambda: asyncio.run(self._visit(port)))
        self.thread.start()

    async def _visit(self, port: int) -> None:
        try:
            client = await HTTP2Client.connect(port)
            while not self._is_leaving:
                self.statuses.append((await client.request("GET", "/page/")).status)
                await asyncio.sleep(0.005)
            await client.close()
        except Exception as failure:
            self.failures.append(failure)

    def leave(self) -> None:
        self._is_leaving = True
        self.thread.join(30)


def sockets_of(daemon: Daemon) -> list[dict[str, Any]]:
    return [one for one in daemon.call("connections") if one["state"] == "relaying"]


def lines(page: str, *servers: Chat) -> list[str]:
    names = " ".join(f"server {one.address}" for one in servers)
    pages = "rule = name pages path /page/ use server " + page
    return [f"server = {page}", *(f"server = {one.address}" for one in servers), pages, f"rule = pattern . use {names}"]


@with_workers
def test_loads_level_out(
    daemon: Daemon, chats: tuple[Chat, Chat], web: list[Nginx], stack: contextlib.ExitStack, workers: int
) -> None:
    a, b = chats
    page = web[0].address
    port = start(daemon, *lines(page, a), SECONDS, "http2 = on")
    visitor = Visitor(port)
    stack.callback(visitor.leave)
    members: list[Member] = []
    for number in range(COUNT):
        if number == COUNT // 2:
            wait_for(lambda: min(one["age"] for one in sockets_of(daemon)) >= 2, "the first half to be older")
        members.append(Member(port))
        stack.callback(members[-1].leave)
    place_of = {one["client"]: (one.get("worker"), one["age"] < 2) for one in sockets_of(daemon)}
    edit(daemon, port, *lines(page, a, b), SECONDS, "http2 = on")
    done = daemon.adm("--rebalance", "100%", "-i", ident_of(port), "--wait").stdout.splitlines()
    assert done[0] == f"{ident_of(port)}: {COUNT // 2} connections move now"
    assert done[-1] == "all have moved"
    wait_for(lambda: sum(len(member.names) for member in members) == COUNT + COUNT // 2)
    moved = [bool(member.codes) for member in members]
    assert [code for member in members for code in member.codes] == [1012] * (COUNT // 2)
    assert [member.names for member in members] == [["a", "b"] if has_moved else ["a"] for has_moved in moved]
    places = [place_of[f"{LOOPBACK}:{member.places[0]}"] for member in members]
    for worker in {worker for worker, _ in places}:
        found = [(is_new, not has_moved) for (at, is_new), has_moved in zip(places, moved, strict=True) if at == worker]
        assert [stays for _, stays in sorted(found)] == sorted(stays for _, stays in found), "the newest stay"
    again = daemon.adm("--rebalance", "100%", "-i", ident_of(port)).stdout
    assert again == f"{ident_of(port)}: nothing to move: no server has more than its share\n"
    visitor.leave()
    assert not visitor.failures
    assert set(visitor.statuses) == {200}
    assert not any(member.failures for member in members)


@with_workers
def test_tcp_connections_are_reset_on_request(
    daemon: Daemon, serve: Callable[..., SocketServer], stack: contextlib.ExitStack, workers: int
) -> None:
    a, b = serve(echo), serve(echo)
    port = start(daemon, f"server = {a.address}", scheduler="wlc")
    clients = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(4)]
    for client in clients:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    edit(daemon, port, f"server = {a.address}", f"server = {b.address}", scheduler="wlc")
    command = ("--rebalance", "50", "-i", ident_of(port))
    shown = a.address
    assert daemon.adm(*command).stdout == (
        f"{ident_of(port)}: nothing to move\n{shown}: 4 connections, 2 above its share; 4 can only be reset (--reset)\n"
    )
    daemon.forget_log()
    assert daemon.adm(*command, "--reset").stdout.splitlines()[0] == f"{ident_of(port)}: 2 connections move now"
    wait_for(lambda: len(daemon.call("connections")) == 2, "the connections to be reset")
    assert "user 0 rebalances service" in daemon.log()
    found = json.loads(daemon.adm(*command, "--json").stdout)
    assert sorted(row["over"] for row in found["servers"]) == [0, 1]


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("0%", "-i", "s"), 2, "rebalance '0%': expected 1% to 100% of a server's connections"),
        (("101%", "-i", "s"), 2, "rebalance '101%': expected 1% to 100% of a server's connections"),
        (("all", "-i", "s"), 2, "rebalance 'all': expected 1% to 100% of a server's connections"),
        (("20%",), 2, "You need to supply the 'ident' option for the 'rebalance' command"),
        (("20%", "-i", "none"), 1, "rebalance none: no service none"),
        (("20%", "-i", "s", "--all-nodes"), 1, "rebalance s: this daemon is in no cluster"),
    ],
    ids=["0%", "101%", "all", "no service", "an unknown service", "no cluster"],
)
def test_bad_input(daemon: Daemon, words: tuple[str, ...], status: int, why: str) -> None:
    done = daemon.adm("--rebalance", *words, check=False)
    assert done.returncode == status
    assert done.stderr.splitlines()[0].startswith(f"tcpvsadm: {why}")
    assert not done.stdout
