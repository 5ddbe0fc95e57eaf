"""Adopting what another node of a cluster has changed."""

from __future__ import annotations

from examples import examples
from hypothesis import given
from model.strategies import tables

from ktcpvs.model.adopt import Adopt
from ktcpvs.model.table import Table
from ktcpvs.workers.adopt_commands import adopt_commands, read_adopt

FEW = examples(12)
"""Two tables are large examples."""


@FEW
@given(tables(), tables())
def test_it_turns_one_table_into_the_other(old: Table, new: Table) -> None:
    adopt = Adopt.between(old, new)
    assert (adopt is None) is (old == new)
    if adopt is not None:
        assert adopt.apply(old) == new


@FEW
@given(tables(), tables())
def test_it_can_be_taken_apart(old: Table, new: Table) -> None:
    adopt = Adopt.between(old, new)
    table = old
    for ident in adopt.services if adopt is not None else ():
        assert adopt is not None
        table = adopt.restricted_to(frozenset({ident})).apply(table)
    assert dict(table.services) == dict(new.services)
    assert table.running == new.running
    assert table.settings == old.settings


@FEW
@given(tables(), tables())
def test_a_worker_reads_what_its_supervisor_has_sent(old: Table, new: Table) -> None:
    adopt = Adopt.between(old, new)
    if adopt is not None:
        *uploads, _ = adopt_commands(adopt)
        assert uploads[0][1]["first"]
        assert read_adopt(b"".join(arguments["page"] for _, arguments in uploads)) == adopt


@FEW
@given(tables())
def test_equal_rules_are_the_same_objects_again(table: Table) -> None:
    """So that their schedulers need not be bound again."""
    everything = Adopt(dict(table.services), table.running)
    *uploads, _ = adopt_commands(everything)
    read = read_adopt(b"".join(arguments["page"] for _, arguments in uploads))
    reused = read.reusing(table)
    assert reused == read
    for ident, service in table.services.items():
        found = reused.services[ident]
        assert found is not None
        known = {id(rule) for rule in service.rules}
        assert all(id(rule) in known for rule in found.rules)
