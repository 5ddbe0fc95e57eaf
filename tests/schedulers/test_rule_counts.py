"""Counts of the requests that each rule has taken: once for each request, whatever happens to it, and over edits."""

from __future__ import annotations

import pytest
from attrs import evolve

from ktcpvs.interfaces import Request
from ktcpvs.schedulers.chttp import CHTTP
from ktcpvs.schedulers.content import RuleScheduler
from ktcpvs.schedulers.http import PHTTP
from ktcpvs.schedulers.rule_counts import MAX_COUNTED_RULES, OTHERS
from ktcpvs.testing import service_of

RULES = (
    "rule = name canary path /new/ use server 10.0.0.2:80",
    "rule = path /gone/ use respond 410",
    'rule = pattern ".*" use server 10.0.0.1:80',
)


@pytest.mark.parametrize("factory", [PHTTP(), CHTTP()])
def test_each_request_counts_for_its_rule_and_only_once(factory: RuleScheduler) -> None:
    bound = factory.bind(service_of(2, options=RULES), None)
    for path in (b"/new/a", b"/new/b", b"/gone/", b"/else"):
        request = Request(path=path, target=path, method=b"GET")
        bound.choose(request)
        request.is_repeated = True  # its server has failed, or was full
        bound.choose(request)
    assert bound.rule_requests() == {"canary": 2, "path /gone/": 1, ".*": 1}


def test_counts_go_on_over_an_edit_and_a_trial_changes_none() -> None:
    bound = PHTTP().bind(service_of(2, options=RULES), None)
    bound.choose(Request(path=b"/new/a"))
    trial = PHTTP().bind(evolve(service_of(2, options=RULES), trial=True), bound)
    trial.choose(Request(path=b"/new/a"))
    assert bound.rule_requests() == {"canary": 1, "path /gone/": 0, ".*": 0}
    edited = PHTTP().bind(service_of(2, options=RULES[::2]), bound)
    bound.choose(Request(path=b"/new/a"))  # it serves until the edit is done
    edited.choose(Request(path=b"/new/a"))
    assert edited.rule_requests() == {"canary": 3, ".*": 0}


def test_a_service_without_rules_has_no_counts() -> None:
    bound = PHTTP().bind(service_of(2), None)
    bound.choose(Request(path=b"/"))
    assert bound.rule_requests() == {}


def test_rules_after_the_first_ones_are_counted_together() -> None:
    rules = [f"rule = path /{number}/ use server 10.0.0.1:80" for number in range(MAX_COUNTED_RULES + 5)]
    bound = PHTTP().bind(service_of(2, options=rules), None)
    for number in (0, MAX_COUNTED_RULES - 1, MAX_COUNTED_RULES, MAX_COUNTED_RULES + 4):
        bound.choose(Request(path=b"/%d/" % number, target=b"/%d/" % number))
    counts = bound.rule_requests()
    assert len(counts) == MAX_COUNTED_RULES + 1
    assert (counts["path /0/"], counts[f"path /{MAX_COUNTED_RULES - 1}/"], counts[OTHERS]) == (1, 1, 2)
