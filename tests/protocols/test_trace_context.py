"""The fields of W3C Trace Context."""

from __future__ import annotations

import re

import pytest
from cases import check_each
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.protocols.trace_context import (
    MAX_MEMBERS,
    TraceContext,
    has_parent,
    read_trace_context,
    read_traceparent,
    read_tracestate,
    traceparent,
)

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
PARENT = b"00-%b-%b-01" % (TRACE, SPAN)

hexadecimal = st.text("0123456789abcdef", min_size=1)


def digits(count: int) -> st.SearchStrategy[bytes]:
    """Hexadecimal digits that are not all 0."""
    found = st.text("0123456789abcdef", min_size=count, max_size=count).map(str.encode)
    return found.filter(lambda text: text.strip(b"0") != b"")


@given(digits(32), digits(16), st.booleans())
def test_what_is_written_is_read(trace_id: bytes, span_id: bytes, is_sampled: bool) -> None:
    found = read_traceparent(traceparent(trace_id, span_id, is_sampled))
    assert found == (trace_id, span_id, int(is_sampled))


def test_malformed_parents_are_none() -> None:
    check_each(
        [
            b"", PARENT[:-1], PARENT + b"0", PARENT + b"-", PARENT + b"-more", b" " + PARENT, PARENT + b"\n",
            PARENT.upper(), PARENT.replace(b"-", b"_"), b"ff" + PARENT[2:], b"ff" + PARENT[2:] + b"-more",
            b"00-%b-%b-01" % (b"0" * 32, SPAN), b"00-%b-%b-01" % (TRACE, b"0" * 16), b"0g" + PARENT[2:],
            b"01" + PARENT[2:] + b"more", PARENT[:-2] + b"0A",
        ],
        lambda value: pytest.fail("it is read") if read_traceparent(value) is not None else None,
    )  # fmt: skip


def test_of_a_later_version_the_known_part_is_read() -> None:
    assert read_traceparent(b"01" + PARENT[2:]) == (TRACE, SPAN, 1)
    assert read_traceparent(b"cc" + PARENT[2:-2] + b"ff-what-the-future-brings") == (TRACE, SPAN, 255)


@given(st.binary(max_size=70))
def test_anything_else_never_raises(value: bytes) -> None:
    found = read_traceparent(value)
    assert found is None or re.match(rb"[0-9a-f]{2}-%b-%b-" % found[:2], value)
    read_tracestate([value])


def test_states_are_joined_and_checked() -> None:
    check_each(
        [
            ([], b""),
            ([b""], b""),
            ([b"a=1"], b"a=1"),
            ([b"a=1 , b=2", b"\t,c=3,"], b"a=1,b=2,c=3"),
            ([b"fw529a3039@dt=FfffffffX"], b"fw529a3039@dt=FfffffffX"),
            ([b"0vendor@sys=x y"], b"0vendor@sys=x y"),
            ([b",".join(b"k%d=v" % n for n in range(MAX_MEMBERS))], b",".join(b"k%d=v" % n for n in range(32))),
            ([b",".join(b"k%d=v" % n for n in range(MAX_MEMBERS + 1))], None),
            ([b"a=1,a=2"], None),
            ([b"a=1", b"a=1"], None),
            ([b"A=1"], None),
            ([b"0a=1"], None),
            ([b"a"], None),
            ([b"a="], None),
            ([b"a=b=c"], None),
            ([b"a=\xc3\xa4"], None),
            ([b"a" * 256 + b"=1"], b"a" * 256 + b"=1"),
            ([b"a" * 257 + b"=1"], None),
            ([b"a=" + b"v" * 256], b"a=" + b"v" * 256),
            ([b"a=" + b"v" * 257], None),
            ([b"a@" + b"b" * 15 + b"=1"], None),
        ],
        lambda case: read_tracestate(case[0]) == case[1] or pytest.fail(f"{read_tracestate(case[0])!r}"),
    )


def test_a_request_has_one_parent() -> None:
    parent = b"TraceParent:\t" + PARENT + b" \r\n"
    assert read_trace_context(b"Host: h\r\n" + parent) == TraceContext(TRACE, SPAN, True)
    assert read_trace_context(parent + b"tracestate: a=1\r\nTraceState: b=2\r\n") == TraceContext(
        TRACE, SPAN, True, b"a=1,b=2"
    )
    assert read_trace_context(parent + b"tracestate: A\r\n") == TraceContext(TRACE, SPAN, True, b"", False)
    assert read_trace_context(parent * 2) is None
    assert read_trace_context(b"tracestate: a=1\r\n") is None
    assert [has_parent(lines) for lines in (parent, b"TraceState: a\r\n", b"Host: traceparent\r\n")] == [
        True, False, False,
    ]  # fmt: skip
