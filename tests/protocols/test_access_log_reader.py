"""Lines of access logs are read as they were written, and whatever else comes is a BadLine."""

from __future__ import annotations

import contextlib
import json

import pytest
from attrs import asdict
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st

from ktcpvs.protocols.access_log import FORMATS, Record
from ktcpvs.protocols.access_log_reader import MAX_NAME_LENGTH, BadLine, read_line

HEADER = st.binary(max_size=12).map(lambda value: value.translate(None, b"\r\n\0").strip(b" \t"))
SECONDS = st.floats(0, 1000).map(lambda value: round(value, 6))
RECORDS = st.builds(
    Record,
    client=st.sampled_from(["192.0.2.7", "2001:db8::1", ""]),
    began=st.integers(0, 4_000_000_000).map(lambda value: value + 0.125),
    method=st.sampled_from([b"GET", b"POST"]),
    target=st.binary(min_size=1, max_size=20).map(lambda value: b"/" + value.translate(None, b" \r\n\0")),
    minor=st.sampled_from([0, 1, 2]),
    lines=st.builds(lambda host, agent: b"Host: %b\r\nUser-Agent: %b\r\n" % (host, agent), HEADER, HEADER),
    status=st.sampled_from([None, 200, 404, 503]),
    server=st.sampled_from([None, "10.0.0.1:80", "[::1]:80", "/run/a.sock"]),
    reason=st.sampled_from(["rule 1 '/', fewest", 'no "quotes" \\']),
    connect=st.none() | SECONDS,
    first=st.none() | SECONDS,
    total=SECONDS,
    error=st.sampled_from([None, "10.0.0.2:80: TLS: certificate has expired", "[::2]:80: refused"]),
    ending=st.just("answered"),
)


@examples(300)
@given(RECORDS)
def test_json_is_read_as_it_was_written(record: Record) -> None:
    found = read_line(FORMATS["json"]("web", "phttp").line(record))
    assert (found.client, found.method, found.target) == (record.client, record.method, record.target)
    assert found.began == pytest.approx(record.began, abs=0.001)
    assert (found.status, found.server, found.service) == (record.status or 0, record.server, "web")
    assert (found.total, found.connect) == (record.total, record.connect)
    failed = None if record.error is None else record.error.rpartition("80: ")[0] + "80"
    assert found.failed_server == (failed if failed is None or "TLS" not in failed else "10.0.0.2:80")
    assert found.lines == record.lines
    assert found.is_exact


@examples(200)
@given(RECORDS)
def test_combined_is_read_as_it_was_written(record: Record) -> None:
    found = read_line(FORMATS["combined"]("web", "phttp").line(record))
    assert (found.client, found.method, found.target) == (record.client, record.method, record.target)
    assert (found.began, found.status) == (int(record.began), record.status or 0)
    assert (found.server, found.total, found.is_exact) == (None, None, False)


@examples(100)
@given(RECORDS)
def test_further_keys_and_other_spaces_change_nothing(record: Record) -> None:
    line = FORMATS["json"]("web", "phttp").line(record)
    found = asdict(read_line(line))
    assert asdict(read_line(line[:-2] + b', "other": 1}\n')) == found
    assert asdict(read_line(line.replace(b'{"time": ', b'{ "time":', 1)[:-1])) == found
    assert asdict(read_line(line[:-1] + b" \r\n")) == found
    for more in (b" {}\n", b"x\n", b",\n"):
        with pytest.raises(BadLine, match="not valid JSON"):
            read_line(line[:-1] + more)


GOOD = FORMATS["json"]("web", "phttp").line(
    Record(
        "192.0.2.7",
        1_800_000_000.0,
        b"GET",
        b"/",
        1,
        b"Host: h\r\n",
        200,
        "10.0.0.1:80",
        "any",
        "balance",
        0.0,
        0.1,
        0.1,
    )
)


@examples(500)
@given(st.data())
@example(data=None)
def test_whatever_comes_is_a_request_or_a_bad_line(data: st.DataObject | None) -> None:
    if data is None:
        line = b"[" * 100_000
    else:
        whole = data.draw(
            st.sampled_from([GOOD, b'1.2.3.4 - - [23/Nov/2026:03:31:34 +0000] "GET / HTTP/1.1" 200 1 "-" "-"\n'])
        )
        at, count = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 30))
        line = whole[:at] + data.draw(st.binary(max_size=20)) + whole[at + count :]
    with contextlib.suppress(BadLine):
        read_line(line)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time", '"2026-11-23T03:31:34Z"'), ("time", '"2026-99-23T03:31:34.123Z"'), ("time", "5"), ("total", "-1"),
        ("total", "1e999"), ("total", "NaN"), ("total", "true"), ("status", "99"), ("status", '"200"'), ("client", "5"),
        ("server", "[]"), ("host", '"a\\r\\nb"'), ("target", '"\\u20ac"'), ("service", "null"), ("total", "9" * 5000),
        ("error", "7"), ("host", "{}"),
    ],
)  # fmt: skip
def test_values_that_no_line_has_are_refused(key: str, value: str) -> None:
    fields = json.loads(GOOD)
    text = (
        "{"
        + ", ".join(f'"{name}": {value if name == key else json.dumps(one)}' for name, one in fields.items())
        + "}\n"
    )
    with pytest.raises(BadLine):
        read_line(text.encode())


@pytest.mark.parametrize("line", [
    b'::1 - bob [23/Nov/2026:03:31:34 +0200] "GET /a HTTP/2.0" 200 - "-" "a \\"b\\""\n',
    b'h.example - - [23/nov/2026:03:31:34 -0500] "GET /a" 304 0\n',
])  # fmt: skip
def test_combined_of_other_servers(line: bytes) -> None:
    found = read_line(line)
    assert (found.method, found.target) == (b"GET", b"/a")
    assert found.lines in (b"", b'User-Agent: a "b"\r\n')


LONG = "x" * (MAX_NAME_LENGTH + 1)


@pytest.mark.parametrize("key", ["client", "server", "service", "error"])
def test_names_have_a_limit(key: str) -> None:
    read_line(json.dumps({**json.loads(GOOD), key: LONG[:-1]}).encode())
    with pytest.raises(BadLine):
        read_line(json.dumps({**json.loads(GOOD), key: LONG}).encode())
    if key == "client":
        with pytest.raises(BadLine):
            read_line(f'{LONG} - - [23/Nov/2026:03:31:34 +0000] "GET / HTTP/1.1" 200 1 "-" "-"'.encode())
