"""The option `sticky`: equal values go to equal servers, and others as balance says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ktcpvs.errors import BadValue
from ktcpvs.model.address import Inet, no_port_names
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Considered, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.model.sticky import Sticky, parse_sticky, read_sticky
from ktcpvs.schedulers.content import BoundRules
from ktcpvs.schedulers.http import HTTP, PHTTP
from ktcpvs.schedulers.rr import RR
from ktcpvs.schedulers.wlc import WLC

ADDRESSES = tuple(Inet(f"10.0.{n}.1", 80) for n in range(1, 6))


class Service:
    """A service with five servers, bound again by each edit."""

    def __init__(self, sticky: str, *rules: Rule, balance: Any = None) -> None:
        self.known = {address: Destination(address) for address in ADDRESSES}
        self._balance = balance or RR()
        self.bound: Any = None
        self.edit(sticky, *rules)

    def edit(self, sticky: str, *rules: Rule, without: int = 0) -> None:
        servers = tuple(RealServer(address) for address in ADDRESSES[without:])
        config = VirtualService("s", scheduler="phttp", servers=servers, rules=rules, sticky=sticky)
        self.bound = PHTTP().bind(ServiceView.of(config, self.known, self._balance), self.bound)

    def ask(self, path: bytes = b"/", lines: bytes = b"", tried: set[Destination] | None = None) -> Destination:
        choice = self.bound.choose(Request("192.0.2.1", b"GET", path, path, lines, tried or set()))
        found: Destination = choice.destination
        return found


def user(number: int) -> bytes:
    return b"Host: h\r\nx-USER:  u%d \r\n" % number


def test_a_header_keeps_its_server() -> None:
    service = Service("header X-User")
    homes = {number: service.ask(lines=user(number)) for number in range(500)}
    assert all(count > 50 for count in Counter(homes.values()).values())
    assert len(set(homes.values())) == 5
    assert all(service.ask(b"/other", user(number)) is home for number, home in homes.items())
    service.edit("header X-User", without=1)
    moved = [number for number, home in homes.items() if service.ask(lines=user(number)) is not home]
    assert {homes[number] for number in moved} == {service.known[ADDRESSES[0]]}


def test_an_argument_keeps_its_server() -> None:
    service = Service("query id")
    first = service.ask(b"/a?x=1&id=j%6Fe")
    assert all(service.ask(path) is first for path in (b"/?id=joe", b"/b?id=joe&id=ann", b"/c?y&id=joe") * 3)
    assert len({service.ask(b"/?id=%d" % number) for number in range(100)}) == 5


@pytest.mark.parametrize(("path", "lines"), [(b"/", b""), (b"/?ID=1", b""), (b"/?id=", b""), (b"/?id", b"id: 3\r\n")])
def test_without_it_balance_chooses(path: bytes, lines: bytes) -> None:
    service = Service("query id")
    assert [service.ask(path, lines) for _ in range(5)] == list(service.known.values())


def test_a_server_that_has_failed_is_passed_over() -> None:
    service = Service("header X-User")
    first = service.ask(lines=user(1))
    second = service.ask(lines=user(1), tried={first})
    assert second is not first
    assert service.ask(lines=user(1), tried={first}) is second


def test_an_edit_of_the_option_binds_the_rules_again() -> None:
    rules = Rule("/a", ADDRESSES), Rule(".*", ADDRESSES[:2])
    service = Service("off", *rules)
    assert len({service.ask(b"/a", user(1)) for _ in range(5)}) == 5
    service.edit("header X-User", *rules)
    assert len({service.ask(b"/a", user(1)) for _ in range(5)}) == 1
    service.edit("off", *rules)
    assert len({service.ask(b"/a", user(1)) for _ in range(5)}) == 5


def test_loads_are_watched_for_requests_without_it() -> None:
    many = {Inet(f"10.1.{n // 250}.{n % 250}", 80) for n in range(140)}
    config = VirtualService("s", servers=tuple(RealServer(one) for one in many), sticky="header X-User")
    known = {one: Destination(one) for one in many}
    bound: BoundRules = HTTP().bind(ServiceView.of(config, known, WLC()), None)  # type: ignore[assignment]
    assert {destination for destination, _ in bound.watched()} == set(known.values())


def test_it_is_explained() -> None:
    service = Service("header X-User")

    def notes(lines: bytes) -> tuple[str, ...]:
        considered: Considered = service.bound.explain(Request("192.0.2.1", b"GET", b"/", b"/", lines))
        return considered.notes

    assert notes(user(7))[1:] == ("header X-User is 'u7', which is hashed",)
    assert notes(b"")[1:] == ("the request has no header X-User, so balance chooses",)


@pytest.mark.parametrize(
    ("text", "sticky", "written"),
    [
        ("off", None, "off"),
        ("HEADER X-User", Sticky("header", "X-User"), "header X-User"),
        ('query "a#b"', Sticky("query", "a#b"), "query a#b"),
        ('query "#b"', Sticky("query", "#b"), 'query "#b"'),
    ],
)
def test_forms(text: str, sticky: Sticky | None, written: str) -> None:
    assert parse_sticky(text) == sticky
    assert read_sticky("sticky", text, no_port_names) == written
    assert parse_sticky(written) == sticky


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "sticky = : expected off, header NAME or query NAME"),
        ("on", "sticky = on: expected off, header NAME or query NAME"),
        ("header", "sticky = header: expected off, header NAME or query NAME"),
        ("header a b", "sticky = header a b: expected off"),
        ('header "a b"', "sticky = header a b: expected the name of a header field"),
        ('query "a b"', "sticky = query a b: expected the name of an argument in the query"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_sticky(text)
    assert str(caught.value).startswith(why)
