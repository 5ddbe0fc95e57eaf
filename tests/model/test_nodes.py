"""Lists of nodes, as `node-a, label:edge`: their text, whom they have, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given

from ktcpvs.errors import BadValue
from ktcpvs.model.nodes import MAX_ENTRIES, MAX_LABELS, NodeIdentity, Nodes, check_name, parse_labels, parse_nodes
from tests.model.strategies import node_lists


@given(node_lists())
def test_a_list_is_read_back_as_it_was(nodes: Nodes | None) -> None:
    assert nodes is None or parse_nodes(str(nodes)) == nodes


def test_a_list_has_the_nodes_that_it_names_and_those_with_its_labels() -> None:
    nodes = parse_nodes("a,label:edge , b")
    assert str(nodes) == "a, label:edge, b"
    assert nodes.has(NodeIdentity("a"))
    assert nodes.has(NodeIdentity("z", frozenset({"eu", "edge"})))
    assert not nodes.has(NodeIdentity("z", frozenset({"a"})))
    assert not nodes.has(NodeIdentity("edge"))
    assert not nodes.has(NodeIdentity())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "on : expected names of nodes and label:NAME, with commas between them .*; a name is missing"),
        ("a,,b", "a name is missing"),
        ("a b", "'a b' is neither"),
        ("Label:edge", "'Label:edge' is neither"),
        ("label:", "'label:' is neither"),
        ("é", "'é' is neither"),
        ("a" * 64, "is neither"),
        ("a, b, a", "on a, b, a: a appears a second time"),
        (", ".join(f"n{number}" for number in range(MAX_ENTRIES + 1)), "1001 nodes; a list may have at most 1000"),
    ],
)
def test_a_malformed_list_says_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(BadValue, match=why):
        parse_nodes(text)


def test_labels_of_a_node() -> None:
    assert parse_labels("--node-labels", "edge, eu,edge") == {"edge", "eu"}
    with pytest.raises(BadValue, match="--node-labels label:edge: expected 1 to 63 letters, digits"):
        parse_labels("--node-labels", "label:edge")
    with pytest.raises(BadValue, match="--node-labels : expected"):
        parse_labels("--node-labels", "")
    with pytest.raises(BadValue, match=f"33 labels; a node may have at most {MAX_LABELS}"):
        parse_labels("--node-labels", ",".join(f"l{number}" for number in range(33)))
    with pytest.raises(BadValue, match="--node a b: expected 1 to 63 letters"):
        check_name("--node", "a b")
