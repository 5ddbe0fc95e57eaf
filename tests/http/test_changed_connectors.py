"""An edit that changes how a server is connected to: connections that were made differently are not used again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import pytest
from memory import A, B, Peer, World, answer, get

from ktcpvs.model.destination import Destination
from ktcpvs.streams.connector import Connector

LINES = "scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}'


class Keyed(Connector):
    """A connector for an option that a server has."""

    option: Hashable = "plain"

    @property
    def key(self) -> Hashable:
        return super().key, self.option


class Options:
    """world: with a server whose connections have an option. value: of the option, from the next edit on."""

    def __init__(self) -> None:
        self.world = World(*LINES)
        self.value = "plain"
        traffic = self.world.live.traffic
        traffic.make_connector = self._make
        self.edit(None)

    def _make(self, destination: Destination) -> Connector:
        made = Keyed(self.world.reactor, destination.address, 5)
        made.option = self.value
        return made

    def edit(self, value: str | None, *lines: str) -> None:
        """An edit, which changes the option unless that is None."""
        self.value = value or self.value
        self._edits = getattr(self, "_edits", 0) + 1
        self.world.load(*(lines or LINES), f"check_interval = {self._edits}")

    def idle(self) -> int:
        return sum(map(len, self.world.live.server_connections.pool.kept.values()))

    def serves(self, client: Peer, server: Peer, times: int = 1) -> None:
        """Requests that the client sends, on that connection."""
        for _ in range(times):
            client.says(get())
            assert self.world.called() == []
            assert server.heard() == get()
            server.says(answer())
            assert client.heard() == answer()

    def first(self) -> tuple[Peer, Peer]:
        """A client, and the server's first connection, after requests that make the next one a cached one."""
        client = self.world.client()
        client.says(get())
        server = self.world.accepts(A)
        assert server.heard() == get()
        server.says(answer())
        assert client.heard() == answer()
        self.serves(client, server, 3)
        return client, server

    def next(self, client: Peer) -> Peer:
        """The client's next request goes on a new connection."""
        client.says(get())
        server = self.world.accepts(A)
        assert server.heard() == get()
        server.says(answer())
        assert client.heard() == answer()
        self.serves(client, server, 3)
        return server


@pytest.fixture
def options() -> Iterator[Options]:
    options = Options()
    yield options
    world = options.world
    for peer in world.peers:
        if peer.stream.is_open and not peer.line.disconnecting and not peer.line.aborted:
            peer.resets()
    world.close()


def test_without_a_change_connections_are_kept(options: Options) -> None:
    client, server = options.first()
    options.edit("plain")
    assert not server.line.disconnecting
    options.serves(client, server)


def test_an_idle_connection_is_closed(options: Options) -> None:
    client, server = options.first()
    options.edit("tls")
    assert server.line.disconnecting
    assert options.idle() == 0
    options.next(client)


def test_one_in_use_by_a_cached_request_is_not_kept(options: Options) -> None:
    client, server = options.first()
    client.says(get())
    assert server.heard() == get()
    options.edit("tls")
    assert not server.line.disconnecting
    server.says(answer())
    assert client.heard() == answer()
    assert server.line.disconnecting
    assert options.idle() == 0
    options.next(client)


def test_one_in_use_for_the_first_time_is_not_kept(options: Options) -> None:
    client = options.world.client()
    client.says(get())
    server = options.world.accepts(A)
    options.edit("tls")
    server.says(answer())
    assert client.heard() == answer()
    assert server.line.disconnecting
    options.next(client)


def test_one_in_the_middle_of_a_response_is_not_kept(options: Options) -> None:
    client, server = options.first()
    client.says(get())
    server.says(answer()[:-2])
    options.edit("tls")
    server.says(answer()[-2:])
    assert client.heard() == answer()
    assert server.line.disconnecting
    options.next(client)


def test_one_that_is_being_made_serves_one_request(options: Options) -> None:
    client = options.world.client()
    client.says(get())
    options.edit("tls")
    server = options.world.accepts(A)
    server.says(answer())
    assert client.heard() == answer()
    assert server.line.disconnecting
    options.next(client)


def test_a_change_there_and_back_does_not_revive_one(options: Options) -> None:
    client, server = options.first()
    client.says(get())
    options.edit("tls")
    options.edit("plain")
    server.says(answer())
    assert client.heard() == answer()
    assert server.line.disconnecting
    options.next(client)


def test_a_server_that_is_deleted_and_added_again(options: Options) -> None:
    """It is the same destination while its connections drain."""
    client, server = options.first()
    client.says(get())
    (before,) = options.world.live.destinations.values()
    options.edit(None, "scheduler = phttp", f"server = {B}", f'rule = pattern ".*" use server {B}')
    options.edit("tls")
    (after,) = options.world.live.destinations.values()
    assert before is after
    server.says(answer())
    assert client.heard() == answer()
    assert server.line.disconnecting
    options.next(client)


def test_only_that_server_is_concerned(options: Options) -> None:
    client, server = options.first()
    options.edit(None, *LINES, f"server = {B}", f'rule = pattern "^/b" use server {B}')
    options.serves(client, server)

    def changed(destination: Destination) -> Any:
        made = Keyed(options.world.reactor, destination.address, 5)
        made.option = "tls" if str(destination.address) == B else "plain"
        return made

    options.world.live.traffic.make_connector = changed
    options.edit(None, *LINES, f"server = {B}", f'rule = pattern "^/b" use server {B}')
    options.serves(client, server)
