"""Clients that do not read, stop halfway or disconnect, as transcripts: their cost, and which side is blamed."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from memory import A, B, Peer, World, answer, get, worlds
from twisted.internet.error import ConnectError
from twisted.python.failure import Failure

from ktcpvs.http.client_connection import MAX_PENDING_BYTES, MAX_REQUESTS_PER_TURN
from ktcpvs.model import exchange as life
from ktcpvs.model.health import EJECTED, UP

ONE = ("scheduler = phttp", f"server = {A}", f'rule = pattern "^/a" use server {A}')
TWO = ("scheduler = phttp", "balance = rr", "eject = 3", f"server = {A}", f"server = {B}",
       f'rule = pattern ".*" use server {A} server {B}')  # fmt: skip
TIMES = (
    "head_timeout = 3 keepalive_timeout = 4 response_timeout = 10 read_timeout = 12 linger_timeout = 1 linger_time = 6 "
    "linger_size = 4 queue_timeout = 5 connect_timeout = 3 first_byte_timeout = 0"
)
LONGEST = 60
"""Seconds within which every connection of these tests must be over."""

POST = "Content-Length: 10"

Make = Callable[..., World]

pytestmark = pytest.mark.usefixtures("form")


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""
    with worlds(*ONE, settings=TIMES, before_close=lambda world: world.passes(LONGEST)) as make:
        yield make


def states(world: World) -> list[str]:
    return [one.health.state for one in world.live.destinations.values()]


# No requests of a client that does not read are handled.


def test_a_full_client_gets_no_responses_of_the_switch(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/nobody"))
    assert client.heard().startswith(b"HTTP/1.1 503 ")
    client.fills_up()
    client.says(get("/nobody") * 100)
    world.turns(100)
    assert client.heard() == b""
    client.takes_again()
    world.turns(100 // MAX_REQUESTS_PER_TURN + 1)
    assert client.heard().count(b"HTTP/1.1 503 ") == 100


def test_a_full_client_is_not_read_without_end(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/nobody"))
    client.fills_up()
    client.says(b"x" * (MAX_PENDING_BYTES + 1))
    assert not client.is_read()


def test_a_client_that_fills_up_within_a_turn_is_served_no_further(make: Make) -> None:
    world = make()
    client = world.client()
    write, written = client.line.write, []

    def fill(data: bytes) -> None:
        write(data)
        written.append(data)
        if len(written) == 3:
            client.fills_up()

    stream: Any = client.stream
    stream.write = stream.transport.write = fill  # a peer whose buffers hold three responses
    client.says(get("/nobody") * 50)
    world.turns(10)
    assert len(written) == 3
    client.takes_again()
    world.turns(10)
    assert client.heard().count(b"HTTP/1.1 503 ") == 50


def test_no_request_of_a_full_client_reaches_a_server(make: Make) -> None:
    world = make(*TWO)
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer())
    client.fills_up()
    client.says(get())
    world.passes(11)
    assert world.called() == []
    client.takes_again()
    world.accepts(B).says(answer(b"later"))
    assert client.heard() == answer() + answer(b"later")
    assert states(world) == [UP, UP]


def test_a_request_remembered_from_before_waits_too(make: Make) -> None:
    """The fast path does not bypass back-pressure of the client."""
    world = make()
    client = world.client()
    for _ in range(3):
        client.says(get())
        if world.called():
            server = world.connects()
        server.says(answer())
    server.heard()
    client.fills_up()
    client.says(get())
    assert server.heard() == b""
    client.takes_again()
    assert server.heard() == get()


def test_an_upload_goes_on_while_its_client_does_not_read(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", POST, method="POST"))
    server = world.accepts(A)
    client.fills_up()
    client.says(b"0123456789" + get("/a/2"))
    assert server.heard().endswith(b"0123456789")
    server.stream.resume()
    server.says(answer())
    client.takes_again()
    assert world.called() == []
    assert server.heard() == get("/a/2")


# Bytes that take more time than others.

CHUNKED = "Transfer-Encoding: chunked"
TINY = b"1\r\nx\r\n" * 3000


@pytest.mark.parametrize("is_late", [False, True], ids=["with the head", "behind the head"])
def test_tiny_chunks_of_a_client_are_read_some_in_a_turn(make: Make, is_late: bool) -> None:
    world = make()
    client = world.client()
    head = get("/a", CHUNKED, method="POST")
    client.says(head if is_late else head + TINY)
    server = world.accepts(A)
    if is_late:
        client.says(TINY)
    heard = server.heard()
    assert len(head) < len(heard) < len(head + TINY) / 2
    assert not client.is_read()
    world.turns(20)
    assert heard + server.heard() == head + TINY
    assert client.is_read()
    client.says(b"0\r\n\r\n" + get("/a/2"))
    server.heard()
    server.says(answer())
    assert world.accepts(A).heard() if world.called() else server.heard() == get("/a/2")


def test_tiny_chunks_of_a_server_are_read_some_in_a_turn(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.says(head + TINY)
    heard = client.heard()
    assert len(head) < len(heard) < len(head + TINY) / 2
    assert not server.is_read()
    client.fills_up()
    client.takes_again()
    assert not server.is_read()
    world.turns(20)
    assert heard + client.heard() == head + TINY
    server.says(TINY)
    server.resets()  # data from before the reset is still read
    assert client.heard() == TINY
    assert client.line.reset_on_close


def test_interim_responses_are_read_some_in_a_turn(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    server.says(early * 1000 + answer())
    heard = client.heard()
    assert 0 < heard.count(early) < 100
    world.turns(100)
    assert heard + client.heard() == early * 1000 + answer()
    client.says(get("/a/2"))
    assert server.heard().endswith(get("/a/2"))


def test_a_full_client_stays_full_while_tiny_chunks_come(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    server.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + TINY)
    client.fills_up()
    world.turns(20)
    assert not server.is_read()
    client.takes_again()
    assert server.is_read()


# Every state ends.


def a_head_begun(world: World) -> Peer:
    client = world.client()
    client.says(b"GET / HT")
    return client


def a_response_not_taken(world: World) -> Peer:
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer(b"x" * 1000))
    client.fills_up()
    return client


def a_little_of_a_response_not_taken(world: World) -> Peer:
    """Send less of a response than makes the switch stop writing."""
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer(b"x" * 1000))
    client.line.unsent = 10
    return client


def a_response_under_way_not_taken(world: World) -> Peer:
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer(b"x" * 1000)[:-1])
    client.fills_up()
    return client


def a_response_that_stops(world: World) -> Peer:
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer(b"x" * 1000)[:-1])
    return client


def no_response(world: World) -> Peer:
    client = world.client()
    client.says(get(method="POST"))
    world.accepts(A)
    return client


def a_body_that_stops(world: World) -> Peer:
    client = world.client()
    client.says(get("/a", POST, method="POST", body=b"12345"))
    world.accepts(A)
    return client


def a_body_that_the_server_does_not_take(world: World) -> Peer:
    client = world.client()
    client.says(get("/a", POST, method="POST", body=b"12345"))
    world.accepts(A).fills_up()
    return client


def a_server_that_does_not_accept(world: World) -> Peer:
    client = world.client()
    client.says(get())
    return client


def a_refused_client_that_does_not_take(world: World) -> Peer:
    client = world.client()
    client.says(b"nonsense\r\n\r\n")
    client.line.unsent = 100
    return client


def an_upgrade_that_is_silent(world: World) -> Peer:
    client = world.client()
    client.says(get("/a", "Connection: Upgrade", "Upgrade: websocket"))
    world.accepts(A).says(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    return client


def nothing_at_all(world: World) -> Peer:
    return world.client()


@pytest.mark.parametrize(
    ("begins", "state"),
    [
        (nothing_at_all, life.IDLE),
        (a_head_begun, life.IDLE),
        (a_response_not_taken, life.IDLE),
        (a_little_of_a_response_not_taken, life.IDLE),
        (a_server_that_does_not_accept, life.CONNECTING),
        (no_response, life.WAITING),
        (a_body_that_stops, life.WAITING),
        (a_body_that_the_server_does_not_take, life.WAITING),
        (a_response_that_stops, life.ANSWERING),
        (a_response_under_way_not_taken, life.ANSWERING),
        (a_refused_client_that_does_not_take, life.REFUSING),
        (an_upgrade_that_is_silent, life.SWITCHED),
    ],
)
@pytest.mark.parametrize("ends", [False, True], ids=["open", "half-closed"])
def test_every_state_ends(make: Make, begins: Callable[[World], Peer], state: str, ends: bool) -> None:
    """No peer does anything more, except that the client may send a FIN."""
    world = make()
    client = begins(world)
    assert world.connection.state == state
    if ends and client.is_read():
        client.ends()
    if state == life.CONNECTING:
        world.reactor.advance(3)  # connect_timeout, by the reactor's clock
        world.refuse(world.reactor.tcpClients[-1][2])
    for _ in range(LONGEST):
        world.passes(1)
        world.settle()
    assert not world.live.connections
    assert client.line.aborted or client.line.disconnecting
    assert client.line.aborted or not client.line.unsent


def test_a_client_that_takes_slowly_is_left_alone(make: Make) -> None:
    world = make()
    for begins in a_response_under_way_not_taken, a_response_not_taken:
        client = begins(world)
        for _ in range(LONGEST):
            world.passes(1)
            client.line.unsent -= 1
        assert not client.line.aborted
        client.line.unsent = 0
        client.resets()


# A lingering close.


def test_a_refused_upload_is_read_while_it_comes(make: Make) -> None:
    world = make(settings=TIMES + " body_size = 1")
    client = world.client()
    client.says(get("/a", "Content-Length: 9999", method="POST"))
    assert client.heard().startswith(b"HTTP/1.1 413 ")
    assert client.line.ended
    for _ in range(4):
        world.passes(1)
        client.says(b"x" * 100)
        assert not client.line.disconnecting
    world.passes(3)
    assert client.line.disconnecting


def test_it_is_bounded_in_time(make: Make) -> None:
    world = make(settings=TIMES + " body_size = 1")
    client = world.client()
    client.says(get("/a", "Content-Length: 9999", method="POST"))
    seconds = 0
    while not client.line.disconnecting:
        client.says(b"x")
        world.passes(1)
        seconds += 1
    assert 6 <= seconds <= 9


def test_it_is_bounded_in_bytes(make: Make) -> None:
    world = make(settings=TIMES + " body_size = 1")
    client = world.client()
    client.says(get("/a", "Content-Length: 9999999", method="POST"))
    client.says(b"x" * 4095)
    assert not client.line.disconnecting
    client.says(b"x")
    assert client.line.disconnecting


def test_an_early_response_reaches_a_client_that_uploads_on(make: Make) -> None:
    """The server refuses an upload, and its connection is reset after its response."""
    world = make(*TWO)
    refusal = answer(b"too large", "Connection: close", status="413 Content Too Large")
    for _ in range(8):
        client = world.client()
        client.says(get("/a", "Content-Length: 100000", method="POST", body=b"x" * 100))
        world.called()
        server = world.connects()
        server.says(refusal)
        server.resets()
        assert client.heard().endswith(b"Connection: close\r\n\r\ntoo large")
        assert client.line.ended
        client.says(b"x" * 1000)
        assert not client.line.aborted
        client.resets()
    assert states(world) == [UP, UP]  # an early response is no error


# State after a response.


def test_a_body_in_pieces_of_which_no_server_hears(make: Make) -> None:
    """The next request of the connection is read correctly."""
    world = make()
    client = world.client()
    client.says(get("/a", POST, method="POST", body=b"12345"))
    client.says(b"67890")
    assert not client.is_read()
    world.refuses(A)
    assert client.heard().startswith(b"HTTP/1.1 503 ")
    assert client.is_read()
    client.says(get())
    world.accepts(A).says(answer())
    assert client.heard() == answer()


@pytest.mark.parametrize("path", ["/a", "/nobody"])
def test_a_client_that_has_ended_is_closed_after_the_switch_has_answered(make: Make, path: str) -> None:
    world = make()
    client = world.client()
    client.says(get("/a"))
    if path == "/nobody":
        client.says(get(path))
    client.ends()
    if path == "/nobody":
        world.accepts(A).says(answer())
    else:
        world.refuses(A)
    assert b"HTTP/1.1 503 " in client.heard()
    assert client.line.disconnecting


def test_a_server_that_takes_no_more_after_its_response_is_reset(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", POST, method="POST", body=b"1234567890"))
    server = world.accepts(A)
    server.line.unsent = 5
    server.says(answer(b"ok", "Connection: close"))
    assert client.heard().endswith(b"ok")
    assert server.line.disconnecting
    assert not server.line.aborted
    world.passes(3)
    assert server.line.aborted


# Which side is blamed.


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nBad Header: x\r\nContent-Length: 2\r\n\r\nok",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
        answer(b"cut short")[:-1],
    ],
    ids=["head", "no http", "first chunk", "later chunk", "cut short"],
)
def test_a_server_whose_responses_are_broken_is_ejected(make: Make, response: bytes) -> None:
    world = make(*TWO, settings=TIMES + " pool_size = 0")
    for _ in range(6):
        client = world.client()
        client.says(get())
        (called,) = world.called()
        server = world.connects()
        server.says(response if called == A else answer())
        if server.stream.is_open and not server.line.disconnecting and not server.line.aborted:
            server.ends()
        client.resets()
        world.settle()
    assert states(world) == [EJECTED, UP]
    assert [one.failures for one in world.live.destinations.values()] == [3, 0]


def test_a_server_is_not_blamed_for_a_client_that_does_not_read(make: Make) -> None:
    world = make(*TWO)
    clients = []
    for _ in range(8):
        client = world.client()
        client.says(get())
        world.called()
        server = world.connects()
        server.says(answer(b"x" * 1000)[:-1])
        client.fills_up()
        clients.append(client)
    world.passes(LONGEST)
    assert states(world) == [UP, UP]
    assert all(client.line.aborted for client in clients)


def test_a_server_that_stops_in_the_middle_is_blamed(make: Make) -> None:
    world = make(*TWO)
    for _ in range(6):
        client = world.client()
        client.says(get())
        world.called()
        world.connects().says(answer(b"x" * 1000)[:-1])
        world.passes(20)
        assert client.line.aborted
    assert sorted(states(world)) == [EJECTED, UP]


@pytest.mark.parametrize(("is_full", "status"), [(True, b"504"), (False, b"408")])
def test_which_side_is_blamed_for_a_body_that_stops(make: Make, is_full: bool, status: bytes) -> None:
    world = make()
    client = world.client()
    client.says(get("/a", POST, method="POST", body=b"12345"))
    server = world.accepts(A)
    if is_full:
        server.fills_up()
    world.passes(20)
    assert client.heard().split()[1] == status
    assert [one.errors for one in world.live.destinations.values()] == [1 if is_full else 0]


# Descriptors.


def test_connections_that_are_being_made_are_counted(make: Make) -> None:
    world = make(descriptors=7)
    descriptors = world.context.descriptors
    first, second = world.client(), world.client()
    first.says(get())
    assert (descriptors.servers, descriptors.used) == (1, 4)  # each client reserves one for its server
    second.says(get("/a/2"))
    assert (descriptors.servers, descriptors.used) == (2, 4)
    assert descriptors.are_free
    third = world.client()
    assert not descriptors.are_free
    third.says(get("/a/3"))
    assert descriptors.servers == 3
    world.refuses_all()
    assert descriptors.servers == 0


def test_idle_connections_are_closed_before_a_call_finds_no_descriptor(make: Make) -> None:
    world = make(*TWO, descriptors=4)
    client = world.client()
    client.says(get())
    idle = world.accepts(A)
    idle.says(answer())
    client.says(get())
    other = world.accepts(B)
    assert idle.line.disconnecting
    other.says(answer())


def test_no_server_is_blamed_when_the_switch_has_no_descriptor(make: Make) -> None:
    world = make(*TWO)
    client = world.client()
    for _ in range(5):
        client.says(get())
        assert len(world.called()) == 1
        error = ConnectError(errno.EMFILE, "Too many open files")
        world.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(error))
        assert client.heard().startswith(b"HTTP/1.1 503 ")
    assert states(world) == [UP, UP]
    assert [one.failures for one in world.live.destinations.values()] == [0, 0]


# A server that dies with a request while the others are dead.


def test_servers_that_refused_are_called_once_more(make: Make) -> None:
    world = make(*TWO)
    one, two = world.client(), world.client()
    one.says(get())
    two.says(get())
    assert world.called() == [A, B]
    kept = [world.peer(world.reactor.tcpClients[n][2].buildProtocol(None)) for n in (0, 1)]
    for server in kept:
        server.says(answer())
    one.heard()
    one.says(get())
    kept[0].resets()  # with the request
    world.refuses(A)
    kept[1].resets()
    world.refuses(B)
    world.accepts(A).says(answer(b"back"))
    assert one.heard() == answer(b"back")
    assert world.called() == []


def test_they_are_called_once_more_and_no_further(make: Make) -> None:
    world = make(*TWO)
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    server.says(answer())
    client.says(get())
    other = world.accepts(B)
    other.says(answer())
    other.resets()
    client.heard()
    client.says(get())
    server.resets()
    for refusing in (A, B, A, B):
        world.refuses(refusing)
    assert world.called() == []
    assert client.heard().startswith(b"HTTP/1.1 502 ")  # a server had received the request


# A response that never begins.


@pytest.mark.parametrize(
    "says",
    [lambda n: b"HTTP/1.1 103 Early Hints\r\n\r\n", lambda n: b"HTTP/1.1 200 OK\r\nX-Slow: yes"[n : n + 1]],
    ids=["interim responses without end", "a head that drips"],
)
def test_it_does_not_extend_the_timeout(make: Make, says: Callable[[int], bytes]) -> None:
    world = make()
    client = world.client()
    client.says(get(method="POST"))
    server = world.accepts(A)
    seconds = 0
    while not server.line.aborted:
        server.says(says(seconds))
        world.passes(1)
        seconds += 1
    assert 10 <= seconds <= 18
    assert b"HTTP/1.1 504 " in client.heard()


# A client that disconnects while it waits.

ON = (*ONE, "abort_on_close = on")
QUEUE = tuple(line if not line.startswith("server") else f"{line} 1 maxconn 1" for line in ON)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("lines", [ONE, ON], ids=["off", "on"])
def test_a_fin_abandons_an_idempotent_request_where_the_option_says_so(
    make: Make, lines: tuple[str, ...], method: str
) -> None:
    world = make(*lines)
    client = world.client()
    client.says(get(method=method))
    server = world.accepts(A)
    client.ends()
    assert server.line.aborted == (lines is ON and method == "GET")
    if not server.line.aborted:
        server.says(answer())
        assert client.heard().endswith(b"hello")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_no_server_has_is_abandoned(make: Make, method: str) -> None:
    world = make(*QUEUE)
    first, second, third = world.client(), world.client(), world.client()
    first.says(get())
    server = world.accepts(A)
    second.says(get("/a/2", method=method))
    third.says(get("/a/3"))
    second.ends()
    server.heard()
    server.says(answer())
    assert server.heard() == get("/a/3")
    server.says(answer(b"third"))
    assert third.heard() == answer(b"third")
    assert second.heard() == b""


def test_pipelined_requests_before_a_fin_are_served(make: Make) -> None:
    world = make(*ON)
    client = world.client()
    client.says(get() + get("/a/2"))
    server = world.accepts(A)
    client.ends()
    server.says(answer())
    server.says(answer(b"second"))
    assert client.heard().endswith(b"second")


def test_a_client_that_is_not_read_is_noticed_when_it_resets(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    client.says(b"x" * (MAX_PENDING_BYTES + 1))
    assert not client.is_read()
    client.line.reset_unread = True
    world.passes(6)
    assert server.line.aborted
