"""gRPC over HTTP/2, as far as a proxy must know it: statuses, deadlines, errors of our own, and the health service.

PROTOCOL-HTTP2.md of grpc/grpc has the wire format, doc/health-checking.md the health service.
"""

from __future__ import annotations

import re

STATUS_NAMES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""The names of the statuses, by number."""

OK, UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED = 0, 2, 4, 7
RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 12, 13, 14

_OF_HTTP = {
    400: INTERNAL,
    403: PERMISSION_DENIED,
    404: UNIMPLEMENTED,
    408: DEADLINE_EXCEEDED,
    413: RESOURCE_EXHAUSTED,
    414: RESOURCE_EXHAUSTED,
    429: UNAVAILABLE,
    431: RESOURCE_EXHAUSTED,
    501: UNIMPLEMENTED,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}
"""The status that stands for an error of the switch itself, by that error's HTTP status."""

_IS_GRPC = re.compile(rb"(?i)(?:^|\n)content-type:[ \t]*application/grpc(?![a-z0-9_.-])")
_TIMEOUT = re.compile(rb"(?:^|\n)(?i:grpc-timeout):[ \t]*([0-9]{1,8})([HMSmun])[ \t]*\r?\n")
_STATUS = re.compile(rb"(?i)(?:^|\n)grpc-status:[ \t]*([0-9]{1,3})[ \t]*(?=\r?\n|\Z)")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_ESCAPED = re.compile(rb"[^ -$&-~]")


def is_grpc(lines: bytes) -> bool:
    """Whether a request with these header lines is one of gRPC. gRPC-Web is not."""
    return _IS_GRPC.search(lines) is not None


def read_timeout(lines: bytes) -> float | None:
    """Return the seconds of `grpc-timeout` in these header lines; None without a valid one."""
    found = _TIMEOUT.search(lines)
    return None if found is None else int(found[1]) * _SECONDS[found[2]]


def read_status(lines: bytes) -> int | None:
    """Return the `grpc-status` in the header lines or trailers of a response; None without one."""
    found = _STATUS.search(lines)
    return None if found is None else int(found[1])


def status_name(status: int) -> str:
    """Return the name of a status; its number if it has none."""
    return STATUS_NAMES[status] if status < len(STATUS_NAMES) else str(status)


def error_response(status: int, why: str) -> bytes:
    """Return an error of the switch itself as a response to a gRPC request: one without messages and trailers, whose
    header fields say the status (`Trailers-Only`).

    status: of HTTP, as other clients would get it. why: in words. The bytes are HTTP/1.1.
    """
    message = _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], f"ktcpvs: {why}".encode())
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n"
        b"grpc-status: %d\r\ngrpc-message: %b\r\n\r\n" % (_OF_HTTP.get(status, UNKNOWN), message)
    )


# The health service.

HEALTH_PATH = "/grpc.health.v1.Health/Check"
SERVING_NAMES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
SERVING = 1

_PREFIX_BYTES = 5
_VARINT, _LENGTH, _FIXED64, _FIXED32 = 0, 2, 1, 5


def health_request(service: str) -> bytes:
    """Return the body of a request: a HealthCheckRequest behind its length. service: "" for the whole server; its UTF-8
    has at most 127 bytes."""
    name = service.encode()
    message = b"\x0a%c%b" % (len(name), name) if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def read_health(body: bytes) -> int | None:
    """Return the status of a HealthCheckResponse, a number of SERVING_NAMES or another one. None: the body is not one
    message of that kind."""
    size = int.from_bytes(body[1:_PREFIX_BYTES], "big")
    message = body[_PREFIX_BYTES:]
    if len(body) < _PREFIX_BYTES or body[0] or len(message) != size:
        return None
    status, position = 0, 0
    while position < size:
        key, position = _varint(message, position)
        if key < 0:
            return None
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            if value < 0:
                return None
            status = value if key >> 3 == 1 else status
        elif kind == _LENGTH:
            length, position = _varint(message, position)
            if length < 0:
                return None
            position += length
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            return None
    return status if position == size else None


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return a number and where it ends; -1 if it does not."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
    return -1, position
