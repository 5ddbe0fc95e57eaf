"""The view of a scheduler: destinations in their order, rules in the order in which they are tried."""

from __future__ import annotations

import pytest
from examples import examples
from hypothesis import given

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Request, ServiceView
from ktcpvs.model.service import VirtualService
from tests.model.strategies import services

R1, R2 = Inet("r1", 80), Inet("r2", 80)
SERVERS = (RealServer(R1), RealServer(R2, 5))


def view_of(service):
    known = {server.address: Destination(server.address, server.weight) for server in service.servers}
    return ServiceView.of(service, known), known


@pytest.mark.parametrize(
    ("patterns", "tried"),
    [
        (["/a", "/b"], [(1, "/a"), (2, "/b")]),
        ([".*", "/a", "/b"], [(2, "/a"), (3, "/b"), (1, ".*")]),
        (["/a", "^/.*", "/b"], [(1, "/a"), (3, "/b"), (2, "^/.*")]),
        (["^/.*", ".*", "/a"], [(3, "/a"), (1, "^/.*"), (2, ".*")]),
        (["/a", ".*"], [(1, "/a"), (2, ".*")]),
        (["/.*", ".*$", ".*", "(.*)"], [(1, "/.*"), (2, ".*$"), (4, "(.*)"), (3, ".*")]),
    ],
)
def test_default_rules_are_tried_last_and_keep_their_numbers(patterns, tried):
    view, _ = view_of(VirtualService("web", servers=SERVERS, rules=tuple(Rule(p, (R1,)) for p in patterns)))
    assert [(rule.number, rule.pattern) for rule in view.rules] == tried


def test_a_rule_is_bound_to_the_destinations_of_its_servers():
    view, known = view_of(VirtualService("web", servers=SERVERS, rules=(Rule("/(a)", (R2, R1), 1), Rule(".*", (R2,)))))
    first, last = view.rules
    assert first.destinations == (known[R2], known[R1])
    assert (first.match, first.is_default) == (1, False)
    assert last.destinations == (known[R2],)
    assert (last.match, last.is_default) == (None, True)


def test_the_view_of_a_service():
    service = VirtualService("web", servers=SERVERS)
    view, known = view_of(service)
    assert view.ident == "web"
    assert view.config is service
    assert view.destinations == (known[R1], known[R2])
    assert view.rules == ()


def test_requests_do_not_share_what_they_tried():
    first, second = Request(), Request()
    first.tried.add(Destination(R1))
    assert second.tried == set()


@examples(100)
@given(services())
def test_the_view_holds_every_rule_once_in_order_with_the_defaults_at_the_end(service):
    view, known = view_of(service)
    assert view.destinations == tuple(known[server.address] for server in service.servers)
    assert sorted(rule.number for rule in view.rules) == list(range(1, len(service.rules) + 1))
    assert [rule.is_default for rule in view.rules] == sorted(rule.is_default for rule in service.rules)
    for kind in (False, True):
        numbers = [rule.number for rule in view.rules if rule.is_default is kind]
        assert numbers == sorted(numbers)
    for bound in view.rules:
        rule = service.rules[bound.number - 1]
        assert (bound.pattern, bound.match, bound.is_default) == (rule.pattern, rule.match, rule.is_default)
        assert bound.destinations == tuple(known[address] for address in rule.servers)
