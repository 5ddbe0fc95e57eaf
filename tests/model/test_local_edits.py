"""Edits that hold on one node only: on top of each table of the cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from model.strategies import edits, tables

from ktcpvs.errors import BadValue, Busy, NoSuchServer, Refusal
from ktcpvs.model.address import Inet
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.edits import (
    AddServer,
    Confirm,
    Drain,
    Edit,
    EditServer,
    EndLocal,
    Flush,
    Load,
    Ready,
    ReloadCertificates,
    ReloadSchedulers,
    RenewCertificate,
    Set,
    StartService,
    StopService,
    Unload,
)
from ktcpvs.model.local_edits import MAX_LOCAL_EDITS, Local, LocalEdit, localized, settled, without_forced
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table

A, B = Inet("a", 1), Inet("b", 1)
WEB = VirtualService("web", servers=(RealServer(A), RealServer(B)))
MAIL = VirtualService("mail", servers=(RealServer(A),))
BOTH = Table.of([WEB, MAIL])


def weights(table: Table, ident: str = "web") -> list[int]:
    return [server.weight for server in localized(table).services[ident].servers]


@given(tables(), edits())
def test_a_local_edit_does_here_what_it_would_do_everywhere(table: Table, edit: Edit) -> None:
    try:
        local = Local(edit, is_forced=True).apply(table)
    except Refusal:
        return
    assert (local.services, local.running, local.settings) == (table.services, table.running, table.settings)
    assert localized(local) == edit.apply(table)
    assert EndLocal().apply(local) == table


def test_later_edits_of_other_parts_are_merged_under_it() -> None:
    table = Local(EditServer("web", A, 0)).apply(BOTH)
    assert weights(table) == [0, 1]
    table = EditServer("web", B, 7).apply(table)
    assert weights(table) == [0, 7]
    table = AddServer("web", Inet("c", 1), 3).apply(table)
    assert weights(table) == [0, 7, 3]


def test_a_later_edit_of_the_same_part_waits_for_its_end() -> None:
    table = EditServer("web", A, 9).apply(Local(EditServer("web", A, 0)).apply(BOTH))
    assert weights(table) == [0, 1]
    assert weights(EndLocal("web").apply(table)) == [9, 1]


@pytest.mark.parametrize("start", ["nothing", "all"])
def test_a_load_leaves_local_edits_in_force(start: str) -> None:
    table = Load({"web": WEB}, start=start).apply(Local(EditServer("web", A, 0)).apply(BOTH))
    assert weights(table) == [0, 1]


def test_services_stop_here_only() -> None:
    table = Local(StopService("web")).apply(StartService(None).apply(BOTH))
    assert table.running == {"web", "mail"}
    assert localized(table).running == {"mail"}


def test_what_cannot_be_carried_out_any_more_is_dropped_with_its_reason() -> None:
    table = Local(Set({"read_timeout": "7"})).apply(Local(EditServer("web", A, 0)).apply(BOTH))
    kept, dropped = settled(Load({"mail": MAIL}).apply(table))
    assert dropped == [(LocalEdit(EditServer("web", A, 0)), "no service web")]
    assert [one.edit for one in kept.local] == [Set({"read_timeout": "7"})]
    assert settled(kept) == (kept, [])


def test_what_is_superseded_is_forgotten() -> None:
    table = Local(Drain(A)).apply(BOTH)
    table = Local(EditServer("web", A, 3)).apply(table)
    table = Local(EditServer("web", A, 0)).apply(table)
    assert [one.edit for one in table.local] == [Drain(A), EditServer("web", A, 0)]
    assert [one.edit for one in Local(Ready(A)).apply(table).local] == [EditServer("web", A, 0), Ready(A)]


def test_edits_of_one_service_end_alone() -> None:
    table = Local(EditServer("mail", A, 0)).apply(Local(EditServer("web", A, 0)).apply(BOTH))
    table = EndLocal("web").apply(table)
    assert [one.edit for one in table.local] == [EditServer("mail", A, 0)]
    with pytest.raises(BadValue, match="no edit of service web holds on this node only"):
        EndLocal("web").apply(table)
    with pytest.raises(BadValue, match="no edit holds on this node only"):
        EndLocal().apply(BOTH)


def test_a_refused_edit_is_refused_here_too() -> None:
    with pytest.raises(NoSuchServer):
        Local(EditServer("web", Inet("x", 1), 0)).apply(BOTH)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Load({}), "change parts of it with --local"),
        (Flush(), "change parts of it with --local"),
        (Unload(), "leave out --local"),
        (RenewCertificate("a.example"), "leave out --local"),
        (ReloadCertificates(), "leave out --local"),
        (ReloadSchedulers(), "leave out --local"),
        (EndLocal(), "leave out --local"),
        (Confirm(), "concerns all nodes: leave out --local"),
        (Load({}, confirm=60), "leave out --confirm"),
    ],
)
def test_edits_that_cannot_be_local(edit: Edit, why: str) -> None:
    with pytest.raises(BadValue, match=why):
        Local(edit).apply(BOTH)


def test_their_number_is_limited() -> None:
    table = BOTH
    for number in range(MAX_LOCAL_EDITS):
        table = Local(AddServer("web", Inet("c", 100 + number))).apply(table)
    assert len(table.local) == MAX_LOCAL_EDITS
    with pytest.raises(Busy, match="100 edits hold on this node only"):
        Local(AddServer("web", Inet("c", 99))).apply(table)


def test_forced_ones_end_alone() -> None:
    table = Local(Load({"web": WEB}), is_forced=True).apply(Local(EditServer("web", A, 0)).apply(BOTH))
    assert list(localized(table).services) == ["web"]
    assert [one.edit for one in without_forced(table).local] == [EditServer("web", A, 0)]


def test_adoption_takes_local_edits_along() -> None:
    table = Local(EditServer("web", A, 0)).apply(BOTH)
    adopt = Adopt.between(BOTH, table)
    assert adopt == Adopt({}, local=table.local)
    assert adopt.apply(BOTH) == table
    assert Adopt({}).apply(table) == table
