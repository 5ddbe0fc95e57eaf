"""Servers that accept requests and never respond, as transcripts, and the budget of retries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory import A, B, Peer, World, answer, get, worlds

from ktcpvs.model.destination import Destination
from ktcpvs.model.retries import RetryBudget

SERVERS = ("scheduler = phttp", "balance = rr", f"server = {A}", f"server = {B}")
BOTH = (*SERVERS, f'rule = pattern ".*" use server {A} server {B}')
ONLY_A = (*SERVERS, f'rule = pattern ".*" use server {A}')
TIMES = "first_byte_timeout = 4 response_timeout = 30"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and checks that nothing is left counted in any of them."""

    def no_retry_is_taken(world: World) -> None:
        assert world.live.selector.retries.taken == 0

    with worlds(*BOTH, settings=TIMES, before_close=no_retry_is_taken) as make:
        yield make


def asked(world: World, request: bytes) -> tuple[Peer, Peer]:
    """Return a client, and the server A that has received its request."""
    client = world.client()
    client.says(request)
    server = world.accepts(A)
    assert server.heard() == request
    return client, server


def test_another_server_answers(make: Make) -> None:
    world = make()
    client, silent = asked(world, get())
    world.passes(10)
    assert silent.line.aborted
    other = world.accepts(B)
    assert other.heard() == get()
    other.says(answer(b"from b"))
    assert client.heard() == answer(b"from b")
    assert [d.failures for d in world.live.destinations.values()] == [1, 0]
    client.says(get())  # its next turn
    world.accepts(A).says(answer(b"from a"))
    assert client.heard() == answer(b"from a")


@pytest.mark.parametrize(
    "request_",
    [
        get(method="POST"),
        get("/a", "Content-Length: 4", method="PUT", body=b"body"),
        get("/a", "Content-Length: 4", body=b"body"),
    ],
)
def test_a_request_that_is_not_idempotent_waits(make: Make, request_: bytes) -> None:
    world = make()
    client, silent = asked(world, request_)
    world.passes(20)
    assert world.called() == []
    silent.says(answer())
    assert client.heard() == answer()


def test_one_that_has_begun_its_answer_is_waited_for(make: Make) -> None:
    world = make()
    client, slow = asked(world, get())
    slow.says(answer()[:9])
    world.passes(20)
    assert world.called() == []
    slow.says(answer()[9:])
    assert client.heard() == answer()


def test_a_request_that_takes_long_at_a_server_that_answers_others_is_waited_for(make: Make) -> None:
    world = make(*SERVERS, f'rule = pattern "^/a$" use server {A}', BOTH[-1])
    client, slow = asked(world, get("/long"))
    others = world.client()
    others.says(get("/a"))
    quick = world.accepts(A)
    for _ in range(10):
        quick.says(answer())
        assert others.heard() == answer()
        world.passes(2)
        others.says(get("/a"))
    quick.says(answer())
    assert world.called() == []
    slow.says(answer(b"at last"))
    assert client.heard() == answer(b"at last")


def test_the_only_server_is_waited_for(make: Make) -> None:
    world = make(*ONLY_A)
    client, silent = asked(world, get())
    world.passes(20)
    assert client.heard() == b""
    assert not silent.line.aborted
    world.passes(20)
    assert client.heard().startswith(b"HTTP/1.1 504")


def test_all_are_silent(make: Make) -> None:
    """Each server has first_byte_timeout, and the last one response_timeout."""
    world = make()
    client, _ = asked(world, get())
    world.passes(10)
    assert world.accepts(B).heard() == get()
    world.passes(28)
    assert client.heard() == b""
    world.passes(10)
    assert client.heard().startswith(b"HTTP/1.1 504")


def test_it_can_be_switched_off(make: Make) -> None:
    world = make(settings="first_byte_timeout = 0 response_timeout = 30")
    asked(world, get())
    world.passes(28)
    assert world.called() == []


def test_the_budget_lets_some_go_and_the_others_later(make: Make) -> None:
    world = make(settings=f"{TIMES} retry_budget = 0 retry_least = 2 pool_size = 0")
    clients = []
    for _ in range(5):
        clients.append(asked(world, get())[0])
        filler = world.client()  # takes B's turn
        filler.says(get())
        world.accepts(B).says(answer())
        filler.resets()
    seen = len(world.reactor.tcpClients)
    for expected in (2, 4, 5):
        world.passes(12)
        calls = world.reactor.tcpClients[seen:]
        assert world.live.selector.retries.taken == len(calls) <= 2
        for _, _, factory, *_ in calls:
            world.peer(factory.buildProtocol(None)).says(answer())
        seen += len(calls)
        assert sum(bool(client.line.value()) for client in clients) == expected
    world.called()


def test_without_a_budget_a_died_connection_is_no_reason_to_ask_another_one(make: Make) -> None:
    for least, status in (0, b"502"), (1, b"200"):
        world = make(settings=f"retry_budget = 0 retry_least = {least}")
        client, dies = asked(world, get())
        dies.resets()
        if least:
            world.accepts(B).says(answer())
        assert client.heard().split()[1] == status


@given(live=st.integers(0, 10_000), share=st.integers(0, 100), least=st.integers(0, 50))
def test_no_more_are_taken_than_the_budget_allows(live: int, share: int, least: int) -> None:
    budget, destination, leases = RetryBudget(), Destination(A), []
    while budget.allows(live, share, least) and len(leases) < 20_000:
        leases.append(budget.lease(destination))
    assert budget.taken == len(leases) == destination.active == max(least, live * share // 100)
    for lease in leases:
        lease.end()
        lease.end()
    assert budget.taken == destination.active == 0
    assert budget.allows(live, share, 1)
