"""Clients that wait for room at a server, or for an asynchronous scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import evolve
from memory import Peer, World, worlds
from twisted.internet.defer import Deferred

from ktcpvs.dispatch.queue import Queue
from ktcpvs.model.connection import CHOOSING, QUEUED, REFUSING
from ktcpvs.model.edits import Load
from ktcpvs.model.language.parser import parse
from ktcpvs.model.scheduling import Choice, Request

A, B = "10.0.0.1:80", "10.0.0.2:80"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds of one service with the rule `.*` for all its servers, and checks that nothing is left counted."""
    with worlds() as make:

        def new(scheduler: str, *servers: str, lines: tuple[str, ...] = (), settings: str = "") -> World:
            used = " ".join(f"server {server.split()[0]}" for server in servers)
            rule = f'rule = pattern ".*" use {used}'
            named = (f"server = {server}" for server in servers)
            return make(f"scheduler = {scheduler}", *named, rule, *lines, settings=settings)

        yield new


def states(world: World) -> list[str]:
    return sorted(connection.state for connection in world.live.connections)


def change_settings(world: World, text: str) -> None:
    """Change the settings, and nothing else."""
    found = parse(f"global {{ {text} }}").settings
    world.director.submit(Load(world.director.table.services, found))
    world.turns(1)


# maxconn.


def test_a_full_server_is_passed_over_while_another_has_room(make: Make) -> None:
    world = make("wlc", f"{A} 100 maxconn 1", f"{B} 1")
    world.client()
    world.accepts(A)
    world.client()
    world.accepts(B)  # A has fewer for its weight, but no room
    world.client()
    world.accepts(B)


def test_when_all_are_full_clients_wait_in_their_order(make: Make) -> None:
    world = make("wlc", f"{A} 1 maxconn 1")
    first = world.client()
    world.accepts(A)
    second, third = world.client(), world.client()
    assert len(world.live.traffic.queue) == 2
    assert states(world).count(QUEUED) == 2
    assert not second.is_read()
    assert world.called() == []
    first.resets()
    world.settle()
    server = world.accepts(A)
    assert len(world.live.traffic.queue) == 1
    assert second.is_read()
    second.says(b"from the second")
    assert server.heard() == b"from the second"
    second.resets()
    world.settle()
    third_server = world.accepts(A)
    third.says(b"3")
    assert third_server.heard() == b"3"
    assert not world.live.traffic.queue


def test_no_more_wait_for_a_server_than_max_pending(make: Make) -> None:
    world = make("phttp", f"{A} 1 maxconn 1 max_pending 2", lines=("eject = 0",))
    clients = [world.client() for _ in range(4)]
    for client in clients:
        client.says(GET)
    server = world.accepts(A)
    assert clients[3].heard().startswith(b"HTTP/1.1 503 ")
    assert len(world.live.traffic.queue) == 2
    for number in (0, 1, 2):  # each has its turn, and makes room for one that waits
        assert len(world.live.traffic.queue) == max(2 - number, 0)
        server.says(OK)
        assert clients[number].heard().endswith(b"ok")
    late = world.client()
    late.says(GET)
    server.says(OK)
    assert late.heard().endswith(b"ok")
    (destination,) = world.live.usable
    assert destination.pending == 0


def test_the_others_wait_where_fewer_do(make: Make) -> None:
    world = make("phttp", f"{A} 9 maxconn 1 max_pending 1", f"{B} 1 maxconn 1")
    for _ in range(5):
        world.client().says(GET)
    assert sorted(world.called()) == [A, B]
    assert len(world.live.traffic.queue) == 3
    pending = {str(one.address): one.pending for one in world.live.usable}
    assert pending[A] <= 1


def test_a_session_does_not_wait_beyond_max_pending(make: Make) -> None:
    world = make("chttp", f"{A} 1 maxconn 1 max_pending 1", f"{B} 1")
    cookies = {}
    while A not in cookies:
        client = world.client()
        client.says(GET)
        (called,) = world.called()
        world.connects().says(OK)
        line = next(line for line in client.heard().split(b"\r\n") if line.startswith(b"Set-Cookie: "))
        cookies[called] = line.removeprefix(b"Set-").split(b";")[0]
        client.ends()
        world.settle()
        world.live.server_connections.close()
    asks = GET[:-2] + cookies[A] + b"\r\n\r\n"
    called = []
    for _ in range(3):
        world.client().says(asks)
        called += world.called()
    assert called == [A, B]  # the second one waits, the third one does not
    assert len(world.live.traffic.queue) == 1


def test_a_client_that_has_left_the_queue_takes_no_room(make: Make) -> None:
    world = make("wlc", f"{A} 1 maxconn 1")
    first = world.client()
    world.accepts(A)
    second, third = world.client(), world.client()
    second.line.reset_unread = True
    first.resets()
    world.settle()
    server = world.accepts(A)
    third.says(b"from the third")
    assert server.heard() == b"from the third"
    assert len(world.live.connections) == 1


def test_requests_wait_too_and_get_the_kept_connection(make: Make) -> None:
    world = make("phttp", f"{A} maxconn 1")
    one, two = world.client(), world.client()
    one.says(GET)
    server = world.accepts(A)
    two.says(GET)
    assert states(world) == [QUEUED, "waiting for the answer"]
    server.heard()
    server.says(OK)
    assert one.heard() == OK
    assert server.heard() == GET
    assert world.called() == []
    server.says(OK)
    assert two.heard() == OK
    assert world.live.destinations[next(iter(world.live.destinations))].reused == 1


def test_what_a_queued_client_sends_is_kept_and_bounded(make: Make) -> None:
    world = make("phttp", f"{A} maxconn 1")
    one, two = world.client(), world.client()
    one.says(GET)
    server = world.accepts(A)
    two.says(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nab")
    two.says(b"cd")
    assert not two.is_read()
    server.heard()
    server.says(OK)
    assert server.heard().endswith(b"\r\n\r\nabcd")
    assert two.is_read()
    two.says(b"efgh")
    assert server.heard() == b"efgh"
    server.says(OK)
    assert two.heard() == OK


def test_a_client_that_waits_too_long_is_refused(make: Make) -> None:
    world = make("phttp", f"{A} maxconn 1", settings="queue_timeout = 3 response_timeout = 60")
    one, two = world.client(), world.client()
    one.says(GET)
    server = world.accepts(A)
    two.says(GET)
    world.passes(3)
    assert two.heard() == b""
    world.passes(2)
    assert two.heard().startswith(b"HTTP/1.1 503 ")
    assert not world.live.traffic.queue
    two.says(GET)  # its connection may be used again
    assert len(world.live.traffic.queue) == 1
    server.says(OK)
    assert one.heard() == OK


@pytest.mark.parametrize(("scheduler", "first"), [("phttp", GET), ("wlc", b"")])
def test_changed_timeouts_leave_a_client_its_time_in_the_queue(make: Make, scheduler: str, first: bytes) -> None:
    """Any timeout may change, and the time that the client has waited counts."""

    def comes() -> None:
        client = world.client()
        if first:
            client.says(first)

    world = make(scheduler, f"{A} maxconn 1", settings="queue_timeout = 4 response_timeout = 60")
    comes()
    world.accepts(A)
    comes()
    for response_timeout in (70, 80):
        world.passes(1)
        change_settings(world, f"queue_timeout = 4 response_timeout = {response_timeout}")
    assert len(world.live.traffic.queue) == 1
    world.passes(3)
    assert not world.live.traffic.queue
    comes()
    world.passes(2)
    change_settings(world, "queue_timeout = 1 response_timeout = 80")
    world.passes(1)
    assert not world.live.traffic.queue


def test_a_whole_connection_that_waits_too_long_is_closed(make: Make) -> None:
    world = make("wlc", f"{A} maxconn 1", settings="queue_timeout = 2")
    world.client()
    world.accepts(A)
    late = world.client()
    world.passes(4)
    assert late.line.disconnecting
    assert REFUSING in states(world)
    assert not world.live.traffic.queue


def test_a_client_that_leaves_the_queue_is_forgotten(make: Make) -> None:
    world = make("wlc", f"{A} maxconn 1")
    first = world.client()
    world.accepts(A)
    second = world.client()
    second.resets()
    assert not world.live.traffic.queue
    first.resets()
    assert world.called() == []


def test_room_that_is_not_for_the_first_is_for_the_next(make: Make) -> None:
    world = make("phttp", f"{A} maxconn 1", f"{B} maxconn 1")
    world.load(
        "scheduler = phttp", f"server = {A} maxconn 1", f"server = {B} maxconn 1",
        f'rule = pattern "^/a" use server {A}', f'rule = pattern "^/b" use server {B}',
    )  # fmt: skip
    for path, address in (("/a", A), ("/b", B)):
        world.client().says(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        server = world.accepts(address)
    server.heard()
    for_a, for_b = world.client(), world.client()
    for_a.says(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
    for_b.says(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
    assert len(world.live.traffic.queue) == 2
    server.says(OK)
    assert server.heard().startswith(b"GET /b ")
    assert len(world.live.traffic.queue) == 1
    server.says(OK)
    assert for_b.heard() == OK
    assert for_a.heard() == b""


@pytest.mark.parametrize("change", ["maxconn", "server", "none left"])
def test_an_edit_lets_waiting_clients_try_again(make: Make, change: str) -> None:
    world = make("wlc", f"{A} maxconn 1")
    world.client()
    world.accepts(A)
    waiting = world.client()
    if change == "maxconn":
        world.load("scheduler = wlc", f"server = {A} maxconn 2")
        world.accepts(A)
    elif change == "server":
        world.load("scheduler = wlc", f"server = {A} maxconn 1", f"server = {B}")
        world.accepts(B)
    else:
        world.load("scheduler = wlc", f"server = {A} 0 maxconn 1")
        assert waiting.line.disconnecting
    assert not world.live.traffic.queue


def test_a_failed_connect_gives_its_room_to_the_next(make: Make) -> None:
    world = make("wlc", f"{A} maxconn 1")
    first, second = world.client(), world.client()
    assert len(world.live.traffic.queue) == 1
    world.refuses(A)
    assert first.line.disconnecting
    second_server = world.accepts(A)
    second.says(b"x")
    assert second_server.heard() == b"x"


def test_any_number_may_wait_and_fail_at_once(make: Make) -> None:
    world = make("wlc", f"{A} maxconn 1", settings="connect_tries = 1")
    clients = [world.client() for _ in range(3000)]
    assert len(world.live.traffic.queue) == 2999
    world.load("scheduler = wlc", f"server = {A} 0 maxconn 1")
    assert not world.live.traffic.queue
    assert sum(client.line.disconnecting for client in clients) == 2999


def test_the_queue_is_a_loop_and_not_a_recursion() -> None:
    """A waiter that tries again may free the same server for the next one."""
    queue: Any = Queue()

    class Server:
        is_full, max_pending, pending = False, 0, 0

    server, tried = Server(), []

    class Client:
        def try_again(self) -> None:
            tried.append(self)
            queue.leave(self)
            queue.freed(server)

    clients = [Client() for _ in range(5000)]
    for client in clients:
        queue.enter(client, server)
    queue.freed(server)
    assert tried == clients


# An asynchronous scheduler.


class Later:
    """Answers when the test does, by Deferreds or by coroutines. asked: the pending answers."""

    def __init__(self, coroutine: bool) -> None:
        self.asked: list[Deferred[Any]] = []
        self.cancelled = 0
        self._coroutine = coroutine

    def choose(self, request: Request) -> Any:
        answer: Deferred[Any] = Deferred(self._cancel)
        self.asked.append(answer)
        return self._wait(answer) if self._coroutine else answer

    async def _wait(self, answer: Deferred[Any]) -> Any:
        return await answer

    def _cancel(self, answer: Deferred[Any]) -> None:
        self.cancelled += 1


@pytest.fixture(params=[False, True], ids=["Deferred", "coroutine"])
def later(request: pytest.FixtureRequest) -> Later:
    return Later(request.param)


def waiting(world: World, later: Later, ask: bytes = GET) -> Peer:
    """Connect a client whose request waits for the scheduler."""
    world.live.selector.scheduler = later
    client = world.client()
    if world.live.traffic.unit != "CONNECTION":
        client.says(ask)
    assert states(world) == [CHOOSING]
    return client


def chosen(world: World, address: str) -> Choice:
    return next(Choice(d, "because") for d in world.live.destinations.values() if str(d.address) == address)


@pytest.mark.parametrize("scheduler", ["wlc", "http", "phttp"])
def test_the_client_waits_for_the_answer(make: Make, later: Later, scheduler: str) -> None:
    world = make(scheduler, A, B)
    client = waiting(world, later)
    world.passes(1)
    assert world.called() == []
    later.asked[0].callback(chosen(world, B))
    server = world.accepts(B)
    if scheduler == "wlc":
        client.says(GET)
    assert server.heard() == GET
    world.passes(5)
    server.says(OK)
    assert client.heard() == OK
    assert world.connection.dispatcher.choice is not None
    assert world.connection.dispatcher.choice.reason == "because"
    assert later.cancelled == 0


def test_an_answer_that_is_there_at_once(make: Make) -> None:
    world = make("wlc", A)

    class AtOnce:
        async def choose(self, request: Request) -> Choice:
            return chosen(world, A)

    world.live.selector.scheduler = AtOnce()
    world.client()
    world.accepts(A)


@pytest.mark.parametrize("scheduler", ["wlc", "phttp"])
def test_after_choose_timeout_the_fallback_answers(make: Make, later: Later, scheduler: str) -> None:
    world = make(scheduler, A, settings="choose_timeout = 3")
    waiting(world, later)
    world.passes(3)
    assert world.called() == []
    world.passes(1)
    world.accepts(A)
    assert later.cancelled == 1
    assert world.connection.dispatcher.choice is not None
    assert world.connection.dispatcher.choice.reason == (
        "fallback wlc, since the scheduler took more than 3 seconds: the only server"
    )


def failures(world: World) -> list[str]:
    """The failures that are logged from now on, instead of in the log."""
    told: list[str] = []
    world.context.log.failure = lambda form, failure=None, **values: told.append(form.format(**values))  # type: ignore[method-assign]
    return told


def test_a_scheduler_that_fails_is_told_in_the_log_and_the_fallback_answers(make: Make, later: Later) -> None:
    world = make("phttp", A)
    told = failures(world)
    waiting(world, later)
    later.asked[0].errback(RuntimeError("no database"))
    world.accepts(A)
    assert told == ["scheduler of service s failed"]


def test_without_a_fallback_the_client_is_refused(make: Make, later: Later) -> None:
    world = make("phttp", A, lines=("fallback = none",))
    failures(world)
    client = waiting(world, later)
    later.asked[0].errback(RuntimeError("no database"))
    assert b"the scheduler failed" in client.heard()
    client.says(GET)
    world.passes(5)
    assert b"took more than 2 seconds" in client.heard()


@pytest.mark.parametrize("nonsense", ["a server", 7, b"", object()])
def test_nonsense_is_no_choice(make: Make, later: Later, nonsense: object) -> None:
    world = make("wlc", A)
    waiting(world, later)
    later.asked[0].callback(nonsense)
    world.accepts(A)

    class Foolish:
        def choose(self, request: Request) -> Any:
            return nonsense

    world.live.selector.scheduler = Foolish()
    world.client()
    world.accepts(A)


def test_a_late_answer_may_choose_no_server(make: Make, later: Later) -> None:
    world = make("wlc", A, lines=(f"redirect = {B}",))
    waiting(world, later)
    later.asked[0].callback(None)
    world.accepts(B)


def test_a_server_that_was_deleted_meanwhile_is_not_called(make: Make, later: Later) -> None:
    world = make("wlc", A, B)
    waiting(world, later)
    choice = chosen(world, B)
    world.load("scheduler = wlc", f"server = {A}")
    later.asked[0].callback(choice)
    world.accepts(A)


def test_a_client_that_leaves_is_not_waited_for(make: Make, later: Later) -> None:
    world = make("phttp", A)
    client = waiting(world, later)
    client.resets()
    assert later.cancelled == 1
    assert not world.live.connections


def test_what_comes_while_the_scheduler_thinks_is_kept(make: Make, later: Later) -> None:
    world = make("phttp", A)
    client = waiting(world, later, GET + GET)
    later.asked[0].callback(chosen(world, A))
    server = world.accepts(A)
    assert server.heard() == GET
    server.says(OK)
    later.asked[1].callback(chosen(world, A))
    assert server.heard() == GET
    server.says(OK)
    assert client.heard() == OK + OK


def test_a_failed_connect_asks_again(make: Make, later: Later) -> None:
    world = make("wlc", A, B)
    waiting(world, later)
    later.asked[0].callback(chosen(world, A))
    world.refuses(A)
    later.asked[1].callback(chosen(world, B))
    world.accepts(B)


def test_a_full_server_is_waited_for(make: Make, later: Later) -> None:
    world = make("wlc", f"{A} maxconn 1")
    first = world.client()
    world.accepts(A)
    world.live.selector.scheduler = later
    world.client()
    later.asked[0].callback(chosen(world, A))
    assert len(world.live.traffic.queue) == 1
    first.resets()
    world.settle()
    later.asked[-1].callback(chosen(world, A))
    world.accepts(A)
    assert not world.live.traffic.queue


def test_the_fallback_is_bound_anew_after_an_edit(make: Make, later: Later) -> None:
    world = make("wlc", A)
    for address in (A, B):
        world.load("scheduler = wlc", f"server = {address}")
        waiting(world, later)
        world.passes(4)
        peer = world.accepts(address)
        peer.resets()
        for client in world.peers:
            client.settle()


def test_a_choice_may_be_of_a_class_of_its_own(make: Make) -> None:
    world = make("wlc", A)

    class Special(Choice):
        pass

    class Scheduler:
        def choose(self, request: Request) -> Choice:
            return Special(chosen(world, A).destination, "special")

    world.live.selector.scheduler = Scheduler()
    world.client()
    world.accepts(A)
    assert evolve(chosen(world, A), reason="x").reason == "x"


# A body that is too long.


def test_a_body_that_says_it_is_too_long_is_refused_before_anybody_is_called(make: Make) -> None:
    world = make("phttp", A, settings="body_size = 1")
    client = world.client()
    client.says(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\n\r\n")
    assert client.heard().startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    assert world.called() == []
    assert client.line.ended


def test_a_body_that_turns_out_to_be_too_long(make: Make) -> None:
    world = make("phttp", A, settings="body_size = 1")
    client = world.client()
    client.says(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    server = world.accepts(A)
    client.says(b"300\r\n" + b"x" * 0x300 + b"\r\n")
    assert server.heard().endswith(b"x\r\n")
    client.says(b"300\r\n" + b"x" * 0x300 + b"\r\n")
    assert client.heard().startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    assert server.heard() == b""
    assert server.line.aborted


def test_a_body_of_just_that_size(make: Make) -> None:
    world = make("phttp", A, settings="body_size = 1")
    client = world.client()
    client.says(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024)
    server = world.accepts(A)
    server.says(OK)
    assert client.heard() == OK


def test_room_that_is_freed_while_the_scheduler_thinks_again(make: Make, later: Later) -> None:
    """A client that waits for the scheduler a second time is not in the queue, but misses no free room."""
    world = make("wlc", f"{A} maxconn 1", f"{B} maxconn 1")
    leases = [destination.lease() for destination in world.live.destinations.values()]
    waiting(world, later)
    later.asked[0].callback(chosen(world, A))
    assert (states(world), len(later.asked)) == ([QUEUED], 2)  # it was asked for another server, and took its time
    leases[0].end()
    assert (states(world), len(later.asked)) == ([CHOOSING], 3)
    leases[1].end()
    assert (states(world), len(world.live.traffic.queue)) == ([CHOOSING], 0)
    later.asked[2].callback(chosen(world, B))
    world.accepts(B)
