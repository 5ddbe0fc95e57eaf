"""The head cache of a service: plain messages, recognised by a scanner or by bytes that were received before.

A cached entry applies only to requests or heads of responses that are equal byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.http.whole_messages import WholeRequests, WholeResponses
from ktcpvs.model.options import OFF
from ktcpvs.model.request_values import normalized_host
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.tls_hosts import ForeignHosts
from ktcpvs.protocols.forwarding import CERTIFICATE_FIELDS, FIELDS, HTTP, NO_FORWARDING, Forwarding
from ktcpvs.protocols.http1 import plain
from ktcpvs.protocols.http1.plain import MAX_REPLACED, PlainRequest, RequestScanner
from ktcpvs.runtime.challenges import CHALLENGE_PATH

CLOSE = b"Connection: close\r\n\r\n"
"""The end of a response's head after which the client's connection is closed."""

KEEP_ALIVE = b"Connection: keep-alive\r\n\r\n"
"""The end of a head for an HTTP/1.0 client that may send another request."""

MAX_CACHED_HEAD = 2048
"""The longest head of a response that is cached, in bytes."""

MAX_REQUESTS = 256
"""The most requests that are cached for a service without forwarding fields; a power of two. The last request of each
size is kept at the place of that size: comparing it costs less than looking up a hash of its bytes."""

MAX_CACHED_REQUEST = 1024
"""The longest request that is cached, in bytes."""

MAX_CLIENTS = 4096
"""The most client addresses whose forwarding fields are cached."""

ScannedResponse = tuple[int, int, int, bytes]
"""A result of `scan_response`: status, size of the head, length of the body, the head as it is forwarded."""


Scan = Callable[[bytes, bytes], PlainRequest | None]
"""`RequestScanner.scan`."""


def _scan_unless_foreign(scan: Scan, foreign: ForeignHosts) -> Scan:
    """Return a `scan` for which requests for these hosts are not plain."""

    def scan_own(data: bytes, added: bytes) -> PlainRequest | None:
        request = scan(data, added)
        return None if request is None or normalized_host(request.host) in foreign else request

    return scan_own


def _scan_unless_challenge(scan: Scan) -> Scan:
    """Return a `scan` for which requests for challenges of ACME are not plain."""

    def scan_others(data: bytes, added: bytes) -> PlainRequest | None:
        request = scan(data, added)
        return None if request is None or request.target.startswith(CHALLENGE_PATH) else request

    return scan_others


class CachedResponse:
    """A response to a GET that was received as a whole, and after which the server connection can be reused.

    start: its head as it was received. head: the head as it is forwarded, without the empty line. total: bytes of the
    whole response. as_is: the head is forwarded unchanged. row: the histogram of such responses (model.latency).
    edits: those that were last applied to it; None: there were none. kept: the head without the fields that these drop.
    """

    __slots__ = ("as_is", "edits", "head", "kept", "row", "start", "status", "total")

    def __init__(self, status: int, start: bytes, head: bytes, total: int, row: list[int]) -> None:
        self.status = status
        self.start = start
        self.head = head
        self.total = total
        self.row = row
        self.as_is = len(start) == len(head) + 2
        self.edits: object = None
        self.kept = head


class HeadCache:
    """The head cache of one service, for clients of one scheme and version: what servers are told differs with them.

    is_enabled: False while every step of a request is logged. head_size: the limit in force, in bytes. forwarding: what
    servers are told about clients; forwards: that it is anything. scan: `RequestScanner.scan`, with the limits
    in force. whole_requests: recognises requests with a body. whole_responses: recognises chunked responses.
    has_proxies: a request may come from a trusted proxy, so that its header lines tell the client.
    """

    __slots__ = (
        "_added", "_is_http2", "_limits", "_requests", "_scanner", "_scanners", "_scheme", "forwarding", "forwards",
        "has_proxies", "head_size", "is_enabled", "scan", "scan_response", "whole_requests",
        "whole_responses",
    )  # fmt: skip

    def __init__(self, scheme: bytes = HTTP, is_http2: bool = False) -> None:
        """scheme: of the clients, HTTP or HTTPS of `protocols.forwarding`. is_http2: they speak HTTP/2."""
        self._scheme = scheme
        self._is_http2 = is_http2
        self.use(plain.RequestScanner, plain.scan_response)
        self.is_enabled = False
        self._requests: list[PlainRequest | None] = [None] * MAX_REQUESTS
        self.head_size = 0
        self.forwarding = NO_FORWARDING
        self.forwards = False
        self._added: dict[str | tuple[str, str], bytes] = {}
        self._limits = 0, 0, 0
        self._scanners: dict[frozenset[bytes], RequestScanner] = {}  # by the fields that edits drop
        self.has_proxies = False
        self.scan: Scan = self._scanner(0, 0, 0, frozenset(), False).scan
        self.whole_requests = WholeRequests(0, 0, 0, 0, frozenset())
        self.whole_responses = WholeResponses()

    def use(self, scanner: type[RequestScanner], scan_response: Callable[[bytes], ScannedResponse | None]) -> None:
        """Recognise plain messages by these functions from the next `configure` on, instead of the fastest ones."""
        self._scanner = scanner
        self.scan_response = scan_response

    def __repr__(self) -> str:
        return f"<HeadCache {len(self.cached)} requests>"

    @property
    def cached(self) -> list[PlainRequest]:
        """The cached requests."""
        return [request for request in self._requests if request is not None]

    def configure(
        self,
        config: VirtualService,
        settings: Settings,
        is_enabled: bool,
        logs: bool,
        has_proxies: bool = False,
        foreign: ForeignHosts | None = None,
        has_challenges: bool = False,
        reads_bodies: bool = False,
    ) -> None:
        """Apply changed options or settings, and clear the cache.

        logs: requests are noted in an access log. has_proxies: the service has trusted proxies. foreign: hosts whose
        requests are not plain; None: there are none. has_challenges: challenges of ACME are pending, so that requests
        for them are not plain. reads_bodies: the scheduler does, so that no request with a body is plain.
        """
        modes = {name: getattr(config, name) for name in FIELDS}
        replaced = frozenset() if config.client_cert_header == OFF else CERTIFICATE_FIELDS
        self.forwarding = forwarding = Forwarding(modes, self._scheme, replaced, self._is_http2)
        self.forwards = bool(forwarding)
        self._requests, self._added, self._scanners = [None] * MAX_REQUESTS, {}, {}
        self.head_size = settings.head_size
        self._limits = settings.head_size, settings.head_lines, settings.uri_size
        scan: Scan = self._scanner(*self._limits, forwarding.replaced, logs).scan
        scan = scan if foreign is None else _scan_unless_foreign(scan, foreign)
        self.scan = _scan_unless_challenge(scan) if has_challenges else scan
        limits = (0, 0, 0) if reads_bodies else self._limits
        self.whole_requests = WholeRequests(*limits, settings.body_size, forwarding.replaced, foreign)
        self.whole_responses = WholeResponses()
        self.is_enabled, self.has_proxies = is_enabled, has_proxies

    def read(self, data: bytes, client: str) -> PlainRequest | None:
        """Return `data` as a plain request, ready for a server; None if it is not one plain request.

        client: its address, as text.
        """
        if not data.startswith(b"GET "):
            return self.read_with_body(data, client)
        if self.forwards:
            return self._read_for(data, client)
        place = len(data) & MAX_REQUESTS - 1
        request = self._requests[place]
        if request is not None and request.data == data:
            return request
        request = self.scan(data, b"")
        if request is not None and len(data) <= MAX_CACHED_REQUEST:
            self._requests[place] = request
        return request

    def _read_for(self, data: bytes, client: str) -> PlainRequest | None:
        """The same for a service that forwards fields about the client."""
        if not self.forwarding.depends_on_request:
            return self.scan(data, self.added(client, b"", True))
        request = self.scan(data, b"")
        if request is not None:
            added = self.forwarding.lines(client, request.host, request.minor)
            request.out = b"%b%b\r\n" % (request.out[:-2], added)
        return request

    def read_proxied(self, data: bytes, proxy: str, identify: Callable[[bytes], str]) -> PlainRequest | None:
        """The same for a service that has trusted proxies.

        proxy: the address of the connection's peer. identify: returns the address of the client, given the request's
        header lines. It raises BadRequest.
        """
        request = self.scan(data, b"")
        if request is not None:
            added = self.added(identify(request.lines), request.host, request.minor, proxy)
            if added:
                request.out = b"%b%b\r\n" % (request.out[:-2], added)
        return request

    def edited(self, data: bytes, removed: frozenset[bytes], added: bytes) -> bytes | None:
        """Return the head of a plain request with further header lines, in HTTP/1.1; None if it has one of the fields
        that are dropped, or is not plain.

        removed: canonical names of these fields, besides those that forwarding replaces.
        """
        scanner = self._scanners.get(removed)
        if scanner is None:
            replaced = self.forwarding.replaced | removed
            if len(replaced) > MAX_REPLACED:
                return None
            scanner = self._scanners[removed] = self._scanner(*self._limits, replaced, False)
        request = scanner.scan(data, added)
        return None if request is None else request.out

    def read_with_body(self, data: bytes, client: str) -> PlainRequest | None:
        """The same for a request with a body, which is complete."""
        if not self.forwards:
            return self.whole_requests.read(data, b"")
        host = self.whole_requests.host(data)
        return None if host is None else self.whole_requests.read(data, self.added(client, host, True))

    def added(self, client: str, host: bytes, minor: bool, proxy: str | None = None) -> bytes:
        """Return the forwarding fields for this client and its request. proxy: see Forwarding.lines."""
        if not self.forwards:
            return b""
        if self.forwarding.depends_on_request:
            return self.forwarding.lines(client, host, minor, proxy)
        key = client if proxy is None or proxy == client else (client, proxy)
        added = self._added.get(key)
        if added is None:
            if len(self._added) >= MAX_CLIENTS:
                self._added.clear()
            added = self._added[key] = self.forwarding.lines(client, host, minor, proxy)
        return added
