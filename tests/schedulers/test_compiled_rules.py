"""`choose` of BoundRules and LearningRules, and `RuleSet.place`, compiled and in Python: the same choices, counts and
errors, whatever the objects are."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from zope.interface import implementer

from ktcpvs.interfaces import CONNECTION, ILearns, IScheduler, ISchedulerFactory, Outcome, Request, ServiceView
from ktcpvs.model.scheduling import BoundRule
from ktcpvs.schedulers.binding import run_to_end
from ktcpvs.schedulers.content import CHOOSE_IN_PYTHON, LEARN_IN_PYTHON, BoundRules, LearningRules
from ktcpvs.schedulers.http import PHTTP
from ktcpvs.schedulers.rr import RR, BoundRR
from ktcpvs.schedulers.rules import PLACE_IN_PYTHON, RuleSet, compile_rules
from ktcpvs.testing import service_of

RULES = (
    "rule = path /new/ response_header X-Rule new use server 10.0.0.2:80",
    "rule = path /gone/ use respond 410",
    "rule = host a.example use server 10.0.0.1:80",
    'rule = pattern "^/only" use server 10.0.0.1:80',
)

PATHS = (b"/new/a", b"/gone/", b"/only", b"/nothing", b"*", b"")

FORMS = (BoundRules.choose, CHOOSE_IN_PYTHON)
LEARNING_FORMS = (LearningRules.choose, LEARN_IN_PYTHON)


def test_the_compiled_form_is_tested_where_it_can_be_built() -> None:
    is_compiled = BoundRules.choose is not CHOOSE_IN_PYTHON, LearningRules.choose is not LEARN_IN_PYTHON
    assert is_compiled == (True, True) or shutil.which("cc") is None
    assert RuleSet.place is not PLACE_IN_PYTHON or shutil.which("cc") is None


def bind(*rules: str) -> BoundRules:
    return PHTTP().bind(service_of(3, options=rules), None)


def request_of(path: bytes, is_repeated: bool = False) -> Request:
    request = Request(path=path, target=path, method=b"GET", lines=b"Host: b.example\r\n")
    request.is_repeated = is_repeated
    return request


def describe(choice: Any) -> tuple[str, str, str, str]:
    """The kind of a choice, its server, and its reasons."""
    destination = getattr(choice, "destination", None)
    address = "" if destination is None else str(destination.address)
    return type(choice).__name__, address, getattr(choice, "reason", ""), getattr(choice, "why", "")


@given(st.lists(st.tuples(st.sampled_from(PATHS), st.booleans()), max_size=20), st.sampled_from((RULES, RULES[3:], ())))
def test_both_forms_choose_and_count_the_same(asked: list[tuple[bytes, bool]], rules: tuple[str, ...]) -> None:
    found = []
    for choose in FORMS:
        bound = bind(*rules)
        told = [describe(choose(bound, request_of(*one))) for one in asked]
        found.append((told, bound.rule_requests()))
    assert found[0] == found[1]


def rule_set(patterns: tuple[str, ...], has_default: bool) -> RuleSet:
    rules = [BoundRule(number, pattern, False, None, ()) for number, pattern in enumerate(patterns, 1)]
    rules += [BoundRule(len(rules) + 1, ".*", True, None, ())] * has_default
    return run_to_end(compile_rules(rules))


PATTERNS = ("^/new/", "^/", "^/a/b", "^/only$", "x+", "^/img\\.png")


@given(
    st.lists(st.sampled_from(PATTERNS), max_size=4), st.booleans(), st.lists(st.sampled_from((*PATHS, b"/a/bx", None)))
)
def test_both_forms_find_the_same_rule(patterns: list[str], has_default: bool, paths: list[bytes | None]) -> None:
    one, other = rule_set(tuple(patterns), has_default), rule_set(tuple(patterns), has_default)
    for path in (*paths, *paths):  # of some the rule is cached then
        assert one.place(Request(path=path)) == PLACE_IN_PYTHON(other, Request(path=path))


@pytest.mark.parametrize("patterns", [("^/new/",), ("x+",)], ids=["prefix", "automaton"])
def test_rule_sets_with_anything_in_their_attributes(patterns: tuple[str, ...]) -> None:
    values: tuple[Any, ...] = (None, 1, "text", b"", (), [], {}, (1,), (("a", 1),), ((b"/", 1, 2),), object())
    for name in ("_cache", "_default", "_prefixes"):
        for value in values:
            found = rule_set(patterns, False)
            setattr(found, name, value)
            outcomes = [outcome_of(place, found) for place in (RuleSet.place, PLACE_IN_PYTHON)]
            assert outcomes[0] == outcomes[1]
        delattr(found, name)
        outcome_of(RuleSet.place, found)
    for argument in values:
        with pytest.raises((TypeError, AttributeError)):
            RuleSet.place(found, argument)
        with pytest.raises(TypeError):
            RuleSet.place(argument, Request(path=b"/"))


def outcome_of(place: Callable[..., Any], found: RuleSet) -> Any:
    """What a method returns, or the kind of its exception."""
    try:
        return place(found, Request(path=b"/new/"))
    except Exception as error:
        return type(error)


class _Finder:
    def __init__(self, result: Any) -> None:
        self.result = result

    def place(self, request: Request) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result() if callable(self.result) else self.result


def _spoil(bound: BoundRules, name: str, value: Any) -> None:
    setattr(bound, name, value)


def _unset(bound: BoundRules, name: str) -> None:
    delattr(bound, name)


SPOILED: dict[str, Callable[[BoundRules], object]] = {
    "place-text": lambda bound: _spoil(bound, "rule_set", _Finder("x")),
    "place-beyond": lambda bound: _spoil(bound, "rule_set", _Finder(99)),
    "place-huge": lambda bound: _spoil(bound, "rule_set", _Finder(1 << 80)),
    "place-raises": lambda bound: _spoil(bound, "rule_set", _Finder(KeyError("x"))),
    "place-empties-the-lists": lambda bound: _spoil(
        bound, "rule_set", _Finder(lambda: (bound._counts.clear(), bound._in_order.clear(), 0)[2])
    ),
    "no-finder": lambda bound: _unset(bound, "rule_set"),
    "no-counts": lambda bound: _unset(bound, "_counts"),
    "counts-of-others": lambda bound: _spoil(bound, "_counts", [None] * 4),
    "no-schedulers": lambda bound: _unset(bound, "_in_order"),
    "schedulers-that-cannot-choose": lambda bound: _spoil(bound, "_in_order", [None] * 4),
    "no-modifiers": lambda bound: _unset(bound, "modifiers"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("choose", FORMS, ids=["used", "python"])
def test_what_is_spoiled_raises(choose: Any, spoil: Callable[[BoundRules], object]) -> None:
    bound = bind(*RULES)
    spoil(bound)
    with pytest.raises((TypeError, IndexError, KeyError, AttributeError, OverflowError)):
        choose(bound, request_of(b"/new/a"))


@pytest.mark.parametrize("choose", FORMS, ids=["used", "python"])
def test_a_request_of_another_class(choose: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        choose(bind(*RULES), object())


@pytest.mark.parametrize("rules", [RULES, ()], ids=["rules", "none"])
def test_nothing_is_kept_of_a_request(rules: tuple[str, ...]) -> None:
    bound, requests = bind(*rules), [request_of(path) for path in PATHS]
    for request in requests:
        bound.choose(request)
    watched: list[Any] = [bound, bound.rule_set, bound.modifiers, *bound._in_order, *bound._counts, *requests]
    gc.collect()
    before = [sys.getrefcount(one) for one in watched]
    for _ in range(50):
        for request in requests:
            bound.choose(request)
    gc.collect()
    assert [sys.getrefcount(one) for one in watched] == before


# Rules of which some have schedulers that learn.

LEARNING_RULES = (
    "rule = path /new/ response_header X-Rule new balance learning use server 10.0.0.2:80",
    "rule = path /gone/ use respond 410",
    "rule = host a.example balance learning use server 10.0.0.1:80",
    'rule = pattern "^/only" balance rr use server 10.0.0.1:80',
)


@implementer(ILearns)
class LearningRR(BoundRR):
    def completed(self, outcome: Outcome) -> None:
        """Learn nothing."""


@implementer(ISchedulerFactory)
class Learning:
    name = "learning"
    unit = CONNECTION

    def bind(self, service: ServiceView, previous: IScheduler | None) -> LearningRR:
        return LearningRR(service)


def bind_learning() -> LearningRules:
    """Bind rules, of which the first and the third one learn."""
    view = evolve(service_of(3, options=LEARNING_RULES), rule_balances={"learning": Learning(), "rr": RR()})
    bound = PHTTP().bind(view, None)
    assert isinstance(bound, LearningRules)
    return bound


@given(st.lists(st.tuples(st.sampled_from((*PATHS, b"http://a.example/")), st.booleans()), max_size=20))
def test_both_forms_note_the_same_learner(asked: list[tuple[bytes, bool]]) -> None:
    found = []
    for choose in LEARNING_FORMS:
        bound, told = bind_learning(), []
        for path, is_repeated in asked:
            request = request_of(path, is_repeated)
            request.lines = b"Host: a.example\r\n" if path == b"*" else request.lines
            choice, place = choose(bound, request), bound.place(request)
            learns = place is not None and bound.rules[place].number in (1, 3)
            assert request.completed == (bound._in_order[place].completed if learns else None)
            told.append((place, describe(choice)))
        found.append((told, bound.rule_requests()))
    assert found[0] == found[1]


class _Mine(Request):
    """A request of another class, as a plugin may pass on."""


@pytest.mark.parametrize("choose", LEARNING_FORMS, ids=["used", "python"])
def test_the_learner_of_a_request_of_another_class(choose: Any) -> None:
    bound, request = bind_learning(), _Mine(path=b"/new/a", target=b"/new/a", method=b"GET")
    assert describe(choose(bound, request))[1] == "10.0.0.2:80"
    assert request.completed == bound._in_order[0].completed


@pytest.mark.parametrize("spoilt", [[], None, ()], ids=repr)
@pytest.mark.parametrize("choose", LEARNING_FORMS, ids=["used", "python"])
def test_spoilt_learners_raise(choose: Any, spoilt: Any) -> None:
    bound = bind_learning()
    bound._completed = spoilt
    with pytest.raises((TypeError, IndexError)):
        choose(bound, request_of(b"/new/a"))
