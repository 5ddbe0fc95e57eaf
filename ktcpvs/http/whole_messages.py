"""Whole messages with a body: requests that came in one piece with it, and chunked responses that did.

Their heads are parsed once, and known by their bytes after that, as gRPC and clients of APIs send equal ones again and
again. So such a request takes the fast path, as a plain GET does.
"""

from __future__ import annotations

from typing import TypeVar

from ktcpvs.model.request_values import normalized_host
from ktcpvs.model.tls_hosts import ForeignHosts
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import CHUNKED, REQUEST, BadFrame, BadRequest, BadResponse, Chunked
from ktcpvs.protocols.http1.plain import PlainRequest

MAX_WHOLE_REQUEST = 16384
"""The longest request with a body that is handled as a whole, in bytes."""

MAX_WHOLE_RESPONSE = 65536
"""The longest chunked response that is handled as a whole, in bytes."""

MAX_HEADS = 256
"""The most heads of requests that are remembered for a service, and the most of responses."""

MAX_TRAILERS = 64
"""The most trailer sections that are remembered for a service."""

MAX_REMEMBERED = 2048
"""The longest head or trailer section that is remembered, in bytes."""

METHODS = frozenset((b"POST", b"PUT", b"PATCH"))
"""Methods of the requests that are handled as a whole with their body."""

_HEAD_END = b"\r\n\r\n"

Known = TypeVar("Known")


class RequestHead:
    """A head that has been parsed.

    size: its bytes. total: those of the request; -1 if it is chunked. plain: a request with this head, without what
    differs from one to the other. added, out: the lines that were added for the last client, and the head with them.
    """

    __slots__ = ("added", "message", "out", "plain", "size", "total")

    def __init__(self, message: http1.Request, size: int) -> None:
        self.message = message
        self.size = size
        self.total = -1 if message.length == CHUNKED else size + message.length
        self.added = self.out = b""
        self.plain = self._make()

    def _make(self) -> PlainRequest:
        message, request = self.message, PlainRequest()
        request.method = message.method
        request.target = message.target
        request.lines = message.lines
        request.host = message.host
        request.minor = request.keep_alive = True
        request.connection = b""
        request.referer = request.user_agent = None
        return request

    def with_body(self, data: bytes) -> PlainRequest:
        """Return the request that `data` is. `out` must be the head for its client."""
        request = self._make()
        request.data = data
        request.body = body = data[self.size :]
        request.out = self.out + body
        return request


class WholeRequests:
    """Reads requests that came as a whole with their body, within the limits of a service."""

    __slots__ = ("_body_size", "_foreign", "_head_lines", "_head_size", "_heads", "_replaced", "_uri_size")

    def __init__(
        self,
        head_size: int,
        head_lines: int,
        uri_size: int,
        body_size: int,
        replaced: frozenset[bytes],
        foreign: ForeignHosts | None = None,
    ) -> None:
        """head_size, uri_size: bytes. head_lines: how many there may be. body_size: KiB; 0: there is no limit.
        replaced: canonical names of fields that the switch replaces. foreign: hosts whose requests are not read here;
        None: there are none."""
        self._foreign = foreign
        self._head_size = head_size
        self._head_lines = head_lines
        self._uri_size = uri_size
        self._body_size = min(body_size << 10, MAX_WHOLE_REQUEST) or MAX_WHOLE_REQUEST
        self._replaced = replaced
        self._heads: dict[bytes, RequestHead] = {}

    def host(self, data: bytes) -> bytes | None:
        """Return the value of Host of the request that `data` is; None for any other data."""
        known = self._known(data)
        return None if known is None else known.message.host

    def read(self, data: bytes, added: bytes) -> PlainRequest | None:
        """Return the request that `data` is, as a whole; None when it is anything else. added: header lines that the
        server gets besides, each with its line end."""
        known = self._known(data)
        if known is None:
            return None
        if not known.out or known.added != added:
            known.added, known.out = added, known.message.head(added, self._replaced)
        return known.with_body(data)

    def _known(self, data: bytes) -> RequestHead | None:
        """Return the head of the request that `data` is; None when it is anything else."""
        if len(data) > MAX_WHOLE_REQUEST:
            return None
        head = data[: data.find(_HEAD_END) + 4]
        known = self._heads.get(head)
        if known is None:
            known = self._parse(data, head)
            if known is None:
                return None
            _remember(self._heads, head, known)
        is_whole = known.total == len(data) if known.total >= 0 else self._is_whole_chunked(data, known.size)
        return known if is_whole else None

    def _is_whole_chunked(self, data: bytes, begin: int) -> bool:
        """Whether a chunked body that begins there is complete, without trailers, and goes on as it came."""
        is_within = len(data) - begin <= self._body_size and data.endswith(_HEAD_END)
        return is_within and http1.chunks_end(data, begin) == len(data) - 2

    def _parse(self, data: bytes, head: bytes) -> RequestHead | None:
        """Return the head of a request with a body that asks for nothing unusual."""
        if data[: data.find(b" ")] not in METHODS:
            return None
        found = REQUEST.match(data)
        if found is None or found.end() != len(head) or len(head) > self._head_size:
            return None
        try:
            message = http1.Request(found)
        except BadRequest:
            return None
        is_plain = (
            message.minor
            and message.keep_alive
            and not message.expect
            and not message.upgrades()
            and message.target.startswith(b"/")
            and bool(message.host)
        )
        if self._foreign is not None and normalized_host(message.host) in self._foreign:
            return None
        is_within = len(message.target) <= self._uri_size and message.lines.count(b"\n") <= self._head_lines
        length = message.length
        if not is_plain or not is_within or not length or length > self._body_size:
            return None
        return RequestHead(message, len(head))


def _remember(heads: dict[bytes, Known], head: bytes, known: Known) -> None:
    """Keep what is known of a head, unless it is long."""
    if len(head) <= MAX_REMEMBERED:
        if len(heads) >= MAX_HEADS:
            heads.clear()
        heads[head] = known


class WholeResponses:
    """Reads chunked responses that came as a whole."""

    __slots__ = ("_heads", "_trailers")

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[int, int, bytes]] = {}
        self._trailers: set[bytes] = set()  # trailer sections that go on as they came

    def read(self, data: bytes) -> tuple[int, int, bytes] | None:
        """Return the status, the size of the head, and the head as it goes on to clients of HTTP/1.1, without the empty
        line, of the chunked response to a GET or POST that `data` is; None when it is anything else, or not to be sent
        on as it came."""
        if len(data) > MAX_WHOLE_RESPONSE:
            return None
        head = data[: data.find(_HEAD_END) + 4]
        known = self._heads.get(head)
        if known is None:
            known = _parse_response(data, head)
            if known is None:
                return None
            _remember(self._heads, head, known)
        return known if self._is_whole_body(data, len(head)) else None

    def _is_whole_body(self, data: bytes, begin: int) -> bool:
        """Whether a chunked body that begins there is complete, ends with `data`, and goes on as it came."""
        trailers_begin = http1.chunks_end(data, begin)
        if trailers_begin < 0:
            return False
        trailers = data[trailers_begin:]
        if trailers in self._trailers:
            return True
        frame = Chunked()
        try:
            taken = frame.feed(b"0\r\n" + trailers)
        except BadFrame:
            return False
        if not frame.done or taken != len(trailers) + 3 or frame.onward is not None:
            return False
        if len(trailers) <= MAX_REMEMBERED:
            if len(self._trailers) >= MAX_TRAILERS:
                self._trailers.clear()
            self._trailers.add(trailers)
        return True


def _parse_response(data: bytes, head: bytes) -> tuple[int, int, bytes] | None:
    """Return what `WholeResponses.read` does for a head that is not known."""
    try:
        read = http1.read_response(data, b"POST", len(head))
    except BadResponse:
        return None
    if read is None or read[1] != len(head):
        return None
    response = read[0]
    if not 200 <= response.status < 500 or response.status == 426 or not response.keep_alive:
        return None
    if not isinstance(response.frame, Chunked):
        return None
    return response.status, len(head), response.head
