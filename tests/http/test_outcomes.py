"""Schedulers that learn: each of their choices has one outcome, on the fast path in C and in Python, and in general."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from random import Random
from time import monotonic, sleep
from typing import Any

import pytest
from http2_frames import data, frame, headers
from http2_service import BEGIN, Connection
from memory import A, B, Peer, World, answer, get, log_into
from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    EACH_REQUEST,
    FIRST_REQUEST,
    REASONS,
    Choice,
    Destination,
    ILearns,
    IScheduler,
    Outcome,
    Request,
    ServiceView,
)
from ktcpvs.model.edits import EditService
from ktcpvs.model.recent import ErrorRate, Latency
from ktcpvs.protocols.http1 import plain_python
from ktcpvs.protocols.http2 import constants as h2

KINDS = ("compiled", "python", "general")
SERVERS = (f"server = {A}", f"server = {B}")


@implementer(IScheduler)
class First:
    """Chooses the first server that is left."""

    def __init__(self, service: ServiceView, factory: Learners) -> None:
        self._destinations = service.destinations
        self._factory = factory

    def choose(self, request: Request) -> Choice | None:
        for destination in self._destinations:
            if destination.weight and destination not in request.tried:
                self._factory.see(destination)
                return Choice(destination, "the first")
        return None


@implementer(ILearns)
class Learner(First):
    """Keeps the outcomes too."""

    def completed(self, outcome: Outcome) -> None:
        self._factory.outcomes.append(outcome)
        if self._factory.raises is not None:
            raise self._factory.raises


Bind = Callable[[ServiceView, "Learners"], First]


class Learners:
    """The plugin. see: called with each server that it chooses. outcomes: of its choices. raises: what `completed`
    raises."""

    def __init__(self, unit: str = EACH_REQUEST, name: str = "learner", kind: Bind = Learner) -> None:
        self.name = name
        self.unit = unit
        self._kind = kind
        self.outcomes: list[Outcome] = []
        self.raises: Exception | None = None
        self.see: Callable[[Destination], object] = lambda destination: None

    def bind(self, service: ServiceView, previous: Any) -> First:
        return self._kind(service, self)

    def take(self) -> list[Outcome]:
        """Return the outcomes since the last call."""
        found, self.outcomes = self.outcomes, []
        assert all(one.reason in REASONS for one in found)
        return found

    def took(self) -> list[tuple[str, int | None, str, int]]:
        """Return (server, status, reason, retries) of the outcomes since the last call."""
        return [(str(one.destination.address), one.status, one.reason, one.retries) for one in self.take()]


class LearningWorld(World):
    """A world whose scheduler learns. learner: its plugin. lines: of the log."""

    def __init__(self, kind: str, *options: str, unit: str = EACH_REQUEST, name: str = "learner", **more: Any) -> None:
        self.learner = Learners(unit, name)
        self.lines: list[str] = []
        schedulers = (self.learner, *more.pop("schedulers", ()))
        super().__init__(*options, *SERVERS, schedulers=schedulers, log=log_into(self.lines), **more)
        if kind == "python":
            self.live.cache.use(plain_python.RequestScanner, plain_python.scan_response)
        self.live.apply_settings()
        self.live.cache.is_enabled = kind != "general"

    @property
    def first(self) -> Destination:
        return next(iter(self.live.destinations.values()))

    def kept(self) -> tuple[Peer, Peer]:
        """Return a client, and the first server, which has responded to its first request and keeps the connection."""
        client = self.client()
        client.says(get())
        server = self.accepts(A)
        server.says(answer())
        assert client.heard() == answer()
        server.heard()
        return client, server


Make = Callable[..., LearningWorld]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[LearningWorld] = []

    def make_world(kind: str = "compiled", *options: str, **more: Any) -> LearningWorld:
        made.append(LearningWorld(kind, *(options or ("scheduler = learner",)), **more))
        return made[-1]

    yield make_world
    for world in made:
        world.reset_all()
        world.close()


@pytest.mark.parametrize("kind", KINDS)
def test_each_request_has_an_outcome(make: Make, kind: str) -> None:
    world = make(kind)
    client, server = world.kept()
    (outcome,) = world.learner.take()
    assert (outcome.destination, outcome.status, outcome.reason, outcome.retries) == (world.first, 200, "ok", 0)
    assert outcome.bytes_in == len(get())
    assert outcome.bytes_out == len(answer())
    assert outcome.client == "192.0.2.1"
    assert not outcome.has_failed
    for status, response in ((200, answer(b"more")), (404, answer(b"?", status="404 Not Found"))):
        client.says(get("/b"))
        server.says(response)
        assert client.heard() == response
        (outcome,) = world.learner.take()
        assert (outcome.status, outcome.reason, outcome.has_failed) == (status, "ok", False)
        assert (outcome.bytes_in, outcome.bytes_out) == (len(get("/b")), len(response))
        assert outcome.first_byte is not None
        assert 0 <= outcome.first_byte <= outcome.total < 60
    assert world.first.active == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_in_pieces_and_one_that_fails(make: Make, kind: str) -> None:
    world = make(kind)
    client, server = world.kept()
    world.learner.take()
    client.says(get())
    server.says(answer(b"1234567890")[:-4])
    assert world.learner.take() == []
    server.says(b"7890")
    assert world.learner.took() == [(A, 200, "ok", 0)]
    client.says(get())
    server.says(answer(b"", status="500 No"))
    (outcome,) = world.learner.take()
    assert (outcome.status, outcome.reason, outcome.has_failed) == (500, "ok", True)
    client.says(get())
    server.says(b"nonsense\r\n\r\n")
    assert world.learner.took() == [(A, None, "bad_response", 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_messages_in_chunks(make: Make, kind: str) -> None:
    """As those of gRPC, which take the fast path too."""
    world = make(kind)
    client, server = world.kept()
    world.learner.take()
    request = get("/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n"
    for _ in range(3):
        client.says(request)
        assert server.heard() == request
        server.says(response)
        assert client.heard() == response
        (outcome,) = world.learner.take()
        assert (outcome.status, outcome.reason) == (200, "ok")
        assert (outcome.bytes_in, outcome.bytes_out) == (len(request), len(response))


@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_that_is_kept_does_not_change(make: Make, kind: str) -> None:
    world = make(kind)
    client, server = world.kept()
    for number in range(4):
        client.says(get())
        server.says(answer(bytes(number)))
    kept = world.learner.take()
    assert len({id(one) for one in kept}) == 5
    assert [one.bytes_out - kept[1].bytes_out for one in kept[1:]] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_method", [True, False], ids=["method", "function"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_values_of_an_outcome_that_is_dropped_do_not_change(make: Make, kind: str, is_method: bool) -> None:
    """Nor do those of the next one, whatever was in this one."""
    found: list[tuple[Any, ...]] = []

    class Notes(First):
        def completed(self, outcome: Outcome) -> None:
            note(outcome)

    def note(outcome: Outcome) -> None:
        values = [getattr(outcome, name) for name in Outcome.__slots__]
        found.append((*values, repr(values)))

    def bind(service: ServiceView, factory: Learners) -> First:
        bound = Notes(service, factory)
        if not is_method:
            bound.completed = note  # type: ignore[method-assign]
        return bound

    implementer(ILearns)(Notes)
    world = make(kind, "scheduler = notes", name="other", schedulers=(Learners(name="notes", kind=bind),))
    client, server = world.kept()
    for size, status in ((0, "200 OK"), (0, "200 OK"), (700, "404 No"), (700, "200 OK"), (0, "200 OK")):
        client.says(get())
        server.says(answer(bytes(size), status=status))
        client.heard()
    assert [repr(list(values)) for *values, _ in found] == [text for *_, text in found]
    at = Outcome.__slots__.index
    assert [one[at("status")] for one in found] == [200, 200, 200, 404, 200, 200]
    sizes = [one[at("bytes_out")] for one in found]
    assert sizes[1] == sizes[2] == sizes[5] < sizes[4]
    assert len({one[at("bytes_in")] for one in found}) == 1
    if kind != "general":  # which has the clock of the tests
        assert len({one[at("total")] for one in found}) == len(found)


@implementer(ILearns)
class Indifferent(First):
    """Learns nothing."""

    def completed(self, outcome: Outcome) -> None:
        """Do nothing with it."""


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_leave_no_references(make: Make, kind: str) -> None:
    found: list[First] = []

    def bind(service: ServiceView, factory: Learners) -> First:
        found.append(Indifferent(service, factory))
        return found[-1]

    world = make(kind, "scheduler = bare", name="other", schedulers=(Learners(name="bare", kind=bind),))
    client, server = world.kept()
    watched = (world.first, found[-1], Indifferent.completed, world.connection.dispatcher.request.client)
    counts = set()
    for _ in range(20):
        client.says(get())
        server.says(answer())
        client.heard()
        counts.add(tuple(map(sys.getrefcount, watched)))
    assert len(counts) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_leaves(make: Make, kind: str) -> None:
    world = make(kind)
    client, _ = world.kept()
    world.learner.take()
    client.says(get())
    client.resets()
    assert world.learner.took() == [(A, None, "client_gone", 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_that_breaks_off(make: Make, kind: str) -> None:
    world = make(kind)
    client, server = world.kept()
    world.learner.take()
    client.says(get())
    server.says(answer(b"1234567890")[:-4])
    server.resets()
    (outcome,) = world.learner.take()
    assert (outcome.status, outcome.reason) == (200, "reset")
    assert outcome.first_byte is not None


def test_a_server_that_refuses_and_the_next_one(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    world.refuses(A)
    assert world.learner.took() == [(A, None, "refused", 0)]
    world.accepts(B).says(answer())
    assert client.heard() == answer()
    assert world.learner.took() == [(B, 200, "ok", 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_connection_that_dies_and_a_new_one(make: Make, kind: str) -> None:
    world = make(kind)
    client, server = world.kept()
    world.learner.take()
    client.says(get())
    server.resets()
    assert world.learner.take() == []
    world.accepts(A).says(answer())
    assert world.learner.took() == [(A, 200, "ok", 1)]
    assert client.heard() == answer()


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_server_and_a_status_that_is_retried(make: Make, kind: str) -> None:
    world = make(kind, "scheduler = learner", "retry_on = connect reset 503", settings="first_byte_timeout = 4")
    client, _ = world.kept()
    world.learner.take()
    client.says(get())
    world.passes(10)
    assert world.learner.took() == [(A, None, "timeout", 0)]
    other = world.accepts(B)
    other.says(answer())
    assert world.learner.took() == [(B, 200, "ok", 1)]
    client.says(get())
    third = world.accepts(A)
    third.says(answer(b"", status="503 No"))
    assert world.learner.took() == [(A, None, "status", 0)]
    other.says(answer())
    assert world.learner.took() == [(B, 200, "ok", 1)]


def test_a_request_that_is_not_sent_again_after_a_timeout(make: Make) -> None:
    world = make("compiled", "scheduler = learner", settings="response_timeout = 3")
    client = world.client()
    client.says(get("/", "Content-Length: 0", method="POST"))
    world.accepts(A)
    world.passes(10)
    assert world.learner.took() == [(A, None, "timeout", 0)]


@pytest.mark.parametrize("error", [ValueError("learnt too much"), SystemExit(3)], ids=["an error", "an exit"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_is_logged_once_and_breaks_no_request(make: Make, kind: str, error: BaseException) -> None:
    world = make(kind)
    world.learner.raises = error
    client, server = world.kept()
    for _ in range(5):
        client.says(get())
        server.says(answer())
        assert client.heard() == answer()
    assert len(world.learner.take()) == 6
    assert len([line for line in world.lines if "failed to learn" in line]) == 1
    assert "failed to learn from an outcome" in "".join(world.lines)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
@pytest.mark.parametrize("modifier", ["", "response_header X-A b"])
def test_a_balance_gets_the_outcomes_of_its_own_choices(make: Make, kind: str, scheduler: str, modifier: str) -> None:
    rules = (
        f"rule = path /b {modifier} balance learner use server {A} 3",
        f'rule = pattern ".*" {modifier} balance other use server {A}',
    )
    other = Learners(CONNECTION, "other")
    world = make(kind, f"scheduler = {scheduler}", *rules, unit=CONNECTION, schedulers=(other,))
    client, server = world.client(), None
    for path in ("/b", "/c", "/b", "/c"):
        client.says(get(path))
        server = server or world.accepts(A)
        server.says(answer())
        assert client.heard().endswith(b"hello")
        mine, theirs = (world.learner, other) if path == "/b" else (other, world.learner)
        assert mine.took() == [(A, 200, "ok", 0)]
        assert theirs.take() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_balance_gets_no_outcomes_of_what_others_choose(make: Make, kind: str) -> None:
    """The requests of one connection: a rule without a scheduler that learns, and one whose servers a hash chooses."""
    rules = (f"rule = path /b balance learner use server {A}", f"rule = path /c balance rr use server {A}")
    world = make(kind, "scheduler = phttp", "sticky = header X-User", *rules, unit=CONNECTION)
    client, server = world.client(), None
    for path, lines, outcomes in (
        ("/b", (), [(A, 200, "ok", 0)]),
        ("/c", (), []),
        ("/b", ("X-User: ann",), []),
        ("/b", (), [(A, 200, "ok", 0)]),
    ):
        client.says(get(path, *lines))
        server = server or world.accepts(A)
        server.says(answer())
        assert client.heard() == answer()
        assert world.learner.took() == outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_a_balance_gets_no_outcomes_of_what_a_cookie_names(make: Make, kind: str) -> None:
    world = make(kind, "scheduler = chttp", f"rule = path /b balance learner use server {A}", unit=CONNECTION)
    client = world.client()
    client.says(get("/b"))
    server = world.accepts(A)
    server.says(answer())
    cookie = re.search(rb"Set-Cookie: ([^;]+)", client.heard())
    assert cookie is not None
    assert world.learner.took() == [(A, 200, "ok", 0)]
    for lines, outcomes in (((f"Cookie: {cookie[1].decode()}",), []), ((), [(A, 200, "ok", 0)])):
        client.says(get("/b", *lines))
        server.says(answer())
        assert client.heard().endswith(b"hello")
        assert world.learner.took() == outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_the_schedulers_of_a_connection_change(make: Make, kind: str) -> None:
    """An edit on a live connection: what learned before gets no outcome of the next request."""
    other = Learners(CONNECTION, "other")
    rule = f"rule = path /b balance learner use server {A}"
    world = make(kind, "scheduler = phttp", rule, unit=CONNECTION, schedulers=(other,))
    client = world.client()
    client.says(get("/b"))
    server = world.accepts(A)
    server.says(answer())
    assert client.heard() == answer()
    assert (len(world.learner.take()), other.take()) == (1, [])
    for balance, outcomes in (("other", (0, 1)), ("wlc", (0, 0)), ("learner", (1, 0))):
        world.load("scheduler = phttp", f"rule = path /b balance {balance} use server {A}", *SERVERS)
        client.says(get("/b"))
        server.says(answer())
        assert client.heard() == answer()
        assert (len(world.learner.take()), len(other.take())) == outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_another_server_is_chosen_within_the_rule(make: Make, kind: str) -> None:
    rule = f"rule = path /b balance learner use server {A} server {B}"
    world = make(kind, "scheduler = phttp", "retry_on = connect reset 503", rule, unit=CONNECTION)
    client = world.client()
    client.says(get("/b"))
    world.accepts(A).says(answer(status="503 Service Unavailable"))
    assert world.learner.took() == [(A, None, "status", 0)]
    world.accepts(B).says(answer())
    assert client.heard() == answer()
    assert world.learner.took() == [(B, 200, "ok", 1)]


class LaterLearner(Learner):
    """Chooses a moment later."""

    async def choose(self, request: Request) -> Choice | None:  # type: ignore[override]
        return super().choose(request)


@pytest.mark.parametrize("scheduler", ["phttp", "chttp"])
def test_an_asynchronous_balance_learns(make: Make, scheduler: str) -> None:
    later = Learners(CONNECTION, "later", LaterLearner)
    rules = f"rule = path /b balance later use server {A}", f"rule = path /c balance learner use server {A}"
    world = make("compiled", f"scheduler = {scheduler}", *rules, unit=CONNECTION, schedulers=(later,))
    client, server = world.client(), None
    for path, outcomes in (("/b", (1, 0)), ("/c", (0, 1)), ("/b", (1, 0))):
        client.says(get(path))
        server = server or world.accepts(A)
        server.says(answer())
        assert client.heard().endswith(b"hello")
        assert (len(later.take()), len(world.learner.take())) == outcomes


def test_a_fallback_gets_its_own_and_the_scheduler_does_not(make: Make) -> None:
    other, silent = Learners(CONNECTION, "other"), Learners(CONNECTION, "silent", First)
    for fallback, outcomes in ((other, 1), (silent, 0)):
        world = make("compiled", "scheduler = learner", f"fallback = {fallback.name}", schedulers=(other, silent))

        def fail(destination: Destination) -> None:
            raise ValueError

        world.learner.see = fail
        client = world.client()
        client.says(get())
        world.accepts(A).says(answer())
        assert client.heard() == answer()
        assert (len(fallback.take()), world.learner.take()) == (outcomes, [])


@pytest.mark.parametrize("kind", KINDS)
def test_the_fallback_of_a_slow_scheduler_gets_its_own_and_the_scheduler_does_not(make: Make, kind: str) -> None:
    other, silent = Learners(CONNECTION, "other"), Learners(CONNECTION, "silent", First)
    for fallback, outcomes in ((other, 1), (silent, 0)):
        options = "scheduler = learner", f"fallback = {fallback.name}"
        settings = "choose_budget = 1 choose_overruns = 1"
        world = make(kind, *options, schedulers=(other, silent), settings=settings)
        world.learner.see = lambda destination: sleep(0.002)
        client, server = world.kept()
        assert (len(world.learner.take()), fallback.take()) == (1, [])
        client.says(get())
        choice = world.connection.dispatcher.choice
        assert choice is not None
        assert choice.why == "balance, fallback"
        server.says(answer())
        assert client.heard() == answer()
        assert (len(fallback.take()), world.learner.take()) == (outcomes, [])


@implementer(ILearns)
class Forgetful(First):
    """Lacks the method that it promises."""


def test_a_scheduler_that_lacks_what_it_promises_is_refused(make: Make) -> None:
    forgetful = Learners(EACH_REQUEST, "forgetful", Forgetful)
    balance = Learners(CONNECTION, "forgetful-too", Forgetful)
    world = make("compiled", "scheduler = learner", "fallback = forgetful", schedulers=(forgetful, balance))
    why = world.refusal(EditService("s", {"scheduler": "forgetful"}))
    assert why == "service s: scheduler forgetful provides ILearns, but its bound form lacks completed(outcome)"
    why = world.refusal(EditService("s", {"scheduler": "phttp", "balance": "forgetful-too"}))
    assert why == "service s: balance forgetful-too provides ILearns, but its bound form lacks completed(outcome)"

    def fail(destination: Destination) -> None:
        raise ValueError

    world.learner.see = fail
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer())
    assert client.heard() == answer(), "as a fallback it chooses, and learns nothing"


def test_the_redirect_address_is_no_choice_of_the_scheduler(make: Make) -> None:
    world = make("compiled", "scheduler = learner", "redirect = 10.0.0.9:80")
    client = world.client()
    client.says(get())
    world.refuses(A)
    world.refuses(B)
    world.accepts("10.0.0.9:80").says(answer())
    assert client.heard() == answer()
    assert world.learner.took() == [(A, None, "refused", 0), (B, None, "refused", 1)]


def test_an_edit_leaves_outcomes_with_the_scheduler_that_has_chosen(make: Make) -> None:
    world = make()
    client, server = world.kept()
    world.learner.take()
    client.says(get())
    world.load("scheduler = phttp", *SERVERS)
    server.says(answer())
    assert world.learner.took() == [(A, 200, "ok", 0)]
    client.says(get())
    server.says(answer())
    assert world.learner.take() == []


# Connections that are relayed as a whole.


@pytest.mark.parametrize("unit", [CONNECTION, FIRST_REQUEST])
def test_whole_connections(make: Make, unit: str) -> None:
    world = make(unit=unit)
    client = world.client()
    if unit == FIRST_REQUEST:
        client.says(get())
    server = world.accepts(A)
    if unit == CONNECTION:
        client.says(get())
    assert server.heard() == get()
    assert world.learner.take() == []
    server.says(b"abc")
    server.says(b"def")
    assert client.heard() == b"abcdef"
    client.ends()
    server.ends()
    world.settle()
    (outcome,) = world.learner.take()
    assert (outcome.status, outcome.reason, outcome.bytes_in, outcome.bytes_out) == (None, "ok", len(get()), 6)
    assert outcome.first_byte is not None
    assert outcome.first_byte <= outcome.total


def test_whole_connections_that_fail(make: Make) -> None:
    world = make(unit=CONNECTION)
    client = world.client()
    world.refuses(A)
    assert world.learner.took() == [(A, None, "refused", 0)]
    server = world.accepts(B)
    server.resets()
    world.settle()
    (outcome,) = world.learner.take()
    assert (outcome.reason, outcome.retries, outcome.first_byte) == ("reset", 1, None)
    client = world.client()
    world.accepts(A)
    client.resets()
    world.settle()
    assert world.learner.took() == [(A, None, "client_gone", 0)]


# What is measured of servers.


@pytest.mark.parametrize("kind", KINDS)
def test_latency_and_errors_are_measured_once_they_are_read(make: Make, kind: str) -> None:
    world = make(kind, "scheduler = reader", name="other", schedulers=(reader := Learners(name="reader", kind=First),))
    client, server = world.kept()
    first = world.first
    first.clock = monotonic  # that of the fast path
    assert not first.is_measured
    reader.see = lambda destination: (destination.latency, destination.error_rate)
    for _ in range(3):
        client.says(get())
        server.says(answer())
    assert first.latency.count == 3
    assert 0 < first.latency.last < 60
    assert 0 < first.latency.ewma < 60
    assert first.error_rate == 0.0
    client.says(get())
    server.says(answer(b"", status="500 No"))
    assert first.latency.count == 4
    assert 0.2 < first.error_rate < 0.26  # it decays as time passes
    world.load("scheduler = phttp", *SERVERS)
    assert not first.is_measured
    client.says(get())
    server.says(answer())
    assert not first.is_measured


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_follows_from_the_times_alike(make: Make, kind: str) -> None:
    """The fast path in C computes what `record` of both measurements does, also where they have other times."""
    world = make(kind, "scheduler = reader", name="other", schedulers=(Learners(name="reader", kind=First),))
    client, server = world.kept()
    first, chance = world.first, Random(1)
    first.clock = monotonic
    assert first.error_rate == 0.0
    latency, errors = first.latency, first.measured_errors
    assert errors is not None
    same_latency, same_errors = Latency(), ErrorRate()
    for _ in range(60):
        now = monotonic()
        if chance.random() < 0.5:
            seconds, at = chance.choice([0.0, 1e-5, 1.0]), now - chance.choice([0, 1, 1000])
            latency.record(seconds, at)
            same_latency.record(seconds, at)
        if chance.random() < 0.5:
            has_failed, at = chance.random() < 0.5, now + chance.choice([-1000, -1, 0, 5])
            errors.record(has_failed, at)
            same_errors.record(has_failed, at)
        client.says(get())
        server.says(answer())
        assert client.heard() == answer()
        same_latency.record(latency.last, latency._stamp)
        same_errors.record(False, errors._stamp)
        assert (latency._peak, latency.histogram) == (same_latency._peak, same_latency.histogram)
        assert (errors._requests, errors._failures) == (same_errors._requests, same_errors._failures)


@pytest.mark.parametrize("kind", KINDS)
def test_failures_of_long_ago_count_no_more(make: Make, kind: str) -> None:
    """After some two hours their weight is 0, and not what it was."""
    world = make(kind, "scheduler = reader", name="other", schedulers=(reader := Learners(name="reader", kind=First),))
    client, server = world.kept()
    first = world.first
    first.clock = monotonic
    reader.see = lambda destination: destination.error_rate
    client.says(get())
    assert first.measured_errors is not None
    first.measured_errors.record(True, monotonic() - 10_000)
    server.says(answer())
    assert client.heard() == answer()
    assert first.error_rate == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_histogram_that_a_scheduler_has_emptied_is_an_error_and_no_crash(make: Make, kind: str) -> None:
    world = make(kind, "scheduler = reader", name="other", schedulers=(reader := Learners(name="reader", kind=First),))
    client, server = world.kept()
    reader.see = lambda destination: destination.latency.histogram.clear()
    client.says(get())
    with pytest.raises(IndexError):
        server.says(answer())


def test_the_latency_of_a_silent_server_is_the_time_it_was_waited_for(make: Make) -> None:
    world = make("compiled", "scheduler = learner", settings="first_byte_timeout = 4")
    client, _ = world.kept()
    assert world.first.latency.count == 0
    client.says(get())
    world.passes(10)
    assert world.first.latency.count == 1
    world.accepts(B)


def test_latency_of_whole_connections(make: Make) -> None:
    world = make("compiled", "scheduler = reader", schedulers=(reader := Learners(CONNECTION, "reader", First),))
    reader.see = lambda destination: (destination.latency, destination.error_rate)
    client = world.client()
    server = world.accepts(A)
    client.says(b"a")
    server.says(b"b")
    server.says(b"c")
    assert client.heard() == b"bc"
    assert world.first.latency.count == 1
    client.resets()


# HTTP/2.

PAIRS = ((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"h"))


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_requests_of_http2(make: Make, body: bytes) -> None:
    world = make()
    connection = Connection(world)
    connection.says(BEGIN)
    pairs = ((b":method", b"POST" if body else b"GET"), *PAIRS[1:])
    for stream in (1, 3, 5, 7):
        connection.says(headers(stream, pairs, end_stream=not body))
        if body:
            connection.says(data(stream, body, end_stream=True))
        (outcome,) = world.learner.take()
        assert (outcome.status, outcome.reason, outcome.retries, outcome.client) == (200, "ok", 0, "192.0.2.1")
        assert outcome.bytes_in > 0
        assert outcome.bytes_out > 0
    connection.says(headers(9, pairs, end_stream=False) + frame(h2.RST_STREAM, 0, 9, bytes(4)))
    assert [reason for _, _, reason, _ in world.learner.took()] in ([], ["client_gone"])
    assert world.first.active == 0
