"""The verdicts of several nodes on servers, by the results of their checks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.quorum import MAX_NAMED_NODES, Key, Quorum, Verdict

ONE, TWO = ("web", "10.0.0.1:80"), ("web", "10.0.0.2:80")
REFUSED, LATE = "check: Connection refused", "check: nothing within 2 s"


def quorum(own: dict[Key, str | None], **others: dict[Key, str | None]) -> Quorum:
    """Node `a` with its results, and those of others by name."""
    found = Quorum("a")
    for key, why in own.items():
        found.set_own(key, why)
    for node, results in others.items():
        found.set_other(node, results)
    return found


def is_up(found: Quorum, key: Key = ONE) -> bool | None:
    verdict = found.verdict(key)
    assert verdict is not None
    return verdict.is_up


def test_most_nodes_decide() -> None:
    up, down = {ONE: None, TWO: None}, {ONE: REFUSED, TWO: None}
    assert is_up(quorum(down, b=up, c=up)) is True
    assert is_up(quorum(down, b=down, c=up)) is False
    assert is_up(quorum(up, b=down, c=down)) is False


def test_a_tie_decides_nothing() -> None:
    assert is_up(quorum({ONE: REFUSED, TWO: None}, b={ONE: None, TWO: None})) is None


def test_a_node_that_has_not_checked_a_server_has_no_vote() -> None:
    assert is_up(quorum({}, b={ONE: REFUSED, TWO: None})) is False
    assert is_up(quorum({ONE: None}, b={TWO: REFUSED})) is True
    assert quorum({ONE: None}).verdict(TWO) is None


def test_the_verdict_names_the_nodes_that_find_the_server_down() -> None:
    found = quorum({ONE: REFUSED, TWO: None}, b={ONE: LATE, TWO: None}, c={ONE: None})
    assert found.verdict(ONE) == Verdict(
        False, "check: down on 2 of 3 nodes (a: Connection refused, b: nothing within 2 s)", 3
    )
    alone = quorum({ONE: REFUSED, TWO: None})
    assert alone.verdict(ONE) == Verdict(False, REFUSED, 1)
    assert alone.verdict(TWO) == Verdict(True, "", 1)
    many = quorum({}, **{f"n{number}": {ONE: LATE, TWO: None} for number in range(MAX_NAMED_NODES + 2)})
    verdict = many.verdict(ONE)
    assert verdict is not None
    assert verdict.why.endswith(", and 2 more)")


def test_a_node_that_sees_every_server_down_is_not_trusted_while_another_one_sees_some_up() -> None:
    lost, well = {ONE: LATE, TWO: LATE}, {ONE: None, TWO: REFUSED}
    found = quorum(lost, b=well)
    assert found.distrusted == {"a"}
    assert is_up(found, ONE) is True
    assert is_up(found, TWO) is False
    found = quorum(well, b=lost, c=lost)
    assert found.distrusted == {"b", "c"}
    assert is_up(found, ONE) is True
    assert quorum(lost, b=lost).distrusted == set()  # all servers are down
    assert is_up(quorum(lost, b=lost)) is False
    assert quorum({ONE: LATE}, b={ONE: None}).distrusted == set()  # its only server may be down


def test_a_node_is_trusted_again_when_it_sees_a_server_up() -> None:
    found = quorum({ONE: LATE, TWO: LATE}, b={ONE: None, TWO: None}, c={ONE: REFUSED, TWO: None})
    assert is_up(found, ONE) is None
    found.set_own(TWO, None)
    assert found.distrusted == set()
    assert is_up(found, ONE) is False


def test_a_node_that_is_gone_or_cut_off_has_no_vote() -> None:
    found = quorum({ONE: None, TWO: None}, b={ONE: LATE, TWO: None}, c={ONE: LATE, TWO: None})
    assert is_up(found) is False
    found.set_other("b", {})
    assert is_up(found) is None
    found.forget_others()
    assert is_up(found) is True


def test_changes_are_told_with_the_servers_that_they_concern() -> None:
    found = quorum({ONE: None, TWO: None}, b={ONE: None, TWO: None})
    told: list[object] = []
    own: list[int] = []
    found.changed = lambda keys: told.append(keys if keys is None else set(keys))
    found.own_changed = lambda: own.append(1)
    found.set_other("b", {ONE: None, TWO: REFUSED})
    found.set_own(ONE, REFUSED)
    found.set_own(ONE, LATE)  # it is still down
    found.set_other("b", {ONE: None, TWO: REFUSED})
    assert told == [{TWO}, {ONE}]
    found.set_own(TWO, REFUSED)
    assert told[2:] == [None]  # whom to trust has changed
    found.keep_own({TWO})
    assert own == [1, 1, 1]
    assert found.own == {TWO: REFUSED}


results = st.dictionaries(st.sampled_from((ONE, TWO, ("x", "1"))), st.sampled_from((None, REFUSED, LATE)))


@given(st.dictionaries(st.sampled_from("abcd"), results))
def test_all_nodes_come_to_the_same_verdicts(every: dict[str, dict[Key, str | None]]) -> None:
    found = []
    for name in every:
        one = Quorum(name)
        for key, why in every[name].items():
            one.set_own(key, why)
        for other in every.keys() - {name}:
            one.set_other(other, every[other])
        verdicts = {key: one.verdict(key) for key in (ONE, TWO)}
        found.append((one.distrusted, {key: verdict and verdict.is_up for key, verdict in verdicts.items()}))
    assert all(one == found[0] for one in found)
