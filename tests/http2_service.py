"""A client of HTTP/2 and a server of HTTP/1 at a service in memory, and what each of them gets."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import hpack
from http2_frames import PREFACE, SETTINGS_ACK, read, settings
from memory import A, Peer, World, answer
from twisted.internet.defer import AlreadyCalledError

from ktcpvs.model.clients import NOWHERE
from ktcpvs.protocols.http1 import REQUEST, Request
from ktcpvs.protocols.http2 import constants as h2
from ktcpvs.streams.contract import TLSFacts
from ktcpvs.streams.stream import Stream

LINES = "scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}'

BEGIN = PREFACE + settings() + SETTINGS_ACK


class Got(NamedTuple):
    """What a connection has brought. responses: stream -> whether it got a whole response. resets: stream -> code.
    ended: the code of the last GOAWAY; None: there was none. pongs: what was acknowledged. is_open: the connection is.
    statuses: stream -> status. sizes: of DATA, in order."""

    responses: dict[int, bool]
    resets: dict[int, int]
    ended: int | None
    pongs: list[bytes]
    is_open: bool
    statuses: dict[int, bytes]
    sizes: list[int]


class Connection:
    """A client that has chosen HTTP/2 in its handshake, and a server that responds to each whole request.

    heard: what the client has got. requests: those that the server has got, head and body.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.peer = Peer(Stream())
        world.peers.append(self.peer)
        self.peer.stream.tls = TLSFacts("TLSv1.3", alpn="h2")
        built = world.live.client_factory.build_admitted(("192.0.2.1", 4711), NOWHERE, self.peer.stream)
        built.take_over(self.peer.stream, b"")
        self.heard = b""
        self.requests: list[bytes] = []
        self._received: dict[Peer, bytes] = {}  # of requests that are not whole
        self._called = len(world.reactor.tcpClients)

    def says(self, said: bytes) -> None:
        if self.peer.stream.is_open and self.peer.is_read():
            self.peer.says(said)
        is_busy = True
        while is_busy:
            self.world.turns(3)
            is_busy = self._accept()
            for server in self._servers():
                is_busy |= server.is_open and self._respond(server)
        self.heard += self.peer.heard()

    def unfinished(self) -> bytes:
        """What servers have got of requests that are not whole."""
        return b"".join(self._received.get(server, b"") + server.heard() for server in self._servers())

    def _servers(self) -> list[Peer]:
        return [peer for peer in self.world.peers if peer is not self.peer]

    def _accept(self) -> bool:
        """Accept the connections to the server, but for those whose client has gone meanwhile. Return whether there
        were any."""
        new = self.world.reactor.tcpClients[self._called :]
        self._called += len(new)
        for _, _, factory, *_ in new:
            with contextlib.suppress(AlreadyCalledError):
                self.world.peer(factory.buildProtocol(None))
        return bool(new)

    def _respond(self, server: Peer) -> bool:
        """Respond to the request that the server has got, if it is whole. Return whether it has got anything."""
        heard = server.heard()
        self._received[server] = received = self._received.get(server, b"") + heard
        found = REQUEST.match(received)
        if heard and found is not None:
            frame = Request(found).frame()
            frame.feed(received[found.end() :])
            if frame.done:
                self.requests.append(self._received.pop(server))
                response = answer(b"hello")
                server.says(response[: -len(b"hello")] if received.startswith(b"HEAD ") else response)
        return bool(heard)

    def got(self) -> Got:
        decoder = hpack.Decoder()
        got = Got({}, {}, None, [], self.peer.is_open and not self.peer.line.ended, {}, [])
        for one in read(self.heard):
            if one.kind == h2.HEADERS:
                got.statuses.setdefault(one.stream_id, dict(decoder.decode(one.payload, raw=True))[b":status"])
            if one.kind in (h2.HEADERS, h2.DATA):
                got.responses[one.stream_id] = bool(one.flags & h2.END_STREAM)
            if one.kind == h2.DATA:
                got.sizes.append(len(one.payload))
            if one.kind == h2.RST_STREAM:
                got.resets[one.stream_id] = one.code
            if one.kind == h2.GOAWAY:
                got = got._replace(ended=one.code)
            if one.kind == h2.PING and one.flags & h2.ACK:
                got.pongs.append(one.payload)
        return got
