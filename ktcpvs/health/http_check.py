"""HTTP checks: a request passes if its response has an expected status and body. Connections are kept between
checks."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import count
from typing import Any, NamedTuple

import re2
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseFailed, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from ktcpvs.errors import shorten
from ktcpvs.model.address import Address, Inet, host_field
from ktcpvs.model.check import Check, CheckResponse, NotWell
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.service import HTTPS_PORT
from ktcpvs.streams.connector import Connector
from ktcpvs.system.network_errors import network_reason
from ktcpvs.version import __version__

MAX_HEAD = 1 << 16
"""Bytes within which a response's head must end, interim responses included: an endless head costs time to read."""

MAX_RESPONSE = 1 << 20
"""Bytes of a response that are read so that its connection can be kept; after a longer one the connection is closed."""

MAX_SEARCHED_BODY = 1 << 16
"""Bytes of a response's body that are searched for a pattern."""

MAX_LINE = 80
"""The most characters that are shown of a status line."""

KEEPALIVE_TIMEOUT = 60
"""Seconds that an idle connection is kept for the next check."""

_SILENT = Logger(namespace=__name__, observer=LogPublisher())


class _Response(NamedTuple):
    """The head of a response, and the connection on which its body follows."""

    head: Any
    connection: _Connection


class _Connection(HTTP11ClientProtocol):
    """A client connection with limits. Twisted's own reads heads and interim responses without end, and logs each
    interim response: thousands of lines for one check."""

    _received = 0
    _has_head = False

    def request(self, request: Any) -> Deferred[Any]:
        self._received, self._has_head = 0, False
        response: Deferred[Any] = super().request(request)
        if self._parser is not None:
            self._parser._log = _SILENT
        return response.addBoth(self._responded)

    def _responded(self, response: Any) -> Any:
        """The head has come, or a Failure."""
        self._has_head = True
        return response if isinstance(response, Failure) else _Response(response, self)

    def abort_connection(self) -> None:
        """Close the connection at once. Safe to call when it is closed."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def dataReceived(self, bytes: bytes) -> None:
        self._received += len(bytes)
        if self._received > MAX_RESPONSE:
            self.abort_connection()
        else:
            super().dataReceived(bytes)  # type: ignore[no-untyped-call]
            if self._received > MAX_HEAD and not self._has_head:
                self.abort_connection()


class _Factory(_HTTP11ClientFactory):
    """A factory that, unlike Twisted's own, does not log every connection."""

    noisy = False

    def buildProtocol(self, addr: Any) -> _Connection:
        return _Connection(self._quiescentCallback)  # type: ignore[no-untyped-call]


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Connectors by a host name for each in URLs, so that one of Twisted's pools holds the connections of all."""

    def __init__(self) -> None:
        self._connectors: dict[bytes, Connector] = {}
        self._hosts: dict[Hashable, bytes] = {}  # by the connectors' keys: a kept connection was made in the same way
        self._numbers = count()

    def host(self, connector: Connector) -> bytes:
        """Return the host name that stands for a server in URLs."""
        host = self._hosts.get(connector.key)
        if host is None:
            host = self._hosts[connector.key] = b"s%d" % next(self._numbers)
        self._connectors[host] = connector
        return host

    def forget(self, address: Address) -> None:
        hosts = [host for host, connector in self._connectors.items() if connector.address == address]
        self._hosts = {key: host for key, host in self._hosts.items() if host not in hosts}
        for host in hosts:
            del self._connectors[host]

    def endpointForURI(self, uri: URI) -> Connector:
        return self._connectors[uri.host]


class HTTPChecks:
    """All HTTP checks of one process."""

    def __init__(self, reactor: Any) -> None:
        self._endpoints = _Endpoints()
        self._pool = HTTPConnectionPool(reactor)
        self._pool._factory = _Factory
        self._pool.maxPersistentPerHost = 1
        self._pool.cachedConnectionTimeout = KEEPALIVE_TIMEOUT
        self._pool.retryAutomatically = True
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, pool=self._pool)

    def probe(self, check: Check, connector: Connector, name: str | None = None) -> Deferred[Any]:
        """Start a check; the Deferred fires with a CheckResponse if it passes, and fails if not. name: the server's
        host and port as they are configured; None: as in its address."""
        host = check.host or _host(connector, name)
        headers = Headers({"Host": [host], "User-Agent": [f"ktcpvs/{__version__} check"]})
        for field, value in check.headers:
            if field.lower() == "user-agent":
                headers.removeHeader(field)
            headers.addRawHeader(field, value)
        url = b"http://" + self._endpoints.host(connector) + check.path.encode()
        response: Deferred[Any] = self._agent.request(check.method.encode(), url, headers)
        return response.addCallbacks(lambda response: _judge(response, check), _no_response)

    def forget(self, address: Address) -> None:
        """Forget the server at `address`, which is no longer checked."""
        self._endpoints.forget(address)

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.closeCachedConnections()


def _host(connector: Connector, name: str | None) -> str:
    """Return the value of Host: with TLS the name that is verified, since the server's site has it too, and without the
    port that https implies (RFC 9110, section 4.2.2)."""
    address, tls = connector.address, connector.options.tls
    if tls is not None and tls.name is not None:
        port = address.port if isinstance(address, Inet) and address.port != HTTPS_PORT else None
        return host_field(Inet(tls.name, port))
    # A dot at the end of a name is for name servers; web servers do not expect it.
    return (name or host_field(address)).replace(".:", ":")


class _Body(Protocol):
    """Reads a response's body, and keeps its beginning."""

    def __init__(self, done: Deferred[bytes], kept: int) -> None:
        """done: fires with the beginning. kept: the most bytes of it."""
        self._done = done
        self._left = kept
        self._begun = bytearray()

    def dataReceived(self, data: bytes) -> None:
        if self._left:
            self._begun += data[: self._left]
            self._left = max(self._left - len(data), 0)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._done.called:
            self._done.callback(bytes(self._begun))


def _judge(response: _Response, check: Check) -> Deferred[CheckResponse]:
    head = response.head
    # The response's own transport is a proxy that cannot abort, so the connection itself is aborted.
    read: Deferred[bytes] = Deferred(lambda _: response.connection.abort_connection())
    head.deliverBody(_Body(read, MAX_SEARCHED_BODY if check.body is not None else 0))

    def judge(body: bytes) -> CheckResponse:
        seen = _seen(head, check)
        if not check.is_well(head.code):
            raise NotWell(f"status {head.code}", seen)
        if check.body is not None and not _has(check.body, body):
            raise NotWell(f"the response's body does not have '{shorten(check.body, 40)}'", seen)
        return seen

    return read.addCallback(judge)


def _seen(head: Any, check: Check) -> CheckResponse:
    """Return what is shown of a response, and the weight in it."""
    _, major, minor = head.version
    line = f"HTTP/{major}.{minor} {head.code} {head.phrase.decode('latin-1')}"
    values = head.headers.getRawHeaders(check.weight.encode(), []) if check.weight is not None else []
    return CheckResponse(shorten(line, MAX_LINE), values[-1].decode("latin-1") if values else None)


def _has(pattern: str, body: bytes) -> bool:
    """Whether the pattern is found in the beginning of a body. RE2 keeps it compiled."""
    return re2.search(encode_pattern(pattern), body, options=re2_options()) is not None


def _no_response(why: Failure) -> Failure:
    if not why.check(ResponseFailed):
        return why
    value: Any = why.value
    if any(one.check(ConnectionAborted) for one in value.reasons):
        return Failure(NotWell(f"no answer: a head without an end, {MAX_HEAD} bytes of it"))
    reasons = [network_reason(one) for one in value.reasons]
    return Failure(NotWell(f"no answer: {reasons[-1] if reasons else 'the connection was closed'}"))
