"""The nodes of a cluster as a configuration names them: by their names, and by labels that nodes give themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import field, frozen

from ktcpvs.errors import BadValue, shorten

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""The name of a node, and a label."""

LABEL_PREFIX = "label:"
"""A label begins with it in a list of nodes."""

MAX_LABELS = 32
"""The most labels of one node."""

MAX_ENTRIES = 1000
"""The most names and labels in one list of nodes."""

EXAMPLE = "node-a, label:edge"

_FORM = "1 to 63 letters, digits, '.', '_' and '-', of which the first is a letter or a digit"


def check_name(option: str, name: str) -> str:
    """Return the name of a node, or a label. option: of the daemon that gives it, for the error. Raises BadValue."""
    if not NAME.fullmatch(name):
        raise BadValue(f"{option} {shorten(name, 80)}: expected {_FORM}")
    return name


def parse_labels(option: str, text: str) -> frozenset[str]:
    """Return the labels in `LABEL[,LABEL...]`. option: as for `check_name`. Raises BadValue."""
    labels = frozenset(check_name(option, label.strip()) for label in text.split(","))
    if len(labels) > MAX_LABELS:
        raise BadValue(f"{option}: {len(labels)} labels; a node may have at most {MAX_LABELS}")
    return labels


@frozen
class NodeIdentity:
    """A node names itself, and its labels. name: "": it has none. labels: without `label:`."""

    name: str = ""
    labels: frozenset[str] = frozenset()


@frozen
class Nodes:
    """A list of nodes, as in `node-a, label:edge`. entries: as they are written. names, labels: those among them;
    labels without `label:`."""

    entries: tuple[str, ...]
    names: frozenset[str] = field(init=False, eq=False, repr=False)
    labels: frozenset[str] = field(init=False, eq=False, repr=False)

    @names.default
    def _names(self) -> frozenset[str]:
        return frozenset(entry for entry in self.entries if not entry.startswith(LABEL_PREFIX))

    @labels.default
    def _labels(self) -> frozenset[str]:
        return frozenset(entry.removeprefix(LABEL_PREFIX) for entry in self.entries if entry.startswith(LABEL_PREFIX))

    def __str__(self) -> str:
        return ", ".join(self.entries)

    def has(self, node: NodeIdentity) -> bool:
        """Whether the list has that node, by its name or by one of its labels."""
        return node.name in self.names or not self.labels.isdisjoint(node.labels)


def parse_nodes(text: str) -> Nodes:
    """Parse names of nodes and `label:NAME`, with commas between them. Raises BadValue."""
    entries = [entry.strip() for entry in text.split(",")]
    for entry in entries:
        if not NAME.fullmatch(entry.removeprefix(LABEL_PREFIX)):
            what = f"'{shorten(entry, 80)}' is neither" if entry else "a name is missing"
            raise BadValue(
                f"on {shorten(text, 120)}: expected names of nodes and {LABEL_PREFIX}NAME, with commas between them "
                f"(example: {EXAMPLE}); {what}"
            )
    if (twice := _first_repeated(entries)) is not None:
        raise BadValue(f"on {shorten(text, 120)}: {twice} appears a second time")
    if len(entries) > MAX_ENTRIES:
        raise BadValue(f"on: {len(entries)} nodes; a list may have at most {MAX_ENTRIES}: use a label")
    return Nodes(tuple(entries))


def _first_repeated(entries: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for entry in entries:
        if entry in seen:
            return entry
        seen.add(entry)
    return None


def read_nodes(name: str, text: str, port_named: object) -> Nodes | None:
    """Read the value of the option `on`. An empty text: None, all nodes. Raises BadValue."""
    return parse_nodes(text) if text.strip() else None
