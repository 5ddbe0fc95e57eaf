"""Streams of HTTP/2 that wait for a server hold no descriptor, and leave some to the clients of other services."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import pytest
from http2_frames import PREFACE, headers, settings
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_exactly, sink, wait_for

from .harness import Daemon

pytestmark = pytest.mark.e2e

Serve = Callable[..., SocketServer]

DESCRIPTORS = 300
"""So 236 for connections and listeners."""

CLIENTS, STREAMS, OTHERS = 5, 100, 30

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")]


def streams(port: int, count: int, stack: contextlib.ExitStack) -> socket.socket:
    """A client of HTTP/2 that has sent so many requests at the same time."""
    client = stack.enter_context(dial((LOOPBACK, port)))
    client.sendall(PREFACE + settings() + b"".join(headers(2 * number + 1, GET) for number in range(count)))
    return client


def load(daemon: Daemon, silent: SocketServer, words: str) -> tuple[int, int]:
    """Load a service whose server never responds, and one that echoes. words: of the first server. Return their
    ports."""
    slow, quick = free_port(), free_port()
    text = f"listen = {LOOPBACK}:{slow}\nscheduler = phttp\nserver = {silent.address} 1 {words}"
    daemon.call("load", f"global {{ queue_timeout = 60 }}\nVirtual slow {{\n{text}\n}}\n")
    daemon.call("start", "slow")
    return slow, quick


def are_served(port: int, stack: contextlib.ExitStack) -> bool:
    """Whether OTHERS clients of the echoing service are served at the same time."""
    clients = [stack.enter_context(dial((LOOPBACK, port))) for _ in range(OTHERS)]
    for client in clients:
        client.sendall(b"?")
    return all(read_exactly(client, 1) == b"?" for client in clients)


def queued(daemon: Daemon) -> int:
    return int(daemon.stats("slow")["stats"]["queued"])


def test_streams_that_wait_for_room_at_a_server_hold_no_descriptor(
    make_daemon: Callable[..., Daemon], serve: Serve, stack: contextlib.ExitStack
) -> None:
    daemon = make_daemon(descriptors=DESCRIPTORS)
    daemon.start()
    silent = serve(sink)
    slow, quick = load(daemon, silent, "maxconn 1")
    for _ in range(CLIENTS):
        streams(slow, STREAMS, stack)
    wait_for(lambda: queued(daemon) == CLIENTS * STREAMS - 1)
    daemon.service("quick", quick, serve(echo).address)
    assert are_served(quick, stack)
    assert daemon.stats("slow")["stats"]["paused_listeners"] == 0
    assert silent.accepted == 1
