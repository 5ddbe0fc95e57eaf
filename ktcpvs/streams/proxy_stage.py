"""The stages of a listener behind proxies: a proxy begins with a header of the PROXY protocol, nobody else may.

A header of somebody else would be a forged address, so the switch looks at the first bytes of every client that it
reads before it chooses a server.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.protocols.proxy_protocol import BadProxyHeader, ProxyHeaderReader, begins_with_header
from ktcpvs.streams.accept import socket_address
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.preamble import Proceed, Refuse
from ktcpvs.streams.stream import Stream

MAX_HEADER_SIZE = 4096
"""The longest header of version 2 in bytes, TLVs included: HAProxy's and nginx's have a few hundred."""

NAME = "PROXY"

FORGED = "a header from a client outside of proxy_from"

IsProxy = Callable[[SocketAddress], bool]
"""Says whether a client with that address, as accept() tells it, must begin with a header."""


class ProxyStage:
    """Reads the header of a proxy. The addresses in it are the client's, and the one that the client has called, from
    then on; those of the connection stay where the header names none (LOCAL, UNKNOWN, unix sockets)."""

    name = NAME
    max_size = MAX_HEADER_SIZE

    def __init__(self, is_proxy: IsProxy, timeout: Callable[[], int]) -> None:
        """timeout: returns the seconds in which the header must be complete; called for each client."""
        self._is_proxy = is_proxy
        self._timeout = timeout

    @property
    def timeout(self) -> int:
        return self._timeout()

    def finds_address(self, peer: SocketAddress) -> bool:
        return self._is_proxy(peer)

    def begin(self, peer: SocketAddress, stream: Stream) -> ProxyReader | None:
        return ProxyReader() if self._is_proxy(peer) else None


class ProxyReader:
    """The header of one client."""

    __slots__ = ("_header",)

    def __init__(self) -> None:
        self._header = ProxyHeaderReader(MAX_HEADER_SIZE)

    def feed(self, data: bytes) -> Proceed | Refuse | None:
        try:
            header = self._header.feed(data)
        except BadProxyHeader as bad:
            return Refuse(str(bad))
        if header is None:
            return None
        if header.source is None or header.destination is None:
            return Proceed(self._header.rest)
        return Proceed(self._header.rest, socket_address(*header.source), socket_address(*header.destination))


class NoHeaderStage:
    """Refuses a client that is no proxy and begins with a header all the same. It stands before `ProxyStage`, which
    changes the address that both ask for."""

    name = NAME
    max_size = MAX_HEADER_SIZE

    def __init__(self, is_proxy: IsProxy, timeout: Callable[[], int]) -> None:
        """timeout: returns the seconds in which a client must send the few bytes that show what it begins with; called
        for each client."""
        self._is_proxy = is_proxy
        self._timeout = timeout

    @property
    def timeout(self) -> int:
        return self._timeout()

    def finds_address(self, peer: SocketAddress) -> bool:
        return False

    def begin(self, peer: SocketAddress, stream: Stream) -> FirstBytesReader | None:
        return None if self._is_proxy(peer) else FirstBytesReader()


class FirstBytesReader:
    """The first bytes of one client."""

    __slots__ = ("_received",)

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> Proceed | Refuse | None:
        self._received += data
        begins = begins_with_header(self._received)
        if begins is None:
            return None
        return Refuse(FORGED) if begins else Proceed(self._received)
