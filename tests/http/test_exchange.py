"""Request by request, as transcripts: which server gets which message, and what must never happen."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, C, Peer, World, answer, get, worlds

from ktcpvs.http.client_connection import MAX_PENDING_BYTES, MAX_REQUESTS_PER_TURN
from ktcpvs.http.head_cache import MAX_CACHED_REQUEST, MAX_REQUESTS
from ktcpvs.http.response_forwarder import MAX_INTERIM_PER_TURN
from ktcpvs.model import exchange as life
from ktcpvs.model.latency import described
from ktcpvs.protocols.http1.body import MAX_COST_PER_CALL

RULES = (
    "scheduler = phttp", f"server = {A}", f"server = {B}",
    f'rule = pattern "^/a" use server {A}', f'rule = pattern "^/b" use server {B}',
    f'rule = pattern "^/both" use server {A} server {B}',
)  # fmt: skip

Make = Callable[..., World]

pytestmark = pytest.mark.usefixtures("form")


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""
    with worlds(*RULES) as make:
        yield make


def test_every_request_goes_to_its_own_server(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a"))
    a = world.accepts(A)
    assert a.heard() == get("/a")
    a.says(answer(b"from a"))
    assert client.heard() == answer(b"from a")
    client.says(get("/b"))
    b = world.accepts(B)
    b.says(answer(b"from b"))
    assert client.heard() == answer(b"from b")
    client.says(get("/a/2"))
    assert world.called() == []  # the connection was kept
    assert a.heard() == get("/a/2")
    a.says(answer(b"again"))
    assert client.heard() == answer(b"again")
    assert [d.total for d in world.live.destinations.values()] == [2, 1]
    assert [d.active for d in world.live.destinations.values()] == [0, 0]


def test_another_client_uses_the_kept_connection_too(make: Make) -> None:
    world = make()
    one, two = world.client(), None
    one.says(get())
    a = world.accepts(A)
    a.says(answer())
    two = world.client()
    two.says(get())
    assert world.called() == []
    a.says(answer(b"for two"))
    assert two.heard() == answer(b"for two")
    assert one.heard() == answer()


def test_pipelined_requests_are_answered_in_order(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a/1") + get("/b/1") + get("/a/2"))
    a = world.accepts(A)
    assert a.heard() == get("/a/1")
    a.says(answer(b"1"))
    b = world.accepts(B)
    assert b.heard() == get("/b/1")
    assert a.heard() == b""
    b.says(answer(b"2"))
    assert a.heard() == get("/a/2")
    a.says(answer(b"3"))
    assert client.heard() == answer(b"1") + answer(b"2") + answer(b"3")


def test_enough_pending_and_the_client_is_not_read(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    client.says(get("/b", "Content-Length: 70000", method="POST", body=b"x" * 70000))
    assert not client.is_read()
    a.says(answer())
    assert world.accepts(B).heard().endswith(b"x" * 70000)
    assert client.is_read()


def test_enough_stays_enough_until_little_is_pending(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    client.says(get("/a/" + "x" * 1000) * 100)
    assert not client.is_read()
    pending = 100
    while pending * len(get("/a/" + "x" * 1000)) > MAX_PENDING_BYTES:
        assert not client.is_read()
        a.says(answer())
        pending -= 1
    a.says(answer())
    assert client.is_read()


def test_a_client_is_read_again_when_all_that_was_pending_is_refused(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    client.says(get("/c" + "x" * 1000) * 100)
    assert not client.is_read()
    world.accepts(A).says(answer())
    world.turns(100 // MAX_REQUESTS_PER_TURN + 1)
    assert client.heard().count(b"HTTP/1.1 503 ") == 100
    assert client.is_read()


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_stream_both_ways(make: Make, chunked: bool) -> None:
    field = "Transfer-Encoding: chunked" if chunked else "Content-Length: 10"
    pieces = [b"5\r\nhello\r\n", b"5;x=y\r\nworld\r\n0\r\n", b"T: r\r\n\r\n"] if chunked else [b"hello", b"worl", b"d"]
    world = make()
    client = world.client()
    client.says(get("/a", field, method="POST", body=pieces[0]))
    a = world.accepts(A)
    assert a.heard() == get("/a", field, method="POST", body=pieces[0])
    head = f"HTTP/1.1 200 OK\r\n{field}\r\n\r\n".encode()
    a.says(head)
    assert client.heard() == head
    client.says(pieces[1])
    assert a.heard() == pieces[1]
    a.says(pieces[0])
    assert client.heard() == pieces[0]
    client.says(pieces[2] + get("/b"))
    assert a.heard() == pieces[2]
    a.says(pieces[1] + pieces[2])
    assert client.heard() == pieces[1] + pieces[2]
    world.accepts(B).says(answer())
    assert client.heard() == answer()


@pytest.mark.parametrize("settings", ["", "body_size = 1"])
def test_a_body_that_breaks_while_its_server_is_called_ends_the_call(make: Make, settings: str) -> None:
    world = make(settings=settings)
    client = world.client()
    client.says(get("/a", "Transfer-Encoding: chunked", method="POST", body=b"5\r\nhel"))
    assert world.called() == [A]
    client.says(b"lo\r\n" + (b"800\r\n" + b"x" * 2048 if settings else b"no size\r\n"))
    assert client.heard().startswith(b"HTTP/1.1 413 " if settings else b"HTTP/1.1 400 ")
    (call,) = world.reactor.connectors
    assert call._disconnected, "nobody waits for this server any more"
    assert [d.active for d in world.live.destinations.values()] == [0, 0]


def test_an_answer_before_the_upload_has_ended(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Content-Length: 10", method="PUT", body=b"12345"))
    a = world.accepts(A)
    a.says(answer(b"early"))
    assert client.heard() == answer(b"early")
    a.heard()
    client.says(b"67890" + get("/a/next"))
    assert a.heard() == b"67890" + get("/a/next")  # the connection was good for the next request
    a.says(answer())
    assert client.heard() == answer()


def test_an_answer_that_closes_before_the_upload_has_ended(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Content-Length: 10", method="PUT", body=b"12345"))
    a = world.accepts(A)
    a.says(answer(b"no", "Connection: close", status="413 Content Too Large"))
    assert client.heard().endswith(b"no")
    assert a.line.aborted
    assert client.line.ended
    client.says(b"67890" + get("/b"))
    assert world.called() == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (get("/a", "Host: other"), b"400"),
        (get("/a", "Content-Length: 1", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), b"400"),
        (get("/a", "Content-Length: 1", "Content-Length: 2", body=b"xx"), b"400"),
        (get("/a", "Content-Length: +1", body=b"x"), b"400"),
        (get("/a", "Transfer-Encoding: gzip", body=b"0\r\n\r\n"), b"501"),
        (get("/a", "Transfer-Encoding: chunked", body=b"xyz\r\n"), b"400"),
        (get("/a", "Transfer-Encoding: chunked", body=b"1\r\nab\r\n"), b"400"),
        (get("/a", "Transfer-Encoding : chunked", body=b"0\r\n\r\n"), b"400"),
        (b"GET /a HTTP/1.1\nHost: h\n\n", b"400"),
        (get("/a", " folded"), b"400"),
        (b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", b"501"),
        (b"GET /a HTTP/2.0\r\n", b"505"),
        (get("/" + "x" * 70000), b"414"),
        (get("/a", *["X: y"] * 101), b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
def test_not_one_byte_of_a_bad_request_reaches_a_server(make: Make, sent: bytes, status: bytes) -> None:
    world = make()
    client = world.client()
    client.says(sent)
    assert client.heard().startswith(b"HTTP/1.1 " + status)
    assert client.line.ended
    assert world.called() == []


def test_a_body_that_goes_wrong_later_is_never_completed(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"))
    a = world.accepts(A)
    a.heard()
    client.says(b"0\r\nContent-Length: 5\r\n\r\n")
    assert a.heard() == b""
    assert a.line.aborted
    assert client.heard().startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "said",
    [
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_an_answer_that_is_none_is_502(make: Make, said: bytes) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    a.says(said)
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"Connection: close" not in heard
    assert a.line.aborted
    client.says(get("/b"))  # the client connection is still good
    world.accepts(B).says(answer())
    assert client.heard() == answer()


def test_head_204_304_and_interim_answers_have_no_body(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get(method="HEAD"))
    a = world.accepts(A)
    for said in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n",
    ):
        a.says(said)
        assert client.heard() == said
        client.says(get())
    a.heard()
    a.says(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer())
    assert client.heard() == b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer()


def test_expect_100_is_carried_through(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Content-Length: 3", "Expect: 100-continue", method="PUT"))
    a = world.accepts(A)
    assert b"Expect: 100-continue" in a.heard()
    assert client.heard() == b""
    a.says(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.heard() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.says(b"abc")
    assert a.heard() == b"abc"
    a.says(answer())
    assert client.heard() == answer()


def test_until_close(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    a.says(b"HTTP/1.1 200 OK\r\n\r\nas long")
    a.says(b" as it takes")
    assert client.heard() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nas long as it takes"
    assert not client.line.ended
    a.ends()
    assert client.line.ended


def test_http_1_0(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(OLD)
    a = world.accepts(A)
    assert a.heard() == b"GET /a HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n"
    a.says(answer())
    assert client.heard() == answer().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert client.line.disconnecting
    assert not a.line.disconnecting


OLD = b"GET /a HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET /a HTTP/1.0\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n"


def test_a_client_of_http_1_0_may_keep_its_connection(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(OLD_KEPT)
    a = world.accepts(A)
    kept = answer().replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
    for _ in range(3):
        assert a.heard() == get()
        a.says(answer())
        assert client.heard() == kept
        client.says(OLD_KEPT)
    a.says(answer(status="404 Not Found"))
    assert b"Connection: keep-alive\r\n" in client.heard()
    client.says(OLD_KEPT.replace(b"/a", b"/nothing/matches"))
    refused = client.heard()
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Connection: keep-alive\r\n" in refused
    client.says(OLD)
    a.says(answer())
    assert b"Connection: close\r\n" in client.heard()
    assert client.line.disconnecting


@pytest.mark.parametrize("request_", [OLD, OLD_KEPT])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_a_client_of_http_1_0_gets_a_chunked_body_decoded(make: Make, request_: bytes, step: int) -> None:
    world = make()
    client = world.client()
    client.says(request_)
    a = world.accepts(A)
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 ;a\r\nhello\r\n2\r\n\r\n\r\n0\r\nA: b\r\n\r\n"
    for begin in range(0, len(said), step):
        a.says(said[begin : begin + step])
    assert client.heard() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello\r\n"
    assert client.line.ended or client.line.disconnecting
    assert world.live.server_connections.pool.idle(next(iter(world.live.destinations.values()))) == 1


def test_a_chunked_body_that_breaks_off_is_not_made_to_look_whole_for_http_1_0(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(OLD_KEPT)
    a = world.accepts(A)
    a.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    a.ends()
    assert client.heard().endswith(b"\r\n\r\nhello")
    assert client.line.disconnecting
    assert client.line.reset_on_close


def test_a_client_of_http_1_0_gets_no_interim_answer(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(OLD_KEPT)
    world.accepts(A).says(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer())
    assert client.heard().startswith(b"HTTP/1.1 200 OK")


def test_close_is_kept_between_each_two(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Connection: close, X-Mine", "X-Mine: 1", "X-Theirs: 2", "Keep-Alive: 5", "TE: trailers"))
    a = world.accepts(A)
    assert a.heard() == get("/a", "X-Theirs: 2", "Connection: TE", "TE: trailers")
    a.says(answer(b"x", "Connection: keep-alive", "Keep-Alive: timeout=5"))
    assert client.heard() == answer(b"x").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert client.line.disconnecting
    assert world.live.server_connections.pool.idle(next(iter(world.live.destinations.values()))) == 1


def test_a_server_that_closes_is_not_kept(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    a.says(answer(b"x", "Connection: close"))
    assert client.heard() == answer(b"x")
    assert a.line.disconnecting
    client.says(get())
    world.accepts(A).says(answer())
    assert client.heard() == answer()


def test_a_kept_connection_that_the_server_closed_is_noticed_at_once(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    a.says(answer())
    a.ends()
    client.says(get())
    world.accepts(A).says(answer(b"anew"))
    assert client.heard() == answer() + answer(b"anew")


def kept(world: World) -> tuple[Peer, Peer]:
    """Return a client, and the server connection that it has used once."""
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    server.says(answer())
    client.heard()
    server.heard()
    return client, server


def test_a_dead_kept_connection_costs_an_idempotent_request_nothing(make: Make) -> None:
    world = make()
    client, dead = kept(world)
    client.says(get())
    assert dead.heard() == get()
    dead.resets()
    a = world.accepts(A)
    assert a.heard() == get()
    a.says(answer(b"anew"))
    assert client.heard() == answer(b"anew")


@pytest.mark.parametrize(
    "request_",
    [get(method="POST"), get("/a", "Content-Length: 1", method="PUT", body=b"x"), get(method="PATCH")],
)
def test_never_two_servers_for_what_is_not_safe(make: Make, request_: bytes) -> None:
    world = make()
    client, dead = kept(world)
    client.says(request_)
    dead.resets()
    assert world.called() == []
    assert client.heard().startswith(b"HTTP/1.1 502")


def test_no_repeat_once_the_answer_has_begun(make: Make) -> None:
    world = make()
    client, dead = kept(world)
    client.says(get())
    dead.says(b"HTTP/1.1 2")
    dead.resets()
    assert world.called() == []
    assert client.heard().startswith(b"HTTP/1.1 502")


def test_a_new_connection_that_dies_leaves_an_idempotent_request_to_the_next_best(make: Make) -> None:
    world = make(*RULES[:3], RULES[5])
    client = world.client()
    client.says(get("/both"))
    world.accepts(A).resets()
    world.accepts(B).says(answer(b"from b"))
    assert client.heard() == answer(b"from b")
    client.says(get("/both"))
    world.accepts(A).resets()
    kept = world.peers[-2]  # the connection to b
    assert kept.heard().startswith(b"GET /both")
    kept.resets()
    world.accepts(B).resets()  # it may only have been idle for too long, so b is tried again
    assert world.called() == []
    assert client.heard().startswith(b"HTTP/1.1 502")


def test_a_new_connection_that_dies_with_a_post_is_502(make: Make) -> None:
    world = make(*RULES[:3], RULES[5])
    client = world.client()
    client.says(get("/both", method="POST"))
    world.accepts(A).resets()
    assert world.called() == []
    assert client.heard().startswith(b"HTTP/1.1 502")


def test_an_answer_cut_short_is_not_made_to_look_whole(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    a.says(answer(b"x" * 100)[:-1])
    a.ends()
    assert client.heard() == answer(b"x" * 100)[:-1]
    assert client.line.disconnecting
    assert client.line.reset_on_close


def test_connect_failure_the_next_best_then_503_and_go_on(make: Make) -> None:
    world = make(*RULES[:3], RULES[5])
    client = world.client()
    client.says(get("/both"))
    world.refuses(A)
    world.refuses(B)
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 503")
    assert b"Connection: close" not in heard
    client.says(get("/nothing/matches"))
    assert client.heard().startswith(b"HTTP/1.1 503")
    client.says(get("/both"))
    world.accepts(A).says(answer())
    assert client.heard() == answer()


def test_redirect(make: Make) -> None:
    world = make(*RULES, f"redirect = {C}")
    client = world.client()
    client.says(get("/nothing/matches"))
    world.accepts(C).says(answer(b"sorry"))
    assert client.heard() == answer(b"sorry")


def test_timeouts(make: Make) -> None:
    world = make(settings="keepalive_timeout = 10 head_timeout = 3 response_timeout = 4")
    silent = world.client()
    slow = world.client()
    slow.says(b"GET /a HT")
    waiting = world.client()
    waiting.says(get())
    a = world.accepts(A)
    world.passes(11)
    assert slow.heard().startswith(b"HTTP/1.1 408")
    assert waiting.heard().startswith(b"HTTP/1.1 504")
    assert a.line.aborted
    assert silent.line.disconnecting or silent.line.aborted or world.passes(5) is None
    assert silent.line.disconnecting
    assert silent.heard() == b""


def test_idle_connections_are_kept_no_longer_than_keepalive_timeout(make: Make) -> None:
    world = make(settings="keepalive_timeout = 10")
    _, server = kept(world)
    world.passes(9)
    assert not server.line.disconnecting
    world.passes(8)
    assert server.line.disconnecting


def test_no_more_idle_connections_than_pool_size(make: Make) -> None:
    world = make(settings="pool_size = 1")
    clients = [world.client(), world.client()]
    servers = []
    for client in clients:
        client.says(get())
        servers.append(world.accepts(A))
    for server in servers:
        server.says(answer())
    assert [server.line.disconnecting for server in servers] == [False, True]


def test_a_full_side_pauses_the_other(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Content-Length: 100", method="POST", body=b"1"))
    a = world.accepts(A)
    a.fills_up()
    assert not client.is_read()
    a.takes_again()
    assert client.is_read()
    client.fills_up()
    assert not a.is_read()
    client.takes_again()
    assert a.is_read()


def test_a_full_client_does_not_stop_a_server_for_the_next(make: Make) -> None:
    world = make()
    full = world.client()
    full.says(get())
    a = world.accepts(A)
    a.stream.dataReceived(answer(b"x" * 50)[:20])
    full.fills_up()
    a.stream.dataReceived(answer(b"x" * 50)[20:])  # data that had already been read
    other = world.client()
    other.says(get())
    assert world.called() == []
    assert a.is_read()
    a.says(answer(b"for the other"))
    assert other.heard() == answer(b"for the other")


def test_websocket(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: k"))
    a = world.accepts(A)
    asked = a.heard()
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in asked
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    a.says(switched + b"\x81\x02hi")
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 101")
    assert heard.endswith(b"\r\n\r\n\x81\x02hi")
    client.says(b"\x81\x00GET /b HTTP/1.1\r\n\r\n")
    assert a.heard() == b"\x81\x00GET /b HTTP/1.1\r\n\r\n"
    client.ends()
    assert a.line.ended
    a.says(b"bye")
    a.ends()
    assert client.heard() == b"bye"
    assert world.connection.state == life.CLOSED


def upgrading(*protocols: str, method: str = "POST", body: bytes = b"") -> bytes:
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = ["Connection: upgrade", *(f"Upgrade: {one}" for one in protocols)]
    return get("/a", *length, *lines, method=method, body=body)


@pytest.mark.parametrize(
    ("mode", "method", "asked", "body", "passed"),
    [
        ("any", "POST", ["tcp"], b"{}", "tcp"), ("any", "GET", ["SPDY/3.1"], b"", "SPDY/3.1"),
        ("any", "GET", ["WebSocket, x/1", "y"], b"", "WebSocket, x/1, y"), ("any", "GET", ["h2c, TLS/1.3"], b"", ""),
        ("any", "GET", ["x, h2c"], b"", "x"),
        ("websocket", "GET", ["x, WebSocket"], b"", "WebSocket"),
        ("websocket", "POST", ["websocket"], b"", ""), ("websocket", "GET", ["websocket"], b"a", ""),
        ("websocket", "GET", ["tcp"], b"", ""), ("off", "GET", ["websocket"], b"", ""),
        ("off", "POST", ["x"], b"a", ""),
    ],
)  # fmt: skip
def test_an_upgrade_is_passed_on_as_the_service_allows(
    make: Make, mode: str, method: str, asked: list[str], body: bytes, passed: str
) -> None:
    world = make(*RULES, f"upgrade = {mode}")
    client = world.client()
    client.says(upgrading(*asked, method=method, body=body))
    a = world.accepts(A)
    heard = a.heard()
    assert heard.endswith(b"\r\n\r\n" + body)
    assert (f"Connection: Upgrade\r\nUpgrade: {passed}\r\n".encode() in heard) is bool(passed)
    assert (b"Upgrade" in heard) is bool(passed)
    protocol = (passed or asked[0]).rpartition(", ")[2]
    a.says(f"HTTP/1.1 101 UPGRADED\r\nX: y\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\r\n".encode() + b"hi")
    if passed:
        said = f"HTTP/1.1 101 UPGRADED\r\nX: y\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode()
        assert client.heard() == said + b"hi"
        client.says(b"\0not HTTP")
        assert a.heard() == b"\0not HTTP"
    else:
        assert client.heard().startswith(b"HTTP/1.1 502 ")
        assert a.line.aborted


@pytest.mark.parametrize("answered", ["Upgrade: y", "Upgrade: x/2", "Upgrade: x/1, y", "Upgrade: h2c"])
def test_a_server_that_switches_to_what_was_not_asked_for_is_502(make: Make, answered: str) -> None:
    world = make()
    client = world.client()
    client.says(upgrading("x/1, h2c"))
    a = world.accepts(A)
    a.says(f"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\n{answered}\r\n\r\n".encode())
    assert client.heard().startswith(b"HTTP/1.1 502 ")
    assert a.line.aborted
    client.says(get())
    world.accepts(A).says(answer())
    assert client.heard() == answer()


@pytest.mark.parametrize(("asked", "status"), [(["x"], b"101"), (["x", "y"], b"502")])
def test_a_101_that_names_no_protocol_means_the_only_one(make: Make, asked: list[str], status: bytes) -> None:
    world = make()
    client = world.client()
    client.says(upgrading(*asked))
    world.accepts(A).says(b"HTTP/1.1 101 Switching\r\n\r\n")
    assert client.heard().startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_may_switch_before_the_body_has_ended(make: Make, chunked: bool) -> None:
    world = make()
    client = world.client()
    field = "Transfer-Encoding: chunked" if chunked else "Content-Length: 5"
    sent, rest = (b"5\r\nhello\r\n0", b"\r\n\r\n") if chunked else (b"hel", b"lo")
    client.says(get("/a", field, "Connection: Upgrade", "Upgrade: tcp", method="POST", body=sent))
    a = world.accepts(A)
    a.says(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
    client.says(rest + b"raw")
    assert a.heard().endswith(b"\r\n\r\n" + sent + rest + b"raw")
    a.says(b"back")
    assert client.heard().endswith(b"\r\n\r\nback")


def test_a_server_that_switches_while_the_body_waits_for_its_turn_is_502(make: Make) -> None:
    """The pending bytes would be sent after those that the client sends next."""
    world = make()
    client = world.client()
    body = b"1\r\nx\r\n" * (MAX_COST_PER_CALL + 100)
    client.says(get("/a", "Transfer-Encoding: chunked", "Connection: Upgrade", "Upgrade: x", method="POST", body=body))
    a = world.accepts(A)
    assert not client.is_read()
    a.says(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n")
    assert client.heard().startswith(b"HTTP/1.1 502 ")
    world.reactor.advance(0)


def test_an_upgrade_that_the_server_declines_is_a_request_like_others(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(upgrading("x", body=b"{}"))
    a = world.accepts(A)
    a.says(answer())
    assert client.heard() == answer()
    client.says(get())
    assert a.heard().endswith(get())


def test_h2c_is_not_passed_on(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"))
    assert world.accepts(A).heard() == get("/a")


def test_a_client_that_leaves_takes_its_server_connection_along(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    client.resets()
    assert a.line.aborted


def test_a_client_that_has_sent_its_fin_still_gets_its_answers(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a") + get("/b"))
    client.ends()
    world.accepts(A).says(answer(b"1"))
    world.accepts(B).says(answer(b"2"))
    assert client.heard().startswith(answer(b"1"))
    assert client.line.disconnecting


def test_stop_ends_idle_clients_and_lets_the_others_finish(make: Make) -> None:
    world = make()
    idle, busy = world.client(), world.client()
    busy.says(get())
    a = world.accepts(A)
    world.live.stop()
    assert idle.line.disconnecting
    a.says(answer())
    assert b"Connection: close" in busy.heard()
    assert busy.line.ended


def test_an_edit_holds_for_the_next_request_of_a_connection(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a"))
    a = world.accepts(A)
    a.says(answer())
    world.load(*RULES[:2], f"server = {B}", f'rule = pattern ".*" use server {B}')
    client.says(get("/a"))
    world.accepts(B).says(answer(b"b now"))
    assert client.heard() == answer() + answer(b"b now")


def test_a_service_without_rules_uses_all_its_servers(make: Make) -> None:
    """Before the first rule is added, and after the last one is deleted, on the same client connection."""
    lines = ("scheduler = phttp", "balance = rr", f"server = {A}", f"server = {B}")
    world = make(*lines)
    client = world.client()

    def asked(count: int, path: str = "/x") -> list[str]:
        servers = []
        for _ in range(count):
            client.says(get(path, "Connection: keep-alive"))
            servers += world.called()
            world.connects().says(answer(b"x", "Connection: close"))
            assert b"200 OK" in client.heard()
        return servers

    assert asked(2) == [A, B]
    world.load(*lines, f'rule = pattern "^/b" use server {B}')
    assert asked(2, "/b") == [B, B]
    client.says(get("/x"))
    assert b" 503 " in client.heard()
    world.load(*lines)
    assert sorted(asked(2)) == [A, B]


STREAM = [
    get("/a/1"),
    get("/b/2", "Content-Length: 5", method="POST", body=b"hello"),
    get("/a/3", "Transfer-Encoding: chunked", method="PUT", body=b"3;e\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n"),
    get("/b/4", "X: " + "y" * 50),
    get("/a/5", method="HEAD"),
]


@examples(60)
@given(cuts=st.lists(st.integers(1, 400), max_size=30))
def test_any_split_into_packets_gives_the_same_requests(cuts: list[int]) -> None:
    whole = b"".join(STREAM)
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    world = World(*RULES)
    client = world.client()
    heard = {A: b"", B: b""}
    servers: dict[str, Peer] = {}

    def serve() -> None:
        progress = True
        while progress:
            progress = False
            for address in world.called():
                servers[address] = world.connects()
            for address, server in servers.items():
                heard[address] += server.heard()
                wanted = [request for request in STREAM if (request.split(b" ")[1][:2] == b"/a") == (address == A)]
                served = done[address]
                if served < len(wanted) and heard[address] == b"".join(wanted[: served + 1]):
                    done[address] += 1
                    server.says(answer(b"") if wanted[served].startswith(b"HEAD") else answer(b"ok"))
                    progress = True

    done = {A: 0, B: 0}
    for start, end in pairwise(places):
        client.says(whole[start:end])
        serve()
    assert done == {A: 3, B: 2}
    client.resets()
    world.close()


def test_any_number_of_interim_answers(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    world.accepts(A).says(interim * 2500 + answer())
    heard = client.heard()
    assert heard == interim * MAX_INTERIM_PER_TURN
    for _ in range(2500 // MAX_INTERIM_PER_TURN + 1):
        world.reactor.advance(0)
        heard += client.heard()
    assert heard == interim * 2500 + answer()


def test_a_head_that_drips_in_is_late_all_the_same(make: Make) -> None:
    world = make(settings="head_timeout = 10")
    client = world.client()
    for byte in get()[:-1]:
        client.says(bytes((byte,)))
        world.passes(1)
        if heard := client.heard():
            break
    assert heard.startswith(b"HTTP/1.1 408")
    assert world.context.wheel.now <= 17


def test_an_upload_that_stops_is_timed_out(make: Make) -> None:
    world = make(settings="read_timeout = 10")
    client = world.client()
    client.says(get("/a", "Content-Length: 10", method="POST", body=b"12345"))
    a = world.accepts(A)
    world.passes(18)
    assert client.heard().startswith(b"HTTP/1.1 408")
    assert a.line.aborted


def test_a_slow_server_is_no_late_body(make: Make) -> None:
    world = make(settings="read_timeout = 5 response_timeout = 20 first_byte_timeout = 0")
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    world.passes(15)
    assert client.heard() == b""
    a.says(answer())
    assert client.heard() == answer()


def test_servers_are_told_of_the_client(make: Make) -> None:
    world = make(*RULES, "x_forwarded_for = replace", "via = append")
    client = world.client()
    client.says(get("/a", "X-Forwarded-For: 6.6.6.6", "Via: 1.0 fred"))
    a = world.accepts(A)
    assert a.heard() == get("/a", "Via: 1.0 fred", "X-Forwarded-For: 192.0.2.1", "Via: 1.1 ktcpvs")
    a.says(answer())
    world.load(*RULES)
    client.says(get("/a", "X-Forwarded-For: 6.6.6.6"))
    assert a.heard() == get("/a", "X-Forwarded-For: 6.6.6.6")


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b'{"a": 1}', True),
        (b"hello", True),
        (b"a=1&b=2 ", True),
        (b"GET /x HTTP/1.1\r\n\r\n\0", False),
        (b"\r\nX ", False),
    ],
)
@pytest.mark.parametrize("step", [1000, 1])
def test_a_connection_that_has_carried_the_body_of_a_get_is_kept_unless_that_may_be_a_request(
    make: Make, body: bytes, kept: bool, step: int
) -> None:
    """A server that ignores the body would answer it as the next request, which is another client's."""
    world = make()
    client = world.client()
    client.says(get("/a", f"Content-Length: {len(body)}"))
    a = world.accepts(A)
    for begin in range(0, len(body), step):
        client.says(body[begin : begin + step])
    a.says(answer())
    assert client.heard() == answer()
    assert a.line.disconnecting is not (kept and (step > 1 or body[:1] == b"{"))


@pytest.mark.parametrize("when", ["early", "refused"])
def test_a_get_with_a_body_that_is_not_answered_in_order_leaves_a_doubt(make: Make, when: str) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Content-Length: 5", body=b"{}   " if when == "refused" else b"{}"))
    a = world.accepts(A)
    a.says(answer(status="200 OK" if when == "early" else "400 Bad Request"))
    if when == "early":
        client.says(b"   ")
    assert a.line.disconnecting


@pytest.mark.parametrize(
    ("said", "onward"),
    [
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        (b"HTTP/1.1 103 E\r\nContent-Length: 5\r\n\r\n" + answer(), b"HTTP/1.1 103 E\r\n\r\n" + answer()),
        (b"HTTP/1.1 100 C\r\nTransfer-Encoding: chunked\r\n\r\n" + answer(), b"HTTP/1.1 100 C\r\n\r\n" + answer()),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        ),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_an_answer_with_odd_framing_passes_and_its_connection_is_not_used_again(
    make: Make, said: bytes, onward: bytes, step: int
) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    for begin in range(0, len(said), step):
        a.says(said[begin : begin + step])
    assert client.heard() == onward
    assert a.line.disconnecting
    client.says(get("/b", method="POST"))
    world.accepts(B).says(answer())
    assert client.heard() == answer()


def test_an_odd_interim_answer_before_a_known_answer_leaves_its_doubt(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    a.says(answer())
    client.says(get())
    a.says(b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n")
    a.says(answer())
    assert client.heard().endswith(answer())
    assert a.line.disconnecting


def test_the_answer_to_head_without_a_length_is_the_last_of_its_connection(make: Make) -> None:
    """Some servers close after it without announcing it, since a GET's body would have ended with the connection."""
    world = make()
    client = world.client()
    client.says(get(method="HEAD") + get("/b", method="POST"))
    a = world.accepts(A)
    a.says(b"HTTP/1.1 200 OK\r\n\r\n")
    assert a.line.disconnecting
    world.accepts(B).says(answer())
    assert client.heard() == b"HTTP/1.1 200 OK\r\n\r\n" + answer()


@pytest.mark.parametrize("unread", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_kept_connection_whose_end_has_come_gets_no_request_that_must_not_be_lost(
    make: Make, unread: bytes, method: str
) -> None:
    """unread: what its server has sent before that, all unread."""
    world = make()
    client, old = kept(world)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        old.line.descriptor = ours.fileno()
        theirs.sendall(unread)
        theirs.shutdown(socket.SHUT_WR)
        client.says(get(method=method))
        assert bool(old.heard()) is (method == "GET")  # a GET can be sent again
        assert old.line.disconnecting is (method == "POST")
        if method == "POST":
            world.accepts(A).says(answer())
            assert client.heard() == answer()


def test_a_kept_connection_that_is_quiet_gets_a_post(make: Make) -> None:
    world = make()
    client, old = kept(world)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        old.line.descriptor = ours.fileno()
        client.says(get(method="POST"))
        assert old.heard() == get(method="POST")


def test_a_chunked_request_goes_on_in_the_strict_form(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", "Transfer-Encoding: chunked", method="POST", body=b"2 ; a = b\r\nhi\r\n1 "))
    a = world.accepts(A)
    assert a.heard() == get("/a", "Transfer-Encoding: chunked", method="POST", body=b"2;a=b\r\nhi\r\n")
    client.says(b" \r")
    assert a.heard() == b""
    client.says(b"\n!\r\n0\r\nX_Forwarded_For: 6.6.6.6\r\nA: b\r\n\r\n" + get("/a/next"))
    assert a.heard() == b"1\r\n!\r\n0\r\nA: b\r\n\r\n"
    a.says(answer())
    assert a.heard() == get("/a/next")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HEAD /a HTTP/1.1\r\nHost: h\r\nA b\r\n", b"400"), (b"HEAD /a HTTP/1.1\r\n\r\n", b"400"),
        (b"HEAD /a HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 70000, b"431"), (b"HEAD /a HTTP/2.0\r\n", b"505"),
        (b"HEAD x HTTP/1.1\r\n", b"400"), (b"HEAD /" + b"x" * 70000, b"414"), (b"HEAD /a HTTP/1.1\r\nA: b", b"408"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheduler", ["phttp", "http"])
def test_the_refusal_of_a_bad_head_has_no_body(make: Make, head: bytes, status: bytes, scheduler: str) -> None:
    if scheduler == "http" and head.endswith(b"1.1\r\n\r\n"):
        return  # HTTP/1.0 does not require Host
    world = make(f"scheduler = {scheduler}", *RULES[1:])
    client = world.client()
    client.says(head)
    world.passes(15)
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 " + status)
    assert heard.endswith(b"\r\n\r\n")
    assert b"Content-Length: " in heard


def test_any_number_of_pipelined_requests_may_be_refused_at_once(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/nobody") * 2000 + get("/a"))
    assert client.heard().count(b"HTTP/1.1 503 ") == 1 + MAX_REQUESTS_PER_TURN  # then other connections have their turn
    world.turns(2000 // MAX_REQUESTS_PER_TURN + 1)
    assert client.heard().count(b"HTTP/1.1 503 ") == 2000 - 1 - MAX_REQUESTS_PER_TURN
    world.accepts(A).says(answer())
    assert client.heard() == answer()


@pytest.mark.parametrize("fault", ["refuses", "resets", "is silent", "is unreadable"])
def test_a_failure_of_servers_is_the_last_response_of_a_pipeline(make: Make, fault: str) -> None:
    """The other requests would be tried at all servers too: work without end for a few bytes of the client."""
    world = make(settings="response_timeout = 5")
    client = world.client()
    client.says(get("/a") * 1000)
    if fault == "refuses":
        world.refuses(A)
    else:
        server = world.accepts(A)
        if fault == "resets":
            server.resets()
            world.refuses_all()
        elif fault == "is silent":
            world.passes(20)
        else:
            server.says(b"nonsense\r\n\r\n")
    world.turns(10)
    heard = client.heard()
    assert heard.count(b"HTTP/1.1 ") == 1
    assert heard.startswith(b"HTTP/1.1 504 " if fault == "is silent" else b"HTTP/1.1 50")
    assert b"\r\nConnection: close\r\n" in heard
    assert world.called() == []


@pytest.mark.parametrize("last", ["the client's", "the switch's"])
def test_a_slow_client_gets_the_whole_of_its_last_answer(make: Make, last: str) -> None:
    """A reset would destroy what the system has not sent yet."""
    world = make(*RULES, settings="linger_timeout = 1 read_timeout = 20")
    client = world.client()
    client.says(get("/a", "Connection: close") if last == "the client's" else get())
    server = world.accepts(A)
    server.says(answer(b"hello", *(["Connection: close"] if last == "the client's" else [])))
    if last == "the switch's":
        client.says(b"nonsense\r\n\r\n")
    left = [100_000]
    client.stream.unsent = lambda: left[0]  # type: ignore[method-assign]
    for _ in range(40):
        world.passes(5)
        left[0] -= 1000
    assert not client.line.aborted
    world.passes(60)  # it does not read any more
    assert client.line.aborted


# The cache makes no difference.

ASKED = st.sampled_from(
    (
        get(), get("/b"), get("/a/longer?q=1"), get("/both"), get("/none"), get(method="HEAD"), get(method="DELETE"),
        get("/a", "Accept: x"), get("/a", "Connection: close"),
        get("/a", "Connection: keep-alive, x-mine", "X-Mine: 1"),
        get("/a", "Content-Length: 3", method="POST", body=b"abc"), get("/a", "Content-Length: 3", body=b"abc"),
        get("/a", "Transfer-Encoding: chunked", method="POST", body=b"3\r\nabc\r\n0\r\n\r\n"),
        get().replace(b"HTTP/1.1", b"HTTP/1.0"), b"GET /a HTTP/1.1\r\n\r\n", get("http://other/a"), get("*"),
        get("/a" + "x" * 9000), get("/a", "X: " + "y" * 3000), get() + get("/b"), get()[:-1], b"\r\n" + get(),
        get("/a", "Cookie: a=1", "Te: gzip"), get("/a", "Expect: 100-continue"), b"nonsense\r\n\r\n",
        OLD, OLD_KEPT, OLD_KEPT.replace(b"1.0", b"1.2"), get("/a", "TE: trailers"), upgrading("x", method="GET"),
        get("/a", "Transfer-Encoding: chunked", method="POST", body=b"3 ; a\r\nabc\r\n0\r\nVia: b\r\n\r\n"),
        get("/a", "Content-Length: 3,3", method="POST", body=b"abc"), get("/a", "Content-Length: 2", body=b"{}"),
    )
)  # fmt: skip
TOLD = st.sampled_from(
    (
        answer(), answer(b"other"), answer(b""), answer(b"x" * 3000), b"HTTP/1.1 204 No Content\r\n\r\n",
        answer(b"hello", "Connection: close"), answer(b"hello", "Connection: keep-alive"),
        answer(b"hello", "Date: now"),
        answer(b"hello").replace(b"1.1", b"1.0", 1), answer() + b"extra", answer()[:-2], answer(status="404 Not Found"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"rubbish\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(), b"HTTP/1.1 200 OK\r\n\r\nto the end",
        answer(b"", status="304 Not Modified"), answer(b"hello", "X: " + "y" * 3000), b"HTTP/1.1 200 OK\r\n\r\n",
        answer(b"hello", "Content-Length: 5"), b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + answer(), answer(status="799 Odd"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    )
)  # fmt: skip


def conversation(turns: list[tuple[bytes, bytes, bool]], option: str, quick: bool) -> list[object]:
    """Return everything that peers receive, and the counters. quick: the switch uses the fast path where it can."""
    world = World(*RULES, option)
    world.live.cache.is_enabled = quick
    client, said = world.client(), []
    servers: list[Peer] = []
    for asked, told, whole in turns:
        if not client.stream.is_open or not client.is_read() or client.line.disconnecting:
            break
        client.says(asked)
        servers += [world.connects() for _ in world.called()]
        for number, server in enumerate(servers):
            heard = server.heard()
            said.append((number, heard))
            for piece in (told,) if whole else (told[:20], told[20:]):
                if heard and server.stream.is_open and server.is_read():
                    server.says(piece)
        world.settle()
        said.append(client.heard())
        said.append([(d.active, d.total, d.reused, d.bytes_in, d.bytes_out) for d in world.live.destinations.values()])
        said.append(world.connection.state)
    world.reset_all()
    world.close()
    return said


@examples(300)
@given(st.lists(st.tuples(ASKED, TOLD, st.booleans()), min_size=1, max_size=10), st.sampled_from(("", "via = append")))
def test_what_is_remembered_makes_no_difference(turns: list[tuple[bytes, bytes, bool]], option: str) -> None:
    assert conversation(turns, option, quick=True) == conversation(turns, option, quick=False)


@pytest.mark.parametrize(("status", "row"), [(200, "2xx"), (599, "5xx"), (600, "other"), (999, "other")])
def test_each_status_counts_somewhere(make: Make, status: int, row: str) -> None:
    world = make()
    client = world.client()
    client.says(get())
    a = world.accepts(A)
    for number in range(1, 3):  # the second uses the fast path
        a.says(answer(status=f"{status} x"))
        answers = described(next(iter(world.live.destinations.values())).latencies)["answers"]
        assert answers == dict.fromkeys(("1xx", "2xx", "3xx", "4xx", "5xx", "other"), 0) | {row: number}
        client.says(get())


def test_the_short_way_is_taken_for_http_1_0_too(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(OLD_KEPT)
    server = world.accepts(A)
    for number in range(4):
        if number:
            client.says(OLD_KEPT)
        assert world.connection.exchange.is_plain is (number > 0)
        assert server.heard() == get()
        server.says(answer())
        assert client.heard() == answer().replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
    client.says(OLD_KEPT.replace(b"1.0", b"1.1"))  # the same header lines
    server.says(answer())
    assert client.heard() == answer()
    client.says(OLD_KEPT.replace(b"1.0", b"1.1"))
    server.says(answer())
    assert client.heard() == answer()


def test_the_short_way_is_taken(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a0"))
    server = world.accepts(A)
    for number in range(3):
        if number:
            client.says(get(f"/a{number}"))
        assert world.connection.exchange.is_plain is (number > 0)
        assert server.heard() == get(f"/a{number}")
        server.says(answer())
        assert client.heard() == answer()
    destination = next(iter(world.live.destinations.values()))
    assert (destination.total, destination.reused, destination.active) == (3, 2, 0)


@pytest.mark.parametrize("change", ["via = append", "x_forwarded_for = append", "fallback = rr"])
def test_an_edit_voids_what_is_remembered(make: Make, change: str) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    server.says(answer())
    server.heard()
    world.load(*RULES, change)
    client.says(get())
    heard = server.heard()
    assert (b"Via:" in heard, b"X-Forwarded-For:" in heard) == (change.startswith("via"), change.startswith("x_"))


def test_whole_requests_that_are_remembered_are_bounded(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a"))
    server = world.accepts(A)
    server.says(answer())
    for number in range(MAX_REQUESTS + 10):
        client.says(get(f"/a{number}"))
        server.says(answer())
    assert 0 < len(world.live.cache.cached) <= MAX_REQUESTS
    client.says(get("/a" + "x" * MAX_CACHED_REQUEST))
    server.says(answer())
    assert max(len(request.data) for request in world.live.cache.cached) <= MAX_CACHED_REQUEST


def test_what_servers_are_told_of_clients_is_each_clients_own(make: Make) -> None:
    world = make(*RULES, "x_forwarded_for = append")
    client = world.client()
    client.says(get("/a"))
    server = world.accepts(A)
    for _ in range(3):
        assert b"X-Forwarded-For:" in server.heard()
        server.says(answer())
        client.says(get("/a"))
    server.says(answer())
    assert not world.live.cache.cached


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("sent", range(4), ids=("idle", "asked", "in its head", "in its body"))
def test_a_takeover_announces_the_end_before_it_comes(make: Make, sent: int, parts: int) -> None:
    """A client may send a request on a kept connection until a response has said `Connection: close`, so that its
    connection stays open until one has, wherever the first process hands over."""
    world = make()
    client = world.client()
    client.says(get("/a"))
    a = world.accepts(A)
    assert a.heard() == get("/a")
    response = answer(b"from a " + b"x" * 100)
    a.says(response)
    assert client.heard() == response
    pieces = [b"", response[:20], response[20:-50], response[-50:]]
    if sent:
        client.says(get("/a/2"))
        a.heard()
        for piece in pieces[:sent]:
            a.says(piece) if piece else None
    heard = client.heard()
    world.director.hand_over({})
    if sent:
        for piece in pieces[sent:]:
            a.says(piece)
        heard += client.heard()
        assert heard.endswith(b"\r\n\r\nfrom a " + b"x" * 100)
    if b"Connection: close" not in heard:
        assert client.is_open
        request = get("/a/3")
        step = len(request) // parts + 1
        for begin in range(0, len(request), step):
            client.says(request[begin : begin + step])
        server = a if a.is_open else world.accepts(A)
        server.heard()
        server.says(answer(b"last"))
        heard = client.heard()
    assert heard.count(b"Connection: close\r\n") == 1
    client.ends()
    assert not client.is_open
