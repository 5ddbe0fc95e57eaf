"""The trace of a request in `traceparent` and `tracestate` (W3C Trace Context, level 1)."""

from __future__ import annotations

import re

from attrs import frozen

from ktcpvs.model.request_values import header_values

TRACE_FIELDS = frozenset((b"traceparent", b"tracestate"))
"""The names of both fields, in lower case, which is their canonical form too."""

SAMPLED = 1
"""The flag that the caller may have recorded this request (section 3.2.2.5.1)."""

MAX_MEMBERS = 32
"""The most members of a `tracestate` (section 3.3.1.1)."""

_PARENT_NAME = b"\ntraceparent:"
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^\r\n]*)?")
_VERSION = b"00"
_NO_VERSION = b"ff"
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16

_MEMBER = re.compile(
    rb"([a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)


@frozen
class TraceContext:
    """The trace that a request belongs to. trace_id: 32 hexadecimal digits. span_id: of the caller's span, 16 digits.
    is_sampled: the caller may have recorded the request. state: the value of `tracestate`; b"": there is none, or it is
    malformed. is_state_valid: False for a malformed one."""

    trace_id: bytes
    span_id: bytes
    is_sampled: bool
    state: bytes = b""
    is_state_valid: bool = True


def has_parent(lines: bytes) -> bool:
    """Return whether header lines may have a `traceparent`. Cheaper than reading them."""
    return b"traceparent:" in lines.lower()


def read_trace_context(lines: bytes) -> TraceContext | None:
    """Return the trace that header lines name; None if they have no `traceparent`, several or a malformed one.

    Each line ends with CRLF.
    """
    lower = b"\n" + lines.lower()
    at = lower.find(_PARENT_NAME)
    if at < 0 or lower.find(_PARENT_NAME, at + 1) >= 0:
        return None
    start = at + len(_PARENT_NAME) - 1
    parent = read_traceparent(lines[start : lines.find(b"\r\n", start)].strip(b" \t"))
    if parent is None:
        return None
    state: bytes | None = b""
    if b"\ntracestate:" in lower:
        state = read_tracestate([value for _, value in header_values(lines, (b"tracestate",))])
    trace_id, span_id, flags = parent
    return TraceContext(trace_id, span_id, bool(flags & SAMPLED), state or b"", state is not None)


def read_traceparent(value: bytes) -> tuple[bytes, bytes, int] | None:
    """Return the ID of the trace, that of the span, and the flags; None for a malformed value.

    Of a later version, what version 00 knows is read (section 4.3).
    """
    found = _PARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _NO_VERSION or trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == _VERSION and more):
        return None
    return trace_id, span_id, int(flags, 16)


def read_tracestate(values: list[bytes]) -> bytes | None:
    """Return the one value that `tracestate` lines mean together; b"": no member; None: they are malformed."""
    members: list[bytes] = []
    keys: set[bytes] = set()
    for member in b",".join(values).split(b","):
        member = member.strip(b" \t")
        if not member:
            continue
        found = _MEMBER.fullmatch(member)
        if found is None or found[1] in keys or len(members) == MAX_MEMBERS:
            return None
        keys.add(found[1])
        members.append(member)
    return b",".join(members)


def traceparent(trace_id: bytes, span_id: bytes, is_sampled: bool) -> bytes:
    """Return a value of `traceparent`."""
    return b"00-%b-%b-%b" % (trace_id, span_id, b"01" if is_sampled else b"00")
