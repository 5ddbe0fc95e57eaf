"""Bodies that are moved from socket to socket: the bytes and their order, full targets, and what is never moved."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reactors import HoldsBack, Lines, ReactorThread, flushed, tcp_only
from servers import read_all, read_exactly, reset, wait_for

from ktcpvs.relay.body_relay import MAX_MOVED_SIZE, BodyRelay
from ktcpvs.relay.pipes import MAX_PIPES, Pipes
from ktcpvs.streams.transport import SMALL_READ_SIZE

BULK = bytes(range(256)) * 50_000
"""More than the kernel's buffers hold."""


class Body:
    """A server whose bytes a stream passes on to a client. read, moved: the bytes that came through the transport, and
    those that did not."""

    def __init__(self, thread: ReactorThread, servers: Lines, clients: Lines, pipes: Pipes) -> None:
        self.thread = thread
        self.pipes = pipes
        self.bodies = BodyRelay(pipes)
        self.source, self.server = servers.line()
        self.target, self.client = clients.line()
        self.read = self.moved = 0
        thread.run(self._start)

    def _start(self) -> None:
        source, target = self.source.stream, self.target.stream
        source.dataReceived = self._received
        source.read_small(True)
        target.set_backpressure(HoldsBack(source))

    def _received(self, data: bytes) -> None:
        self.read += len(data)
        self.moved += self.bodies.pass_on(self.source.stream, self.target.stream, (b"", data), len(BULK))

    def passes(self, data: bytes) -> None:
        """Let the server send `data`, and check that it arrives."""
        sending = threading.Thread(target=self.server.sendall, args=(data,))
        sending.start()
        self.arrives(data)
        sending.join(10)

    def arrives(self, data: bytes) -> None:
        assert read_exactly(self.client, len(data)) == data
        wait_for(lambda: self.read + self.moved == len(data))
        assert self.pipes.in_use == 0


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "servers", tmp_path / "clients"
    for folder in folders:
        folder.mkdir()
    return folders


@pytest.fixture
def body(thread: ReactorThread, family: int, folders: tuple[Path, Path], request: Any) -> Iterator[Body]:
    servers, clients = Lines(thread, "called", family, folders[0]), Lines(thread, "accepted", family, folders[1])
    pipes = Pipes(getattr(request, "param", MAX_PIPES))
    yield Body(thread, servers, clients, pipes)
    servers.close()
    clients.close()
    pipes.close()
    assert pipes.made == 0


def test_all_bytes_arrive_in_order(body: Body) -> None:
    body.passes(BULK[:3_000_000])
    assert (body.moved > 0) == (body.thread.name == "uvloop")


@pytest.mark.parametrize("body", [0], indirect=True)
def test_without_pipes_all_is_copied(body: Body) -> None:
    body.passes(BULK[:3_000_000])
    assert body.moved == 0


def test_a_target_that_is_full_holds_the_source_back(body: Body) -> None:
    sent = 0
    body.server.setblocking(False)
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + 0.5 and sent < len(BULK):
        try:
            sent += body.server.send(BULK[sent : sent + 100_000])
            quiet_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    assert not flushed(body.target.stream) or sent == len(BULK)
    assert body.target.stream.transport.buffered() <= (64 << 10) + MAX_MOVED_SIZE + SMALL_READ_SIZE + (250 << 10)
    assert body.pipes.in_use == 0
    body.arrives(BULK[:sent])


def test_an_end_follows_the_last_bytes(body: Body) -> None:
    body.source.stream.ended = body.target.stream.half_close
    body.passes(BULK[:1_000_000])
    body.server.sendall(b"last")
    body.server.shutdown(socket.SHUT_WR)
    assert read_all(body.client) == b"last"


def test_a_target_that_has_been_reset_is_reported(body: Body) -> None:
    reset(body.client)
    body.server.sendall(BULK[:100_000])
    wait_for(
        lambda: body.target.heard in (["broken"], ["ended", "broken"], ["lost"], ["ended"]), str(body.target.heard)
    )
    assert body.pipes.in_use == 0


@tcp_only
def test_urgent_data_is_skipped_as_by_reads(body: Body) -> None:
    body.server.sendall(BULK[:10_000])
    body.server.send(b"!", socket.MSG_OOB)
    body.server.sendall(BULK[10_000:1_000_000])
    body.arrives(BULK[:1_000_000])


def test_nothing_is_moved_past_a_paused_or_a_closing_stream(body: Body) -> None:
    def descriptors() -> tuple[int, int]:
        return body.source.stream.transport.input_descriptor(), body.target.stream.transport.output_descriptor()

    def check() -> None:
        body.source.stream.pause()
        body.target.stream.half_close()
        assert descriptors() == (-1, -1)
        body.source.stream.resume()
        assert (descriptors()[0] >= 0) == (body.thread.name == "uvloop")
        body.source.stream.close()
        assert descriptors() == (-1, -1)

    body.thread.run(check)
