"""The HTTP server of the status: the page, its data under /api/v1/, and /metrics. One request per connection.

The status is read-only, so it needs no login. Limits bound what clients can cost: the number of connections, their
lifetime, the size of heads, how often the status is rendered, and the memory held for slow clients.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from ktcpvs.errors import BadValue, shorten
from ktcpvs.status.host_names import is_host_name, refused_host
from ktcpvs.status.metrics import CONTENT_TYPE, format_metrics
from ktcpvs.status.readiness import Readiness
from ktcpvs.status.shared_value import SharedValue
from ktcpvs.status.summary import summarize
from ktcpvs.status.trouble import find_trouble
from ktcpvs.system.log import EventLog
from ktcpvs.system.processes import usage
from ktcpvs.system.thread import WorkerThread

MAX_CONNECTIONS = 64
"""The most connections at once; a further one is closed."""

MAX_LIFETIME = 20.0
"""The longest lifetime of a connection, in seconds."""

MAX_HEAD_BYTES = 8192
"""The longest head of a request."""

MAX_HELD_BYTES = 64 << 20
"""The most bytes of bodies older than the newest that are held because clients still read them. Beyond that, the
connections that read the oldest one are aborted."""

CHUNK_SIZE = 1 << 16
"""Bytes of a body that are written to a client at once."""

MAX_TURN = 0.001
"""Seconds for which the rendering thread may hold the interpreter, while the switch's clients wait."""

SCRIPTS = ("page.js", "panels.js", "services.js", "plots.js", "measure.js", "format.js", "dom.js")
"""The page's modules; the first one imports the others."""

STATIC = {
    b"/": ("index.html", "text/html; charset=utf-8"),
    b"/page.css": ("page.css", "text/css; charset=utf-8"),
    **{f"/{name}".encode(): (name, "text/javascript; charset=utf-8") for name in SCRIPTS},
}

READY = b"/ready"
"""Whether load balancers in front should send clients: 200, or 503 with the reason."""

HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Switch(Protocol):
    """The switch whose status is served."""

    def view(self, name: str, ident: str | None) -> Any:
        """Return a view as plain data, or a Deferred of it."""

    def processes(self) -> Mapping[str, int]:
        """Return {name: process id} for each process of the switch."""

    def worker_counts(self) -> Mapping[str, float | None] | None:
        """Return `configured`, `ready`, `restarts` and `since_restart` (seconds; None: never) of the workers; None: one
        process serves."""


class RenderedStatus:
    """The bodies at the live paths, rendered in a thread and shared by all requests."""

    def __init__(self, switch: Switch, reactor: Any) -> None:
        self._switch = switch
        self._started = time.time()
        self._thread = WorkerThread(reactor, "status")
        self._snapshot = SharedValue(self._take_snapshot, reactor)
        self._bodies = {
            "/metrics": SharedValue(lambda: self._render_in_thread(format_metrics), reactor),
            "/api/v1/status": SharedValue(lambda: self._render_in_thread(format_json), reactor),
        }

    def get(self, path: str) -> Deferred[bytes]:
        """Return the body at `path`. Cancelling the Deferred ends only this wait."""
        return self._bodies[path].get()

    def close(self) -> None:
        """Drop all bodies, and stop the thread."""
        self._snapshot.forget()
        for body in self._bodies.values():
            body.forget()
        self._thread.stop()

    async def _take_snapshot(self) -> dict[str, Any]:
        stats = await maybeDeferred(self._switch.view, "stats", None)
        certificates = await maybeDeferred(self._switch.view, "certificates", None)
        nodes = await self._read_nodes()
        processes = {name: usage(pid) for name, pid in self._switch.processes().items()}
        workers = self._switch.worker_counts()
        return summarize(stats, certificates, time.time(), self._started, processes, nodes, workers)

    async def _read_nodes(self) -> dict[str, Any] | None:
        """Return the nodes of the cluster; None: this daemon is in none."""
        try:
            nodes: dict[str, Any] = await maybeDeferred(self._switch.view, "nodes", None)
        except BadValue:
            return None
        return nodes

    async def _render_in_thread(self, render: Callable[[dict[str, Any]], Iterator[bytes]]) -> bytes:
        return await self._thread.call(_render, render, await self._snapshot.get())


def _render(render: Callable[[dict[str, Any]], Iterator[bytes]], snapshot: dict[str, Any]) -> bytes:
    """Join all pieces. Other threads can run between two of them."""
    pieces, turn = [], time.monotonic() + MAX_TURN
    for piece in render(snapshot):
        pieces.append(piece)
        if time.monotonic() > turn:
            time.sleep(0)  # yields the interpreter
            turn = time.monotonic() + MAX_TURN
    return b"".join(pieces)


def format_json(snapshot: dict[str, Any]) -> Iterator[bytes]:
    """Format the page's data service by service, since json.dumps lets no other thread run."""
    head = {name: value for name, value in snapshot.items() if name != "services"}
    head["trouble"], head["trouble_left_out"] = find_trouble(snapshot)
    yield _json(head)[:-1] + b',"services":['
    for number, service in enumerate(snapshot["services"]):
        yield b"," * (number > 0) + _json(service)
    yield b"]}"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


@implementer(IPushProducer)
class _BodyProducer:
    """Sends a body to one client in chunks. Written in one piece, the body would be copied for each client."""

    def __init__(self, request: Request, body: bytes) -> None:
        self._request = request
        self._body = memoryview(body)
        self._is_paused = False

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Write until the transport's buffer is full."""
        self._is_paused = False
        while self._body and not self._is_paused:
            chunk, self._body = self._body[:CHUNK_SIZE], self._body[CHUNK_SIZE:]
            self._request.write(bytes(chunk))
        if not self._body:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """The client has disconnected."""
        self._is_paused = True


class BodyReaders:
    """Tracks which connections still read which body, so that slow clients do not hold many old bodies in memory."""

    def __init__(self) -> None:
        self._readers: dict[int, tuple[bytes, set[Any]]] = {}  # by the identity of the body, the oldest first

    def add(self, body: bytes, transport: Any) -> None:
        """Register a client that begins to read `body`. transport: that of its connection."""
        self._readers.setdefault(id(body), (body, set()))[1].add(transport)
        held = sum(len(one) for one, _ in self._readers.values()) - len(body)
        for old, readers in list(self._readers.values()):
            if held <= MAX_HELD_BYTES:
                return
            if old is not body:
                held -= len(old)
                for reader in list(readers):
                    reader.abortConnection()

    def remove(self, body: bytes, transport: Any) -> None:
        """Forget a client that has read the body, or has disconnected."""
        _, readers = self._readers.get(id(body), (body, set()))
        readers.discard(transport)
        if not readers:
            self._readers.pop(id(body), None)


class StatusResource(Resource):
    """Serves all paths."""

    isLeaf = True

    def __init__(self, rendered: RenderedStatus, hosts: Sequence[str], log: EventLog, readiness: Readiness) -> None:
        """hosts: names under which the status is served, besides IP addresses and localhost."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._rendered = rendered
        self._hosts = hosts
        self._readers = BodyReaders()
        self._log = log
        self._readiness = readiness
        folder = files("ktcpvs.status") / "page"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in STATIC.items()}
        self._live = {b"/metrics": CONTENT_TYPE, b"/api/v1/status": "application/json; charset=utf-8"}

    def render(self, request: Request) -> Any:
        body = self._render(request)
        # Request.render() warns in the log of a body that it must drop.
        return b"" if request.method == b"HEAD" and body is not NOT_DONE_YET else body

    def _render(self, request: Request) -> Any:
        """Set the headers, and return the body of GET, or NOT_DONE_YET."""
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if refusal := self._refuse_host(request):
            return refusal
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _text_response(
                request, 405, "Only GET and HEAD are allowed: the status is read-only; use tcpvsadm for changes."
            )
        if request.path in self._static:
            body, kind = self._static[request.path]
            return _set_body(request, body, kind)
        if request.path == READY:
            why = self._readiness.why_not()
            return _text_response(request, 503 if why else 200, why or "ready")
        if request.path in self._live:
            self._respond(request)
            return NOT_DONE_YET
        return _text_response(
            request, 404, f"Not found; the paths are: {b', '.join((*self._static, *self._live, READY)).decode()}"
        )

    def _refuse_host(self, request: Request) -> bytes | None:
        """Return the response to a request with a wrong Host header; None: the header is right."""
        hosts = request.requestHeaders.getRawHeaders(b"host", [])
        if len(hosts) > 1 or (not hosts and request.clientproto != b"HTTP/1.0"):
            return _text_response(request, 400, "The request must have exactly one Host header (RFC 9112, 3.2).")
        refused = refused_host(hosts[0], self._hosts) if hosts else None
        if refused is None:
            return None
        is_name = is_host_name(refused)
        how = f"start ktcpvs with --status-host {shorten(refused)}" if is_name else "use its IP address"
        request.setResponseCode(421, b"Misdirected Request")
        text = f"The status is not served under the host name '{shorten(refused)}'; to have it served, {how}.\n"
        return _set_body(request, text.encode("ascii", "backslashreplace"), "text/plain; charset=utf-8")

    def _respond(self, request: Request) -> None:
        waiting = self._rendered.get(request.path.decode())
        request.notifyFinish().addErrback(lambda _: waiting.cancel())
        waiting.addCallbacks(lambda body: self._send(request, body), lambda failure: self._fail(request, failure))

    def _send(self, request: Request, body: bytes) -> None:
        _set_body(request, body, self._live[request.path])
        if request.method == b"HEAD":
            request.finish()
            return
        transport = request.channel.transport
        self._readers.add(body, transport)
        request.notifyFinish().addBoth(lambda _: self._readers.remove(body, transport))
        producer = _BodyProducer(request, body)
        request.registerProducer(producer, True)
        producer.resumeProducing()

    def _fail(self, request: Request, failure: Failure) -> None:
        if failure.check(CancelledError):
            return  # the client has disconnected
        self._log.failure("the status cannot be rendered", failure)
        request.write(_text_response(request, 500, "Internal error; see the log of ktcpvs."))
        request.finish()


def _set_body(request: Request, body: bytes, kind: str) -> bytes:
    request.setHeader(b"content-type", kind.encode())
    request.setHeader(b"content-length", str(len(body)).encode())
    return body


def _text_response(request: Request, status: int, text: str) -> bytes:
    request.setResponseCode(status)
    return _set_body(request, f"{text}\n".encode(), "text/plain; charset=utf-8")


class _Request(Request):
    """A request whose body is discarded."""

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Discard it."""


class _StatusChannel(http.HTTPChannel):
    """One connection, for one request."""

    requestFactory = _Request
    totalHeadersSize = MAX_HEAD_BYTES
    _timeout: Any = None

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        transport: Any = self.transport
        channels = self.factory.channels
        channels.add(self)
        if len(channels) > MAX_CONNECTIONS:
            transport.abortConnection()
            return
        self._timeout = self.factory.reactor.callLater(MAX_LIFETIME, transport.abortConnection)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.factory.channels.discard(self)
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False


class StatusFactory(Site):
    """Makes the channels of connections. channels: those that are open."""

    noisy = False
    protocol: Any = _StatusChannel

    def __init__(self, switch: Switch, hosts: Sequence[str], log: EventLog, reactor: Any, readiness: Readiness) -> None:
        """hosts: see StatusResource."""
        self._rendered = RenderedStatus(switch, reactor)
        super().__init__(  # type: ignore[no-untyped-call]
            StatusResource(self._rendered, hosts, log, readiness),
            requestFactory=_Request,
            timeout=MAX_LIFETIME,
            reactor=reactor,
        )
        self.channels: set[_StatusChannel] = set()

    def log(self, request: http.Request) -> None:
        """Requests are not logged."""

    def close_all(self) -> None:
        """Abort all connections, and drop all bodies."""
        self._rendered.close()
        for channel in list(self.channels):
            transport: Any = channel.transport
            transport.abortConnection()
