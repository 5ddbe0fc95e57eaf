"""Streams of HTTP/2 that wait for a server hold no descriptor, and leave some to the clients of other services."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import hpack
import pytest
from http2_frames import PREFACE, headers, settings
from servers import LOOPBACK, SocketServer, dial, echo, free_port, read_exactly, read_head, sink, wait_for

from ktcpvs.protocols.http2 import constants as h2

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


class Patient:
    """A server that responds to all requests once `ready` is set."""

    def __init__(self) -> None:
        self.ready = threading.Event()

    def __call__(self, sock: socket.socket) -> None:
        while head := read_head(sock):
            assert head.startswith(b"GET / ")
            self.ready.wait(60)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def statuses(client: socket.socket, count: int) -> set[str]:
    """Read so many responses. Return their statuses."""
    decoder, found = hpack.Decoder(), []
    while len(found) < count:
        begin = read_exactly(client, 9)
        payload = read_exactly(client, int.from_bytes(begin[:3], "big"))
        if begin[3] == h2.HEADERS:
            found.append(dict(decoder.decode(payload))[":status"])
    return set(found)


def test_streams_that_wait_for_responses_leave_descriptors_to_others(
    make_daemon: Callable[..., Daemon], serve: Serve, stack: contextlib.ExitStack
) -> None:
    """All of them are served at last: those without a descriptor get the connections of the others."""
    daemon = make_daemon(descriptors=DESCRIPTORS)
    daemon.start()
    patient = Patient()
    slow_server = serve(patient)
    slow, quick = load(daemon, slow_server, "")
    clients = [streams(slow, STREAMS, stack) for _ in range(CLIENTS)]
    wait_for(lambda: len(daemon.connections()) == CLIENTS * STREAMS)
    daemon.service("quick", quick, serve(echo).address)
    assert are_served(quick, stack)
    waiting = daemon.stats("slow")["stats"]["waiting_streams"]
    wait_for(lambda: slow_server.accepted + waiting == CLIENTS * STREAMS)
    assert 100 < slow_server.accepted < 120, "half of 236, less those of the clients"
    assert daemon.descriptors() < DESCRIPTORS - 40
    patient.ready.set()
    assert [statuses(client, STREAMS) for client in clients] == [{"200"}] * CLIENTS
