"""Plain messages: a scanner returns what the readers of whole heads say, or nothing."""

from __future__ import annotations

import shutil
from itertools import product
from typing import Any

import pytest
from cases import check_each
from corpus_entries import CorpusEntry, entries
from hypothesis import example, given
from hypothesis import strategies as st

from ktcpvs.protocols.http1 import BadRequest, BadResponse, Request, plain, plain_python
from ktcpvs.protocols.http1.grammar import HOST, REQUEST_HEAD, RESPONSE_HEAD
from ktcpvs.protocols.http1.plain_python import PlainRequest
from ktcpvs.protocols.http1.response import Response

ADDED = b"X-Forwarded-For: 192.0.2.1\r\n"
REPLACED = frozenset((b"x-forwarded-for", b"via"))

BROWSER = (
    b"GET /customers/32152/orders.html?page=18 HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua: "Chromium";v="130"\r\nUser-Agent: Mozilla/5.0 (X11)\r\nAccept: text/html,*/*;q=0.8\r\n'
    b"Referer: http://www.example.com/a?b=c\r\nAccept-Encoding: gzip\r\nCookie: sid=1; _ga=2\r\n\r\n"
)

NAMES = (
    b"Host", b"host", b"Connection", b"CONNECTION", b"X-Connection", b"Keep-Alive", b"Proxy-Connection", b"TE",
    b"Upgrade", b"HTTP2-Settings", b"Expect", b"Content-Length", b"Content_Length", b"Transfer-Encoding",
    b"Transfer.Encoding", b"X-Forwarded-For", b"X_Forwarded_For", b"Via", b"Referer", b"User-Agent", b"Cookie",
    b"Accept", b"H",
)  # fmt: skip
VALUES = (
    b"", b" h", b"h.example:80", b" keep-alive", b" Keep-Alive ", b"close", b" close, x", b"x", b" 0", b"5", b" 05",
    b"chunked", b"trailers", b"websocket", b"a b\t", b"\x80\xff", b"a..b",
)  # fmt: skip


class Both:
    """The compiled scanner and the one in Python, which must agree."""

    def __init__(self, *arguments: Any) -> None:
        self.scanners = [plain_python.RequestScanner(*arguments), plain.RequestScanner(*arguments)]

    def scan(self, data: bytes, added: bytes) -> PlainRequest | None:
        one, other = (scanner.scan(data, added) for scanner in self.scanners)
        assert (one is None) == (other is None), data
        if one is not None:
            for name in PlainRequest.__slots__:
                assert getattr(one, name) == getattr(other, name), name
                assert type(getattr(one, name)) is type(getattr(other, name)), name
        return other


def scan_response(data: bytes) -> tuple[int, int, int, bytes] | None:
    """Both of them, which must agree."""
    found = plain.scan_response(data)
    assert found == plain_python.scan_response(data)
    return found


def test_the_compiled_form_is_tested_where_it_can_be_built() -> None:
    assert plain.IS_COMPILED or shutil.which("cc") is None


def scanner(logs: bool = True, replaced: frozenset[bytes] = frozenset(), **limits: int) -> Both:
    sizes = {"head_size": 16384, "head_lines": 100, "uri_size": 8192, **limits}
    return Both(sizes["head_size"], sizes["head_lines"], sizes["uri_size"], replaced, logs)


def judge(data: bytes, found: PlainRequest | None, added: bytes, replaced: frozenset[bytes]) -> None:
    """Compare with the reader of whole heads."""
    if found is None:
        return
    match = REQUEST_HEAD.fullmatch(data)
    assert match is not None
    request = Request(match)
    assert found.out == request.head(added, replaced)
    assert (found.method, found.target, found.lines, found.host) == (
        b"GET",
        request.target,
        request.lines,
        request.host,
    )
    assert (found.minor, found.keep_alive) == (request.minor, request.keep_alive)
    assert request.path == request.target
    assert (request.length, request.expect, request.upgrades()) == (0, False, ())
    assert found.data == data


def check_request(entry: CorpusEntry) -> None:
    for added, replaced in product((b"", ADDED), (frozenset[bytes](), REPLACED)):
        found = scanner(replaced=replaced).scan(entry.message, added)
        if entry.verdict[0] == "400":
            assert found is None
        judge(entry.message, found, added, replaced)


def test_the_corpus_of_requests() -> None:
    check_each(entries("requests"), check_request, name=lambda entry: entry.name)


def test_requests_of_browsers_are_plain() -> None:
    found = scanner().scan(BROWSER, ADDED)
    assert found is not None
    judge(BROWSER, found, ADDED, frozenset())
    assert found.connection == b"Connection: keep-alive\r\n"
    assert (found.referer, found.user_agent) == (b"http://www.example.com/a?b=c", b"Mozilla/5.0 (X11)")
    unlogged = scanner(logs=False).scan(BROWSER, b"")
    assert unlogged is not None
    assert (unlogged.referer, unlogged.user_agent) == (None, None)


def test_a_request_that_goes_on_unchanged_is_not_copied() -> None:
    data = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    found = scanner().scan(data, b"")
    assert found is not None
    assert found.out is data


@pytest.mark.parametrize(
    "data",
    [
        BROWSER[:-1],
        BROWSER + b"G",
        BROWSER.replace(b"GET", b"HEAD"),
        BROWSER.replace(b"GET", b"get"),
        BROWSER.replace(b"GET /", b"GET http://h/"),
        BROWSER.replace(b"Cookie", b"Coo kie"),
        BROWSER.replace(b"sid=1", b"sid=\x00"),
        BROWSER.replace(b"sid=1", b"sid=\r"),
        BROWSER.replace(b"\r\nCookie", b"\nCookie"),
        BROWSER.replace(b"HTTP/1.1", b"HTTP/2.0"),
        BROWSER.replace(b"HTTP/1.1", b"HTTP/1.1 "),
        BROWSER.replace(b"Host", b"Hosts"),
        BROWSER.replace(b"Accept:", b"Host:"),
        BROWSER.replace(b"keep-alive", b"upgrade"),
        b"",
        b"GET ",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n" + BROWSER,
    ],
)
def test_other_requests_are_not_plain(data: bytes) -> None:
    assert scanner().scan(data, b"") is None


def test_limits_hold() -> None:
    lines = BROWSER.count(b"\n") - 2
    target = len(b"/customers/32152/orders.html?page=18")
    for name, size in (("head_size", len(BROWSER)), ("head_lines", lines), ("uri_size", target)):
        assert scanner(**{name: size}).scan(BROWSER, b"") is not None
        assert scanner(**{name: size - 1}).scan(BROWSER, b"") is None


@given(
    st.sampled_from((b"GET", b"GET", b"GET", b"HEAD", b"POST")),
    st.from_regex(rb"[!-~\x80-\xff]{1,12}", fullmatch=True)
    | st.sampled_from((b"/", b"/a?b", b"*", b"http://h/x", b"/a#b")),
    st.sampled_from((b"0", b"1", b"1", b"1", b"2")),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=6)), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_random_requests(
    method: bytes, target: bytes, minor: bytes, fields: list[tuple[bytes, bytes]], adds: bool, replaces: bool
) -> None:
    lines = b"".join(b"%b:%b\r\n" % pair for pair in [(b"Host", b" h"), *fields])
    data = b"%b %b HTTP/1.%b\r\n%b\r\n" % (method, target, minor, lines)
    replaced = REPLACED if replaces else frozenset()
    added = ADDED if adds else b""
    found = scanner(replaced=replaced).scan(data, added)
    judge(data, found, added, replaced)
    match = REQUEST_HEAD.fullmatch(data)
    usual = {b"Referer", b"User-Agent", b"Cookie", b"Accept", b"H", b"X-Connection"}
    if match is not None and method == b"GET" and target[:1] == b"/" and {name for name, _ in fields} <= usual:
        assert found is not None


@given(st.binary(max_size=40) | st.just(BROWSER), st.integers(0, len(BROWSER)), st.binary(max_size=3))
def test_changed_requests(data: bytes, place: int, other: bytes) -> None:
    changed = data[:place] + other + data[place + len(other) :]
    found = scanner().scan(changed, b"")
    try:
        judge(changed, found, b"", frozenset())
    except BadRequest as error:
        raise AssertionError(f"a plain request is bad: {error}") from error


# Responses.


def judge_response(data: bytes, found: tuple[int, int, int, bytes] | None) -> None:
    if found is None:
        return
    match = RESPONSE_HEAD.match(data)
    assert match is not None
    response = Response(match, data, b"GET")
    status, size, length, head = found
    assert (status, size, length, head) == (response.status, match.end(), response.length, response.head)
    assert response.keep_alive
    assert response.is_delimited


def test_the_corpus_of_responses() -> None:
    check_each(
        entries("responses"),
        lambda entry: judge_response(entry.message, scan_response(entry.message)),
        name=lambda entry: entry.name,
    )


OK = b"HTTP/1.1 200 OK\r\nServer: x\r\nConnection: keep-alive\r\nContent-Length: 2\r\nETag: y\r\n\r\nok"


def test_a_usual_response_is_plain() -> None:
    assert scan_response(OK) == (
        200, len(OK) - 2, 2, b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\nETag: y\r\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        OK[:40],
        OK.replace(b"200", b"204"),
        OK.replace(b"200", b"304"),
        OK.replace(b"200", b"101"),
        OK.replace(b"200", b"500"),
        OK.replace(b"200", b"426"),
        OK.replace(b"1.1", b"1.0"),
        OK.replace(b": 2", b": 02"),
        OK.replace(b": 2", b": 2, 2"),
        OK.replace(b": 2", b": "),
        OK.replace(b": 2", b": 1" + b"0" * 18),
        OK.replace(b"ETag: y", b"content-length: 2"),
        OK.replace(b"ETag: y", b"Transfer-Encoding: chunked"),
        OK.replace(b"ETag: y", b"Keep-Alive: timeout=5"),
        OK.replace(b"ETag: y", b"Connection: keep-alive"),
        OK.replace(b"keep-alive", b"close"),
        OK.replace(b"keep-alive", b"keep-alive, x"),
        OK.replace(b"Content-Length: 2\r\n", b""),
    ],
)
def test_other_responses_are_not_plain(data: bytes) -> None:
    assert scan_response(data) is None


@given(
    st.integers(100, 999),
    st.sampled_from((b"0", b"1", b"1", b"1", b"2")),
    st.lists(
        st.tuples(st.sampled_from((*NAMES, b"Content-Length")), st.sampled_from(VALUES) | st.binary(max_size=6)),
        max_size=5,
    ),
    st.binary(max_size=10),
)
@example(200, b"1", [(b"Content-Length", b" 5")], b"hello")
def test_random_responses(status: int, minor: bytes, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
    lines = b"".join(b"%b:%b\r\n" % pair for pair in fields)
    data = b"HTTP/1.%b %d x\r\n%b\r\n%b" % (minor, status, lines, body)
    try:
        judge_response(data, scan_response(data))
    except BadResponse as error:
        raise AssertionError(f"a plain response is bad: {error}") from error


HOSTS = st.text("aZ9.-_~%[]:25Ff@,/ ", max_size=12) | st.from_regex(
    r"(\[[0-9a-f:.]{1,8}(%25[a-z]{1,3})?\]|[a-z0-9]{1,4}(\.[a-z%20]{1,4}){0,2}\.?)(:[0-9]{0,6})?", fullmatch=True
)


@given(HOSTS)
def test_hosts(host: str) -> None:
    data = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode()
    found = scanner().scan(data, b"")
    assert (found is not None) == (HOST.fullmatch(host.encode().strip(b" ")) is not None)


@given(
    st.binary(min_size=1, max_size=1),
    st.sampled_from((b"GET /", b"GET /x HTTP/1.1\r\nHost: h\r\nX", b"GET / HTTP/1.1\r\nHost: h\r\nX:")),
)
def test_each_byte_in_a_target_a_name_and_a_value(byte: bytes, before: bytes) -> None:
    rest = {b"/": b" HTTP/1.1\r\nHost: h\r\n\r\n", b"X": b": y\r\n\r\n", b":": b"y\r\n\r\n"}[before[-1:]]
    data = before + byte + rest
    found = scanner().scan(data, b"")
    assert (found is not None) == (REQUEST_HEAD.fullmatch(data) is not None)


def test_a_scanner_that_cannot_be_initialised_again_is_as_before() -> None:
    if plain.RequestScanner is plain_python.RequestScanner:
        pytest.skip("there is no compiled one")
    make: Any = plain.RequestScanner
    scanner: Any = make(1000, 10, 100, (b"x-forwarded-for",), False)
    request = b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: a\r\n\r\n"
    assert scanner.scan(request, b"") is None
    with pytest.raises(TypeError):
        scanner.__init__(1, 1, 1, (b"y" * 15, 7), False)
    assert scanner.scan(request, b"") is None
    assert scanner.scan(request.replace(b"X-F", b"Y-F"), b"") is not None
