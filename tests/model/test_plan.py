"""Plans: the difference between two tables, as steps for the director."""

from __future__ import annotations

import pytest
from attrs import evolve
from examples import examples
from hypothesis import given

from ktcpvs.model.plan import Plan, plan
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from tests.model.strategies import tables

WEB, MAIL = VirtualService("web"), VirtualService("mail")
WEB2 = evolve(WEB, scheduler="wlc")
REKEYED = Settings(cookie_key="a-new-key")
NOTHING = Plan((), (), (), False)


def table(*services, running="", **others):
    return Table.of(services, running=frozenset(running.split()), **others)


@pytest.mark.parametrize(
    ("old", "new", "work"),
    [
        (table(), table(), NOTHING),
        (table(WEB), table(WEB2), NOTHING),
        (table(), table(WEB), NOTHING),
        (table(WEB), table(), NOTHING),
        (table(WEB), table(WEB, running="web"), Plan((WEB,), (), (), False)),
        (table(WEB), table(WEB2, running="web"), Plan((WEB2,), (), (), False)),
        (table(WEB, running="web"), table(WEB), Plan((), (), (WEB,), False)),
        (table(WEB, running="web"), table(WEB2), Plan((), (), (WEB,), False)),
        (table(WEB, running="web"), table(), Plan((), (), (WEB,), False)),
        (table(WEB, running="web"), table(WEB2, running="web"), Plan((), ((WEB, WEB2),), (), False)),
        (table(WEB, running="web"), table(evolve(WEB2, scheduler="http"), running="web"), NOTHING),
        (table(WEB, MAIL, running="web mail"), table(MAIL, WEB, running="web mail"), NOTHING),
        (table(WEB, MAIL), table(MAIL, WEB, running="web mail"), Plan((MAIL, WEB), (), (), False)),
        (
            table(WEB, MAIL, running="web"),
            table(WEB, MAIL, running="web", settings=REKEYED),
            Plan((), ((WEB, WEB),), (), True),
        ),
        (
            table(WEB, running="web", settings=REKEYED),
            table(WEB2, MAIL, running="web mail"),
            Plan((MAIL,), ((WEB, WEB2),), (), True),
        ),
        (
            table(WEB, running="web", settings=REKEYED),
            table(WEB, running="web", settings=evolve(REKEYED, debug_level=1)),
            Plan((), (), (), True),
        ),
        (table(WEB, running="web"), table(WEB, settings=REKEYED), Plan((), (), (WEB,), True)),
        (
            table(WEB, running="web"),
            table(WEB2, MAIL, running="mail", settings=Settings(debug_level=1)),
            Plan((MAIL,), (), (WEB,), True),
        ),
    ],
)
def test_what_has_to_be_done(old, new, work):
    assert plan(old, new) == work


@examples(40)
@given(tables(max_services=3), tables(max_services=3))
def test_the_plan_carried_out_gives_what_was_asked_for(old, new):
    work = plan(old, new)
    live = {ident: old.services[ident] for ident in old.running}
    for service in work.stop:
        assert live.pop(service.ident) == service
    rekeyed = old.settings.cookie_key != new.settings.cookie_key
    for before, after in work.change:
        assert live[before.ident] == before
        assert before != after or rekeyed
        live[after.ident] = after
    for service in work.start:
        assert service.ident not in live
        live[service.ident] = service
    assert live == {ident: new.services[ident] for ident in new.running}
    assert work.settings is (old.settings != new.settings)
    if rekeyed:
        assert {before.ident for before, _ in work.change} == old.running & new.running
    assert plan(new, new) == NOTHING
    rebound = plan(new, new, is_rekeyed=True)
    assert {service.ident for _, service in rebound.change} == new.running
    assert (rebound.start, rebound.stop, rebound.settings) == ((), (), False)
