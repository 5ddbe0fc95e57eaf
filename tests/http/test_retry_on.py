"""The option `retry_on`: which failures move a request to another server, and that a POST never reaches two."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import A, B, World, answer, get, worlds

from ktcpvs.errors import BadValue
from ktcpvs.model.address import no_port_names
from ktcpvs.model.retry_on import read_retry_on

Make = Callable[..., World]
SERVERS = ("scheduler = phttp", "balance = rr", "eject = 0", f"server = {A}", f"server = {B}")
STATUSES = {"502": "502 Bad Gateway", "503": "503 Busy", "504": "504 Late"}


@pytest.fixture
def make() -> Iterator[Make]:
    def no_retry_is_taken(world: World) -> None:
        assert world.live.selector.retries.taken == 0

    with worlds(before_close=no_retry_is_taken) as make:
        yield lambda *lines, **more: make(*SERVERS, *lines, **more)


@pytest.mark.parametrize(("word", "status"), STATUSES.items())
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_status_moves_a_request_to_another_server(make: Make, word: str, status: str, method: str) -> None:
    world = make(f"retry_on = connect {word}")
    client = world.client()
    request = get(method=method)
    client.says(request)
    first = world.accepts(A)
    first.says(answer(b"" if method == "HEAD" else b"sorry", status=status))
    assert first.line.aborted
    assert client.heard() == b""
    second = world.accepts(B)
    assert second.heard() == request
    response = answer(b"" if method == "HEAD" else b"well")
    second.says(response)
    assert client.heard() == response
    assert [one.retries for one in world.live.destinations.values()] == [1, 0]
    assert [one.failures for one in world.live.destinations.values()] == [1, 0]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("connect reset", "503 Busy"),
        ("off", "502 No"),
        ("503", "502 No"),
        ("502 503 504", "500 Oops"),
        ("502 503 504", "404 Not Found"),
    ],
)
def test_other_statuses_go_to_the_client(make: Make, words: str, status: str) -> None:
    world = make(f"retry_on = {words}")
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer(status=status))
    assert client.heard() == answer(status=status)
    assert world.called() == []


@pytest.mark.parametrize(
    "request_", [get(method="POST"), get("/", "Content-Length: 2", method="PUT", body=b"ab"), get(method="PATCH")]
)
def test_what_cannot_be_sent_again_reaches_one_server(make: Make, request_: bytes) -> None:
    world = make("retry_on = connect reset 502 503 504")
    client = world.client()
    client.says(request_)
    server = world.accepts(A)
    assert server.heard() == request_
    server.says(answer(status="503 Busy"))
    assert client.heard().startswith(b"HTTP/1.1 503 Busy")
    assert world.called() == []
    client.says(request_)
    server = world.accepts(B)
    server.resets()
    assert client.heard().startswith(b"HTTP/1.1 502 ")
    assert world.called() == []


def test_the_last_server_has_the_last_word(make: Make) -> None:
    world = make("retry_on = 503")
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer(b"a", status="503 Busy"))
    world.accepts(B).says(answer(b"b", status="503 Busy"))
    assert client.heard() == answer(b"b", status="503 Busy")
    client.says(get())
    assert len(world.called()) == 1
    world.connects().says(answer())
    assert client.heard() == answer()


def test_the_budget_limits_retries(make: Make) -> None:
    world = make("retry_on = 503", settings="retry_budget = 0 retry_least = 0")
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer(status="503 Busy"))
    assert client.heard() == answer(status="503 Busy")
    assert world.called() == []


def test_a_status_in_pieces(make: Make) -> None:
    world = make("retry_on = 503")
    client = world.client()
    client.says(get())
    first = world.accepts(A)
    whole = answer(b"sorry", status="503 Busy")
    for place in range(len(whole)):
        if not first.is_open:
            break
        first.says(whole[place : place + 1])
    world.accepts(B).says(answer())
    assert client.heard() == answer()


def test_errors_still_eject(make: Make) -> None:
    world = make("retry_on = 503")
    world.load(*(line.replace("eject = 0", "eject = 2") for line in SERVERS), "retry_on = 503")
    for _ in range(4):
        client = world.client()
        client.says(get())
        for called in world.called():
            server = world.connects()
            server.says(answer(status="503 Busy" if called == A else "200 OK"))
        for _called in world.called():
            world.connects().says(answer())
        assert client.heard().startswith(b"HTTP/1.1 200 OK")
        client.ends()
        world.settle()
        world.live.server_connections.close()
    assert sorted(one.health.state for one in world.live.usable) == ["ejected", "up"]
    world.passes(400)


def test_no_retry_after_a_failed_connect(make: Make) -> None:
    world = make("retry_on = reset")
    client = world.client()
    client.says(get())
    world.refuses(A)
    assert client.heard().startswith(b"HTTP/1.1 503 ")
    assert world.called() == []


def test_no_retry_elsewhere_after_a_reset(make: Make) -> None:
    world = make("retry_on = connect")
    client = world.client()
    client.says(get())
    world.accepts(A).resets()
    assert client.heard().startswith(b"HTTP/1.1 502 ")
    assert world.called() == []


def test_a_kept_connection_that_was_closed_meanwhile_is_made_anew(make: Make) -> None:
    world = make("retry_on = off")
    world.load("scheduler = phttp", f"server = {A}", "retry_on = off")
    client = world.client()
    client.says(get())
    server = world.accepts(A)
    server.says(answer())
    assert client.heard() == answer()
    client.says(get())
    server.resets()
    world.accepts(A).says(answer())
    assert client.heard() == answer()


@pytest.mark.parametrize(
    ("text", "value"),
    [("off", "off"), ("504 connect", "connect 504"), ("RESET  Connect", "connect reset"), ("503 503", "503")],
)
def test_forms(text: str, value: str) -> None:
    assert read_retry_on("retry_on", text, no_port_names) == value


@pytest.mark.parametrize(("text", "word"), [("", ""), ("500", "500"), ("connect off", "off"), ("5xx", "5xx")])
def test_what_is_none(text: str, word: str) -> None:
    with pytest.raises(BadValue, match=f"retry_on '{word}': expected off, or some of connect, reset, 502, 503, 504"):
        read_retry_on("retry_on", text, no_port_names)
