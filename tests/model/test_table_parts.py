"""Which edits commute."""

from __future__ import annotations

import pytest
from examples import examples
from hypothesis import given
from model.strategies import tables

from ktcpvs.model.address import Inet
from ktcpvs.model.edits import (
    AddRule,
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    Edit,
    EditRule,
    EditServer,
    EditService,
    Set,
    StartService,
    StopService,
)
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.model.table_parts import changed_parts, conflicting_parts

A, B, C = Inet("a", 1), Inet("b", 1), Inet("c", 1)
BASE = Table.of(
    [
        VirtualService("web", servers=(RealServer(A), RealServer(B)), rules=(Rule("/a", (A,)), Rule("/b", (B,)))),
        VirtualService("mail", listen=(Inet("0.0.0.0", 25),), servers=(RealServer(A),)),
    ],
    running=frozenset({"web"}),
)


@pytest.mark.parametrize(
    ("mine", "other", "commute"),
    [
        (EditServer("web", A, 5), EditServer("web", B, 6), True),
        (EditServer("web", A, 5), EditServer("web", A, 6), False),
        (EditServer("web", A, 5), EditServer("mail", A, 6), True),
        (AddServer("web", C), EditServer("web", B, 6), True),
        (AddServer("web", C), AddServer("web", C), False),
        (EditService("web", {"scheduler": "hhttp"}), EditService("web", {"maxclients": 5}), True),
        (EditService("web", {"scheduler": "hhttp"}), EditService("web", {"scheduler": "phttp"}), False),
        (EditService("web", {"scheduler": "hhttp"}), AddServer("web", C), True),
        (EditRule("web", "/a", "/x"), EditRule("web", "/b", "/y"), False),  # their identities change
        (AddRule("web", "/c", A), AddRule("web", "/d", B), False),  # the order decides
        (AddRule("web", "/a", B), AddRule("web", "/b", A), True),
        (AddService("new"), AddService("other"), True),
        (AddService("new"), AddService("new"), False),
        (StopService("web"), EditServer("web", A, 0), True),
        (StopService("web"), StartService("mail"), True),
        (DeleteService("mail"), EditServer("mail", A, 5), False),
        (EditServer("mail", A, 5), DeleteService("mail"), False),
        (StartService("mail"), DeleteService("mail"), False),
        (Set({"max_backlog": "5"}), Set({"read_timeout": "5"}), True),
        (Set({"max_backlog": "5"}), Set({"max_backlog": "6"}), False),
        (Set({"max_backlog": "5"}), AddService("new"), True),
    ],
)
def test_two_edits_at_the_same_time(mine: Edit, other: Edit, commute: bool) -> None:
    found = conflicting_parts(changed_parts(BASE, mine.apply(BASE)), changed_parts(BASE, other.apply(BASE)))
    assert (not found) is commute
    if commute:
        one, two = mine.apply(other.apply(BASE)), other.apply(mine.apply(BASE))
        assert changed_parts(one, two) == set()


@examples(25)
@given(tables(), tables())
def test_equal_tables_have_no_changed_parts(one: Table, other: Table) -> None:
    assert changed_parts(one, one) == set()
    parts = changed_parts(one, other)
    assert bool(parts) or list(one) == list(other) or set(one.services) == set(other.services)
    assert (conflicting_parts(parts, parts) == parts) is True


def test_deleting_a_server_that_another_edit_changes() -> None:
    base = Table.of([VirtualService("mail", servers=(RealServer(A), RealServer(B)))])
    deleted = changed_parts(base, DeleteServer("mail", A).apply(base))
    assert conflicting_parts(deleted, changed_parts(base, EditServer("mail", A, 7).apply(base)))
    assert not conflicting_parts(deleted, changed_parts(base, EditServer("mail", B, 7).apply(base)))
