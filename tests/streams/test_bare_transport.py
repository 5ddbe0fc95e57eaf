"""Streams on bare sockets: options that are set late, and reads that no further event announces."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reactors import Lines, ReactorThread
from servers import read_exactly, wait_for
from twisted.internet.error import TimeoutError

from ktcpvs.model.address import Inet
from ktcpvs.streams import bare_connect
from ktcpvs.streams.bare_transport import BULK_READ_SIZE, MAX_UNDIVIDED, READ_SIZE
from ktcpvs.streams.poller import SocketPoller
from ktcpvs.streams.stream import Stream

BULK = random.Random(4).randbytes(3 * BULK_READ_SIZE)


@pytest.fixture(params=["bare called", "plain bare called"])
def lines(request: pytest.FixtureRequest, thread: ReactorThread, tmp_path: Path) -> Iterator[Lines]:
    """Streams that connect."""
    thread.failures.clear()
    lines = Lines(thread, request.param, socket.AF_INET, tmp_path)
    yield lines
    lines.close()
    assert thread.failures == []


def option(stream: Stream, level: int, name: int) -> bool:
    return bool(stream.transport.getHandle().getsockopt(level, name))


@pytest.mark.parametrize(("sizes", "is_set"), [((1,), False), ((1, 1), True), ((MAX_UNDIVIDED + 1,), True)])
def test_nagles_algorithm_is_switched_off_before_it_could_delay(
    lines: Lines, sizes: tuple[int, ...], is_set: bool
) -> None:
    owner, peer = lines.line()
    for size in sizes:
        owner.write(bytes(size))
    assert option(owner.stream, socket.IPPROTO_TCP, socket.TCP_NODELAY) == is_set
    assert read_exactly(peer, sum(sizes)) == bytes(sum(sizes))


def test_urgent_data_is_read_in_its_place(lines: Lines) -> None:
    owner, peer = lines.line()
    lines.thread.run(owner.stream.keep_urgent_data_in_place)
    assert not option(owner.stream, socket.SOL_SOCKET, socket.SO_OOBINLINE)
    for first, urgent, rest in ((b"", b"!", b""), (b"one ", b"!", b" two"), (b"", b"!", b" three")):
        del owner.data[:]
        peer.sendall(first)
        peer.send(urgent, socket.MSG_OOB)
        peer.sendall(rest)
        owner.has(first + urgent + rest)


def test_urgent_data_before_the_end(lines: Lines) -> None:
    owner, peer = lines.line(lambda owner: owner.stream.pause())
    lines.thread.run(owner.stream.keep_urgent_data_in_place)
    peer.sendall(b"one ")
    peer.send(b"!", socket.MSG_OOB)
    peer.sendall(b" two")
    peer.shutdown(socket.SHUT_WR)
    wait_for(lambda: lines.thread.run(owner.stream.has_ended))
    owner.do("resume")
    owner.hears("ended")
    assert owner.data == b"one ! two"


def test_a_relay_engine_gets_the_options_that_were_put_off(lines: Lines) -> None:
    owner, _ = lines.line()
    lines.thread.run(owner.stream.keep_urgent_data_in_place)
    sock = lines.thread.run(owner.stream.duplicate_socket)
    with sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("size", [1, READ_SIZE - 1, READ_SIZE, READ_SIZE + BULK_READ_SIZE, len(BULK)])
def test_the_last_bytes_and_the_end_come_with_one_event(lines: Lines, size: int) -> None:
    owner, peer = lines.line(lambda owner: owner.stream.pause())
    peer.sendall(BULK[:size])
    peer.shutdown(socket.SHUT_WR)
    if size <= READ_SIZE:
        wait_for(lambda: lines.thread.run(owner.stream.has_ended))
    owner.do("resume")
    owner.hears("ended")
    assert owner.data == BULK[:size]


def test_bulk_is_reported_once(lines: Lines) -> None:
    owner, peer = lines.line()
    owner.stream.bulk_detected = lambda: owner.heard.append("bulk")
    peer.sendall(b"small")
    owner.has(b"small")
    assert owner.heard == []
    for _ in range(3):
        owner.do("pause")
        peer.sendall(BULK)
        owner.do("resume")
    wait_for(lambda: len(owner.data) == 5 + 3 * len(BULK))
    assert owner.heard == ["bulk"]


@pytest.mark.parametrize("form", ["", "plain "])
def test_bytes_that_pass_by_wait_for_no_socket(form: str, thread: ReactorThread, tmp_path: Path) -> None:
    """splice(2) would wait for one in blocking mode, as accepted sockets may be."""
    thread.failures.clear()
    lines = Lines(thread, f"{form}bare accepted", socket.AF_INET, tmp_path)
    try:
        owner, _ = lines.line(lambda owner: os.set_blocking(owner.stream.transport.getHandle().fileno(), True))
        for descriptor in (owner.stream.transport.input_descriptor, owner.stream.transport.output_descriptor):
            number = thread.run(descriptor)
            assert not os.get_blocking(number)
            os.set_blocking(number, True)
    finally:
        lines.close()
    assert thread.failures == []


def test_an_attempt_that_takes_too_long_or_is_cancelled(thread: ReactorThread) -> None:
    thread.failures.clear()
    poller: SocketPoller = thread.run(SocketPoller, thread.reactor)
    failures: list[type[Any]] = []
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # so that its backlog is full
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())

        def begin(timeout: float) -> Any:
            failed = lambda why: failures.append(why.type)  # noqa: E731
            return bare_connect.connect(poller, Inet(*listener.getsockname()), timeout, Stream(), print, failed)

        cancelled = thread.run(begin, 0.1)
        thread.run(cancelled.cancel)
        assert [kind.__name__ for kind in failures] == ["CancelledError"]
        waiting = thread.run(begin, 10)
        thread.run(begin, 0.1)  # the alarm for the one before is set anew
        wait_for(lambda: failures[1:] == [TimeoutError])
        assert len(poller) == 1
        thread.run(waiting.cancel)
        assert len(poller) == 0
    thread.run(poller.close)
    assert thread.failures == []
