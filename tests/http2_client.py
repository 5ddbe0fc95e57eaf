"""A client's HTTP/2 connection, by h2. Its requests may be in flight at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from servers import LOOPBACK

NAME = "localhost"
GOAWAY = 7
NOT_HANDLED = 7
"""The error code REFUSED_STREAM."""

GRPC = ("content-type", "application/grpc"), ("te", "trailers")
"""Fields of a call."""

Fields = Sequence[tuple[str, str]]


class Gone(EOFError):
    """The connection, or the stream, has ended before its response."""


class NotHandled(Gone):
    """The request was not handled, as the peer has said: it may be sent again (RFC 9113, section 8.7)."""


@dataclass
class HTTP2Response:
    """status: 0 until it has come. server: the field X-Server. fields, trailers: by name, in lower case."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def server(self) -> str:
        return self.fields.get("x-server", "")


class HTTP2Client:
    """port: its own. is_retiring: the peer accepts no further requests, or has closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]
        self.is_retiring = False
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self._responses: dict[int, tuple[HTTP2Response, asyncio.Future[None]]] = {}
        self._window = asyncio.Event()
        self._h2.initiate_connection()
        self._flush()
        self._reading = asyncio.ensure_future(self._read())

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> HTTP2Client:
        """Connect to the switch. tls: which offers h2; None: by prior knowledge. Raises OSError."""
        name = NAME if tls is not None else None
        return cls(*await asyncio.open_connection(LOOPBACK, port, ssl=tls, server_hostname=name))

    async def request(
        self, method: str, path: str, fields: Fields = (), body: bytes | None = None, into: HTTP2Response | None = None
    ) -> HTTP2Response:
        """Send a request, and return its whole response. into: filled as it comes. Raises Gone, OSError."""
        if self.is_retiring:
            raise NotHandled
        response = into or HTTP2Response()
        stream = self._h2.get_next_available_stream_id()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._responses[stream] = response, ended
        pseudo = (":method", method), (":scheme", "http"), (":authority", "soak"), (":path", path)
        try:
            self._h2.send_headers(stream, [*pseudo, *fields], end_stream=body is None)
            self._flush()
            if body is not None:
                await self._send_body(stream, body, ended)
            await ended
        finally:
            self._responses.pop(stream, None)
        return response

    async def _send_body(self, stream: int, body: bytes, ended: asyncio.Future[None]) -> None:
        while not ended.done() and not self.is_over:
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(body))
            if body and size <= 0:
                self._window.clear()
                waiting: asyncio.Future[Any] = asyncio.ensure_future(self._window.wait())
                both: list[asyncio.Future[Any]] = [waiting, ended]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                continue
            piece, body = body[:size], body[size:]
            self._h2.send_data(stream, piece, end_stream=not body)
            self._flush()
            await self._writer.drain()
            if not body:
                return

    @property
    def is_over(self) -> bool:
        return self._reading.done()

    async def close(self) -> None:
        self.is_retiring = True
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._reading
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()
            await self._writer.wait_closed()

    def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())

    async def _read(self) -> None:
        error: Exception = Gone("the connection has ended")
        held = b""
        try:
            while data := await self._reader.read(1 << 16):
                held = self._take(held + data)
        except (OSError, EOFError, RuntimeError, h2.exceptions.ProtocolError) as failed:
            error = Gone(repr(failed))
        self.is_retiring = True
        self._window.set()
        for _, ended in self._responses.values():
            if not ended.done():
                ended.set_exception(error)

    def _take(self, data: bytes) -> bytes:
        """Take whole frames; return the rest. After a GOAWAY, h2 accepts no more frames, so it does not see them."""
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            end = 9 + int.from_bytes(data[:3], "big")
            frame, data = data[:end], data[end:]
            if frame[3] == GOAWAY:
                self._retire(int.from_bytes(frame[9:13], "big"))
                continue
            for event in self._h2.receive_data(frame):
                self._happened(event)
        self._flush()
        return data

    def _retire(self, last: int) -> None:
        self.is_retiring = True
        for stream, (_, ended) in self._responses.items():
            if stream > last and not ended.done():
                ended.set_exception(NotHandled())

    def _happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._window.set()
        if isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        response, ended = self._responses.get(getattr(event, "stream_id", 0) or 0, (None, None))
        if response is None or ended is None or ended.done():
            return
        if isinstance(event, h2.events.ResponseReceived):
            response.fields = dict(event.headers)  # type: ignore[arg-type]
            response.status = int(response.fields[":status"])
        elif isinstance(event, h2.events.DataReceived):
            response.body += event.data
        elif isinstance(event, h2.events.TrailersReceived):
            response.trailers = dict(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.StreamEnded):
            ended.set_result(None)
        elif isinstance(event, h2.events.StreamReset):
            code = event.error_code
            ended.set_exception(NotHandled() if code == NOT_HANDLED else Gone(f"the stream is reset: {code}"))


def http2_context(ca: str) -> ssl.SSLContext:
    """TLS for such clients. ca: a file."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    return context


def grpc_message(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content
