"""The status over HTTP: the page for people, its data under /api/v1/, and /metrics. One request a connection.

Nothing can be changed here, so nobody has to log in. What it costs is bounded whoever asks: connections, their length
of life, their heads, how often the status is looked at and written, and what is kept for visitors who read slowly.
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

from ktcpvs.errors import shorten
from ktcpvs.status.cache import SharedValue
from ktcpvs.status.hosts import is_host_name, refused_host
from ktcpvs.status.metrics import CONTENT_TYPE, exposition
from ktcpvs.status.summary import summary
from ktcpvs.system.log import EventLog
from ktcpvs.system.processes import usage
from ktcpvs.system.thread import WorkerThread

MAX_CONNECTIONS = 64
"""Connections at once; a further one is closed at once."""

LIFE = 20.0
"""The longest life of a connection, in seconds."""

HEAD_SIZE = 8192
"""The longest head of a request, in bytes."""

MAX_HELD_BYTES = 64 << 20
"""Bytes of texts older than the newest that are kept because visitors still read them; beyond that, the visitors who
read the oldest one are cut off."""

PIECE = 1 << 16
"""Bytes of a text that are written to a visitor at once."""

TURN = 0.001
"""Seconds for which the thread that writes texts may hold the interpreter, while clients wait."""

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


class Texts:
    """What visitors are told at each path, written in a thread of its own and shared by all who ask."""

    def __init__(self, switch: Switch, reactor: Any) -> None:
        self._switch = switch
        self._started = time.time()
        self._thread = WorkerThread(reactor, "status")
        self._snapshot = SharedValue(self._look, reactor)
        self._texts = {
            "/metrics": SharedValue(lambda: self._written(exposition), reactor),
            "/api/v1/status": SharedValue(lambda: self._written(as_json), reactor),
        }

    def get(self, path: str) -> Deferred[bytes]:
        """The text at `path`. Cancelling it ends this wait alone."""
        return self._texts[path].get()

    def close(self) -> None:
        """Forget everything, and end the thread."""
        self._snapshot.forget()
        for text in self._texts.values():
            text.forget()
        self._thread.stop()

    async def _look(self) -> dict[str, Any]:
        stats = await maybeDeferred(self._switch.view, "stats", None)
        processes = {name: usage(pid) for name, pid in self._switch.processes().items()}
        return summary(stats, time.time(), self._started, processes)

    async def _written(self, write: Callable[[dict[str, Any]], Iterator[bytes]]) -> bytes:
        return await self._thread.call(_joined, write, await self._snapshot.get())


def _joined(write: Callable[[dict[str, Any]], Iterator[bytes]], snapshot: dict[str, Any]) -> bytes:
    """All pieces. Between two of them other threads run."""
    pieces, turn = [], time.monotonic() + TURN
    for piece in write(snapshot):
        pieces.append(piece)
        if time.monotonic() > turn:
            time.sleep(0)  # gives the interpreter away
            turn = time.monotonic() + TURN
    return b"".join(pieces)


def as_json(snapshot: dict[str, Any]) -> Iterator[bytes]:
    """What the page reads, service by service: json.dumps lets no other thread run."""
    head = {name: value for name, value in snapshot.items() if name != "services"}
    yield _json(head)[:-1] + b',"services":['
    for number, service in enumerate(snapshot["services"]):
        yield b"," * (number > 0) + _json(service)
    yield b"]}"


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


@implementer(IPushProducer)
class _Reading:
    """A text on its way to one visitor, in pieces as it takes them: written at once, each visitor would have a copy."""

    def __init__(self, request: Request, text: bytes) -> None:
        self._request = request
        self._text = memoryview(text)
        self._is_paused = False

    def pauseProducing(self) -> None:
        """The visitor takes no more now."""
        self._is_paused = True

    def resumeProducing(self) -> None:
        """Write what the visitor takes."""
        self._is_paused = False
        while self._text and not self._is_paused:
            piece, self._text = self._text[:PIECE], self._text[PIECE:]
            self._request.write(bytes(piece))
        if not self._text:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """The visitor has left."""
        self._is_paused = True


class CachedTexts:
    """Which visitors still read which text, so that slow ones do not keep many old texts in memory."""

    def __init__(self) -> None:
        self._readers: dict[int, tuple[bytes, set[Any]]] = {}  # by the text's identity, in the order of their age

    def add(self, text: bytes, transport: Any) -> None:
        """A visitor begins to read `text`. transport: that of its connection."""
        self._readers.setdefault(id(text), (text, set()))[1].add(transport)
        held = sum(len(one) for one, _ in self._readers.values()) - len(text)
        for old, readers in list(self._readers.values()):
            if held <= MAX_HELD_BYTES:
                return
            if old is not text:
                held -= len(old)
                for reader in list(readers):
                    reader.abortConnection()

    def remove(self, text: bytes, transport: Any) -> None:
        """It has read it, or has gone."""
        _, readers = self._readers.get(id(text), (text, set()))
        readers.discard(transport)
        if not readers:
            self._readers.pop(id(text), None)


class Pages(Resource):
    """All paths there are."""

    isLeaf = True

    def __init__(self, texts: Texts, hosts: Sequence[str], log: EventLog) -> None:
        """hosts: names that are answered for besides IP addresses and localhost."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._texts = texts
        self._hosts = hosts
        self._held = CachedTexts()
        self._log = log
        folder = files("ktcpvs.status") / "page"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in STATIC.items()}
        self._live = {b"/metrics": CONTENT_TYPE, b"/api/v1/status": "application/json; charset=utf-8"}

    def render(self, request: Request) -> Any:
        for name, value in HEADERS.items():
            request.setHeader(name, value)
        if refusal := self._refusal(request):
            return refusal
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return _plain(request, 405, "Only GET and HEAD: nothing can be changed here, but by tcpvsadm.")
        if request.path in self._static:
            body, kind = self._static[request.path]
            return _whole(request, body, kind)
        if request.path in self._live:
            self._answer(request)
            return NOT_DONE_YET
        return _plain(request, 404, f"There are: {b', '.join((*self._static, *self._live)).decode()}")

    def _refusal(self, request: Request) -> bytes | None:
        """What is answered to a request whose Host header is not right; None: it is."""
        hosts = request.requestHeaders.getRawHeaders(b"host", [])
        if len(hosts) > 1 or (not hosts and request.clientproto != b"HTTP/1.0"):
            return _plain(request, 400, "The request has no Host header, or several; it needs one (RFC 9112, 3.2).")
        refused = refused_host(hosts[0], self._hosts) if hosts else None
        if refused is None:
            return None
        is_name = is_host_name(refused)
        how = f"start ktcpvs with --status-host {shorten(refused)}" if is_name else "call it by its address"
        request.setResponseCode(421, b"Misdirected Request")
        text = f"The status is not served under the host name '{shorten(refused)}'; to have it served, {how}.\n"
        return _whole(request, text.encode("ascii", "backslashreplace"), "text/plain; charset=utf-8")

    def _answer(self, request: Request) -> None:
        waits = self._texts.get(request.path.decode())
        request.notifyFinish().addErrback(lambda _: waits.cancel())
        waits.addCallbacks(lambda text: self._send(request, text), lambda failure: self._fail(request, failure))

    def _send(self, request: Request, text: bytes) -> None:
        _whole(request, text, self._live[request.path])
        if request.method == b"HEAD":
            request.finish()
            return
        transport = request.channel.transport
        self._held.add(text, transport)
        request.notifyFinish().addBoth(lambda _: self._held.remove(text, transport))
        reading = _Reading(request, text)
        request.registerProducer(reading, True)
        reading.resumeProducing()

    def _fail(self, request: Request, failure: Failure) -> None:
        if failure.check(CancelledError):
            return  # the visitor has left
        self._log.failure("the status cannot be told", failure)
        request.write(_plain(request, 500, "Internal error; see the log of ktcpvs."))
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

    def __init__(self, switch: Switch, hosts: Sequence[str], log: EventLog, reactor: Any) -> None:
        """hosts: see Pages."""
        self._texts = Texts(switch, reactor)
        super().__init__(  # type: ignore[no-untyped-call]
            Pages(self._texts, hosts, log), requestFactory=_Request, timeout=LIFE, reactor=reactor
        )
        self.visits: set[_Visit] = set()

    def log(self, request: http.Request) -> None:
        """Visits are not logged."""

    def close_all(self) -> None:
        """End all connections now, and forget what they were told."""
        self._texts.close()
        for visit in list(self.visits):
            transport: Any = visit.transport
            transport.abortConnection()
