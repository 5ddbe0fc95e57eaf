"""The fast path of plain requests: everybody gets the bytes, and the log the lines, that they get without it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, C, Peer, World, answer, get

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.model.latency import described
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import plain, plain_python
from ktcpvs.protocols.http1.cookies import take_cookie

SERVERS = (f"server = {A}", f"server = {B}")
RULES = (f'rule = pattern "^/a" use server {A}', f'rule = pattern "^/(b)" use server {B}')

MODIFIERS = (
    ("", ""),
    ('request_header X-Request-ID "{request_id}" response_header X-Request-ID "{request_id}"', ""),
    (
        'request_header X-From "{client}:{client_port}" request_header +Via "{scheme}" response_header Server "us" '
        'response_header X "" response_header +X-To "{server}{rule}"',
        "strip_prefix /b",
    ),
    ('rewrite "^/a(.*)" "/new{1}?{request_id}" request_header Cookie ""', 'response_header Set-Cookie ""'),
    (
        " ".join(f'request_header X-{number} "" request_header +X-{number} "{number}"' for number in range(20)),
        'request_header X_Forwarded_For "me" request_header +Cookie "b"',
    ),
    ("rate 2/h", 'request_header Referer "" request_header User-Agent "{1}{host}{query}" response_header Date ""'),
)
"""Of both rules."""

_ID = re.compile(rb"[0-9a-f]{32}")

COOKIE = "KTCPVS_SID"

CLIENTS = 2
"""They share the pool."""

EDITS = (
    SERVERS,
    (f"server = {A} 1 maxconn 1", f"server = {B} 1 maxconn 1"),
    (f"server = {A} 3", f"server = {B}", f"server = {C}"),
)


class Lines:
    """An access log in memory."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.written.append(line)


class Side:
    """One world. heard: what everybody has got, in order."""

    def __init__(
        self,
        scheduler: str,
        options: tuple[str, ...],
        form: str,
        kind: str = "compiled",
        modifiers: tuple[str, str] = MODIFIERS[0],
    ) -> None:
        """kind: "compiled" or "python", the scanner of the fast path; "general": the service does not take it.
        modifiers: of both rules."""
        rules = tuple(rule.replace(" use ", f" {more} use ", 1) for rule, more in zip(RULES, modifiers, strict=True))
        rules = () if scheduler == "chttp" else rules
        self.head, self.tail = f"scheduler = {scheduler}", (*rules, *options)
        self.kind = kind
        self.world = World(self.head, *SERVERS, *self.tail)
        self.world.context.wall = lambda: 1_700_000_000.0
        self.lines = Lines()
        log: Any = self.lines
        if form:
            self.world.live.traffic.access_log.writer = AccessLogWriter(self.world.context, log, form, "s", scheduler)
        if kind == "python":
            self.world.live.cache.use(plain_python.RequestScanner, plain_python.scan_response)
        self.world.live.apply_settings()
        self.world.live.cache.is_enabled = kind != "general"
        self.heard: list[tuple[str, bytes]] = []
        self.clients: list[Peer] = []
        self.connections: list[Any] = []
        for _ in range(CLIENTS):
            self.clients.append(self.world.client())
            self.connections.append(self.world.connection)
        self.servers: list[tuple[str, Peer]] = []
        self.cookie = b""
        self.ids: dict[bytes, bytes] = {}
        self.fast = 0

    def asks(self, request: bytes, number: int = 0) -> bool:
        """A client sends a request; False when it cannot any more."""
        client = self.clients[number]
        if not client.is_open or client.line.ended or not client.is_read():
            return False
        if self.cookie:
            request = request.replace(b"SESSION", self.cookie)
        client.says(request)
        self.fast += self.connections[number].exchange.is_plain
        self._accept()
        return True

    def _accept(self) -> None:
        """The servers that are called answer."""
        called = self.world.called()
        made = self.world.reactor.tcpClients[len(self.world.reactor.tcpClients) - len(called) :]
        for address, (_, _, factory, *_) in zip(called, made, strict=True):
            self.servers.append((address, self.world.peer(factory.buildProtocol(None))))

    def answers(self, pieces: tuple[bytes, ...]) -> None:
        """The server that has got a request responds."""
        for address, server in list(self.servers):
            request = server.heard()
            if not request:
                continue
            self.heard.append((address, self.with_known_ids(request)))
            for piece in pieces:
                if server.stream.is_open and server.is_read():
                    server.says(piece)
            self.world.turns(3)
            self.world.settle()
            self._accept()
        self.servers = [one for one in self.servers if one[1].stream.is_open]
        for number, client in enumerate(self.clients):
            got = client.heard()
            if COOKIE.encode() in got:
                self.cookie = got.partition(COOKIE.encode() + b"=")[2].partition(b";")[0]
            # The name of a server depends on the switch's secret.
            got = re.sub(rb"KTCPVS_SID=[0-9a-f.]+", b"KTCPVS_SID=name", got)
            self.heard.append((f"client {number}", self.with_known_ids(got)))

    def with_known_ids(self, data: bytes) -> bytes:
        """Return a message with a number in place of each request ID, which is random."""
        return _ID.sub(lambda found: self.ids.setdefault(found[0], b"id %d" % len(self.ids)), data)

    def edits(self, servers: tuple[str, ...]) -> None:
        """An edit changes the servers."""
        self.world.load(self.head, *servers, *self.tail)
        self.world.live.cache.is_enabled = self.kind != "general"
        self.world.settle()
        self._accept()

    def fills_up(self, number: int) -> None:
        """A client stops reading."""
        client = self.clients[number]
        if client.is_open and client.line.producer is not None and not client.line.unsent:
            client.fills_up()

    def takes_again(self, number: int) -> None:
        """The client reads again."""
        client = self.clients[number]
        if client.line.unsent and client.line.producer is not None and client.is_open:
            client.takes_again()
        self._accept()

    def close_kept(self) -> None:
        """All servers close their connections with a FIN."""
        for _, server in list(self.servers):
            if server.is_open:
                server.ends()
        self.world.settle()
        self._accept()

    def dies(self) -> None:
        """All servers reset their connections."""
        servers, self.servers = self.servers, []
        for _, server in servers:
            server.resets()
        self._accept()

    def leaves(self, number: int) -> None:
        """A client resets its connection, and another one comes."""
        if self.clients[number].stream.is_open:
            self.clients[number].resets()
        self.clients[number] = self.world.client()
        self.connections[number] = self.world.connection

    def happens(self, event: str, *values: Any) -> None:
        """One step of a test."""
        if event == "asks":
            request, pieces, number = values
            if self.asks(request, number):
                self.answers(pieces)
        elif event == "time passes":
            self.world.passes(2)
        else:
            calls: dict[str, Any] = {
                "leaves": self.leaves,
                "fills up": self.fills_up,
                "takes again": self.takes_again,
                "edits": self.edits,
                "servers die": self.dies,
                "servers close": self.close_kept,
            }
            calls[event](*values)

    def close(self) -> None:
        for client in self.clients:
            if client.stream.is_open:
                client.resets()
        for peer in self.world.peers:
            if peer.stream.is_open and not peer.line.disconnecting and not peer.line.aborted:
                peer.resets()
        self.world.close()

    def counted(self) -> list[tuple[int, ...]]:
        """Return the counters of each server, and its responses by status."""
        return [
            (
                one.total,
                one.reused,
                one.failures,
                one.retries,
                one.bytes_in,
                one.bytes_out,
                *described(one.latencies)["answers"].values(),
            )
            for one in self.world.live.destinations.values()
        ]


PATHS = st.sampled_from(("/a", "/b", "/a?x=1", "/c", "/b/" + "y" * 40))
FIELDS = st.lists(
    st.sampled_from(
        (
            "Connection: keep-alive", "connection: Keep-Alive ", "Cookie: a=1; KTCPVS_SID=SESSION; b=2",
            "Cookie: KTCPVS_SID=SESSION", "Cookie: z=1", "Referer: http://h/x?y", "Referer: \"quoted\\",
            "User-Agent: me/1.0", "Via: 1.1 other", "Forwarded: for=x", "X-Forwarded-For: 10.9.9.9",
            "X_Forwarded_For: 10.9.9.9", "X-Forwarded-For: 192.0.2.7, 10.1.1.1", "X-Request-ID: given-1",
            "x_request_id: other", "TE: trailers", "Accept: */*", "Upgrade: x",
        )
    ),
    max_size=5,
    unique=True,
)  # fmt: skip
METHODS = st.sampled_from(("POST", "PUT", "PATCH", "DELETE", "GET"))
BODIES = st.sampled_from((b"abc", b"x" * 300, b"\r\n\r\n"))
CHUNKED = st.sampled_from(
    (
        b"3\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", b"3\r\nabc\r\n0\r\nHost: y\r\n\r\n", b"3\r\nab", b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    )
)  # fmt: skip


def posted(path: str, fields: list[str], method: str, body: bytes, length: int) -> bytes:
    """A request with a body. length: what it has more than Content-Length says."""
    return get(path, *fields, f"Content-Length: {len(body) - length}", method=method, body=body)


def chunked(path: str, fields: list[str], body: bytes) -> bytes:
    return get(path, *fields, "Transfer-Encoding: chunked", method="POST", body=body)


REQUESTS = st.one_of(
    st.builds(posted, PATHS, FIELDS, METHODS, BODIES, st.sampled_from((0, 0, 0, 1))),
    st.builds(chunked, PATHS, FIELDS, CHUNKED),
    st.builds(lambda path: chunked(path, ["Connection: te", "TE: trailers"], b"3\r\nabc\r\n0\r\n\r\n"), PATHS),
    st.builds(lambda path: posted(path, ["Expect: 100-continue"], "POST", b"abc", 0), PATHS),
    st.builds(lambda path, fields: get(path, *fields), PATHS, FIELDS),
    st.builds(lambda path, fields: get(path, *fields).replace(b"HTTP/1.1", b"HTTP/1.0"), PATHS, FIELDS),
    st.builds(lambda path: get(path, method="HEAD"), PATHS),
    st.builds(lambda path: get(path, "Connection: close"), PATHS),
    st.builds(lambda path: get(path) + get(path), PATHS),
    st.just(get("/a", "Bad Name: x")),
)
RESPONSES = st.sampled_from(
    (
        (answer(),),
        (answer(),),
        (answer(b"other", "Connection: keep-alive", "Date: now"),),
        (answer(b"", "X: y"),),
        (answer(b"no", status="404 Not Found"),),
        (answer(b"bad", status="500 Broken"),),
        (answer(b"x" * 5000),),
        (answer()[:30], answer()[30:]),
        (answer()[:-2], answer()[-2:]),
        *(
            (b"HTTP/1.1 %b\r\nTransfer-Encoding: chunked\r\nX: %b\r\n\r\n%b" % one,)
            for one in (
                (b"200 OK", b"1", b"2\r\nok\r\n0\r\n\r\n"),
                (b"200 OK", b"2", b"2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"),
                (b"200 OK", b"2", b"2\r\nok\r\n3\r\nabc\r\n0\r\ngrpc-status: 0\r\nx: y\r\n\r\n"),
                (b"200 OK", b"2", b"2\r\nok\r\n0\r\ngrpc-status: 0\r\nTE: x\r\n\r\n"),
                (b"200 OK", b"2", b"2\r\nok\r\n0\r\nHost: h\r\n\r\n"),
                (b"200 OK", b"2", b"2;x=y\r\nok\r\n0\r\n\r\n"),
                (b"200 OK", b"2", b"2\r\nokay\r\n0\r\n\r\n"),
                (b"200 OK", b"2", b"2\r\nok\r\n0\r\n\r\nmore"),
                (b"200 OK\r\nConnection: close", b"2", b"2\r\nok\r\n0\r\n\r\n"),
                (b"200 OK\r\nContent-Length: 2", b"2", b"2\r\nok\r\n0\r\n\r\n"),
                (b"204 OK", b"2", b"2\r\nok\r\n0\r\n\r\n"),
                (b"503 Busy", b"2", b"2\r\nok\r\n0\r\n\r\n"),
            )
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", b"\r\n0\r\n\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),),
        (answer(b"bye", "Connection: close"),),
        (answer() + b"more",),
        (b"nonsense\r\n\r\n",),
        (),
    )
)
NUMBERS = st.integers(0, CLIENTS - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("asks"), REQUESTS, RESPONSES, NUMBERS),
        st.tuples(st.just("asks"), st.just(get("/a")), st.just((answer(),)), NUMBERS),
        st.tuples(st.sampled_from(("leaves", "fills up", "takes again")), NUMBERS),
        st.tuples(st.just("edits"), st.sampled_from(EDITS)),
        st.tuples(st.sampled_from(("servers die", "servers close", "time passes"))),
    ),
    max_size=12,
)
OPTIONS = st.sampled_from(
    (
        (),
        ("x_forwarded_for = append",),
        ("x_forwarded_for = replace", "via = append"),
        ("forwarded = replace", "x_forwarded_host = append"),
        ("x_forwarded_proto = replace", "x_forwarded_for = replace"),
        ("trusted_proxies = 192.0.2.1/32",),
        ("trusted_proxies = 192.0.2.0/24 10.0.0.0/8", "x_forwarded_for = append", 'request_header = X-C "{client}"'),
        ("trusted_proxies = 198.51.100.0/24", "x_forwarded_for = replace", "via = append"),
        ("trusted_proxies = 192.0.2.1/32", "trusted_header = forwarded", "forwarded = append"),
        ('response_header = Server ""', 'request_header = X-Request-ID "{request_id}"'),
        (
            'response_header = X-Request-ID "{request_id}"', 'response_header = +X "{{a}"', "x_forwarded_for = append",
            'request_header = X-Port "{hostport}"', 'request_header = Via "{listen}"',
        ),
    )
)  # fmt: skip


@examples(300)
@given(
    st.sampled_from(("phttp", "chttp")), OPTIONS, st.sampled_from(MODIFIERS),
    st.sampled_from(("", "combined", "json")), STEPS,
)  # fmt: skip
def test_the_fast_path_changes_nothing(
    scheduler: str, options: tuple[str, ...], modifiers: tuple[str, str], form: str, steps: list[Any]
) -> None:
    fast, slow, python = (Side(scheduler, options, form, kind, modifiers) for kind in ("compiled", "general", "python"))
    for side in (fast, slow, python):
        for event, *rest in steps:
            side.happens(event, *rest)
        side.close()
    for side in (fast, python):
        assert side.heard == slow.heard
        assert side.lines.written == slow.lines.written
        assert side.counted() == slow.counted()
    assert slow.fast == 0
    assert fast.fast == python.fast


@pytest.mark.parametrize("form", ["", "combined", "json"])
@pytest.mark.parametrize("options", [(), ("x_forwarded_for = append",), ("forwarded = replace", "via = append")])
@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_usual_requests_take_it(scheduler: str, options: tuple[str, ...], form: str) -> None:
    side = Side(scheduler, options, form)
    cookie = "Cookie: a=1; KTCPVS_SID=SESSION" if scheduler == "chttp" else "Cookie: a=1"
    for number in range(6):
        side.asks(get(f"/a?{number}", "Connection: keep-alive", f"Referer: /{number}", f"{cookie}{number}"))
        side.answers((answer(b"%d" % number, f"Date: {number}", "Connection: keep-alive"),))
    side.close()
    assert side.fast >= 4
    assert len(side.lines.written) == (6 if form else 0)
    if form == "json":
        lines = [json.loads(line) for line in side.lines.written]
        assert [line["referer"] for line in lines] == [f"/{number}" for number in range(6)]
        assert [line["body_out"] for line in lines] == [1] * 6


@pytest.mark.parametrize("options", [(), ("x_forwarded_for = append",), ("forwarded = replace", "via = append")])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_whole_requests_with_bodies_take_it(options: tuple[str, ...], is_chunked: bool) -> None:
    side = Side("phttp", options, "")
    for number in range(6):
        body = b"%d" % number * (number + 1)
        fields = ["Content-Type: application/grpc", "Connection: te", "TE: trailers"]
        if is_chunked:
            side.asks(chunked("/a", fields, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)))
        else:
            side.asks(posted("/a", fields, "POST", body, 0))
        responds = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n%d\r\n0\r\ngrpc-status: 0\r\n\r\n"
        side.answers((responds % number,))
        assert not side.connections[0].exchange.is_plain
    side.close()
    assert side.fast == 5  # the first needs a new connection to its server
    assert sum(count[0] for count in side.counted()) == 6


CHUNKS = st.lists(
    st.sampled_from(
        (
            b"0\r\n", b"\r\n", b"3\r\nabc\r\n", b"a\r\n0123456789\r\n", b"A\r\n0123456789\r\n", b"3;x\r\nabc\r\n",
            b"3\nabc\r\n", b"000000000000003\r\nabc\r\n", b"0000000000000003\r\nabc\r\n", b"fffffffffffffff\r\n",
            b"-1\r\n", b"x: y\r\n", b"3\r\nab", b"1\r\nabc\r\n", b"g", b"1\r\na\r\n" * 300,
        )
    ),
    max_size=6,
).map(b"".join)  # fmt: skip


@given(CHUNKS, st.integers(0, 40))
@examples(500)
def test_both_forms_find_the_same_end_of_chunks(data: bytes, begin: int) -> None:
    compiled = pytest.importorskip("ktcpvs.http._fast_path").chunks_end
    assert compiled(data, begin) == http1.chunks_end(data, begin)


OTHER_LINES = (
    b"Connection: keep-alive",
    b"Accept: */*",
    b"Cookie2: KTCPVS_SID=no",
    b"X: a; KTCPVS_SID=no",
    b"Content-Language: de",
    b"Co: k",
)
PAIRS = (b"KTCPVS_SID=abc", b"a=1", b"b=", b"SID=KTCPVS", b"c=Cookie: x", b"a=1")


def scanned(lines: bytes, added: bytes) -> Any:
    scanner = plain.RequestScanner(65536, 100, 8192, frozenset(), False)
    return scanner.scan(b"GET /x?Cookie: HTTP/1.1\r\n".replace(b": ", b"=1 ") + lines + b"\r\n", added)


@given(
    st.permutations(OTHER_LINES), st.permutations(PAIRS), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6),
    st.sampled_from((b"", b"X-Forwarded-For: 192.0.2.1\r\n")),
)  # fmt: skip
@examples(300)
def test_a_session_is_cut_out_as_by_the_scanner(
    others: list[bytes], pairs: list[bytes], count: int, place: int, length: int, added: bytes
) -> None:
    without_cookie = pytest.importorskip("ktcpvs.http._fast_path").without_cookie
    cookie = b"Cookie: " + b"; ".join([*pairs[:length], b"KTCPVS_SID=abc"][: length + 1])
    listed = [b"Host: h", *others[:count]]
    listed.insert(min(place, len(listed)), cookie)
    lines = b"".join(line + b"\r\n" for line in listed)
    request = scanned(lines, added)
    values, left = take_cookie(lines, b"KTCPVS_SID")
    assert values
    out = without_cookie(request, left)
    is_one_cut = len(values) == 1 or left.count(b"Cookie: ") < lines.count(b"Cookie: ")
    assert out == scanned(left, added).out if is_one_cut else out in (None, scanned(left, added).out)


@given(st.permutations(OTHER_LINES), st.integers(0, 200), st.integers(1, 60))
@examples(500)
def test_nothing_else_is_cut_out(others: list[bytes], begin: int, size: int) -> None:
    """The scanner reads the lines that a scheduler has cut, and may refuse them."""
    without_cookie = pytest.importorskip("ktcpvs.http._fast_path").without_cookie
    lines = b"".join(line + b"\r\n" for line in [b"Host: h", *others, b"Cookie: a=1; b=2; c=3", b"cookie: d"])
    left = lines[:begin] + lines[begin + size :]
    out = without_cookie(scanned(lines, b""), left)
    if out is not None:
        assert out == scanned(left, b"").out
        assert left.count(b"\r\n") >= lines.count(b"\r\n") - 1


EDITED = (
    'request_header X-Request-ID "{request_id}" request_header X-From "{client}" response_header Server "us" '
    'response_header X-Request-ID "{request_id}"'
)


@pytest.mark.parametrize("kind", ["compiled", "python"])
@pytest.mark.parametrize(
    ("scheduler", "options", "modifiers"),
    [
        ("phttp", (), EDITED),
        ("phttp", ("x_forwarded_for = append", 'response_header = Date ""'), "strip_prefix /a"),
        ("chttp", ('request_header = X-Request-ID "{request_id}"',), ""),
        ("phttp", ("trusted_proxies = 192.0.2.1/32", "x_forwarded_for = append"), ""),
        ("phttp", ("trusted_proxies = 198.51.100.1/32", "x_forwarded_for = replace"), EDITED),
    ],
)
def test_edited_requests_take_it(scheduler: str, options: tuple[str, ...], modifiers: str, kind: str) -> None:
    side = Side(scheduler, options, "combined", kind, (modifiers, ""))
    for number in range(6):
        side.asks(get(f"/a?{number}", "Connection: keep-alive", f"Referer: /{number}"))
        side.answers((answer(b"%d" % number, f"Date: {number}", "Connection: keep-alive"),))
    side.close()
    assert side.fast >= 4
    assert len(side.lines.written) == 6


def test_each_request_has_an_id_of_its_own() -> None:
    side = Side("phttp", (), "", modifiers=(EDITED, ""))
    for _ in range(5):
        side.asks(get("/a"))
        side.answers((answer(),))
    requests = [data for address, data in side.heard if address == A]
    assert [re.findall(rb"X-Request-ID: (id \d)", data) for data in requests] == [[b"id %d" % n] for n in range(5)]
    responses = [data for name, data in side.heard if name == "client 0"]
    assert [re.findall(rb"X-Request-ID: (id \d)", data) for data in responses] == [[b"id %d" % n] for n in range(5)]
    side.close()


@pytest.mark.parametrize("kind", ["compiled", "python"])
def test_a_field_that_is_removed_never_reaches_the_server(kind: str) -> None:
    side = Side("phttp", (), "combined", kind, ('request_header Referer "" request_header X_A "b"', ""))
    for _ in range(3):
        side.asks(get("/a", "Referer: http://h/", "x-a: a", "User-Agent: me"))
        side.answers((answer(),))
    expected = get("/a", "User-Agent: me", "X_A: b")
    assert [data for address, data in side.heard if address == A] == [expected] * 3
    side.close()


@pytest.mark.parametrize("kind", ["compiled", "python", "general"])
def test_equal_heads_of_chunked_responses_are_edited_each_time(kind: str) -> None:
    side = Side("phttp", ('response_header = X-Site "a"', 'response_header = Server ""'), "", kind)
    head = b"HTTP/1.1 200 OK\r\nServer: b\r\nTransfer-Encoding: chunked\r\n\r\n"
    for number in range(4):
        side.asks(get("/a"))
        side.answers((head + b"1\r\n%d\r\n0\r\n\r\n" % number,))
    expected = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Site: a\r\n\r\n1\r\n%d\r\n0\r\n\r\n"
    assert [data for name, data in side.heard if name == "client 0"] == [expected % number for number in range(4)]
    side.close()
