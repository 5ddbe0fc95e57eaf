"""Edits of messages on client connections: header fields of requests and responses, other paths, IDs of requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, Peer, World, answer, get, worlds

from ktcpvs.http.message_edits import stripped
from ktcpvs.model.address import parse_address
from ktcpvs.model.edits import AddRule
from ktcpvs.model.request_values import normalized_path

Make = Callable[..., World]

EVERY = f'rule = pattern ".*" use server {A}'


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds("scheduler = phttp", f"server = {A}", EVERY) as make:
        yield make


def served(world: World, *lines: bytes, response: bytes | None = None) -> tuple[list[bytes], list[bytes]]:
    """Send requests on one connection; return what the server has got and what the client has got of each."""
    client, server = world.client(), None
    got, given = [], []
    for data in lines:
        client.says(data)
        called = world.called()
        if called:
            server = world.connects()
        assert server is not None
        got.append(server.heard())
        server.says(response or answer())
        given.append(client.heard())
    return got, given


def test_request_headers_are_set_added_and_removed(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", EVERY,
        'request_header = X-Set "new"', 'request_header = +X-Add "more"', 'request_header = X-Gone ""',
    )  # fmt: skip
    data = get("/a", "X-Set: old", "x_set: too", "X-Add: one", "X-GONE: x", "X-Stays: y")
    got, given = served(world, data, data)
    assert got == [get("/a", "X-Add: one", "X-Stays: y", "X-Set: new", "X-Add: more")] * 2
    assert given == [answer()] * 2


def test_response_headers_are_set_added_and_removed(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", EVERY,
        'response_header = Strict-Transport-Security "max-age=31536000"', 'response_header = Server ""',
        'response_header = +Vary "Cookie"',
    )  # fmt: skip
    response = answer(b"hello", "Server: x", "server: y", "Vary: Accept")
    _, given = served(world, get(), get(), response=response)
    expected = (
        b"HTTP/1.1 200 OK\r\nVary: Accept\r\nContent-Length: 5\r\nStrict-Transport-Security: max-age=31536000\r\n"
        b"Vary: Cookie\r\n\r\nhello"
    )
    assert given == [expected] * 2


def test_a_rule_adds_its_edits_to_those_of_the_service(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}",
        'request_header = X-A "service"', 'request_header = X-B "service"', 'response_header = X-R "service"', EVERY,
        f'rule = name a pattern "^/a/(.)" request_header X-A "{{rule}} {{1}}" response_header X-R "" use server {A}',
    )  # fmt: skip
    got, given = served(world, get("/a/x"), get("/b"))
    assert got == [get("/a/x", "X-B: service", "X-A: a x"), get("/b", "X-A: service", "X-B: service")]
    assert [b"X-R: service\r\n" in response for response in given] == [False, True]


@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_requests_of_rules_without_edits_are_left_alone(make: Make, scheduler: str) -> None:
    world = make(
        f"scheduler = {scheduler}", f"server = {A}",
        f'rule = path /a request_header X-A "b" response_header X-R "r" use server {A}', EVERY,
    )  # fmt: skip
    got, given = served(world, get("/b"), get("/a"), get("/b"), get("/a"), get("/b"))
    plain, edited = get("/b"), get("/a", "X-A: b")
    assert got == [plain, edited, plain, edited, plain]
    assert [b"X-R: r\r\n" in response for response in given] == [False, True, False, True, False]
    assert [b"Set-Cookie: " in response for response in given] == [scheduler == "chttp"] * 5


def test_the_variables_of_a_value(make: Make) -> None:
    text = "{host}|{path}|{query}|{target}|{scheme}|{client}|{client_port}|{rule}|{server}|{tls_version}|{1}"
    rule = f'rule = name n pattern "^/a(.)" request_header X-V "{text}" use server {A}'
    world = make("scheduler = phttp", f"server = {A}", rule)
    got, _ = served(world, get("/ab?c=d%41"))
    values = f"h|/ab|c=d%41|/ab?c=d%41|http|192.0.2.1|4711|n|{A}||b"
    assert got == [get("/ab?c=d%41", f"X-V: {values}")]


def test_no_request_adds_a_line_through_a_value(make: Make) -> None:
    rule = f'rule = pattern "^/(.*)" request_header X-V "{{1}}" response_header X-W "{{1}}" use server {A}'
    world = make("scheduler = phttp", f"server = {A}", rule)
    client = world.client()
    client.says(b'GET /a%0d%0aX:y\xff" HTTP/1.1\r\nHost: h\r\n\r\n')
    server = world.accepts(A)
    assert server.heard().count(b"\r\n") == 4
    server.says(answer())
    assert client.heard().count(b"\r\n") == 4


# IDs.


def request_id(data: bytes) -> str:
    found = re.search(rb"\r\nX-Request-ID: ([^\r]*)\r\n", data)
    assert found is not None, data
    return found[1].decode()


ID = 'request_header = X-Request-ID "{request_id}"', 'response_header = X-Request-ID "{request_id}"'


def test_each_request_has_an_id_that_its_response_has_too(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", EVERY, *ID)
    got, given = served(world, get(), get("/a", "X-Request-ID: forged"), get())
    ids = [request_id(data) for data in got]
    assert ids == [request_id(data) for data in given]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


@pytest.mark.parametrize(
    ("lines", "is_kept"),
    [
        (("X-Request-ID: 0a1b-2",), True),
        (("X-Request-ID: a", "X-Request-ID: b"), False),
        (("X-Request-ID: a b",), False),
        (("X-Request-ID: " + "a" * 129,), False),
        (("X_Request_ID: a",), False),
        (("X-Request-ID:",), False),
    ],
)
def test_the_id_of_a_trusted_proxy_is_kept(make: Make, lines: tuple[str, ...], is_kept: bool) -> None:
    world = make("scheduler = phttp", f"server = {A}", EVERY, "trusted_proxies = 192.0.2.1", *ID)
    got, given = served(world, get("/a", *lines))
    assert request_id(got[0]) == request_id(given[0])
    assert (request_id(got[0]) == "0a1b-2") is is_kept
    assert got[0].lower().count(b"request") == 1


def test_a_request_that_is_sent_again_keeps_its_id(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", EVERY, *ID)
    client = world.client()
    client.says(get())
    first = world.accepts(A)
    first.says(answer())
    client.heard()
    client.says(get())
    sent = first.heard()[len(get("/a", f"X-Request-ID: {'0' * 32}")) :]
    first.closes()
    second = world.accepts(A)
    again = second.heard()
    assert request_id(again) == request_id(sent)
    second.says(answer())
    assert request_id(client.heard()) == request_id(again)


# Responses of the switch itself.


def test_the_responses_of_the_switch_have_the_edits_too(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", 'response_header = X-All "{path}"', 'response_header = Cache-Control ""',
        'rule = path /no response_header X-Rule "{rule}" use respond 403', f"rule = path /a use server {A}",
    )  # fmt: skip
    client = world.client()
    client.says(get("/no"))
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"X-All: /no\r\nX-Rule: path /no\r\n\r\n403 Forbidden\n" in heard
    assert b"Cache-Control" not in heard
    client.says(get("/none"))
    heard = client.heard()
    assert heard.startswith(b"HTTP/1.1 503 ")
    assert b"X-All: /none\r\n\r\n" in heard
    client.says(get("/no", "Connection: close"))
    assert b"X-Rule: path /no\r\n\r\n" in client.heard()


# Paths.


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/admin/x", "/x"),
        ("/admin", "/"),
        ("/admin/", "/"),
        ("/admin?x=/admin/y", "/?x=/admin/y"),
        ("/admin/a%2fb%20c", "/a%2fb%20c"),
        ("/admin//x", "//x"),
        ("/x/../admin/y", "/y"),
        ("/%61dmin/y%2F?z", "/y/?z"),
        ("//admin/y", "/y"),
        ("/admin/../x", "/admin/../x"),
        ("/admin/./x", "/./x"),
        ("/admin/x/../y", "/x/../y"),
        ("/administrator", "/administrator"),
        ("/x/admin/", "/x/admin/"),
        ("/admin/é".encode().decode("latin-1"), "/é".encode().decode("latin-1")),
        ("/./admin/é".encode().decode("latin-1"), "/%C3%A9"),
    ],
)
@pytest.mark.parametrize("prefix", ["/admin", "/admin/"])
def test_a_prefix_is_stripped_as_the_conditions_see_it(path: str, expected: str, prefix: str) -> None:
    assert stripped(path.encode("latin-1"), prefix.encode()) == expected.encode("latin-1")


@given(st.text(st.sampled_from("/.a%2fe5d?"), max_size=20))
def test_what_is_left_is_what_is_behind_the_prefix(text: str) -> None:
    path = b"/" + text.encode()
    before, after = normalized_path(path), normalized_path(stripped(path, b"/a"))
    if before == b"/a" or before.startswith(b"/a/"):
        left = before[2:] or b"/"
        assert after == normalized_path(left) or b"%" in left
    else:
        assert stripped(path, b"/a") == path


def test_a_rule_strips_and_rewrites(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", f"server = {B}",
        f"rule = path /admin/ strip_prefix /admin use server {A}",
        f'rule = pattern "^/old/" rewrite "^/old/([^?]*)" "/new/{{1}}" use server {A}',
        f'rule = path /q rewrite "^/q.*" "{{scheme}} {{host}}#" use server {A}',
        EVERY,
    )  # fmt: skip
    got, _ = served(
        world,
        get("/admin/x?y"),
        get("/old/a/b?c=/old/d"),
        get("/q"),
        get("/other"),
        b"GET http://h/admin/x HTTP/1.1\r\nHost: i\r\n\r\n",
        get("/admin/p", "Content-Length: 2", method="POST", body=b"ab"),
    )
    assert got == [
        get("/x?y"),
        get("/new/a/b?c=/old/d"),
        get("/http%20h%23"),
        get("/other"),
        get("/x"),
        get("/p", "Content-Length: 2", method="POST", body=b"ab"),
    ]


def test_a_retry_on_another_server_has_the_edits(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", f"server = {B}",
        f'rule = pattern ".*" request_header X-S "{{server}}" strip_prefix /a use server {A} server {B}',
    )  # fmt: skip
    client = world.client()
    client.says(get("/a/x"))
    (first,) = world.called()
    world.refuse(world.reactor.tcpClients[-1][2])
    (second,) = world.called()
    assert first != second
    assert world.connects().heard() == get("/x", f"X-S: {second}")


# Schedulers, edits.


@pytest.mark.parametrize("scheduler", ["http", "hhttp", "tcp", "sni"])
def test_a_scheduler_that_relays_connections_changes_nothing(make: Make, scheduler: str) -> None:
    world = make(f"scheduler = {scheduler}", f"server = {A}")
    why = world.refusal(AddRule("s", "from ::/0", parse_address(A), modifiers='request_header X-A "b"'))
    does = (
        "reads no requests" if scheduler in ("tcp", "sni") else "relays whole connections and changes nothing in them"
    )
    assert f'request_header X-A "b": scheduler {scheduler} {does}' in why


def test_an_edit_applies_to_the_next_request(make: Make) -> None:
    world = make()
    client = world.client()

    def asked(server: Peer) -> bytes:
        client.says(get())
        heard = server.heard()
        server.says(answer())
        client.heard()
        return heard

    client.says(get())
    server = world.accepts(A)
    server.heard()
    server.says(answer())
    client.heard()
    assert asked(server) == get()
    base = ("scheduler = phttp", f"server = {A}", EVERY)
    world.load(*base, 'request_header = X-A "1"')
    assert asked(server) == get("/a", "X-A: 1")
    world.load(*base[:2], f'rule = pattern ".*" request_header X-A "2" use server {A}')
    assert asked(server) == get("/a", "X-A: 2")
    world.load(*base)
    assert asked(server) == get()


def test_the_response_to_an_upgrade_is_edited(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", EVERY, "upgrade = websocket",
        'response_header = X-Request-ID "{request_id}"', 'request_header = X-Request-ID "{request_id}"',
        'response_header = Server ""', 'response_header = +X-Added "{scheme}"',
    )  # fmt: skip
    client = world.client()
    client.says(get("/a", "Connection: Upgrade", "Upgrade: websocket"))
    server = world.accepts(A)
    (number,) = re.findall(rb"X-Request-ID: (.*)\r\n", server.heard())
    server.says(b"HTTP/1.1 101 Switching\r\nServer: x\r\nX: y\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
    world.turns(3)
    expected = b"HTTP/1.1 101 Switching\r\nX: y\r\nX-Request-ID: %b\r\nX-Added: http\r\n" % number
    assert client.heard() == expected + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi"
    client.says(b"more")
    assert server.heard() == b"more"


def test_interim_responses_are_not_edited(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", EVERY, 'response_header = X "y"')
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    _, (given,) = served(world, get(), response=hints + answer())
    assert given == hints + answer().replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n")


@pytest.mark.parametrize(
    ("host", "value"),
    [
        ("Shop.Example:8443", b"shop.example:8443"), ("shop.example", b"shop.example"), ("h.:80", b"h:80"),
        ("[2001:db8::1]:8080", b"[2001:db8::1]:8080"), ("[2001:db8::1]", b"[2001:db8::1]"), ("h:", b"h"), ("", b""),
    ],
)  # fmt: skip
def test_a_variable_has_the_host_and_its_port(make: Make, host: str, value: bytes) -> None:
    world = make("scheduler = phttp", f"server = {A}", EVERY, 'request_header = X-Host "{hostport}"')
    data = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode()
    (got,), _ = served(world, data)
    assert got == data[:-2] + b"X-Host: %b\r\n\r\n" % value


def test_the_port_of_an_absolute_target_counts(make: Make) -> None:
    world = make("scheduler = phttp", f"server = {A}", EVERY, 'request_header = X-Host "{hostport}"')
    (got,), _ = served(world, get("http://a.example:81/x", "X: y").replace(b"Host: h", b"Host: a.example:81"))
    assert b"X-Host: a.example:81\r\n" in got


def test_a_percent_sign_stands_for_itself(make: Make) -> None:
    world = make(
        "scheduler = phttp", f"server = {A}", EVERY,
        'request_header = X-% "100%b %% {path}"', 'response_header = X "50%"',
    )  # fmt: skip
    (got,), (given,) = served(world, get("/a%20b"))
    assert got == get("/a%20b", "X-%: 100%b %% /a%20b")
    assert b"X: 50%\r\n" in given
