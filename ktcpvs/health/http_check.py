"""Checks by HTTP: a GET whose answer's status says whether a server is well. Connections are kept between checks."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseFailed, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from ktcpvs import __version__
from ktcpvs.model.address import Address, Unix, host_field
from ktcpvs.model.check import Check, NotWell

HEAD_MOST = 1 << 16
"""Bytes within which an answer's head must end, with all that stands before it: what has none costs time to read."""

HEARD_MOST = 1 << 20
"""Bytes of an answer that are read so that its connection can be kept; a longer one costs its connection."""

KEPT_SECONDS = 60
"""How long a connection is kept for the next check."""


_SILENT = Logger(namespace=__name__, observer=LogPublisher())


class _Response(NamedTuple):
    """The head of a response, and the connection on which its body follows."""

    head: Any
    connection: _Connection


class _Connection(HTTP11ClientProtocol):
    """Twisted's own would read heads, and all that may stand before them, without end, and tell the log of each interim
    response: thousands of lines for one check."""

    _heard = 0
    _is_answered = False

    def request(self, request: Any) -> Deferred[Any]:
        self._heard, self._is_answered = 0, False
        answer: Deferred[Any] = super().request(request)
        if self._parser is not None:
            self._parser._log = _SILENT
        return answer.addBoth(self._answered)

    def _answered(self, answer: Any) -> Any:
        """The head has come, or a Failure."""
        self._is_answered = True
        return answer if isinstance(answer, Failure) else _Response(answer, self)

    def hang_up(self) -> None:
        """Close the connection at once, whatever comes on it. Safe to call when it is closed."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def dataReceived(self, bytes: bytes) -> None:
        self._heard += len(bytes)
        if self._heard > HEARD_MOST:
            self.hang_up()
        else:
            super().dataReceived(bytes)  # type: ignore[no-untyped-call]
            if self._heard > HEAD_MOST and not self._is_answered:
                self.hang_up()


class _Factory(_HTTP11ClientFactory):
    """Twisted's own would tell the log of every connection."""

    noisy = False

    def buildProtocol(self, addr: Any) -> _Connection:
        return _Connection(self._quiescentCallback)  # type: ignore[no-untyped-call]


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """URLs name servers by the numbers that they have here, so that one pool holds them all."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._addresses: dict[bytes, Address] = {}
        self._names: dict[Address, str] = {}
        self._numbers = count()

    def name(self, address: Address) -> str:
        """The host that stands for that server in a URL."""
        name = self._names.get(address)
        if name is None:
            name = self._names[address] = f"s{next(self._numbers)}"
            self._addresses[name.encode()] = address
        return name

    def forget(self, address: Address) -> None:
        name = self._names.pop(address, None)
        if name is not None:
            del self._addresses[name.encode()]

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        address = self._addresses[uri.host]
        if isinstance(address, Unix):
            return UNIXClientEndpoint(self._reactor, address.path)
        assert address.port is not None  # a configured address is complete
        return HostnameEndpoint(self._reactor, address.host, address.port)


class HTTPChecks:
    """All checks by HTTP of one process."""

    def __init__(self, reactor: Any) -> None:
        self._endpoints = _Endpoints(reactor)
        self._pool = HTTPConnectionPool(reactor)
        self._pool._factory = _Factory
        self._pool.maxPersistentPerHost = 1
        self._pool.cachedConnectionTimeout = KEPT_SECONDS
        self._pool.retryAutomatically = True
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, pool=self._pool)

    def probe(self, check: Check, address: Address, called: str | None = None) -> Deferred[Any]:
        """Fires when the server is well, fails when not. called: its host and port as they are configured; None: as
        in its address."""
        name = self._endpoints.name(address)
        # The dot at a name's end is for name servers; web servers do not expect it.
        host = (called or host_field(address)).replace(".:", ":")
        headers = Headers({"Host": [host], "User-Agent": [f"ktcpvs/{__version__} check"]})
        url = f"http://{name}{check.path}"
        asked: Deferred[Any] = self._agent.request(b"GET", url.encode(), headers)
        return asked.addCallbacks(lambda answer: _judged(answer, check), _unanswered)

    def forget(self, address: Address) -> None:
        """It is not checked any more."""
        self._endpoints.forget(address)

    def close(self) -> None:
        """Close what is kept."""
        self._pool.closeCachedConnections()


class _Body(Protocol):
    """Reads an answer's body and throws it away."""

    def __init__(self, done: Deferred[None]) -> None:
        self._done = done

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._done.called:
            self._done.callback(None)


def _judged(answer: _Response, check: Check) -> Deferred[None]:
    status = answer.head.code
    # The response's own transport is a proxy that cannot abort, so the connection is closed instead.
    read: Deferred[None] = Deferred(lambda _: answer.connection.hang_up())
    answer.head.deliverBody(_Body(read))

    def judge(_: None) -> None:
        if not check.is_well(status):
            raise NotWell(f"status {status}")

    return read.addCallback(judge)


def _unanswered(why: Failure) -> Failure:
    if not why.check(ResponseFailed):
        return why
    value: Any = why.value
    if any(one.check(ConnectionAborted) for one in value.reasons):
        return Failure(NotWell(f"no answer: a head without an end, {HEAD_MOST} bytes of it"))
    reasons = [one.getErrorMessage() for one in value.reasons]
    return Failure(NotWell(f"no answer: {reasons[-1] if reasons else 'the connection was closed'}"))
