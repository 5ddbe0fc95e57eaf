"""TCP client connections as transcripts of events and actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import World, worlds

from ktcpvs.model import connection as life
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
GET = b"GET /images/x HTTP/1.1\r\nHost: h\r\n\r\n"
HTTP = ("scheduler = http", f"server = {A}", f"server = {B}", f'rule = pattern "/images/" use server {A} server {B}')
WLC = ("scheduler = wlc", f"server = {A}", f"server = {B}")

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""
    with worlds() as make:
        yield make


def test_wlc_calls_before_it_reads(make: Make) -> None:
    world = make(*WLC)
    client = world.client()
    assert not client.is_read()
    server = world.accepts(A)
    assert client.is_read()
    client.says(b"hello")
    assert server.heard() == b"hello"
    server.says(b"world")
    assert client.heard() == b"world"
    client.resets()
    assert server.line.aborted


def test_a_server_may_speak_first(make: Make) -> None:
    world = make(*WLC)
    client = world.client()
    world.accepts(A).says(b"220 ready\r\n")
    assert client.heard() == b"220 ready\r\n"
    client.resets()


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(GET) - 1, len(GET)])
def test_a_head_may_come_in_any_number_of_packets(make: Make, size: int) -> None:
    world = make(*HTTP)
    client = world.client()
    for start in range(0, len(GET), size):
        client.says(GET[start : start + size])
    assert not client.is_read()
    assert world.accepts(A).heard() == GET
    assert client.is_read()
    client.resets()


@pytest.mark.parametrize(
    ("limit", "head", "status"),
    [
        ("head_size = 512", b"GET / HTTP/1.1\r\nHost: h\r\nA: %b\r\n\r\n" % (b"a" * 512), b"431"),
        ("head_lines = 2", b"GET / HTTP/1.1\r\nHost: h\r\nA: a\r\nB: b\r\n\r\n", b"431"),
        ("uri_size = 64", b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * 64), b"414"),
    ],
)
def test_a_head_has_the_limits_of_its_service(make: Make, limit: str, head: bytes, status: bytes) -> None:
    world = make(*HTTP, limit)
    client = world.client()
    client.says(head)
    assert client.heard().startswith(b"HTTP/1.1 " + status)
    world = make(*HTTP)
    client = world.client()
    client.says(head)
    assert b" 503 " in client.heard()  # it is read, and no rule matches


def test_what_follows_the_head_is_relayed_untouched(make: Make) -> None:
    world = make(*HTTP)
    client = world.client()
    client.says(GET + b"GET /other HTTP/1.1\r\n\r\nrubbish\0")
    server = world.accepts(A)
    client.says(b"more")
    assert server.heard() == GET + b"GET /other HTTP/1.1\r\n\r\nrubbish\0more"
    client.resets()


def test_half_close_client_first(make: Make) -> None:
    world = make(*HTTP)
    client = world.client()
    client.says(GET)
    server = world.accepts(A)
    client.ends()
    assert server.line.ended
    assert not server.line.disconnecting
    server.says(b"the answer")
    assert client.heard() == b"the answer"
    server.ends()
    assert client.line.ended
    assert client.line.disconnecting
    assert server.line.disconnecting
    assert world.connection.state == life.CLOSED


def test_half_close_server_first(make: Make) -> None:
    world = make(*WLC)
    client = world.client()
    server = world.accepts(A)
    server.says(b"bye")
    server.ends()
    assert client.line.ended
    assert not client.line.disconnecting
    client.says(b"one thing more")
    assert server.heard() == b"one thing more"
    client.ends()
    assert server.line.disconnecting


def test_a_reset_of_the_server_resets_the_client_after_what_it_said(make: Make) -> None:
    world = make(*WLC)
    client = world.client()
    server = world.accepts(A)
    server.says(b"last words")
    server.resets()
    assert client.heard() == b"last words"
    assert client.line.disconnecting
    assert client.line.reset_on_close


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_full_side_pauses_the_other(make: Make, side: str) -> None:
    world = make(*WLC)
    peers = {"client": world.client()}
    peers["server"] = world.accepts(A)
    full, other = peers[side], peers["server" if side == "client" else "client"]
    full.fills_up()
    assert not other.is_read()
    assert full.is_read()
    full.takes_again()
    assert other.is_read()
    peers["client"].resets()


def test_the_next_best_server_of_the_same_rule_then_503(make: Make) -> None:
    world = make(*HTTP, f"server = {C}", f'rule = pattern ".*" use server {C}')
    client = world.client()
    client.says(GET)
    world.refuses(A)
    world.refuses(B)
    assert world.called() == []
    answer = client.heard()
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"ktcpvs: no server answered" in answer
    assert [d.failures for d in world.live.destinations.values()] == [1, 1, 0]


def test_then_the_redirect_address(make: Make) -> None:
    world = make(*WLC, f"redirect = {C}")
    client = world.client()
    world.refuses(A)
    world.refuses(B)
    server = world.accepts(C)
    client.says(b"sorry?")
    assert server.heard() == b"sorry?"
    client.resets()


def test_when_the_redirect_address_fails_too_wlc_closes(make: Make) -> None:
    world = make(*WLC, f"redirect = {C}")
    client = world.client()
    for address in (A, B, C):
        world.refuses(address)
    assert client.heard() == b""
    assert client.line.disconnecting
    assert world.live.traffic.counters.refused == 1


def test_no_more_servers_are_called_than_the_setting_says(make: Make) -> None:
    world = make(*WLC, settings="connect_tries = 1")
    client = world.client()
    world.refuses(A)
    assert world.called() == []
    assert client.line.disconnecting


def test_no_rule_that_matches(make: Make) -> None:
    world = make(*HTTP)
    client = world.client()
    client.says(b"GET /other HTTP/1.0\r\n\r\n")
    assert b"503" in client.heard()
    assert world.called() == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"hello\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\nHost: h\n\n", b"400"),
        (b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70000, b"414"),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * 70000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n", b"431"),
    ],
)
def test_what_is_no_request_gets_its_answer(make: Make, sent: bytes, status: bytes) -> None:
    world = make(*HTTP)
    client = world.client()
    client.says(sent)
    assert client.heard().startswith(b"HTTP/1.1 " + status)
    assert client.line.ended
    assert not client.line.disconnecting  # its further bytes are read, so that a reset does not destroy the response
    client.says(b"and more")
    client.ends()
    assert client.line.disconnecting
    assert world.called() == []


def test_what_is_no_request_goes_to_the_redirect_address(make: Make) -> None:
    world = make(*HTTP, f"redirect = {C}")
    client = world.client()
    client.says(b"EHLO there\r\n")
    assert world.accepts(C).heard() == b"EHLO there\r\n"
    client.resets()


def test_a_head_that_is_late_gets_408(make: Make) -> None:
    world = make(*HTTP, settings="head_timeout = 3")
    client = world.client()
    client.says(GET[:-1])
    world.passes(3)
    assert client.heard() == b""
    world.passes(2)
    assert client.heard().startswith(b"HTTP/1.1 408")


def test_a_refused_client_that_does_not_go_is_closed_and_then_reset(make: Make) -> None:
    world = make(*HTTP, settings="linger_timeout = 2")
    client = world.client()
    client.says(b"\0")
    world.passes(4)
    assert client.line.disconnecting
    assert not client.line.aborted
    world.passes(4)
    assert client.line.aborted


def test_a_client_that_leaves_before_its_head_is_complete(make: Make) -> None:
    world = make(*HTTP)
    client = world.client()
    client.says(GET[:5])
    client.ends()
    assert client.line.disconnecting
    assert world.called() == []


def test_a_client_that_is_lost_while_its_server_is_called(make: Make) -> None:
    world = make(*WLC)
    client = world.client()
    factory = world.reactor.tcpClients[-1][2]
    client.resets()
    assert world.connection.state == life.CLOSED
    assert world.called() == [A]
    assert factory is world.reactor.tcpClients[-1][2]  # no other server is tried


def test_read_timeout(make: Make) -> None:
    world = make(*WLC, settings="read_timeout = 10")
    client = world.client()
    server = world.accepts(A)
    world.passes(9)
    server.says(b"still here")
    world.passes(9)
    client.says(b"me too")
    world.passes(9)
    assert not client.line.aborted
    world.passes(3)
    assert client.line.aborted
    assert server.line.aborted


def test_a_new_read_timeout_holds_for_connections_that_live(make: Make) -> None:
    world = make(*WLC)
    client = world.client()
    world.accepts(A)
    world.load(*WLC, settings="read_timeout = 2")
    world.passes(4)
    assert client.line.aborted


def test_read_timeout_0_is_never(make: Make) -> None:
    world = make(*WLC, settings="read_timeout = 0")
    client = world.client()
    world.accepts(A)
    world.passes(1000)
    assert not client.line.aborted
    client.resets()


def test_weight_0_gets_nothing_new_and_keeps_what_it_has(make: Make) -> None:
    world = make(*WLC)
    client = world.client()
    server = world.accepts(A)
    world.load("scheduler = wlc", f"server = {A} 0", f"server = {B}")
    other = world.client()
    world.accepts(B)
    third = world.client()
    world.accepts(B)
    client.says(b"still served")
    assert server.heard() == b"still served"
    for peer in (client, other, third):
        peer.resets()


def test_a_deleted_server_drains(make: Make) -> None:
    world = make(*WLC, settings="drain_timeout = 5")
    client = world.client()
    server = world.accepts(A)
    world.load("scheduler = wlc", f"server = {B}", settings="drain_timeout = 5")
    world.passes(5)
    client.says(b"still served")
    assert server.heard() == b"still served"
    world.passes(2)
    assert client.line.aborted
    assert server.line.aborted


def test_a_deleted_server_that_comes_back_keeps_its_connections_and_counts(make: Make) -> None:
    world = make(*WLC, settings="drain_timeout = 5")
    client = world.client()
    world.accepts(A)
    world.load("scheduler = wlc", f"server = {B}", settings="drain_timeout = 5")
    world.load(*WLC, settings="drain_timeout = 5")
    world.passes(20)
    assert not client.line.aborted
    assert [d.active for d in world.live.destinations.values()] == [1, 0]
    client.resets()


def test_a_server_that_is_deleted_again_drains_from_then_on(make: Make) -> None:
    """As an address that a name server leaves out twice."""
    world = make(*WLC, settings="drain_timeout = 5")
    client = world.client()
    world.accepts(A)
    others = ("scheduler = wlc", f"server = {B}")
    world.load(*others, settings="drain_timeout = 5")
    world.passes(3)
    world.load(*WLC, settings="drain_timeout = 5")
    world.load(*others, settings="drain_timeout = 5")
    world.passes(5)
    assert not client.line.aborted
    world.passes(2)
    assert client.line.aborted


def test_bytes_are_counted(make: Make) -> None:
    world = make(*HTTP)
    client = world.client()
    client.says(GET)
    server = world.accepts(A)
    server.says(b"x" * 1000)
    client.ends()
    server.ends()
    for peer in (client, server):
        peer.settle()
    destination = next(iter(world.live.destinations.values()))
    assert (destination.total, destination.bytes_in, destination.bytes_out) == (1, len(GET), 1000)
    assert (world.live.traffic.counters.ended_in, world.live.traffic.counters.ended_out) == (len(GET), 1000)


class Deleting:
    """A scheduler that deletes what it must not even change."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination

    def choose(self, request: Request) -> Choice:
        del request.tried
        return Choice(self._destination, "the first")


def test_a_scheduler_that_deletes_the_servers_that_were_tried(make: Make) -> None:
    world = make(*HTTP)
    client = world.client()
    (first, _) = world.live.destinations.values()
    world.live.traffic.selector.scheduler = Deleting(first)
    with pytest.raises(AttributeError):
        client.says(GET)
    client.resets()
