"""Events of an HTTP/2 connection: each tells one thing that the peer has done."""

from __future__ import annotations

from attrs import define

from ktcpvs.protocols.http2.request import Request
from ktcpvs.protocols.http2.response import Response


@define
class RequestReceived:
    """A client's request has begun.

    end_stream: it has no body. sensitive: names of the fields that must never be put into a table on their way (RFC
    7541, section 7.1.3). head: in HTTP/1.1, as `request.head(end_stream)` makes it; b"" for an extended CONNECT, whose
    head `request.upgrade_head` makes.

    If the `Server` joins requests and the whole body has come with it in one DATA frame, the event is that of a request
    without a body, whose `head` is followed by the body, in chunks without a Content-Length. It counts as passed on.
    """

    stream_id: int
    request: Request
    end_stream: bool
    sensitive: frozenset[bytes] = frozenset()
    head: bytes = b""


@define
class RequestRefused:
    """A client's request cannot be read within the limits: respond with `status`. The stream is open. end_stream: the
    request has no body."""

    stream_id: int
    status: int
    reason: str
    end_stream: bool


@define
class InterimReceived:
    """A server's interim response (1xx)."""

    stream_id: int
    response: Response


@define
class ResponseReceived:
    """A server's response has begun. end_stream: it has no body. method: of the request."""

    stream_id: int
    response: Response
    end_stream: bool
    method: bytes = b""


@define
class WholeResponse:
    """A server's response, which came as a whole. The stream is over. data: in HTTP/1.1, its head, body and trailers.

    It takes the place of ResponseReceived, DataReceived and TrailersReceived if the `Client` joins responses.
    """

    stream_id: int
    data: bytes


@define
class DataReceived:
    """A piece of a body, without padding. Call `Connection.acknowledge` when it has been passed on."""

    stream_id: int
    data: bytes
    end_stream: bool


@define
class TrailersReceived:
    """The trailer section, which ends the stream. lines: as in HTTP/1, each with its line end."""

    stream_id: int
    lines: bytes


@define
class StreamReset:
    """A stream is over before its end.

    code: the error code (RFC 9113, section 7). by_peer: the peer has reset it; else we have, because of what the peer
    sent. is_unprocessed: the server has not begun with the request, which may be sent again (section 8.7).
    """

    stream_id: int
    code: int
    reason: str
    by_peer: bool
    is_unprocessed: bool = False


@define
class WindowOpened:
    """More of a body can be sent, after `send_data` has sent less than it got. stream_id: 0 if that holds for all
    streams."""

    stream_id: int


@define
class SettingsReceived:
    """The peer has sent settings, which are in force."""


@define
class PingAcknowledged:
    """The peer has answered a PING with these eight bytes."""

    payload: bytes


@define
class GoAwayReceived:
    """The peer accepts no more streams. last_stream_id: the last of ours that it has handled or will handle."""

    last_stream_id: int
    code: int
    debug: bytes


@define
class PriorityUpdated:
    """The client has changed the priority of a response (RFC 9218). value: as in the field `priority`."""

    stream_id: int
    value: bytes


@define
class ConnectionEnded:
    """The connection is over because of an error, and a GOAWAY is in the output: send it, then close."""

    code: int
    reason: str


Event = (
    RequestReceived
    | RequestRefused
    | InterimReceived
    | ResponseReceived
    | WholeResponse
    | DataReceived
    | TrailersReceived
    | StreamReset
    | WindowOpened
    | SettingsReceived
    | PingAcknowledged
    | GoAwayReceived
    | PriorityUpdated
    | ConnectionEnded
)


def condense(events: list[Event]) -> list[Event]:
    """Return the events without the requests that are reset among them, and with the pieces of each body as one.

    A peer may reset thousands of requests as soon as it has sent them, and may send bodies in frames of one byte, also
    of many streams in turn. Streams do not depend on each other, so a piece may come before the events of others.
    """
    reset = {event.stream_id for event in events if isinstance(event, StreamReset)}
    if reset:
        begun = {event.stream_id for event in events if isinstance(event, RequestReceived | RequestRefused)}
        if unwanted := reset & begun:
            events = [event for event in events if _stream_of(event) not in unwanted]
    condensed: list[Event] = []
    bodies: dict[int, list[DataReceived]] = {}  # stream -> its pieces
    for event in events:
        if not isinstance(event, DataReceived):
            condensed.append(event)
        elif event.stream_id in bodies:
            bodies[event.stream_id].append(event)
        else:
            bodies[event.stream_id] = [event]
            condensed.append(event)
    return [_joined(bodies[event.stream_id]) if isinstance(event, DataReceived) else event for event in condensed]


def _joined(pieces: list[DataReceived]) -> DataReceived:
    """Return the pieces of one body as one."""
    last = pieces[-1]
    if len(pieces) == 1:
        return last
    return DataReceived(last.stream_id, b"".join([piece.data for piece in pieces]), last.end_stream)


def _stream_of(event: Event) -> int:
    """Return the stream that an event is about; 0: it is about the connection."""
    stream_id: int = getattr(event, "stream_id", 0)
    return stream_id
