"""Connect a stream to a server: on uvloop's own transports if the reactor has a uvloop, else on Twisted's."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory
from twisted.python.failure import Failure

from ktcpvs.model.address import Address, SRVName, Unix
from ktcpvs.streams import uv_connect
from ktcpvs.streams.stream import Stream


class _Attempt(ClientFactory):
    """One attempt to connect one stream, as a factory for Twisted's reactors."""

    noisy = False

    def __init__(self, stream: Stream, connected: Deferred[Stream]) -> None:
        self._stream = stream
        self._connected = connected

    @property
    def is_over(self) -> bool:
        """Whether the attempt has succeeded, failed or been cancelled."""
        return self._connected.called

    def buildProtocol(self, addr: IAddress | None) -> Stream:  # type: ignore[override]
        return self._stream

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        if not self._connected.called:
            self._connected.errback(reason)


class _OneStream(Factory):
    noisy = False

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def buildProtocol(self, addr: IAddress | None) -> Stream:  # type: ignore[override]
        return self._stream


class Connecting(Protocol):
    """An attempt to connect that is under way."""

    def cancel(self) -> None:
        """Stop, and fail."""


def connect(reactor: Any, address: Address, timeout: float, stream: Stream) -> Deferred[Stream]:
    """Connect `stream` to `address`; fires with it when it is open. timeout: seconds for each of a name's addresses.

    Fails with ConnectError and the like. Cancelling the Deferred stops the attempt.
    """
    if isinstance(address, SRVName):  # its servers stand in maintenance until they are known
        return fail(ConnectError(string=f"the SRV records of {address.host} have not been found yet"))
    loop = getattr(reactor, "uv", None)
    if loop is not None:
        return uv_connect.connect(reactor, loop, address, timeout, stream)
    if not isinstance(address, Unix) and address.is_name:
        return _connect_to_name(reactor, address.host, address.port, timeout, stream)
    connected: Deferred[Stream] = Deferred(lambda _: connector.disconnect())
    stream.made = lambda: connected.callback(stream)
    factory = _Attempt(stream, connected)
    if isinstance(address, Unix):
        connector = reactor.connectUNIX(address.path, factory, timeout, False)
    else:
        connector = reactor.connectTCP(address.host, address.port, factory, timeout)
    return connected


def _connect_to_name(reactor: Any, host: str, port: int | None, timeout: float, stream: Stream) -> Deferred[Stream]:
    assert port is not None  # a configured address is complete
    endpoint = HostnameEndpoint(reactor, host, port, timeout=timeout)
    return endpoint.connect(_OneStream(stream)).addCallback(lambda _: stream)
