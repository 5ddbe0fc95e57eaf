"""Views of several workers, or of several nodes, added up."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.added_views import SEVERITY, connections, connections_of_nodes, part_of_node, stats, stats_of_nodes

COPY_RELAY = {"in_use": "copy", "why": "kernel: needs CAP_BPF and CAP_NET_ADMIN", "joined": {"copy": 0, "kernel": 0}}


HEALTHY = {"state": "up", "since": 0.0, "reason": ""}


def counts(active: int, total: int = 0) -> dict[str, Any]:
    return {"active": active, "total": total}


def service(ident: str, stats: dict[str, Any], servers: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    rows = [
        {
            "address": address,
            "weight": 1,
            "stats": one,
            "health": more.get("health", HEALTHY),
            "last_error": more.get("last_error"),
        }
        for address, one in servers.items()
    ]
    more.pop("health", None)
    more.pop("last_error", None)
    relay = more.pop("relay", COPY_RELAY)
    return {"ident": ident, "scheduler": "wlc", "stats": {**stats, "relay": relay}, "servers": rows, **more}


def answer(*services: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1", "services": list(services), "settings": {"read_timeout": 5}}


NONE = counts(0)


def test_counts_add_up() -> None:
    own = answer(
        service("web", NONE, {"r1:80": NONE, "r2:80": NONE}, redirect_stats=NONE), service("mail", NONE, {"m:25": NONE})
    )
    one = answer(
        service("web", counts(3, 30), {"r1:80": counts(1, 10), "r2:80": counts(2, 20)}, redirect_stats=counts(1, 1)),
        service("mail", counts(1, 5), {"m:25": counts(1, 5)}),
    )
    other = answer(
        service("web", counts(4, 40), {"r1:80": counts(4, 15), "r2:80": counts(0, 25)}, redirect_stats=counts(0, 2)),
        service("mail", counts(0, 1), {"m:25": counts(0, 1)}),
    )
    assert stats(own, [one, other]) == answer(
        service("web", counts(7, 70), {"r1:80": counts(5, 25), "r2:80": counts(2, 45)}, redirect_stats=counts(1, 3)),
        service("mail", counts(1, 6), {"m:25": counts(1, 6)}),
    )


def test_counts_by_status_and_by_bucket_add_up() -> None:
    none: dict[str, Any] = {"answers": {"2xx": 0, "5xx": 0}, "buckets": [0, 0, 0], "seconds": 0.0}
    one: dict[str, Any] = {"answers": {"2xx": 3, "5xx": 1}, "buckets": [1, 0, 3], "seconds": 0.5}
    other: dict[str, Any] = {"answers": {"2xx": 2, "5xx": 0}, "buckets": [0, 2, 0], "seconds": 0.25}
    told = [
        answer(service("web", {"refusals": {"503": 1}}, {"r1:80": one})),
        answer(service("web", {"refusals": {"400": 2, "503": 3}}, {"r1:80": other})),
    ]
    both = {"answers": {"2xx": 5, "5xx": 1}, "buckets": [1, 2, 3], "seconds": 0.75}
    assert stats(answer(service("web", {"refusals": {}}, {"r1:80": none})), told) == answer(
        service("web", {"refusals": {"400": 2, "503": 4}}, {"r1:80": both})
    )


def test_rules_keep_their_order_and_others_are_sorted() -> None:
    def rules(**counts: int) -> dict[str, Any]:
        return answer(service("web", {"rules": counts}, {}))

    def order(own: dict[str, Any], *told: dict[str, Any]) -> list[tuple[str, int]]:
        return list(stats(own, told)["services"][0]["stats"]["rules"].items())

    none = rules(zulu=0, alpha=0)
    assert order(none, rules(zulu=1, alpha=2), rules(zulu=1, alpha=0)) == [("zulu", 2), ("alpha", 2)]
    assert order(none, rules(zulu=1, mike=2)) == [("alpha", 0), ("mike", 2), ("zulu", 1)]


def test_without_workers_all_counts_are_0() -> None:
    own = answer(service("web", NONE, {"r1:80": NONE}))
    assert stats(own, []) == own


def test_a_worker_one_edit_behind_or_ahead_counts_for_the_servers_that_both_know() -> None:
    own = answer(service("new", NONE, {}), service("web", NONE, {"r2:80": NONE, "r3:80": NONE}, redirect_stats=NONE))
    behind = answer(
        service("gone", counts(9, 9), {"r1:80": counts(9, 9)}),
        service("web", counts(3, 3), {"r1:80": counts(1, 1), "r2:80": counts(2, 2)}),
    )
    even = answer(
        service("new", counts(1, 1), {}),
        service("web", counts(5, 5), {"r2:80": counts(1, 1), "r3:80": counts(4, 4)}, redirect_stats=counts(2, 2)),
    )
    assert stats(own, [behind, even]) == answer(
        service("new", counts(1, 1), {}),
        service("web", counts(8, 8), {"r2:80": counts(3, 3), "r3:80": counts(4, 4)}, redirect_stats=counts(2, 2)),
    )


def relayed(copied: int, kernel: int) -> dict[str, Any]:
    return {"in_use": "kernel", "why": "", "joined": {"copy": copied, "kernel": kernel}}


def test_the_relay_is_that_of_the_first_worker() -> None:
    own, first = answer(service("web", NONE, {})), answer(service("web", NONE, {}, relay=relayed(0, 0)))
    assert stats(own, [first, own]) == first
    assert stats(own, [answer(), first, own]) == first
    assert stats(first, [own]) == own


def test_connections_of_each_relay_add_up() -> None:
    own, one, other = (answer(service("web", NONE, {}, relay=relayed(*n))) for n in ((0, 0), (1, 20), (3, 50)))
    assert stats(own, [one, other]) == answer(service("web", NONE, {}, relay=relayed(4, 70)))


def test_a_service_that_no_worker_runs_has_no_relay() -> None:
    own = answer(service("web", NONE, {}, relay=None))
    assert stats(own, [own, own]) == own


def health(state: str, since: float, reason: str = "why") -> dict[str, Any]:
    return {"state": state, "since": since, "reason": reason}


@pytest.mark.parametrize(
    ("own", "told", "merged"),
    [
        (HEALTHY, (HEALTHY, HEALTHY), HEALTHY),
        (health("down", 5), (health("down", 6), HEALTHY), health("down", 5)),
        (health("draining", 0), (health("ejected", 6), HEALTHY), health("draining", 0)),
        (HEALTHY, (health("ejected", 6), HEALTHY), health("ejected", 6, "in 1 of 2 workers: why")),
        (
            HEALTHY,
            (health("ejected", 6, "old"), health("ejected", 7, "new")),
            health("ejected", 7, "in 2 of 2 workers: new"),
        ),
        (HEALTHY, (health("up", 6, "the ejection has ended"), HEALTHY), health("up", 6, "the ejection has ended")),
        (health("standby", 0), (HEALTHY, health("standby", 0)), HEALTHY),
        (health("standby", 2), (health("standby", 0),), health("standby", 2)),
        (health("standby", 0), (health("ejected", 6), HEALTHY), health("ejected", 6, "in 1 of 2 workers: why")),
        (health("up", 3, "2 checks have passed"), (), health("up", 3, "2 checks have passed")),
    ],
)
def test_health(own: dict[str, Any], told: tuple[dict[str, Any], ...], merged: dict[str, Any]) -> None:
    def answered(health: dict[str, Any]) -> dict[str, Any]:
        return answer(service("web", NONE, {"r1:80": NONE}, health=health))

    assert stats(answered(own), [answered(one) for one in told]) == answered(merged)


def test_connections_of_all_workers_follow_each_other_with_their_worker() -> None:
    told: list[tuple[int, list[dict[str, Any]]]] = [
        (1, [{"client": "a"}, {"client": "b"}]),
        (2, []),
        (3, [{"client": "c"}]),
    ]
    assert connections(told) == [
        {"client": "a", "worker": 1},
        {"client": "b", "worker": 1},
        {"client": "c", "worker": 3},
    ]


def test_the_last_error_of_any_worker_counts() -> None:
    own = answer(service("web", NONE, {"r1:80": NONE}))
    early, late = ({"at": at, "reason": f"at {at}", "in_a_row": 1} for at in (5.0, 7.0))
    told = [answer(service("web", NONE, {"r1:80": NONE}, last_error=error)) for error in (early, late, None)]
    assert stats(own, told)["services"][0]["servers"][0]["last_error"] == late
    assert stats(own, told[2:])["services"][0]["servers"][0]["last_error"] is None


# Nodes.


def counted(draw: st.DrawFn) -> dict[str, Any]:
    number = st.integers(0, 1 << 40)
    names = st.sampled_from(("429", "502", "503"))
    return {
        "total": draw(number),
        "refusals": draw(st.dictionaries(names, number)),
        "buckets": draw(st.lists(number, min_size=3, max_size=3)),
        "answers": draw(st.fixed_dictionaries({"2xx": number, "5xx": number})),
    }


@st.composite
def stats_of_a_node(draw: st.DrawFn) -> dict[str, Any]:
    """The stats of a node that may be an edit behind or ahead: it may lack services and servers, or have more."""
    services = []
    for ident in draw(st.lists(st.sampled_from(("web", "mail", "new")), unique=True)):
        servers = draw(st.lists(st.sampled_from(("r1:80", "r2:80", "r3:80")), unique=True))
        states = st.sampled_from(SEVERITY)
        one = service(ident, counted(draw), {address: counted(draw) for address in servers})
        for row in one["servers"]:
            row["health"] = health(draw(states), draw(st.integers(0, 9)))
        services.append({**one, "running": draw(st.booleans()), "here": draw(st.booleans())})
    return answer(*services)


def sums(found: list[Any]) -> Any:
    """Add up as the specification says: numbers, lists by place, dicts by name."""
    if isinstance(found[0], dict):
        return {name: sums([one.get(name, 0) for one in found]) for name in {name for one in found for name in one}}
    if isinstance(found[0], list):
        return [sum(column) for column in zip(*found, strict=True)]
    return sum(found)


@given(st.dictionaries(st.sampled_from("abcd"), stats_of_a_node(), min_size=1), st.data())
def test_the_sum_over_nodes_equals_the_parts(nodes: dict[str, dict[str, Any]], data: st.DataObject) -> None:
    own = nodes[data.draw(st.sampled_from(sorted(nodes)))]
    parts = {name: part_of_node(one) for name, one in nodes.items()}
    before = copy.deepcopy((own, parts))
    added = stats_of_nodes(own, parts)
    assert (own, parts) == before, "nothing is changed in place"
    assert [one["ident"] for one in added["services"]] == [one["ident"] for one in own["services"]]
    for total in added["services"]:
        rows = {name: row for name, part in parts.items() for row in part["services"] if row["ident"] == total["ident"]}
        assert without_relay(total["stats"]) == sums([without_relay(row["stats"]) for row in rows.values()])
        assert total["not_running_on"] == [
            name for name, row in rows.items() if total["running"] and row["here"] and not row["running"]
        ]
        for server in total["servers"]:
            seen = {
                name: one for name, row in rows.items() for one in row["servers"] if one["address"] == server["address"]
            }
            assert server["stats"] == sums([one["stats"] for one in seen.values()])
            states = {name: one["health"]["state"] for name, one in seen.items() if one["health"]}
            if states:
                assert server["health"]["state"] == max(states.values(), key=SEVERITY.index)
            assert server["health"]["nodes"] == [
                name for name, state in states.items() if state == server["health"]["state"]
            ]


def without_relay(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stats.items() if name != "relay"}


def test_the_worst_state_of_a_server_names_the_nodes_that_see_it() -> None:
    def of(state: str, since: int, error: Any = None) -> dict[str, Any]:
        web = service("web", NONE, {"r1:80": NONE}, health=health(state, since, f"{state} {since}"), last_error=error)
        return answer({**web, "running": True})

    nodes = {
        "a": of("down", 7, {"at": 3, "reason": "x"}),
        "b": of("up", 9, {"at": 4, "reason": "y"}),
        "c": of("down", 5),
    }
    added = stats_of_nodes(nodes["b"], {name: part_of_node(one) for name, one in nodes.items()})
    (server,) = added["services"][0]["servers"]
    assert server["health"] == {**health("down", 5, "down 5"), "nodes": ["a", "c"]}
    assert server["last_error"] == {"at": 4, "reason": "y", "node": "b"}


def test_a_node_with_other_buckets_is_left_out_of_their_sum() -> None:
    def of(buckets: list[int]) -> dict[str, Any]:
        return answer({**service("web", {"total": 1, "buckets": buckets}, {}), "running": True})

    added = stats_of_nodes(of([1, 2]), {"a": of([1, 2]), "b": of([1, 2, 3])})
    assert without_relay(added["services"][0]["stats"]) == {"total": 2, "buckets": [1, 2]}


def test_connections_of_all_nodes_have_their_node() -> None:
    told: dict[str, list[dict[str, Any]]] = {"a": [{"client": "x"}], "b": [], "c": [{"client": "y"}]}
    assert connections_of_nodes(told) == [{"client": "x", "node": "a"}, {"client": "y", "node": "c"}]
