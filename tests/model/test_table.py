"""The table: services in their order, and which of them run."""

from __future__ import annotations

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from examples import examples
from hypothesis import given

from ktcpvs.errors import NoSuchService, ServiceExists
from ktcpvs.model.describe import configuration
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from tests.model.strategies import assert_sound, tables

WEB, MAIL = VirtualService("web"), VirtualService("mail", scheduler="wlc")


def test_an_empty_table():
    assert list(Table()) == []
    assert Table().running == frozenset()
    assert Table().settings == Settings()


def test_services_keep_their_order_and_the_order_counts():
    assert list(Table.of([WEB, MAIL])) == [WEB, MAIL]
    assert Table.of([WEB, MAIL]) != Table.of([MAIL, WEB])
    assert Table.of([WEB, MAIL]) == Table.of([WEB, MAIL])
    assert hash(Table.of([WEB, MAIL])) == hash(Table.of([WEB, MAIL]))


def test_what_runs_and_what_is_set_counts_too():
    assert Table.of([WEB], running=frozenset(("web",))) != Table.of([WEB])
    assert Table.of([WEB], settings=Settings(debug_level=1)) != Table.of([WEB])


def test_two_services_cannot_have_one_ident():
    with pytest.raises(ServiceExists):
        Table.of([WEB, evolve(WEB, scheduler="wlc")])


def test_a_changed_service_keeps_its_place_and_a_new_one_stands_last():
    table = Table.of([WEB, MAIL])
    assert list(table.with_service(evolve(WEB, scheduler="wlc"))) == [evolve(WEB, scheduler="wlc"), MAIL]
    assert list(table.with_service(VirtualService("a"))) == [WEB, MAIL, VirtualService("a")]
    assert table == Table.of([WEB, MAIL])


def test_a_service_that_goes_runs_no_longer():
    table = Table.of([WEB, MAIL], running=frozenset(("web", "mail")))
    assert table.without_service("web") == Table.of([MAIL], running=frozenset(("mail",)))
    assert list(table) == [WEB, MAIL]


def test_a_service_is_found_or_its_absence_is_said():
    assert Table.of([WEB]).service("web") is WEB
    with pytest.raises(NoSuchService) as refusal:
        Table.of([WEB]).service("Web")
    assert str(refusal.value) == "no service Web; did you mean 'web'?"


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Table().running = frozenset()


@examples(35)
@given(tables())
def test_a_table_that_can_be_made_is_sound_and_is_described_as_plain_data(table):
    assert_sound(table)
    services, values = configuration(table)
    assert [service["ident"] for service in services] == list(table.services)
    assert Settings(**values) == table.settings

    def plain(value):
        if isinstance(value, dict):
            return all(type(key) is str and plain(inner) for key, inner in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, bool)

    assert plain([services, values])
