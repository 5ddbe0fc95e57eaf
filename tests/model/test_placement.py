"""What each node runs of a table, which listeners meet on one node, and warnings about nodes that do not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.describe import describe_service
from ktcpvs.model.difference import differences
from ktcpvs.model.language.parser import parse
from ktcpvs.model.nodes import NodeIdentity
from ktcpvs.model.placement import (
    UNKNOWN_NODES,
    KnownNodes,
    first_conflict,
    first_program_conflict,
    is_here,
    listens_on,
    placed,
    placement_warnings,
)
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from tests.model.strategies import assert_sound, tables

A = NodeIdentity("a", frozenset({"edge"}))
B = NodeIdentity("b", frozenset({"core"}))
names = st.sampled_from(("a", "node-b", "on", "other"))
identities = st.builds(NodeIdentity, names, st.frozensets(names, max_size=2))


def table_of(text: str, *running: str) -> Table:
    table = parse(text).apply(Table())
    return Table(table.services, frozenset(running or table.services), table.settings)


def cluster(here: NodeIdentity = A, *others: NodeIdentity, gone: tuple[str, ...] = ()) -> KnownNodes:
    known: Mapping[str, NodeIdentity | None] = {**{node.name: node for node in others}, **dict.fromkeys(gone)}
    return KnownNodes(here, known, is_alone=False)


@given(tables(), identities)
def test_a_node_runs_exactly_what_is_for_it(table: Table, node: NodeIdentity) -> None:
    found = placed(table, node)
    assert_sound(found)
    assert list(found.services) == list(table.services)
    for ident, service in table.services.items():
        here = [one for one in service.listen if listens_on(service, one, node)]
        assert is_here(service, node) == bool(here)
        assert (ident in found.running) == (ident in table.running and bool(here))
        assert list(found.services[ident].listen) == (here or list(service.listen))
    assert placed(found, node).running == found.running


def test_a_table_without_nodes_is_the_same_object_everywhere() -> None:
    table = table_of("Virtual a { } Virtual b { listen = [::1]:81 }")
    assert placed(table, A) is table


def test_a_service_all_of_whose_listeners_are_elsewhere_is_not_here() -> None:
    service = table_of("Virtual a { listen = 10.0.0.5:80 on b listen = 10.0.0.6:80 on label:core }").service("a")
    assert not is_here(service, A)
    assert is_here(service, NodeIdentity("b"))
    assert is_here(service, NodeIdentity("c", frozenset({"core"})))


# Listeners that meet.

TWO = "Virtual one {{ listen = 10.0.0.5:80 {} }} Virtual two {{ listen = 10.0.0.5:80 {} }}"


@pytest.mark.parametrize(
    ("one", "two", "where"),
    [
        ("on a", "on b", None),
        ("on = a", "on b", None),
        ("on a, b on = b", "on = a", None),
        ("on label:edge", "on label:core", None),
        ("on a, label:core", "on c", None),
        ("on a, b", "on b, a", "on a, b"),
        ("", "", "on all nodes"),
        ("", "on b", "on b"),
        ("", "on nobody", "on nobody"),
        ("on label:edge", "on a", "on a"),
        ("on label:edge", "", "on a"),
        ("on label:core", "on = label:core, a", "on b"),
        ("on label:edge", "on label:new", "perhaps on the same node, since none that is alive has the label new"),
        ("on label:edge", "on gone", "perhaps on gone, whose labels are not known"),
        ("on label:edge", "on never", "perhaps on never, whose labels are not known"),
    ],
)
def test_two_services_with_one_address(one: str, two: str, where: str | None) -> None:
    known = cluster(A, B, NodeIdentity("c"), gone=("gone",))
    why = first_conflict(Table(), table_of(TWO.format(one, two)), known)
    if where is None:
        assert why is None
    else:
        assert str(why) == (
            f"service two: service one listens on 10.0.0.5:80 too, {where}: give one of them another address, or other "
            "nodes (example: listen = 10.0.0.5:80 on NODE)"
        )
    assert (first_conflict(Table(), table_of(TWO.format(two, one)), known) is None) == (where is None)


STARTING = "Virtual one {{ server = 10.0.1.1:80 1 start {} {} }} Virtual two {{ server = 10.0.1.1:80 1 start {} {} }}"


@pytest.mark.parametrize(
    ("words", "conflicts"),
    [
        (("web", "", "web", ""), False),
        (("web", "", "mail", ""), True),
        (("web", "on = a", "mail", ""), True),
        (("web", "on = a", "mail", "on = b"), False),
    ],
)
def test_one_address_of_a_node_has_one_program(words: Sequence[str], conflicts: bool) -> None:
    table = parse_services(STARTING.format(*words))
    why = first_program_conflict(Table(), table, KnownNodes(A))
    assert (why is not None) == conflicts
    if why is not None:
        assert str(why) == (
            "service two: server 10.0.1.1:80 start mail: service one starts web at that address: give one of them "
            "another address, or both the same program"
        )
    assert first_program_conflict(table, table, KnownNodes(A)) is None
    moved = parse_services(STARTING.replace(" }} V", " server = 10.0.1.2:80 }} V").format(*words))
    assert (first_program_conflict(table, moved, KnownNodes(A)) is not None) == conflicts


def parse_services(text: str) -> Table:
    """Without what the parser refuses."""
    one, two = text.split(" Virtual ")
    return Table({**parse(one).services, **parse(f"Virtual {two}").services})


def test_labels_do_not_conflict_while_the_members_are_not_known() -> None:
    table = table_of(TWO.format("on label:edge", "on label:new"))
    assert first_conflict(Table(), table, UNKNOWN_NODES) is None
    assert first_conflict(Table(), table, KnownNodes(A)) is None
    assert first_conflict(Table(), table_of(TWO.format("on x", "on x")), UNKNOWN_NODES) is not None
    assert "too, on this switch: give" in str(first_conflict(Table(), table_of(TWO.format("", "")), KnownNodes(A)))


def test_only_running_services_that_an_edit_changes_conflict() -> None:
    text = TWO.format("", "") + " Virtual three { listen = 10.0.0.7:80 }"
    stopped, both = table_of(text, "one", "three"), table_of(text)
    assert first_conflict(Table(), stopped, cluster()) is None
    assert first_conflict(stopped, both, cluster()) is not None
    assert first_conflict(both, both, cluster()) is None
    assert first_conflict(both, both.without_service("three"), cluster()) is None


@given(tables(), identities)
def test_listeners_that_do_not_conflict_do_not_meet_on_a_node(table: Table, node: NodeIdentity) -> None:
    table = Table(table.services, frozenset(table.services), table.settings)
    if first_conflict(Table(), table, cluster(node)) is None:
        runs = placed(table, node)
        listening = [address for ident in runs.running for address in runs.services[ident].addresses]
        assert len(listening) == len(set(listening))


# Warnings.


def warnings(text: str, nodes: KnownNodes) -> list[str]:
    (service,) = parse(text).services.values()
    return [text for text, _ in placement_warnings(service, nodes)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("on = a, gone, label:core", []),
        ("on = gon", ["on = gon: no member of the cluster has this name; did you mean 'gone'?"]),
        ("on = zzz", ["on = zzz: no member of the cluster has this name; there are: a, b, gone"]),
        ("on = label:cor", ["on = label:cor: no node that is alive has this label; did you mean 'core'?"]),
        (
            "listen = 10.0.0.5:80 on bb",
            ["listen = 10.0.0.5:80 on bb: no member of the cluster has this name; did you mean 'b'?"],
        ),
        (
            "on = a listen = 10.0.0.5:80 on b listen = 10.0.0.6:80",
            ["listen = 10.0.0.5:80 on b has no effect: the service is on a"],
        ),
        (
            "listen = 10.0.0.5:80 on a listen = 10.0.0.6:443 tls on b certificate = /x https_only = on",
            ["https_only has no effect at 10.0.0.5:80 on nodes without a listener with tls"],
        ),
        ("listen = 10.0.0.5:80 on a listen = 10.0.0.5:443 tls certificate = /x https_only = on", []),
    ],
)
def test_warnings_in_a_cluster(text: str, expected: list[str]) -> None:
    assert warnings(f"Virtual web {{ {text} }}", cluster(A, B, gone=("gone",))) == expected


def test_long_lists_of_names_are_cut() -> None:
    many = [NodeIdentity(f"node-{number:02}") for number in range(30)]
    assert warnings("Virtual web { on = zzz }", cluster(A, *many))[0].endswith("node-08 and 21 more")


def test_warnings_of_a_switch_in_no_cluster() -> None:
    alone = KnownNodes(NodeIdentity("a"))
    assert warnings("Virtual web { on = a listen = [::]:80 on a, b }", alone) == []
    assert warnings("Virtual web { on = b }", alone) == [
        "it does not run here: on = b, and this switch is in no cluster, and its name is a (--node, --node-labels)"
    ]
    assert warnings("Virtual web { listen = [::]:80 listen = [::]:81 on label:x }", KnownNodes(A)) == [
        "it does not listen on [::]:81 here: on label:x, and this switch is in no cluster, and its name is a, its "
        "labels edge (--node, --node-labels)"
    ]


def test_no_warnings_about_names_while_the_members_are_not_known() -> None:
    assert warnings("Virtual web { on = b, label:x }", UNKNOWN_NODES) == []


def test_a_difference_names_the_nodes() -> None:
    def described(text: str) -> list[dict[str, object]]:
        return [describe_service(service) for service in parse(f"Virtual web {{ {text} }}").services.values()]

    one = described("listen = [::]:80 on a listen = [::]:81")
    two = described("listen = [::]:80 on a, b listen = [::]:81 on = label:edge")
    assert differences(one, {}, two, {}) == [
        "service web: - listen [::]:80 on a",
        "service web: + listen [::]:80 on a, b",
        "service web: on: all nodes -> label:edge",
    ]
    assert differences(two, {}, one, {})[-1] == "service web: on: label:edge -> all nodes"


def test_a_service_named_by_its_default_listener_is_everywhere() -> None:
    assert is_here(VirtualService("web"), NodeIdentity())
