"""check_scheduler: each rule of the contract is broken by one scheduler, and found with a line that says how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from ktcpvs.errors import BadValue
from ktcpvs.interfaces import (
    CONNECTION,
    EACH_REQUEST,
    REQUIRED,
    Choice,
    Considered,
    Destination,
    IExplains,
    ILearns,
    IntegerOption,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    IWatches,
)
from ktcpvs.system.plugins import find_schedulers
from ktcpvs.testing import ContractBroken, check_scheduler, contract_failures

FOUND = find_schedulers().known


@implementer(IScheduler)
class Good:
    """A scheduler that keeps the contract; tests break one thing of it."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.turn = 0

    def usable(self, request: Any) -> list[Any]:
        return [one for one in self.service.destinations if one.weight and one not in request.tried]

    def choose(self, request: Any) -> Any:
        usable = self.usable(request)
        self.turn += 1
        return Choice(usable[self.turn % len(usable)], "its turn") if usable else None


@implementer(ISchedulerFactory)
class Factory:
    """Per connection: by turns."""

    name = "good"
    unit = CONNECTION

    def __init__(self, bound: type[Good] = Good) -> None:
        self.bound = bound

    def bind(self, service: Any, previous: Any) -> Any:
        return self.bound(service)


@pytest.mark.parametrize("name", sorted(FOUND))
def test_the_installed_schedulers_keep_the_contract(name: str) -> None:
    check_scheduler(FOUND[name])


def test_a_good_one_passes() -> None:
    assert contract_failures(Factory()) == ()


class ChoosesTried(Good):
    def usable(self, request: Any) -> list[Any]:
        return [one for one in self.service.destinations if one.weight]


class ChoosesQuiesced(Good):
    def usable(self, request: Any) -> list[Any]:
        return [one for one in self.service.destinations if one not in request.tried]


class Declines(Good):
    def choose(self, request: Any) -> Any:
        return None if len(request.tried) == 1 else super().choose(request)


class Nonsense(Good):
    def choose(self, request: Any) -> Any:
        return 42


class Foreign(Good):
    def choose(self, request: Any) -> Any:
        found = super().choose(request)
        return found and Choice(Destination(found.destination.address), "a copy")


class NoReason(Good):
    def choose(self, request: Any) -> Any:
        found = super().choose(request)
        return found and Choice(found.destination, "")


class Counts(Good):
    def choose(self, request: Any) -> Any:
        found = super().choose(request)
        if found is not None:
            found.destination.active += 1
        return found


class ChangesTried(Good):
    def choose(self, request: Any) -> Any:
        found = super().choose(request)
        if found is not None:
            request.tried.add(found.destination)
        return found


class NeedsServers(Good):
    def choose(self, request: Any) -> Any:
        usable = self.usable(request)
        return Choice(usable[0], "the first of those that can serve")


class RemembersWeights(Good):
    known: dict[Any, float] = {}

    def usable(self, request: Any) -> list[Any]:
        return [
            one
            for one in self.service.destinations
            if self.known.setdefault(one, one.weight) and one not in request.tried
        ]

    def choose(self, request: Any) -> Any:
        usable = self.usable(request)
        return Choice(usable[0], "the first") if usable else None


class EditsLines(Good):
    def choose(self, request: Any) -> Any:
        found = super().choose(request)
        return found and Choice(found.destination, "with a cookie", answer_lines=b"Set-Cookie: a=b\r\n")


class Odd(Good):
    def choose(self, request: Any) -> Any:
        request.client.split(".")[3]
        return super().choose(request)


@implementer(IExplains)
class ExplainsByChoosing(Good):
    def explain(self, request: Any) -> Considered:
        self.choose(request)
        return Considered((), (), tuple(self.service.destinations))


@implementer(IExplains)
class ExplainsNothing(Good):
    def explain(self, request: Any) -> Considered:
        return Considered()


@implementer(IWatches)
class WatchesWrongly(Good):
    def watched(self) -> Iterator[tuple[Any, Callable[[Any], object]]]:
        return ((one, lambda one: {}["no such server"]) for one in self.service.destinations)


@implementer(ILearns)
class LearnsOfKnown(Good):
    def completed(self, outcome: Any) -> None:
        if outcome.destination not in self.service.destinations:
            raise LookupError("it is gone")


class Fails(Good):
    async def choose(self, request: Any) -> Any:
        raise RuntimeError("the directory does not answer")


BROKEN: list[tuple[type[Good], str]] = [
    (ChoosesTried, "which had been tried"),
    (ChoosesQuiesced, "which has the weight 0"),
    (Declines, "it chose none, although 10.0.0."),
    (Nonsense, "it returned 42, which is no Choice, OwnResponse or None"),
    (Foreign, "which is not of its service"),
    (NoReason, "the reason is ''; expected a text"),
    (Counts, "choose has changed a counter or a weight"),
    (ChangesTried, "choose has changed request.tried"),
    (NeedsServers, "a service without servers that can serve gets None: it raised IndexError"),
    (RemembersWeights, "after an edit that gave it the weight 0, it chose 10.0.0.1:80"),
    (EditsLines, "a scheduler with the unit CONNECTION cannot change header lines"),
    (Odd, "for a client on a unix socket it raised IndexError"),
    (ExplainsByChoosing, "explain has changed the next choice"),
    (ExplainsNothing, "explain does not name 10.0.0."),
    (WatchesWrongly, "watchers take every change: it raised KeyError"),
    (LearnsOfKnown, "servers that are gone: it raised LookupError('it is gone')"),
    (Fails, "it raised RuntimeError('the directory does not answer') in "),
]


@pytest.mark.parametrize(("bound", "why"), BROKEN, ids=[bound.__name__ for bound, _ in BROKEN])
def test_what_breaks_the_contract_is_named(bound: type[Good], why: str) -> None:
    with pytest.raises(ContractBroken) as caught:
        check_scheduler(Factory(bound))
    assert why in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def changed(**attributes: Any) -> Factory:
    """A factory with other attributes."""
    return implementer(ISchedulerFactory)(type("Changed", (Factory,), {"__doc__": "Summary.", **attributes}))()


class Shares(Factory):
    """Per connection: keeps its turns in the factory."""

    def bind(self, service: Any, previous: Any) -> Any:
        return previous if previous is not None else Good(service)


@implementer(IUsesOptions)
class Uses(Factory):
    """Per connection: uses what there is not."""

    uses = frozenset({"cpu"})


class Refusing(Factory):
    """Per connection: refuses."""

    def bind(self, service: Any, previous: Any) -> Any:
        raise BadValue("it needs five servers")


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (changed(name="two words"), "name is a word of the configuration: it is 'two words'"),
        (changed(unit="SOMETIMES"), "unit is one of CONNECTION"),
        (changed(__doc__=""), "has a docstring"),
        (object(), "a plugin provides ISchedulerFactory"),
        (changed(options={"Depth!": IntegerOption(default=1)}), "options are declared as the switch takes them"),
        (changed(options={"depth": IntegerOption(default=REQUIRED)}), "depth"),
        (Uses(), "'cpu' is none"),
        (Refusing(), "it refused a service of three servers: it needs five servers"),
        (Shares(), "a trial has changed"),
    ],
    ids=["name", "unit", "docstring", "interface", "option name", "required option", "uses", "refuses", "shares"],
)
def test_a_factory_that_breaks_the_contract_is_named(factory: Any, why: str) -> None:
    if why == "a trial has changed":
        why = "choices of a trial have changed one of the scheduler that runs"
    assert any(why in failure for failure in contract_failures(factory)), contract_failures(factory)


def test_options_are_given_as_a_configuration_gives_them() -> None:
    assert contract_failures(changed(options={"depth": IntegerOption(default=REQUIRED)}), named="good depth 3") == ()


class Directory(Good):
    def choose(self, request: Any) -> Any:
        return succeed(None) if len(request.tried) % 2 else Deferred()


def test_answers_of_a_directory_are_not_waited_for() -> None:
    assert contract_failures(Factory(Directory), may_decline=True) == ()


def test_a_scheduler_that_chooses_for_each_request_may_change_lines() -> None:
    assert contract_failures(changed(unit=EACH_REQUEST, bind=lambda self, service, previous: EditsLines(service))) == ()
