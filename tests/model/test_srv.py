"""Targets of SRV records: their texts, and what their weights and priorities mean for servers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadAddress
from ktcpvs.model.address import Inet
from ktcpvs.model.srv import Target, priorities, read_target, unique, weights, without_host

NUMBERS = st.integers(0, 65535)


def target(weight: int = 0, priority: int = 0, host: str = "10.0.0.1", port: int = 80, name: str = "") -> Target:
    return Target(Inet(host, port), priority, weight, name)


targets = st.builds(
    Target,
    st.builds(Inet, st.ip_addresses().map(str), st.integers(1, 65535)),
    NUMBERS,
    NUMBERS,
    st.sampled_from(("", "a.example", "b-1.node.dc1.consul")),
)


@given(targets)
def test_a_target_reads_back(one: Target) -> None:
    assert read_target(str(one)) == one
    assert read_target(without_host(str(one))) == target(
        one.weight, one.priority, one.address.host, one.address.port or 0
    )


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1:80", "10.0.0.1 0 1", "a.example:80 0 1", "unix:/x 0 1", "10.0.0.1:80 0", "10.0.0.1:80 0 x"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        read_target(text)


@pytest.mark.parametrize(
    ("given", "weight", "meant"),
    [
        ([0, 0], 1, (1, 1)),  # no weights at all
        ([100, 100, 100], 3, (3, 3, 3)),
        ([10, 20], 1, (1, 2)),
        ([60, 40], 5, (15, 10)),
        ([0, 5, 10], 1, (1, 10, 20)),  # 0 is little, not nothing
        ([0, 7], 2, (2, 20)),
        ([1, 2], 0, (0, 0)),  # the server is quiesced
        ([65535, 1], 65535, (65535, 1)),
        ([65535, 32767], 10, (65535, 32767)),
    ],
)
def test_weights(given: list[int], weight: int, meant: tuple[int, ...]) -> None:
    assert weights([target(one) for one in given], weight) == meant


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.integers(1, 65535))
def test_weights_are_ours_and_keep_their_order(given: list[int], weight: int) -> None:
    found = weights([target(one) for one in given], weight)
    assert all(1 <= one <= 65535 for one in found)
    for (one, mine), (other, its) in zip(
        zip(given, found, strict=True), list(zip(given, found, strict=True))[1:], strict=False
    ):
        assert mine <= its if one < other else mine >= its if one > other else mine == its


def test_priorities_follow_each_other_from_that_of_the_server() -> None:
    some = [target(priority=one) for one in (10, 500, 10, 65535)]
    assert priorities(some, 0) == (0, 1, 0, 2)
    assert priorities(some, 99) == (99, 100, 99, 100)
    assert priorities(some, 100) == (100, 100, 100, 100)
    assert priorities([], 0) == ()


def test_an_address_is_one_target_with_its_best_priority() -> None:
    first, second = target(5, 0, name="a"), target(9, 1, name="b")
    other, six = target(1, 0, "10.0.0.1", 81), target(1, 0, "::1")
    assert unique([six, second, other, first]) == (first, other, six)
