"""The key that maglev and chash hash: the client's address, or a template."""

from __future__ import annotations

import pytest
from attrs import evolve

from ktcpvs.errors import BadValue
from ktcpvs.interfaces import IExplains, IScheduler
from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.chash import CHash
from ktcpvs.schedulers.http import PHTTP
from ktcpvs.schedulers.maglev import Maglev
from ktcpvs.schedulers.tcp import TCP

BOTH = pytest.mark.parametrize("plugin", [Maglev(), CHash()], ids=["maglev", "chash"])
REAL = tuple(RealServer(Inet(f"10.0.{number}.1", 80)) for number in range(5))
USER = 'key "{header.x-user}"'


def bound(plugin: Maglev | CHash, options: str = USER) -> IScheduler:
    config = VirtualService("s", servers=REAL, scheduler="phttp", balance=f"{plugin.name} {options}")
    return PHTTP().bind(ServiceView.of(config, {one.address: Destination(one.address) for one in REAL}, plugin), None)


def server(scheduler: IScheduler, client: str, user: str = "") -> Destination:
    lines = f"Host: h\r\nX-User: {user}\r\n" if user else "Host: h\r\n"
    choice = scheduler.choose(Request(client, b"GET", b"/", b"/", lines.encode()))
    assert isinstance(choice, Choice)
    return choice.destination


@BOTH
def test_a_user_has_a_server_from_wherever_he_comes(plugin: Maglev | CHash) -> None:
    scheduler = bound(plugin)
    for user in ("ann", "bob", "x" * 500):
        assert len({server(scheduler, f"192.0.2.{number}", user) for number in range(30)}) == 1
    assert len({server(scheduler, "192.0.2.1", f"user{number}") for number in range(60)}) == 5


@BOTH
def test_without_the_field_the_address_counts(plugin: Maglev | CHash) -> None:
    scheduler, by_address = bound(plugin), bound(plugin, "")
    for number in range(30):
        client = f"192.0.2.{number}"
        assert server(scheduler, client).address == server(by_address, client).address


@BOTH
def test_an_explanation_names_the_key(plugin: Maglev | CHash) -> None:
    scheduler = IExplains(bound(plugin))
    assert "{header.x-user} is 'ann'" in " ".join(
        scheduler.explain(Request("192.0.2.1", lines=b"X-User: ann\r\n")).notes
    )
    notes = " ".join(scheduler.explain(Request("192.0.2.1")).notes)
    assert "{header.x-user} is empty, so the client's address counts: the client's address is '192.0.2.1'" in notes


@BOTH
def test_a_key_that_nobody_reads_is_refused(plugin: Maglev | CHash) -> None:
    named = f"{plugin.name} {USER}"
    config = VirtualService("s", servers=REAL, scheduler="tcp", balance=named)
    view = ServiceView.of(config, {one.address: Destination(one.address) for one in REAL}, plugin)
    with pytest.raises(
        BadValue, match="of a balance: scheduler tcp reads no requests; http, hhttp, phttp and chttp do"
    ):
        TCP().bind(view, None)
    direct = evolve(config, scheduler=named, balance="wlc")
    options = {"key": bound_option(plugin)}
    with pytest.raises(
        BadValue, match=f"scheduler {plugin.name} chooses before it reads a request; with 'scheduler = phttp'"
    ):
        plugin.bind(ServiceView(direct, view.destinations, options=options), None)


def bound_option(plugin: Maglev | CHash) -> object:
    return plugin.options["key"].read("{header.x-user}")
