"""Clients that get one response and are closed: on uvloop they are served on their bare socket, and end like others."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reactors import Lines, Owner, ReactorThread, descriptors, settled
from servers import read_all, reset, wait_for

from ktcpvs.streams.accept import adopt_socket

BULK = random.Random(2).randbytes(6_000_000)
"""More than the kernel's buffers hold."""


@pytest.fixture(params=[socket.AF_INET, socket.AF_UNIX], ids=["TCP", "unix"])
def lines(thread: ReactorThread, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lines]:
    thread.failures.clear()
    lines = Lines(thread, "accepted", request.param, tmp_path)
    yield lines
    lines.close()
    assert thread.failures == []


def answering(*what: Callable[[Owner], object]) -> Callable[[Owner], None]:
    """Return the `at_once` of an owner that sets `resting`, and calls all of `what` when data has come."""

    def at_once(owner: Owner) -> None:
        def received(_: bytes) -> None:
            owner.stream.resting = True
            owner.received = lambda _: None
            for do in what:
                do(owner)

        owner.received = received

    return at_once


def write(data: bytes) -> Callable[[Owner], object]:
    return lambda owner: owner.stream.write(data)


def do(name: str) -> Callable[[Owner], object]:
    return lambda owner: getattr(owner.stream, name)()


def test_one_request_one_answer(lines: Lines) -> None:
    before = settled(lines.thread)
    owner, peer = lines.line(answering(write(b"an answer"), do("close")), b"a request")
    assert read_all(peer) == b"an answer"
    owner.hears("lost")
    assert owner.data == b"a request"
    peer.close()
    wait_for(lambda: descriptors() == before)


def test_the_answer_comes_later(lines: Lines) -> None:
    owner, peer = lines.line(answering(), b"a request")
    owner.has(b"a request")
    time.sleep(0.05)
    owner.thread.run(lambda: (write(b"an ")(owner), write(b"answer")(owner), owner.stream.close()))
    assert read_all(peer) == b"an answer"
    owner.hears("lost")


def test_an_answer_that_does_not_fit(lines: Lines) -> None:
    owner, peer = lines.line(answering(write(BULK), write(b"and more"), do("close")), b"a request")
    time.sleep(0.05)
    assert owner.heard == []
    assert read_all(peer) == BULK + b"and more"
    owner.hears("lost")


def test_an_answer_and_an_end(lines: Lines) -> None:
    owner, peer = lines.line(answering(write(b"an answer"), do("half_close")), b"a request")
    assert read_all(peer) == b"an answer"
    peer.sendall(b"!")
    owner.has(b"a request!")
    peer.close()
    owner.hears("ended")


def test_a_reset(lines: Lines) -> None:
    owner, peer = lines.line(answering(do("close"), do("abort")), b"a request")
    owner.hears("broken")
    if lines.is_unix:
        assert peer.recv(1) == b""
    else:
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


@pytest.mark.parametrize("answer", [b"an answer", b""])
def test_something_unread_does_not_make_a_reset_of_the_end(lines: Lines, answer: bytes) -> None:
    owner, peer = lines.line(answering(), b"a request")
    owner.has(b"a request")
    if not lines.is_unix:  # on a unix socket, the peer always notices
        peer.sendall(b"nobody reads this")
    owner.thread.run(lambda: (write(answer)(owner), owner.stream.close()))
    assert read_all(peer) == answer
    owner.hears("lost")


def test_it_is_read_again(lines: Lines) -> None:
    owner, peer = lines.line(answering(), b"a request")
    peer.sendall(b" and more")
    owner.thread.run(lambda: (setattr(owner.stream, "resting", False), owner.stream.resume()))
    owner.has(b"a request and more")
    peer.close()
    owner.hears("ended")


def test_a_client_that_has_left_is_noticed_at_its_response(lines: Lines) -> None:
    owner, peer = lines.line(answering(), b"a request")
    owner.has(b"a request")
    if lines.is_unix:
        peer.close()
    else:
        reset(peer)
    time.sleep(0.05)
    owner.thread.run(lambda: owner.stream.is_open and write(b"an answer")(owner))
    owner.do("close")
    wait_for(lambda: owner.heard[-1:] in (["lost"], ["broken"]))


def test_a_client_that_was_reset_before_it_was_read(lines: Lines) -> None:
    if lines.is_unix:
        pytest.skip("a unix socket has no reset")
    owner = Owner(lines.thread)
    peer = socket.create_connection(lines.where)
    ours, whose = lines.listener.accept()
    peer.sendall(b"a request")
    reset(peer)
    time.sleep(0.05)

    lines.thread.run(adopt_socket, lines.thread.reactor, ours, whose, owner.stream)
    owner.hears("broken")
