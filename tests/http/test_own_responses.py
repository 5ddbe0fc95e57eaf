"""Rules with an action: what clients get without a server, on every kind of connection."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory import A, B, Peer, World, answer, get, worlds

from ktcpvs.dispatch.access_log import AccessLogWriter
from ktcpvs.http.client_connection import MAX_REQUESTS_PER_TURN
from ktcpvs.inspect.views import Views
from ktcpvs.model import exchange as life
from ktcpvs.model.edits import AddRule, EditRule, EditService
from ktcpvs.protocols.http1.content_types import UNKNOWN, content_type

RULES = (
    f"server = {A}", f"server = {B}",
    'rule = name old pattern "^/old/(.*)" use redirect 301 "https://{host}/new/{1}"',
    'rule = name there pattern "^/there(/.*)" use redirect "{1}"',
    'rule = name all path /all use redirect 307 "/{scheme}/{client}/{client_port}/{rule}/{query}?{target}"',
    "rule = path /pay/ use redirect 308 https",
    "rule = path /admin/ use respond 403",
    'rule = path /ok use respond 200 "fine"',
    "rule = path /none use respond 204",
    "rule = path /odd use respond 299",
    f'rule = pattern "^/a" use server {A}',
)  # fmt: skip

PER_REQUEST = ("scheduler = phttp", *RULES)
PER_CONNECTION = ("scheduler = http", *RULES)

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*PER_REQUEST) as make:
        yield make


def message(status: str, body: bytes, *lines: str) -> bytes:
    """The text of a response of the switch itself."""
    head = "\r\n".join(
        (f"HTTP/1.1 {status}", "Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}")
    )
    return (head + "\r\n" + "".join(f"{line}\r\n" for line in lines)).encode() + b"\r\n" + body


MOVED = message("301 Moved Permanently", b"301 Moved Permanently\n", "Location: https://h/new/x?y=1")
DENIED = message("403 Forbidden", b"403 Forbidden\n", "Cache-Control: no-store")
FINE = message("200 OK", b"fine")


@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_redirects_and_fixed_responses(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", *RULES)
    client = world.client()
    for path, expected in (
        ("/old/x?y=1", MOVED),
        ("/admin/x", DENIED),
        ("/ok", FINE),
        ("/none", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("/odd", message("299 ", b"299\n")),
        ("/pay/?a=b", message("308 Permanent Redirect", b"308 Permanent Redirect\n", "Location: https://h/pay/?a=b")),
        ("/there//evil", message("302 Found", b"302 Found\n", "Location: /evil")),
    ):
        for _ in range(2):
            client.says(get(path))
            assert client.heard() == expected
    assert world.called() == []
    assert world.connection.state == life.IDLE
    client.says(get("/a"))
    world.accepts(A).says(answer())
    assert client.heard().endswith(b"hello")


def test_variables_have_the_values_of_the_request(make: Make) -> None:
    client = make().client()
    client.says(get('/all?q=%41&\\"<>'))
    location = b"Location: /http/192.0.2.1/4711/all/q=%41&%5C%22<>?/all?q=%41&%5C%22<>\r\n"
    assert location in client.heard()


def test_head_gets_the_head_alone_and_http_1_0_is_told_that_the_connection_stays(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/ok", method="HEAD"))
    assert client.heard() == FINE.removesuffix(b"fine")
    client.says(b"GET /ok HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
    assert client.heard() == message("200 OK", b"fine", "Connection: keep-alive")
    client.says(b"GET /ok HTTP/1.0\r\nHost: h\r\n\r\n")
    assert client.heard() == message("200 OK", b"fine", "Connection: close")
    world.settle()
    assert world.connection.state in (life.REFUSING, life.CLOSED)


def test_connection_close_is_obeyed(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/ok", "Connection: close"))
    assert client.heard() == message("200 OK", b"fine", "Connection: close")
    assert world.connection.state == life.REFUSING


def test_pipelined_requests_get_their_responses_in_order(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a") + get("/ok") + get("/old/x?y=1") + get("/a"))
    server = world.accepts(A)
    assert client.heard() == b""
    server.says(answer(b"1"))
    assert client.heard() == answer(b"1") + FINE + MOVED
    server.says(answer(b"2"))
    assert client.heard() == answer(b"2")


def test_a_turn_has_a_limited_number_of_responses(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/ok") * (MAX_REQUESTS_PER_TURN + 5))
    world.turns(3)
    assert client.heard() == FINE * (MAX_REQUESTS_PER_TURN + 5)


def test_a_client_that_does_not_read_gets_no_further_response(make: Make) -> None:
    world = make()
    client = world.client()
    client.fills_up()
    client.stream.dataReceived(get("/ok") * 3)
    assert client.heard() == b""
    client.takes_again()
    world.turns(1)
    assert client.heard() == FINE * 3


def test_a_whole_body_is_skipped(make: Make) -> None:
    client = make().client()
    for lines, body in (
        (("Content-Length: 5",), b"hello"),
        (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\nX-Forwarded-For: x\r\n\r\n"),
    ):
        client.says(get("/ok", *lines, method="POST", body=body) + get("/admin/"))
        assert client.heard() == FINE + DENIED


def test_a_body_that_is_still_on_its_way_ends_the_connection_with_the_response(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/ok", "Content-Length: 500", "Expect: 100-continue", method="POST"))
    assert client.heard() == message("200 OK", b"fine", "Connection: close")
    assert world.connection.state == life.REFUSING
    client.says(b"x" * 500 + get("/ok"))
    assert client.heard() == b""


def test_a_redirect_needs_a_host(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(b"GET /pay/ HTTP/1.0\r\n\r\n")
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"the request names no host, which the redirect needs" in heard


def test_the_host_of_an_absolute_target_counts(make: Make) -> None:
    client = make().client()
    client.says(b"GET http://a.example/old/x HTTP/1.1\r\nHost: b\r\n\r\n")
    assert b"Location: https://a.example/new/x\r\n" in client.heard()


@pytest.mark.parametrize(
    ("host", "authority"),
    [("H.Example.:8080", "h.example"), ("[2001:db8::1]:80", "[2001:db8::1]"), ("192.0.2.7", "192.0.2.7")],
)
def test_a_redirect_to_https_drops_the_port(make: Make, host: str, authority: str) -> None:
    client = make().client()
    client.says(f"GET /pay/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert f"Location: https://{authority}/pay/\r\n".encode() in client.heard()


@pytest.mark.parametrize("path", ["/old/a%0d%0aX:%20y", "/old/\x80\xff", "/old/%00", '/old/"<>|^`{}'])
def test_no_request_adds_a_line_to_a_response(make: Make, path: str) -> None:
    client = make().client()
    client.says(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode("latin-1"))
    head = client.heard().partition(b"\r\n\r\n")[0]
    assert len(head.split(b"\r\n")) == 4
    assert head.isascii()
    assert head.replace(b"\r\n", b"").decode().isprintable()


# Connections that are relayed as a whole.


def test_the_first_request_of_a_connection_may_be_answered(make: Make) -> None:
    world = make(*PER_CONNECTION)
    for path, expected in (("/ok", FINE), ("/old/x?y=1", MOVED)):
        client = world.client()
        client.says(get(path))
        head, _, body = expected.partition(b"\r\n\r\n")
        assert client.heard() == head + b"\r\nConnection: close\r\n\r\n" + body
        world.settle()
        assert client.line.ended or client.line.disconnecting
    client = world.client()
    client.says(get("/ok", method="HEAD"))
    assert client.heard().endswith(b"Connection: close\r\n\r\n")
    client = world.client()
    client.says(b"GET /pay/ HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n")
    assert client.heard().startswith(b"HTTP/1.1 400 ")
    client = world.client()
    client.says(get("/a"))
    assert world.accepts(A).heard() == get("/a")


@pytest.mark.parametrize("scheduler", ["tcp", "sni"])
def test_a_scheduler_that_reads_no_requests_has_no_actions(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", f"server = {A}")
    why = world.refusal(AddRule("s", "from 10.0.0.0/8", action="respond 403"))
    assert f"respond 403: scheduler {scheduler} reads no requests" in why


# Fallback, edits, counts, logs.


def test_an_edit_of_an_action_changes_the_next_response(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/ok"))
    assert client.heard() == FINE
    world.load("scheduler = phttp", f"server = {A}", 'rule = path /ok use respond 200 "changed"')
    client.says(get("/ok"))
    assert client.heard() == message("200 OK", b"changed")


def test_the_rules_of_a_fallback_respond_too(make: Make) -> None:
    world = make("scheduler = chttp", "fallback = phttp", *RULES)

    def fails(request: object) -> None:
        raise RuntimeError

    world.live.selector.scheduler.choose = fails
    client = world.client()
    client.says(get("/ok"))
    assert client.heard() == FINE


def test_responses_are_counted_by_rule_and_status(make: Make) -> None:
    world = make()
    client = world.client()
    for path in ("/old/1", "/old/2", "/admin/", "/ok"):
        client.says(get(path))
    stats = Views(world.director).stats("s")["services"][0]["stats"]
    assert stats["responses"] == {"200 path /ok": 1, "301 old": 2, "403 path /admin/": 1}
    assert (stats["refused"], stats["refusals"]) == (0, {})
    world.load("scheduler = phttp", f"server = {A}", "rule = path /ok use respond 200")
    assert Views(world.director).stats("s")["services"][0]["stats"]["responses"] == {"200 path /ok": 1}


def counted(world: World) -> tuple[int, int, int]:
    """The requests and the bytes in and out of the service."""
    stats = Views(world.director).stats("s")["services"][0]["stats"]
    return stats["requests"], stats["bytes_in"], stats["bytes_out"]


def server_bytes(world: World) -> list[tuple[int, int, int]]:
    """The requests and the bytes in and out of each server."""
    rows = [row["stats"] for row in Views(world.director).stats("s")["services"][0]["servers"]]
    return [(row["total"], row["bytes_in"], row["bytes_out"]) for row in rows]


def test_own_responses_count_as_requests_and_bytes_of_the_service_alone(make: Make) -> None:
    world = make()
    client = world.client()
    ok = get("/ok")
    for number in (1, 2):
        client.says(ok)
        assert client.heard() == FINE
        assert counted(world) == (number, number * len(ok), number * len(FINE))
    client.says(get("/a"))
    server = world.accepts(A)
    sent = len(server.heard())
    server.says(answer())
    heard = len(client.heard())
    for _ in range(2):
        client.says(ok)
    assert server_bytes(world) == [(1, sent, heard), (0, 0, 0)]
    expected = (5, 4 * len(ok) + sent, 4 * len(FINE) + heard)
    assert counted(world) == expected
    client.says(get("/a"))
    server.says(answer())
    expected = (6, expected[1] + sent, expected[2] + heard)
    assert server_bytes(world)[0] == (2, 2 * sent, 2 * heard)
    assert counted(world) == expected
    client.ends()
    world.settle()
    assert not world.live.connections
    assert (counted(world), server_bytes(world)[0]) == (expected, (2, 2 * sent, 2 * heard))


def test_requests_of_deleted_servers_still_count(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", f"redirect = {B}")
    client = world.client()
    client.says(get("/a"))
    server = world.accepts(A)
    server.says(answer())
    client.says(get("/a"))
    world.load("scheduler = phttp", f"redirect = {B}")  # the second request is still under way
    assert counted(world)[0] == 2
    server.says(answer())
    client.says(get("/a"))
    world.accepts(B).says(answer())
    client.ends()
    world.settle()
    assert counted(world)[0] == 3
    assert world.live.leaving == {}
    world.load("scheduler = phttp")
    assert counted(world)[0] == 3
    world.load("scheduler = phttp", f"server = {A}")
    assert counted(world)[0] == 3


POST = get("/ok", "Content-Length: 5", method="POST", body=b"hello")
CHUNKED = get("/ok", "Transfer-Encoding: chunked", method="POST", body=b"5\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST, CHUNKED, get("/none"), get("/old/x"), get("/none", method="HEAD"), get("/nothing"),
        get("/ok").replace(b"HTTP/1.1", b"HTTP/1.0"), b"GET /ok HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
        b"GET / HTTP/1.1\r\nX\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", get("http://other/ok"),
        get("/" + 20000 * "a"),
    ],
    ids=[
        "body", "chunked", "no content", "redirect", "HEAD", "no rule", "HTTP/1.0", "two hosts", "no colon", "no HTTP",
        "absolute", "long target",
    ],
)  # fmt: skip
@pytest.mark.parametrize("pieces", [1, 2])
def test_all_own_responses_count_with_what_was_received(make: Make, request_bytes: bytes, pieces: int) -> None:
    world = make()
    client = world.client()
    half = len(request_bytes) // pieces
    client.says(request_bytes[:half])
    if pieces == 2 and client.is_open:
        client.says(request_bytes[half:])
    heard = client.heard()
    requests, received, sent = counted(world)
    assert (requests, sent) == (1, len(heard))
    assert received in (half, len(request_bytes))
    assert received == len(request_bytes) or b"HTTP/1.1 4" in heard  # it is refused at its first invalid byte


def test_a_request_that_a_server_has_failed_counts_once(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", "retry_on = off")
    client = world.client()
    client.says(get("/a"))
    server = world.accepts(A)
    sent = len(server.heard())
    server.closes()
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 502 ")
    assert counted(world) == (1, sent, len(heard))
    assert server_bytes(world)[0][0] == 1
    other = world.client()
    other.says(get("/a"))
    world.refuses_all()
    assert other.heard().startswith(b"HTTP/1.1 503 ")
    assert counted(world)[0] == 2
    assert server_bytes(world)[0][0] == 1


def test_own_responses_of_whole_connections_count_as_bytes(make: Make) -> None:
    world = make(*PER_CONNECTION)
    client = world.client()
    client.says(get("/ok"))
    heard = client.heard()
    client.ends()
    assert counted(world) == (0, len(get("/ok")), len(heard))


@pytest.mark.parametrize("lines", [PER_REQUEST, PER_CONNECTION])
def test_the_access_log_names_the_rule(make: Make, lines: tuple[str, ...]) -> None:
    world = make(*lines)
    written: list[bytes] = []

    class Log:
        write = staticmethod(written.append)

    log: Any = Log
    world.live.traffic.access_log.writer = AccessLogWriter(world.context, log, "json", "s", "x")
    world.live.apply_settings()
    client = world.client()
    client.says(get("/old/x"))
    size = len(client.heard())
    client.resets()
    world.settle()
    (line,) = map(json.loads, written)
    reason = "rule 1 'old', redirect 301"
    assert (line["status"], line["server"], line["reason"]) == (301, None, reason)
    assert (line["ending"], line["bytes_out"], line["target"]) == (f"301: {reason}", size, "/old/x")


# Files.


def test_a_file_is_the_content_of_a_response(make: Make, tmp_path: Path) -> None:
    page = tmp_path / "sorry.html"
    page.write_bytes(b"<p>sorry")
    rule = f"rule = path /x use respond 503 file {page}"
    world = make("scheduler = phttp", f"server = {A}", rule)

    def asked(client: Peer) -> bytes:
        client.says(get("/x"))
        return client.heard()

    client = world.client()
    heard = asked(client)
    assert heard.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\n")
    assert heard.endswith(b"\r\n\r\n<p>sorry")
    page.write_bytes(b"<p>again")
    assert asked(client).endswith(b"<p>sorry"), "it is read at a load"
    world.load("scheduler = phttp", f"server = {A}", rule)
    assert asked(client).endswith(b"<p>again"), "even by a load that changes nothing"
    page.unlink()
    why = world.refusal(EditRule("s", "1", action=f"respond 200 file {page}l"))
    assert why == f"service s: rule 'path /x': file {page}l: No such file or directory"
    world.load("scheduler = phttp", f"server = {B}", rule)
    assert asked(client).endswith(b"<p>again")


def test_a_file_may_have_a_mebibyte(make: Make, tmp_path: Path) -> None:
    page = tmp_path / "large.bin"
    page.write_bytes(b"x" * (1 << 20))
    rule = f"rule = path /x use respond 200 file {page}"
    world = make("scheduler = phttp", rule)
    client = world.client()
    client.says(get("/x"))
    assert client.heard().endswith(b"\r\n\r\n" + b"x" * (1 << 20))
    larger = tmp_path / "larger.bin"
    larger.write_bytes(b"x" * ((1 << 20) + 1))
    why = world.refusal(EditRule("s", "1", action=f"respond 201 file {larger}"))
    assert "it has 1048577 bytes, and at most 1048576 are allowed" in why


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_only_a_regular_file_is_read(make: Make, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    why = make().refusal(AddRule("s", "path /x", action=f"respond 200 file {path}"))
    assert why.endswith(f"file {path}: {'Is a directory' if kind == 'folder' else 'not a regular file'}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/sorry.HTML", "text/html; charset=utf-8"),
        ("/robots.txt", "text/plain; charset=utf-8"),
        ("/a.json", "application/json"),
        ("/a.b/logo.svg", "image/svg+xml"),
        ("/html", UNKNOWN),
        ("/.html", UNKNOWN),
        ("/a.html/b", UNKNOWN),
        ("/a.", UNKNOWN),
    ],
)
def test_the_extension_says_the_type(path: str, expected: str) -> None:
    assert content_type(path) == expected


# Error pages.


def test_an_error_page_takes_the_place_of_the_text(make: Make, tmp_path: Path) -> None:
    page = tmp_path / "sorry.html"
    page.write_bytes(b"<p>sorry")
    for scheduler in ("phttp", "http"):
        world = make(f"scheduler = {scheduler}", f"server = {A}", f"rule = path /a use server {A}",
                     f"error_page = 502 503 {page}", f"error_page = 400 {page}")  # fmt: skip
        client = world.client()
        client.says(get("/none"))
        head, _, body = client.heard().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\n")
        assert b"\r\nRetry-After: 5" in head
        assert b"\r\nContent-Length: 8\r\n" in head
        assert body == b"<p>sorry"
        client = world.client()
        client.says(get("/none", method="HEAD"))
        assert client.heard().partition(b"\r\n\r\n")[2] == b""
        client = world.client()
        client.says(b"GET / HTTP/1.1\r\n\r\n" if scheduler == "phttp" else b"nonsense\r\n\r\n")
        assert client.heard().endswith(b"<p>sorry")
    world = make("scheduler = phttp", f"server = {A}", f"rule = path /a use server {A}", f"error_page = 404 {page}")
    client = world.client()
    client.says(get("/a"))
    world.accepts(A).says(answer(b"mine", status="404 Not Found"))
    assert client.heard().endswith(b"mine"), "a server's response passes as it is"
    client.says(get("/none"))
    assert client.heard().endswith(b"no server for this request\n")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("503", "expected statuses and the absolute path of a file"),
        ("/a", "expected statuses and the absolute path of a file"),
        ("503 a.html", "expected statuses and the absolute path of a file"),
        ("200 /a", "error_page = 200: expected a status from 400 to 599"),
        ("5030 /a", "error_page = 5030: expected a status from 400 to 599"),
        ("503 /a error_page = 502 503 /b", "error_page = 503: this status appears a second time"),
    ],
)
def test_a_wrong_error_page_is_refused(make: Make, value: str, why: str) -> None:
    with pytest.raises(Exception, match=why):
        make("scheduler = phttp", f"server = {A}", f"error_page = {value}")


def test_a_missing_error_page_is_refused(make: Make) -> None:
    why = make().refusal(EditService("s", {"error_page": ("503 /no/such/file",)}))
    assert why == "service s: error_page: /no/such/file: No such file or directory"


@pytest.mark.parametrize(
    ("host", "location"),
    [("shop.example:8443", b"http://shop.example:8443/new"), ("shop.example", b"http://shop.example/new")],
)
def test_a_redirect_keeps_the_port_where_its_url_says_so(make: Make, host: str, location: bytes) -> None:
    world = make("scheduler = phttp", f"server = {A}", 'rule = path /old use redirect "http://{hostport}/new"')
    client = world.client()
    client.says(f"GET /old HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert b"Location: %b\r\n" % location in client.heard()
    client.says(b"GET /old HTTP/1.1\r\nHost:\r\n\r\n")
    assert b"400 Bad Request" in client.heard()
