"""The status over HTTP: the page for people, its data under /api/v1/, and /metrics. One request a connection.

Nothing can be changed here, so nobody is asked who he is; what it costs is bounded whoever asks: connections, their
length of life, their heads, and how often anybody really looks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from io import BytesIO
from typing import Any, Protocol

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ktcpvs.status.metrics import CONTENT_TYPE, exposition
from ktcpvs.status.summary import summary
from ktcpvs.system.log import EventLog
from ktcpvs.system.processes import usage

MAX_CONNECTIONS = 64
"""Connections at once; a further one is closed at once."""

LIFE = 20.0
"""The longest life of a connection, in seconds."""

HEAD_SIZE = 8192
"""The longest head of a request, in bytes."""

LOOK_AGE = 0.5
"""For so many seconds what was seen is told again, before anybody looks anew."""

STATIC = {
    b"/": ("index.html", "text/html; charset=utf-8"),
    b"/page.css": ("page.css", "text/css; charset=utf-8"),
    b"/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


class Switch(Protocol):
    """What is looked at."""

    def view(self, name: str, ident: str | None) -> Any:
        """A look, as plain data, or a Deferred of it."""

    def processes(self) -> Mapping[str, int]:
        """Name -> process id of each process of the switch."""


class Looks:
    """One look serves everybody who asks for it within LOOK_AGE."""

    def __init__(self, switch: Switch, reactor: Any) -> None:
        self._switch = switch
        self._reactor = reactor
        self._started = time.time()
        self._until = 0.0
        self._shapes: dict[str, bytes] = {}
        self._told: dict[str, Any] = {}
        self._waiting: list[Deferred[dict[str, Any]]] | None = None

    async def shaped(self, name: str, shape: Callable[[dict[str, Any]], bytes]) -> bytes:
        """What `shape` makes of a look, in a thread: thousands of servers take it a second."""
        told = await self._look()
        known = self._shapes.get(name) if told is self._told else None
        if known is None:
            known = await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), shape, told)
            if told is self._told:
                self._shapes[name] = known
        return known

    async def _look(self) -> dict[str, Any]:
        if self._reactor.seconds() < self._until:
            return self._told
        waits: Deferred[dict[str, Any]] = Deferred()
        if self._waiting is not None:
            self._waiting.append(waits)
            return await waits
        waiting = self._waiting = []
        try:
            stats = await maybeDeferred(self._switch.view, "stats", None)
            processes = {name: usage(pid) for name, pid in self._switch.processes().items()}
            self._told, self._shapes = summary(stats, time.time(), self._started, processes), {}
            self._until = self._reactor.seconds() + LOOK_AGE
        except Exception as error:
            self._waiting = None
            for one in waiting:
                one.errback(error)
            raise
        self._waiting = None
        for one in waiting:
            one.callback(self._told)
        return self._told


def as_json(told: dict[str, Any]) -> bytes:
    """What the page reads."""
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


class Pages(Resource):
    """All paths there are."""

    isLeaf = True

    def __init__(self, looks: Looks, log: EventLog) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._looks = looks
        self._log = log
        folder = files("ktcpvs.status") / "page"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in STATIC.items()}
        self._live: dict[bytes, tuple[Callable[[dict[str, Any]], bytes], str]] = {
            b"/metrics": (exposition, CONTENT_TYPE),
            b"/api/v1/status": (as_json, "application/json; charset=utf-8"),
        }

    def render(self, request: Request) -> Any:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _plain(request, 405, "Only GET and HEAD: nothing can be changed here, but by tcpvsadm.")
        if request.path in self._static:
            body, kind = self._static[request.path]
            return _whole(request, body, kind)
        if request.path in self._live:
            shape, kind = self._live[request.path]
            gone = request.notifyFinish()
            answered = ensureDeferred(self._answer(request, request.path.decode(), shape, kind))
            gone.addErrback(lambda _: answered.cancel())
            return NOT_DONE_YET
        return _plain(request, 404, f"There are: {b', '.join((*self._static, *self._live)).decode()}")

    async def _answer(self, request: Request, path: str, shape: Callable[[dict[str, Any]], bytes], kind: str) -> None:
        try:
            body = await self._looks.shaped(path, shape)
        except Exception:
            self._log.failure("the status could not be told")
            body, kind = b"The switch met a fault of its own; its log tells more.\n", "text/plain"
            request.setResponseCode(500)
        if not request._disconnected:
            request.write(_whole(request, body, kind))
            request.finish()


def _whole(request: Request, body: bytes, kind: str) -> bytes:
    request.setHeader(b"content-type", kind.encode())
    request.setHeader(b"content-length", str(len(body)).encode())
    return body


def _plain(request: Request, status: int, text: str) -> bytes:
    request.setResponseCode(status)
    return _whole(request, f"{text}\n".encode(), "text/plain; charset=utf-8")


class _Request(Request):
    """A body is never kept: nobody needs one."""

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """It is thrown away."""


class _Visit(http.HTTPChannel):
    """One connection, one request."""

    requestFactory = _Request
    totalHeadersSize = HEAD_SIZE
    _end: Any = None

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[no-untyped-call]
        transport: Any = self.transport
        visits = self.factory.visits
        visits.add(self)
        if len(visits) > MAX_CONNECTIONS:
            transport.abortConnection()
            return
        self._end = self.factory.reactor.callLater(LIFE, transport.abortConnection)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.factory.visits.discard(self)
        if self._end is not None and self._end.active():
            self._end.cancel()

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])
        return False


class StatusFactory(Site):
    """visits: the connections there are."""

    noisy = False
    protocol: Any = _Visit

    def __init__(self, switch: Switch, log: EventLog, reactor: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            Pages(Looks(switch, reactor), log), requestFactory=_Request, timeout=LIFE, reactor=reactor
        )
        self.visits: set[_Visit] = set()

    def log(self, request: http.Request) -> None:
        """Visits are not logged."""

    def close_all(self) -> None:
        """End all connections now."""
        for visit in list(self.visits):
            transport: Any = visit.transport
            transport.abortConnection()
