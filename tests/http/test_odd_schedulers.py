"""Schedulers that break their contract: the switch logs it, asks the fallback and goes on, on each path."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from memory import A, World, answer, get, log_into

from ktcpvs.model.destination import Destination
from ktcpvs.model.outcome import Outcome
from ktcpvs.model.scheduling import Choice, Request, by_chooser
from ktcpvs.protocols.http1 import plain_python
from ktcpvs.schedulers.http import PHTTP
from ktcpvs.testing import service_of

Choose = Callable[[Destination, Request], Any]


class Odd:
    """A scheduler that calls a function."""

    def __init__(self, choose: Choose, destination: Destination) -> None:
        self._choose = choose
        self._destination = destination

    def choose(self, request: Request) -> Any:
        return self._choose(self._destination, request)


class OddWorld:
    """A service with one server, and a kept connection to it."""

    def __init__(self, kind: str, *options: str) -> None:
        """kind: as in test_fast_path."""
        self.lines: list[str] = []
        self.world = World("scheduler = phttp", f"server = {A}", *options, log=log_into(self.lines))
        cache = self.world.live.cache
        if kind == "python":
            cache.use(plain_python.RequestScanner, plain_python.scan_response)
        self.world.live.apply_settings()
        cache.is_enabled = kind != "general"
        self.client = self.world.client()
        self.client.says(get())
        self.server = self.world.accepts(A)
        assert self.exchange() == answer()

    def exchange(self) -> bytes:
        """Let the server answer, and return what the client gets."""
        assert self.server.heard()
        self.server.says(answer())
        return self.client.heard()

    def use(self, choose: Choose) -> None:
        (destination,) = self.world.live.destinations.values()
        self.world.live.traffic.selector.scheduler = Odd(choose, destination)


@pytest.fixture(params=["compiled", "python", "general"])
def make(request: Any) -> Iterator[Callable[..., OddWorld]]:
    made: list[OddWorld] = []

    def make_world(*options: str) -> OddWorld:
        made.append(OddWorld(request.param, *options))
        return made[-1]

    yield make_world
    for one in made:
        one.world.reset_all()
        one.world.close()


Make = Callable[..., OddWorld]


def with_answer_lines(value: Any) -> Choose:
    return lambda destination, _: Choice(destination, "odd", False, None, value)


def with_lines(value: Any) -> Choose:
    return lambda destination, _: Choice(destination, "odd", False, value)


def with_reason(value: Any) -> Choose:
    return lambda destination, _: Choice(destination, value)


def with_destination(value: Any) -> Choose:
    return lambda destination, _: Choice(value, "odd")


def with_completed(value: Any) -> Choose:
    return lambda destination, _: Choice(destination, "odd", completed=value)


def without_completed(destination: Destination, _: Request) -> Choice:
    """As a plugin makes one that copies its slots from an older version of ktcpvs."""
    made, copied = Choice.__new__(Choice), Choice(destination, "odd")
    for name in ("destination", "reason", "waits", "lines", "answer_lines", "why"):
        object.__setattr__(made, name, getattr(copied, name))
    return made


@pytest.mark.parametrize(
    ("choose", "reason"),
    [
        (with_answer_lines(None), "must be bytes"),
        (with_answer_lines("X: y\r\n"), "must be bytes"),
        (with_answer_lines(1 << 70), "must be bytes"),
        (with_answer_lines(bytearray(b"X: y\r\n")), "must be bytes"),
        (with_answer_lines(()), "must be bytes"),
        (with_lines("X: y\r\n"), "must be bytes"),
        (with_lines(7), "must be bytes"),
        (with_reason(None), "must be a str"),
        (with_reason([]), "must be a str"),
        (with_completed(1), "completed must be callable"),
        (with_completed([]), "completed must be callable"),
        (without_completed, "completed must be callable"),
        (with_destination(None), "it chose None, which is not a server"),
        (with_destination([]), "it chose [], which is not a server"),
        (lambda destination, _: Choice.__new__(Choice), "it chose None, which is not a server"),
    ],
)
def test_a_choice_with_a_wrong_field_is_a_failure_of_the_scheduler(make: Make, choose: Choose, reason: str) -> None:
    odd = make("fallback = rr")
    odd.use(choose)
    for _ in range(3):
        odd.client.says(get())
        assert odd.exchange() == answer(), "the fallback has chosen"
    assert reason in odd.lines[-1]


def test_without_a_fallback_the_client_is_refused(make: Make) -> None:
    odd = make("fallback = none")
    odd.use(with_answer_lines("X: y\r\n"))
    odd.client.says(get())
    assert odd.client.heard().startswith(b"HTTP/1.1 503 ")
    assert not odd.server.heard()


class Bytes(bytes):
    """A subclass of bytes."""


def test_a_subclass_of_bytes_is_forwarded(make: Make) -> None:
    odd = make()
    odd.use(lambda destination, _: Choice(destination, "odd", False, Bytes(b"A: b\r\n"), Bytes(b"X: y\r\n")))
    odd.client.says(get())
    assert odd.server.heard() == b"GET /a HTTP/1.1\r\nA: b\r\n\r\n"
    odd.server.says(answer())
    assert odd.client.heard() == answer().replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n")


@pytest.mark.parametrize("value", [None, [], [1], 7, frozenset()])
def test_a_scheduler_that_overwrites_the_failed_servers_changes_its_own_request_only(make: Make, value: Any) -> None:
    odd = make()

    def choose(destination: Destination, request: Request) -> Choice:
        assert request.failed in (frozenset(), value)
        request.failed = value
        return Choice(destination, "odd")

    odd.use(choose)
    for _ in range(3):
        odd.client.says(get())
        assert odd.exchange() == answer()


def test_a_scheduler_may_close_the_kept_connections(make: Make) -> None:
    odd = make()

    def choose(destination: Destination, request: Request) -> Choice:
        odd.world.live.server_connections.close()
        return Choice(destination, "odd")

    odd.use(choose)
    odd.client.says(get())
    odd.server = odd.world.accepts(A)
    assert odd.exchange() == answer()


def test_a_scheduler_may_be_replaced_while_it_chooses(make: Make) -> None:
    """As by an edit of a plugin. Nothing else has the rules then, which go on to choose."""
    odd = make()
    selector = odd.world.live.traffic.selector

    def choose(destination: Destination, request: Request) -> Choice:
        odd.use(lambda destination, _: Choice(destination, "later"))
        gc.collect(0)
        return Choice(destination, "odd")

    (destination,) = odd.world.live.destinations.values()
    rules = PHTTP().bind(service_of(1), None)
    rules._in_order[:] = [Odd(choose, destination)]  # type: ignore[list-item]
    selector.scheduler = rules
    del rules
    for _ in range(2):
        odd.client.says(get())
        assert odd.exchange() == answer()


@pytest.mark.parametrize(("name", "learned"), [("client", [200, 200]), ("completed", [200])])
def test_a_scheduler_may_delete_what_the_fast_path_reads(name: str, learned: list[int]) -> None:
    odd = OddWorld("compiled")
    outcomes: list[int] = []

    def completed(outcome: Outcome) -> None:
        outcomes.append(outcome.status)

    def choose(destination: Destination, request: Request) -> Choice:
        if outcomes:
            delattr(request, name)
        return Choice(destination, "odd", completed=by_chooser if outcomes and name == "completed" else completed)

    odd.use(choose)
    for _ in range(2):
        odd.client.says(get())
        assert odd.exchange() == answer()
    assert outcomes == learned
    odd.client.resets()
    odd.world.close()


@pytest.mark.parametrize("name", ["client", "connection"])
def test_a_scheduler_may_delete_what_the_access_log_reads(name: str, tmp_path: Path) -> None:
    odd = OddWorld("compiled", f"access_log = {tmp_path / 'log'}")

    def choose(destination: Destination, request: Request) -> Choice:
        delattr(request, name)
        return Choice(destination, "odd")

    odd.use(choose)
    odd.client.says(get())
    with pytest.raises(AttributeError):
        odd.exchange()
    odd.client.resets()
    odd.world.close()


class Stop(BaseException):
    """An exception that is no Exception, as those by which some libraries cancel."""


class Unprintable(Exception):
    """An exception without a text."""

    def __repr__(self) -> str:
        raise SystemExit

    __str__ = __repr__


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, Stop, Unprintable])
def test_any_exception_of_a_scheduler_is_a_failure_of_it(make: Make, kind: type[BaseException]) -> None:
    """A plugin that calls sys.exit must not end the switch, or the connection of its client."""
    odd = make("fallback = rr")

    def choose(destination: Destination, request: Request) -> Choice:
        raise kind

    odd.use(choose)
    for _ in range(3):
        odd.client.says(get())
        assert odd.exchange() == answer(), "the fallback has chosen"
    assert "failed" in "".join(odd.lines)


@contextmanager
def handled(handler: Any) -> Iterator[None]:
    """SIGINT has this handler meanwhile."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_by_a_plugin_is_a_failure_of_it(make: Make) -> None:
    """The reactor of a daemon handles SIGINT, so only a plugin can have raised this one."""
    with handled(lambda number, frame: None):
        test_any_exception_of_a_scheduler_is_a_failure_of_it(make, KeyboardInterrupt)


def test_an_interrupt_by_the_user_goes_through(make: Make) -> None:
    odd = make()

    def choose(destination: Destination, request: Request) -> Choice:
        raise KeyboardInterrupt

    odd.use(choose)
    with handled(signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        odd.client.says(get())
    odd.client.resets()
