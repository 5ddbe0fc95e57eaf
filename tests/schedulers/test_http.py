"""http: the first rule that matches, default rules last, one automaton for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from ktcpvs.errors import BadPattern
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.rule_list import with_rule, without_rule
from ktcpvs.model.scheduling import BoundRule, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers import rules as rules_module
from ktcpvs.schedulers.binding import run_to_end
from ktcpvs.schedulers.chttp import CHTTP
from ktcpvs.schedulers.http import HHTTP, HTTP, PHTTP
from ktcpvs.schedulers.rr import RR
from ktcpvs.schedulers.rules import RuleSet, compile_rules
from ktcpvs.schedulers.wlc import WLC


def rule_set(rules: list[BoundRule], previous: RuleSet | None = None) -> RuleSet:
    return run_to_end(compile_rules(rules, previous))


def bound(*patterns: str) -> tuple[ServiceView, object]:
    """One server a pattern, numbered from 1; a pattern that begins with '!' has a server of weight 0."""
    servers, rules = [], []
    for number, pattern in enumerate(patterns, 1):
        servers.append(RealServer(Inet(f"10.0.0.{number}", 80), 0 if pattern.startswith("!") else 1))
        rules.append(Rule(pattern.removeprefix("!"), (servers[-1].address,)))
    config = VirtualService("s", servers=tuple(servers), rules=tuple(rules))
    view = ServiceView.of(config, {s.address: Destination(s.address, s.weight) for s in servers}, WLC())
    return view, HTTP().bind(view, None)


def chosen(patterns: list[str], path: bytes) -> int | None:
    """The number of the pattern whose server is chosen for `path`."""
    view, scheduler = bound(*patterns)
    choice = scheduler.choose(Request(path=path))  # type: ignore[attr-defined]
    return None if choice is None else view.destinations.index(choice.destination) + 1


@pytest.mark.parametrize(
    ("patterns", "path", "number"),
    [
        (["/images/.*", "/html/.*", ".*"], b"/images/cat.png", 1),
        (["/images/.*", "/html/.*", ".*"], b"/html/", 2),
        (["/images/.*", "/html/.*", ".*"], b"/", 3),
        ([".*", "/images/.*"], b"/images/cat.png", 2),
        (["^/.*", ".*", "/x"], b"/y", 1),
        (["^/.*", "/x"], b"/x", 2),
        (["/a", "/a/b"], b"/a/b", 1),
        (["/a"], b"/b", None),
        (["b"], b"/a/b/c", 1),
        (["^b"], b"/a/b/c", None),
        (["^/a$"], b"/a", 1),
        (["q=[0-9]+"], b"/p?q=17", 1),
        (["é"], "/é".encode(), 1),
        ([r"\xff"], b"/\xff", 1),
        ([".$"], b"/\xff\xfe", 1),
        (["[[:alpha:]]+$"], b"/abc", 1),
        ([], b"/", None),
    ],
)
def test_which_rule(patterns: list[str], path: bytes, number: int | None) -> None:
    assert chosen(patterns, path) == number


def test_a_rule_whose_servers_cannot_serve_is_not_passed_over() -> None:
    assert chosen(["!/a", ".*"], b"/a") is None


@pytest.mark.parametrize("factory", [HTTP(), HHTTP(), PHTTP(), CHTTP()], ids=lambda factory: factory.name)
def test_without_rules_balance_chooses_among_all_servers(factory: Any) -> None:
    """As rules come and go, the service uses their servers, or all of them again."""
    addresses = [Inet(f"10.0.0.{number}", 80) for number in (1, 2, 3)]
    known = {address: Destination(address) for address in addresses}
    config = VirtualService("s", servers=tuple(map(RealServer, addresses)), balance="rr")
    scheduler: Any = None

    def served(config: VirtualService) -> list[str]:
        nonlocal scheduler
        scheduler = factory.bind(ServiceView.of(config, known, RR(), b"key"), scheduler)
        return [str(scheduler.choose(Request(path=b"/")).destination.address) for _ in range(3)]

    everybody = [f"10.0.0.{number}:80" for number in (1, 2, 3)]
    assert served(config) == everybody
    assert scheduler.choose(Request(path=b"/")).reason.startswith("no rules, next in turn of 3 servers")
    assert served(with_rule(config, "/", addresses[1], None)) == ["10.0.0.2:80"] * 3
    assert sorted(served(without_rule(with_rule(config, ".*", addresses[1]), ".*", addresses[1]))) == everybody
    assert sorted(served(config.without_server(addresses[2]))) != everybody


def test_the_reason_names_the_rule() -> None:
    _, scheduler = bound(".*", "/images/.*")
    choice = scheduler.choose(Request(path=b"/images/x"))  # type: ignore[attr-defined]
    assert choice.reason == "rule 2 '/images/.*', the only server"


@examples(200)
@given(
    st.lists(st.text("ab/.*^$?[]()|+", min_size=1, max_size=6), min_size=1, max_size=12),
    st.text("ab/", max_size=8).map(str.encode),
)
def test_the_set_agrees_with_trying_one_after_another(patterns: list[str], path: bytes) -> None:
    usable = []
    for pattern in patterns:
        try:
            Rule(pattern, (Inet("10.0.0.1", 80),))
            usable.append((pattern, re.compile(pattern.encode())))
        except Exception:
            continue
    assume(usable)
    rules = [BoundRule(number, pattern, False, None, ()) for number, (pattern, _) in enumerate(usable, 1)]
    wanted = next((place for place, (_, oracle) in enumerate(usable) if oracle.search(path)), None)
    assert rule_set(rules).place(Request(path=path)) == wanted


def test_ten_thousand_rules() -> None:
    rules = [BoundRule(n, f"^/app{n}/[a-z]+\\.(png|gif)$", False, None, ()) for n in range(10000)]
    found = rule_set(rules)
    for number in (0, 4321, 9999):
        assert found.place(Request(path=b"/app%d/x.png" % number)) == number
    assert found.place(Request(path=b"/app10000/x.png")) is None
    assert found.place(Request(path=b"/" + b"x" * 65536)) is None


NUMBERS = st.lists(st.integers(0, 40), max_size=30, unique=True)


@examples(200)
@given(st.lists(NUMBERS, min_size=2, max_size=6))
def test_blocks_that_are_taken_over_are_as_good_as_new_ones(edits: list[list[int]]) -> None:
    """After any edits, reused blocks give the same results as newly compiled ones."""
    found: RuleSet | None = None
    with blocks_of(4):
        for numbers in edits:
            rules = [BoundRule(place, f"^/{n}$", False, None, ()) for place, n in enumerate(numbers, 1)]
            found = rule_set(rules, found)
            for number in range(41):
                wanted = numbers.index(number) if number in numbers else None
                assert found.place(Request(path=b"/%d" % number)) == wanted
            assert sum(block.size for block in found.blocks) == len(numbers)


@contextmanager
def blocks_of(size: int) -> Iterator[None]:
    before, rules_module.MAX_BLOCK_RULES = rules_module.MAX_BLOCK_RULES, size
    try:
        yield
    finally:
        rules_module.MAX_BLOCK_RULES = before


def test_an_edit_of_a_long_list_compiles_one_block() -> None:
    with blocks_of(1000):
        rules = [BoundRule(n, f"^/{n}/", False, None, ()) for n in range(3500)]
        first = rule_set(rules)
        assert [block.size for block in first.blocks] == [1000, 1000, 1000, 500]
        added = rule_set([*rules, BoundRule(3500, "^/new", False, None, ())], first)
        assert added.blocks[:4] == first.blocks
        assert [block.size for block in added.blocks[4:]] == [1]
        less = rule_set([*rules[:1500], *rules[1501:]], added)
        assert [block.size for block in less.blocks] == [1000, 999, 1000, 500]
        assert (less.blocks[0], *less.blocks[2:]) == (first.blocks[0], *first.blocks[2:])
        steps = compile_rules([BoundRule(n, f"^/other{n}/", False, None, ()) for n in range(3500)])
        for _ in range(3 * 3 + 2):  # each block is compiled, after one or two steps in which its patterns are added
            next(steps)
        with pytest.raises(StopIteration) as end:
            next(steps)
        assert end.value.value.place(Request(path=b"/other3499/")) == 3499


def test_lists_with_the_same_patterns_share_their_automata() -> None:
    def rules(label: str) -> list[BoundRule]:
        return [BoundRule(n, f"^/{label}{n}/[a-z]", False, None, ()) for n in range(5)]

    first, second, third = rule_set(rules("a")), rule_set(rules("a")), rule_set(rules("b"))
    assert second.blocks[0] is first.blocks[0]
    assert third.blocks[0] is not first.blocks[0]
    assert second.place(Request(path=b"/a3/x")) == 3


def large(count: int) -> list[BoundRule]:
    return [BoundRule(n, f"^/x{n}[a-z]{{1,900}}", False, None, ()) for n in range(1, count + 1)]


def test_automata_that_are_too_large_are_cut_smaller() -> None:
    found = rule_set(large(80))
    assert len(found.blocks) > 1
    assert found.place(Request(path=b"/x77abc")) == 76
    assert found.place(Request(path=b"/x81abc")) is None


@pytest.mark.parametrize("rules", [large(300), [BoundRule(1, "/x" + "[a-z]{1,999}" * 600, False, None, ())]])
def test_what_would_make_requests_wait_is_refused(rules: list[BoundRule]) -> None:
    with pytest.raises(BadPattern, match=r"automat.* of more than [0-9]+ MiB: make "):
        rule_set(rules)
