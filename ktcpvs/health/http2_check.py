"""Checks by HTTP/2: a GET, or a question to the health service of gRPC, each on a connection of its own.

A server with TLS that chooses HTTP/1.1 gets the same GET in HTTP/1.1.
"""

from __future__ import annotations

from collections.abc import Callable

import re2
from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from ktcpvs.errors import shorten
from ktcpvs.health.check_connection import CheckConnection
from ktcpvs.model.address import host_field
from ktcpvs.model.check import Check, CheckResponse, NotWell
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.request_values import header_values
from ktcpvs.protocols import grpc, http1, http2
from ktcpvs.protocols.http2.constants import ALPN, error_name
from ktcpvs.streams.connector import Connector
from ktcpvs.streams.stream import Stream
from ktcpvs.version import __version__

MAX_HEAD = 1 << 16
"""Bytes within which a response's head must end in HTTP/1.1, interim responses included."""

MAX_SEARCHED_BODY = 1 << 16
"""Bytes of a response's body that are searched for a pattern."""

MAX_RESPONSE = 1 << 20
"""The most bytes that are read for one check."""


@define
class HTTP2Response:
    """A response to a check. lines: its header fields and trailers, as lines of HTTP/1. body: the beginning of it."""

    status: int
    lines: bytes = b""
    body: bytes = b""
    version: str = "HTTP/2"


@frozen
class CheckRequest:
    """The request of a check. head: in HTTP/1.1, with its empty line. judge: called with the response; returns what is
    shown of it, None: nothing; raises NotWell if it does not pass. body: of the request. needs_http2: it cannot be sent
    in HTTP/1.1."""

    head: bytes = field(repr=False)
    judge: Callable[[HTTP2Response], CheckResponse | None]
    body: bytes = b""
    needs_http2: bool = False


def probe_http(check: Check, connector: Connector, name: str | None = None) -> Deferred[CheckResponse | None]:
    """Start a check of kind HTTP; the Deferred fires if it passes, and fails if not. Cancelling it stops the check.
    name: the server's host and port as they are configured; None: as in its address."""

    def judge(response: HTTP2Response) -> CheckResponse:
        names = () if check.weight is None else (check.weight.lower().encode(),)
        weights = [value.decode("latin-1") for _, value in header_values(response.lines, names)]
        seen = CheckResponse(f"{response.version} {response.status}", weights[-1] if weights else None)
        if not check.is_well(response.status):
            raise NotWell(f"status {response.status}", seen)
        found = response.body[:MAX_SEARCHED_BODY]
        if check.body is not None and re2.search(encode_pattern(check.body), found, options=re2_options()) is None:
            raise NotWell(f"the response's body does not have '{shorten(check.body, 40)}'", seen)
        return seen

    lines = [f"{field}: {value}" for field, value in check.headers]
    head = request_head(check.method, check.path, connector, name, *lines, host=check.host)
    return HTTP2Check(CheckRequest(head, judge, needs_http2=check.body is not None)).begin(connector)


def probe_grpc(check: Check, connector: Connector, name: str | None = None) -> Deferred[CheckResponse | None]:
    """As `probe_http`, for a check of kind GRPC: the server, or one service of it, must be SERVING."""
    body = grpc.health_request(check.service)
    lines = "Content-Type: application/grpc", "TE: trailers", f"Content-Length: {len(body)}"
    head = request_head("POST", grpc.HEALTH_PATH, connector, name, *lines)
    return HTTP2Check(CheckRequest(head, _judge_grpc, body, needs_http2=True)).begin(connector)


def _judge_grpc(response: HTTP2Response) -> None:
    status = grpc.read_status(response.lines)
    if response.status != 200 or status is None:
        raise NotWell(f"status {response.status}, which is no response of gRPC")
    if status != grpc.OK:
        raise NotWell(f"grpc-status {grpc.status_name(status)}")
    health = grpc.read_health(response.body)
    if health is None:
        raise NotWell("the response is not one of the health service")
    if health != grpc.SERVING:
        names = grpc.SERVING_NAMES
        raise NotWell(names[health] if health < len(names) else f"unknown health {health}")


def request_head(
    method: str, path: str, connector: Connector, name: str | None, *lines: str, host: str | None = None
) -> bytes:
    """Return the head of a check's request in HTTP/1.1. name: as for `probe_http`. host: the value of Host; None: the
    server's."""
    # A dot at the end of a name is for name servers; web servers do not expect it.
    host = host or (name or host_field(connector.address)).replace(".:", ":")
    first = f"{method} {path} HTTP/1.1", f"Host: {host}", f"User-Agent: ktcpvs/{__version__} check"
    return "\r\n".join((*first, *lines, "", "")).encode()


class HTTP2Check:
    """One check in progress."""

    def __init__(self, request: CheckRequest) -> None:
        self._request = request
        self._connection = CheckConnection(self._connected, self._data_received, self._over)
        self._stream = self._connection.stream
        self._client: http2.Client | None = None  # None: HTTP/1.1
        self._stream_id = 0  # of the request, once it is sent
        self._received = b""  # in HTTP/1.1
        self._size = 0
        self._response: HTTP2Response | None = None

    def begin(self, connector: Connector) -> Deferred[CheckResponse | None]:
        """Start; the Deferred fires if the check passes, else fails. Cancelling it closes the connection."""
        return self._connection.begin(connector)

    def _connected(self, stream: Stream) -> None:
        tls = stream.tls
        if tls is None or tls.alpn == ALPN:
            self._client = http2.Client(http2.Limits())
            self._flush(self._client)
        elif self._request.needs_http2:
            self._not_well("the server has chosen HTTP/1.1 in ALPN")
        else:
            stream.write(self._request.head.removesuffix(b"\r\n") + b"Connection: close\r\n\r\n")

    def _flush(self, client: http2.Client) -> None:
        if client.has_output:
            self._stream.writev(client.take_output())

    def _data_received(self, data: bytes) -> None:
        self._size += len(data)
        client = self._client
        if self._connection.is_judged:
            return
        if self._size > MAX_RESPONSE:
            self._not_well(f"no answer: a response without an end, {MAX_RESPONSE} bytes of it")
        elif client is None:
            self._read_http1(data)
        else:
            for event in client.receive(data, 0):
                self._handle(client, event)
            self._flush(client)

    def _read_http1(self, data: bytes) -> None:
        looked, self._received = len(self._received), self._received + data
        try:
            while (read := http1.read_response(self._received, b"GET", MAX_HEAD, looked)) is not None:
                response, end = read
                if response.status >= 200:
                    self._judge(HTTP2Response(response.status, response.head, version="HTTP/1.1"))
                    return
                self._received, looked = self._received[end:], 0
        except http1.BadResponse as bad:
            self._not_well(f"no answer: {bad}")

    def _handle(self, client: http2.Client, event: http2.Event) -> None:
        if isinstance(event, http2.SettingsReceived):
            self._send_request(client)
        elif isinstance(event, http2.ResponseReceived):
            self._response = HTTP2Response(event.response.status, event.response.lines)
            self._end_if(event.end_stream)
        elif isinstance(event, http2.DataReceived) and self._response is not None:
            client.acknowledge(event.stream_id, len(event.data))
            self._response.body += event.data
            self._end_if(event.end_stream)
        elif isinstance(event, http2.TrailersReceived) and self._response is not None:
            self._response.lines += event.lines
            self._end_if(True)
        elif isinstance(event, http2.StreamReset):
            self._not_well(f"no answer: {event.reason} ({error_name(event.code)})")
        elif isinstance(event, http2.GoAwayReceived) and event.last_stream_id < self._stream_id:
            self._not_well(f"no answer: the server has gone away ({error_name(event.code)})")
        elif isinstance(event, http2.ConnectionEnded):
            self._not_well(f"no HTTP/2: {event.reason}")

    def _send_request(self, client: http2.Client) -> None:
        if self._stream_id or not client.can_open:
            return
        request = self._request
        scheme = b"http" if self._stream.tls is None else b"https"
        headers = http2.request_list(request.head, scheme)
        self._stream_id = client.send_request(headers, request.head.partition(b" ")[0], not request.body)
        if request.body:
            client.send_data(self._stream_id, request.body, end_stream=True)  # short enough for every window

    def _end_if(self, has_ended: bool) -> None:
        if has_ended and self._response is not None:
            self._judge(self._response)

    def _judge(self, response: HTTP2Response) -> None:
        try:
            seen = self._request.judge(response)
        except NotWell as why:
            self._not_well(str(why), why.response)
            return
        self._connection.pass_with(seen)
        self._close()

    def _close(self) -> None:
        if self._client is not None and self._stream.is_open:
            self._client.goaway()
            self._flush(self._client)
        self._stream.close()

    def _over(self, failure: str) -> None:
        self._not_well(failure or "no answer: the connection was closed")

    def _not_well(self, why: str, response: CheckResponse | None = None) -> None:
        self._connection.fail_with(why, response)
