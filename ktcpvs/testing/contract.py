"""The contract of schedulers, as a test that any scheduler must pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from ktcpvs.errors import Refusal
from ktcpvs.interfaces import (
    CLIENT_HELLO,
    CONNECTION,
    EACH_REQUEST,
    OK,
    REASONS,
    UNITS,
    USES_BALANCE,
    USES_COOKIE,
    USES_EACH_SERVER,
    USES_MATCH,
    USES_MAXCONN,
    USES_RULES,
    USES_WEIGHT,
    Choice,
    Considered,
    Destination,
    IExplains,
    ILearns,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    IWatches,
    Outcome,
    OwnResponse,
    Request,
    ServiceView,
)
from ktcpvs.model.address import Inet
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduler_options import check_declared, read_options
from ktcpvs.model.scheduling import by_chooser
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.wlc import WLC

ROUNDS = 200
"""Choices with weights, loads and failures drawn at random."""

SEED = 20261127
"""Of what is drawn, so that each run checks the same."""

KEY = b"a key of tests that is long enough"

USES = frozenset((USES_RULES, USES_MATCH, USES_BALANCE, USES_WEIGHT, USES_COOKIE, USES_MAXCONN, USES_EACH_SERVER))


class ContractBroken(AssertionError):
    """A scheduler breaks the contract. failures: a line each, which begins with the rule that is broken."""

    def __init__(self, name: str, failures: Sequence[str]) -> None:
        super().__init__(f"scheduler {name} breaks the contract:\n" + "\n".join(f"- {line}" for line in failures))
        self.failures = tuple(failures)


def check_scheduler(
    factory: ISchedulerFactory,
    *,
    named: str | None = None,
    options: Mapping[str, Any] | None = None,
    may_decline: bool = False,
) -> None:
    """Check that a scheduler keeps the contract with the switch. Raises ContractBroken, with a line for each rule that
    it breaks.

    factory: the plugin. named: how a configuration names it, with its options, such as "mine depth 3"; None: by its
    name, so that all options have their defaults. options: of the services that it is bound to, as fields of
    VirtualService. may_decline: it may choose no server although one could serve, as a scheduler that asks a directory
    does.

    Choices that depend on a reactor, such as the answer of a database, are not waited for; what comes at once is
    checked.
    """
    failures = contract_failures(factory, named=named, options=options, may_decline=may_decline)
    if failures:
        raise ContractBroken(str(getattr(factory, "name", factory)), failures)


def contract_failures(
    factory: ISchedulerFactory,
    *,
    named: str | None = None,
    options: Mapping[str, Any] | None = None,
    may_decline: bool = False,
) -> tuple[str, ...]:
    """Return what `check_scheduler` finds, a line for each rule that is broken."""
    failures = list(_declaration(factory))
    if not failures:  # else nothing of it can be called
        case = _Case(factory, named or factory.name, dict(options or {}), may_decline)
        for rule, check in _CHECKS:
            try:
                check(case)
            except _Broken as broken:
                failures.append(f"{rule}: {broken}")
            except Exception as error:
                failures.append(f"{rule}: it raised {error!r}{_place(error)}")
    return tuple(failures)


class _Broken(Exception):
    """A rule is broken; the text says how."""


def _require(holds: object, how: str) -> None:
    if not holds:
        raise _Broken(how)


def _place(error: BaseException) -> str:
    """Return where an exception was raised, in words."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def _declaration(factory: Any) -> Iterator[str]:
    """Yield what is wrong with the attributes of a plugin."""
    try:
        verifyObject(ISchedulerFactory, factory)
    except Invalid as error:
        yield f"a plugin provides ISchedulerFactory: {' '.join(str(error).split())}"
        return
    name = factory.name
    if not isinstance(name, str) or not name or any(character in ' \t\r\n"{}#=' for character in name):
        yield f"name is a word of the configuration: it is {name!r}"
    if factory.unit not in UNITS:
        yield f"unit is one of {', '.join(UNITS)}: it is {factory.unit!r}"
    if not (type(factory).__doc__ or "").strip():
        yield "the class of the plugin has a docstring, whose first line `tcpvsadm --schedulers` shows: it has none"
    try:
        check_declared(factory)
    except ValueError as error:
        yield f"options are declared as the switch takes them: {error}"
    if IUsesOptions.providedBy(factory) and not frozenset(factory.uses) <= USES:
        yield f"uses names parts of the configuration: {', '.join(map(repr, frozenset(factory.uses) - USES))} is none"


class _Case:
    """A scheduler under test, and the services that it is bound to."""

    def __init__(self, factory: Any, named: str, options: dict[str, Any], may_decline: bool) -> None:
        self.factory = factory
        self.named = named
        self.options = options
        self.may_decline = may_decline

    def view(self, *weights: int) -> ServiceView:
        """Return a service of servers with these weights, which one rule uses for everything."""
        servers = tuple(RealServer(Inet(f"10.0.0.{number}", 80), weight) for number, weight in enumerate(weights, 1))
        rules = (Rule(".*", tuple(server.address for server in servers)),) if servers else ()
        given = {"scheduler": self.named, "servers": servers, "rules": rules, **self.options}
        config = VirtualService("tested", **given)
        known = {server.address: Destination(server.address, server.weight) for server in servers}
        return ServiceView.of(config, known, WLC(), KEY, options=read_options(self.factory, self.named))

    def bind(self, view: ServiceView, previous: Any = None) -> Any:
        """Bind the scheduler as the switch does."""
        return self.factory.bind(view, previous)

    def bind_or_none(self, view: ServiceView) -> Any:
        """Bind it to a service which it may refuse; None: it does."""
        try:
            return self.bind(view)
        except Refusal:
            return None

    def request(self, tried: Sequence[Destination] = (), number: int = 1) -> Request:
        """Return a request as this scheduler gets it. number: of the client."""
        client = f"192.0.2.{number % 250 + 1}"
        unit = self.factory.unit
        if unit == CONNECTION:
            return Request(client, tried=set(tried))
        if unit == CLIENT_HELLO:
            return Request(client, tried=set(tried), server_name="www.example.org", protocols=(b"h2",))
        path = b"/%d" % number
        return Request(client, b"GET", path, path, b"Host: www.example.org\r\n", set(tried))

    def odd_requests(self) -> Iterator[tuple[str, Request]]:
        """Yield requests of clients that mean no good, with their names."""
        yield "a client on a unix socket", Request("")
        yield "a client with IPv6", evolve(self.request(), client="2001:db8::1")
        if self.factory.unit == CLIENT_HELLO:
            yield "no server name", evolve(self.request(), server_name=None)
        if self.factory.unit not in (CONNECTION, CLIENT_HELLO):
            yield "a path of bytes that are no text", evolve(self.request(), path=b"/\xff\xfe", target=b"/\xff\xfe")
            yield "a long path", evolve(self.request(), path=b"/" + b"a" * 8000, target=b"/" + b"a" * 8000)
            yield "no header lines", evolve(self.request(), lines=b"")
            yield "repeated header lines", evolve(self.request(), lines=b"Cookie: a=\xff\r\n" * 50)
            yield "OPTIONS *", evolve(self.request(), method=b"OPTIONS", path=b"*", target=b"*")

    def choose(self, scheduler: Any, request: Request) -> Any:
        """Return what the scheduler chooses; NOT_YET for an answer that has to be waited for."""
        answer = scheduler.choose(request)
        if inspect.iscoroutine(answer):
            answer = Deferred.fromCoroutine(answer)
        if isinstance(answer, Deferred):
            results: list[Any] = []
            failures: list[Any] = []
            answer.addCallbacks(results.append, failures.append)
            if failures:
                failures[0].raiseException()
            if not results:
                answer.cancel()
                return NOT_YET
            answer = results[0]
        self.check_answer(answer)
        return answer

    def check_answer(self, answer: Any) -> None:
        """Check the types of what `choose` has returned."""
        if answer is None or isinstance(answer, OwnResponse):
            return
        _require(isinstance(answer, Choice), f"it returned {answer!r}, which is no Choice, OwnResponse or None")
        _require(
            isinstance(answer.destination, Destination), f"it chose {answer.destination!r}, which is no Destination"
        )
        _require(isinstance(answer.reason, str) and answer.reason, f"the reason is {answer.reason!r}; expected a text")
        _require(answer.lines is None or isinstance(answer.lines, bytes), f"lines are {answer.lines!r}; expected bytes")
        _require(isinstance(answer.answer_lines, bytes), f"answer_lines are {answer.answer_lines!r}; expected bytes")
        ends = all(not lines or lines.endswith(b"\r\n") for lines in (answer.lines, answer.answer_lines))
        _require(ends, "each header line that it adds must end with CR LF")
        changed = answer.lines is not None or answer.answer_lines
        _require(
            not changed or self.factory.unit == EACH_REQUEST,
            f"a scheduler with the unit {self.factory.unit} cannot change header lines",
        )

    def chosen(self, scheduler: Any, request: Request) -> str:
        """Return the address of the chosen server, "" without one."""
        answer = self.choose(scheduler, request)
        return str(answer.destination.address) if isinstance(answer, Choice) else ""

    @property
    def is_deterministic(self) -> bool:
        """Whether two bound schedulers choose the same; those that draw at random do not."""
        one, other = self.bind(self.view(1, 2, 3)), self.bind(self.view(1, 2, 3))
        return all(
            self.chosen(one, self.request(number=number)) == self.chosen(other, self.request(number=number))
            for number in range(40)
        )


NOT_YET = object()
"""An answer that has to be waited for."""


# The rules.


def _binds(case: _Case) -> None:
    try:
        scheduler = case.bind(case.view(1, 2, 3))
    except Refusal as refusal:
        raise _Broken(f"it refused a service of three servers: {refusal}") from None
    try:
        verifyObject(IScheduler, scheduler)
    except Invalid as error:
        raise _Broken(" ".join(str(error).split())) from None
    case.choose(scheduler, case.request())


def _survives_no_servers(case: _Case) -> None:
    for weights in ((), (0,), (0, 0, 0)):
        scheduler = case.bind_or_none(case.view(*weights))
        if scheduler is not None:
            answer = case.choose(scheduler, case.request())
            _require(
                answer in (None, NOT_YET), f"without a server that can serve, it returned {answer!r}; expected None"
            )


def _chooses_what_can_serve(case: _Case) -> None:
    for weights, loads, failed in _drawn():
        view = case.view(*weights)
        scheduler = case.bind_or_none(view)
        if scheduler is None:
            continue
        for destination, load in zip(view.destinations, loads, strict=True):
            destination.active = load
        tried = [view.destinations[number] for number in failed]
        answer = case.choose(scheduler, case.request(tried))
        where = f"with the weights {', '.join(map(str, weights))}"
        if isinstance(answer, Choice):
            chosen = answer.destination
            _require(chosen in view.destinations, f"{where} it chose {chosen!r}, which is not of its service")
            _require(chosen not in tried, f"{where} it chose {chosen.address}, which had been tried")
            _require(chosen.weight > 0, f"{where} it chose {chosen.address}, which has the weight 0")
        usable = [one for one in view.destinations if one.weight and one not in tried]
        if usable and answer is None and not case.may_decline:
            raise _Broken(f"{where} it chose none, although {usable[0].address} can serve (or set may_decline)")


def _counts_nothing(case: _Case) -> None:
    view = case.view(1, 2, 0)
    scheduler = case.bind(view)
    for number in range(20):
        before = [(one.active, one.total, one.weight, one.share, one.failures) for one in view.destinations]
        tried = {view.destinations[0]} if number % 2 else set()
        request = case.request(tuple(tried), number)
        case.choose(scheduler, request)
        after = [(one.active, one.total, one.weight, one.share, one.failures) for one in view.destinations]
        _require(before == after, f"choose has changed a counter or a weight: {before} became {after}")
        _require(request.tried == tried, "choose has changed request.tried")


def _survives_odd_requests(case: _Case) -> None:
    scheduler = case.bind(case.view(1, 2))
    for what, request in case.odd_requests():
        try:
            case.choose(scheduler, request)
        except _Broken:
            raise
        except Exception as error:
            raise _Broken(f"for {what} it raised {error!r}{_place(error)}") from None


def _follows_weights(case: _Case) -> None:
    view = case.view(1, 1, 1)
    scheduler = case.bind(view)
    for number in range(6):
        case.choose(scheduler, case.request(number=number))
    view.destinations[0].weight = view.destinations[0].share = 0
    for number in range(6):
        again = case.bind(view, scheduler)
        answer = case.choose(again, case.request(number=number))
        if isinstance(answer, Choice):
            _require(
                answer.destination is not view.destinations[0],
                f"after an edit that gave it the weight 0, it chose {answer.destination.address}",
            )
        scheduler = again


def _rebinds(case: _Case) -> None:
    view = case.view(1, 2, 3)
    previous = case.bind(view)
    for number in range(10):
        case.choose(previous, case.request(number=number))
    gone, *left = view.destinations
    config = evolve(
        view.config,
        servers=view.config.servers[1:],
        rules=(Rule(".*", tuple(one.address for one in left)),),
    )
    smaller = ServiceView.of(config, {one.address: one for one in left}, WLC(), KEY, view, options=view.options)
    try:
        scheduler = case.bind(smaller, previous)
    except Refusal:
        return
    for number in range(20):
        answer = case.choose(scheduler, case.request(number=number))
        if isinstance(answer, Choice):
            _require(
                answer.destination in left, f"after {gone.address} was deleted, it chose {answer.destination.address}"
            )
    answer = case.choose(previous, case.request())
    if isinstance(answer, Choice):
        _require(
            answer.destination in view.destinations,
            "bind has changed `previous`, which must stay usable: the edit can still be refused",
        )


def _explains(case: _Case) -> None:
    if not IExplains.providedBy(case.bind(case.view(1))):
        return
    view = case.view(1, 0, 2)
    scheduler = case.bind(view)
    considered = scheduler.explain(case.request())
    _require(isinstance(considered, Considered), f"explain returned {considered!r}; expected a Considered")
    foreign = set(considered.destinations) - set(view.destinations)
    _require(not foreign, f"explain names {foreign}, which are not servers of the service")
    answer = case.choose(scheduler, case.request())
    if isinstance(answer, Choice):
        _require(
            answer.destination in considered.destinations,
            f"explain does not name {answer.destination.address}, the choice",
        )
    if not case.is_deterministic:
        return
    asked, alone = case.bind(case.view(1, 2, 3)), case.bind(case.view(1, 2, 3))
    for number in range(20):
        asked.explain(case.request(number=number + 1))
        one, other = (case.chosen(each, case.request(number=number)) for each in (asked, alone))
        _require(one == other, f"explain has changed the next choice: {one} instead of {other}")


def _trial(case: _Case) -> None:
    if not case.is_deterministic:
        return
    view = case.view(1, 2, 3)
    runs, alone = case.bind(view), case.bind(case.view(1, 2, 3))
    for number in range(3):
        _require(
            case.chosen(runs, case.request(number=number)) == case.chosen(alone, case.request(number=number)),
            "two schedulers that are bound to equal services choose differently",
        )
    trial = case.bind(evolve(view, trial=True), runs)
    for number in range(4):
        case.choose(trial, case.request(number=number))
    for number in range(10):
        one, other = case.chosen(runs, case.request(number=number)), case.chosen(alone, case.request(number=number))
        _require(one == other, f"choices of a trial have changed one of the scheduler that runs: {one}, not {other}")


def _learns(case: _Case) -> None:
    view = case.view(1, 2, 3)
    scheduler = case.bind(view)
    if not ILearns.providedBy(scheduler):
        return
    for number in range(20):
        request = case.request(number=number)
        answer = case.choose(scheduler, request)
        if isinstance(answer, Choice):
            reason = REASONS[number % len(REASONS)]
            status, first = (200, 0.01) if reason == OK else (None, None)
            outcome = Outcome(answer.destination, status, first, 0.02, 100, 1000, 0, reason, "192.0.2.1")
            completed = answer.completed or scheduler.completed
            if completed is by_chooser:
                completed = request.completed or by_chooser
            completed(outcome)
    elsewhere = Destination(Inet("10.0.9.9", 80))
    scheduler.completed(Outcome(elsewhere, 200, 0.01, 0.02, 100, 1000, 0, OK, "192.0.2.1"))  # it was deleted meanwhile
    case.choose(scheduler, case.request())


def _watches(case: _Case) -> None:
    view = case.view(1, 1, 1)
    scheduler = case.bind(view)
    if not IWatches.providedBy(scheduler):
        return
    for destination, call in scheduler.watched():
        _require(destination in view.destinations, f"watched names {destination!r}, which is not of the service")
        _require(callable(call), f"watched returned {call!r}; expected a function")
        destination.watchers += (call,)
    leases = []
    for number in range(12):
        answer = case.choose(scheduler, case.request(number=number))
        if isinstance(answer, Choice):
            leases.append(answer.destination.lease())
        if number % 3 == 2 and leases:
            leases.pop(0).end()


def _drawn() -> Iterator[tuple[list[int], list[int], set[int]]]:
    """Yield weights, loads, and the numbers of servers that have been tried."""
    chance = Random(SEED)
    for _ in range(ROUNDS):
        count = chance.randint(1, 6)
        weights = [chance.randint(0, 5) for _ in range(count)]
        yield (
            weights,
            [chance.randint(0, 9) for _ in range(count)],
            {number for number in range(count) if chance.random() < 0.3},
        )


_CHECKS: tuple[tuple[str, Callable[[_Case], None]], ...] = (
    ("bind returns a scheduler, and choose a Choice or None", _binds),
    ("a service without servers that can serve gets None", _survives_no_servers),
    ("a choice can serve: of the service, not tried, weight above 0", _chooses_what_can_serve),
    ("choose changes no counter, no weight and not request.tried", _counts_nothing),
    ("no request makes choose raise", _survives_odd_requests),
    ("weights of an edit hold after bind", _follows_weights),
    ("bind with `previous` takes over, and leaves that usable", _rebinds),
    ("explain changes nothing, and names the choice", _explains),
    ("a trial changes nothing in the scheduler that runs", _trial),
    ("watchers take every change", _watches),
    ("completed takes every outcome, and servers that are gone", _learns),
)
"""(the rule, its check); a check raises _Broken."""
