"""TLS for tests: certificates that are made once, and a blocking peer that speaks TLS over anything like a socket."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import socket
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from authority import Authority
from memory import Peer, World


@functools.cache
def authority() -> Authority:
    """A certificate authority for all tests of this process."""
    folder = tempfile.mkdtemp(prefix="ktcpvs-tls-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Authority(Path(folder))


@functools.cache
def tls_contexts(version: ssl.TLSVersion, ours_is_server: bool = True) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of both sides, (ours, theirs). version: the one that they speak."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority().daemon())
    server.num_tickets = 0  # they would wait in the peer's socket until it reads
    client = ssl.create_default_context(cafile=authority().pem)
    for context in server, client:
        context.minimum_version = context.maximum_version = version
    return (server, client) if ours_is_server else (client, server)


class TLSPeer:
    """As a blocking socket. raw: what carries its bytes, a socket or the like.

    is_truncated: the other side has ended without close_notify.
    """

    def __init__(
        self, raw: Any, context: ssl.SSLContext, *, server_side: bool = False, server_name: str | None = "localhost"
    ) -> None:
        """Raises what the handshake raises."""
        self.raw = raw
        self.is_truncated = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side, None if server_side else server_name)
        self._call(self.tls.do_handshake)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.raw.sendall(self._outgoing.read())

    def _call(self, function: Any, *arguments: Any) -> Any:
        while True:
            try:
                result = function(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                if not (data := self.raw.recv(65536)):
                    self.is_truncated = True
                    raise EOFError from None
                self._incoming.write(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()
                raise
            else:
                self._flush()
                return result

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
            if self._outgoing.pending > 1 << 20 or not view:
                self._flush()

    def recv(self, size: int) -> bytes:
        try:
            received: bytes = self._call(self.tls.read, size)
        except (EOFError, ssl.SSLZeroReturnError):
            return b""
        return received

    def notify(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        self.notify()
        self.raw.shutdown(how)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.notify()
        self.raw.close()

    def abort(self) -> None:
        self.raw.abort()


class MemorySocket:
    """A peer of a switch in memory as what carries the bytes of a TLSPeer."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.world = world
        self.peer = peer

    def sendall(self, data: bytes) -> None:
        self.peer.says(data)

    def recv(self, size: int) -> bytes:
        """Return what has come; b"" for nothing."""
        self.world.turns(1)
        return self.peer.heard()

    def close(self) -> None:
        self.peer.closes()


def client_context(
    version: ssl.TLSVersion | None = None, own: Path | None = None, protocols: Sequence[str] = ()
) -> ssl.SSLContext:
    """The context of a client that trusts the authority. version: the only one that it speaks. own: the file with the
    certificate that it shows. protocols: of ALPN."""
    context = ssl.create_default_context(cafile=authority().pem)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if own is not None:
        context.load_cert_chain(own)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
