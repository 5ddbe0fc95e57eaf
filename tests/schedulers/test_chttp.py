"""chttp: which clients stay at their servers, and what a forged cookie cannot do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.model.service import VirtualService
from ktcpvs.schedulers.chttp import CHTTP, BoundCHTTP
from ktcpvs.schedulers.wlc import WLC

KEY = b"a key"
A, B, C = (Inet(f"10.0.0.{number}", 80) for number in (1, 2, 3))
ALL = (Rule(".*", (A, B, C)),)


class Service:
    """A service with these rules, bound; its destinations by address."""

    def __init__(self, *rules: Rule, key: bytes = KEY, previous: Service | None = None, **options: Any) -> None:
        """rules: none means one for all servers."""
        servers = tuple(RealServer(address) for address in (A, B, C))
        options = {"rules": rules or ALL, **options}
        config = VirtualService("s", scheduler="chttp", servers=servers, **options)
        self.servers = previous.servers if previous else {address: Destination(address) for address in (A, B, C)}
        view = ServiceView.of(config, self.servers, WLC(), key)
        self.bound: BoundCHTTP = CHTTP().bind(view, previous.bound if previous else None)

    def ask(self, cookie: bytes | None = None, path: bytes = b"/", *tried: Inet, lines: bytes = b"") -> Choice:
        if cookie is not None:
            lines += b"Cookie: %b\r\n" % cookie
        choice = self.bound.choose(
            Request("192.0.2.1", b"GET", path, path, lines, {self.servers[address] for address in tried})
        )
        assert isinstance(choice, Choice)
        return choice


def cookie_of(choice: Choice) -> bytes:
    """Return the Cookie field that a browser sends from now on."""
    found = re.fullmatch(
        rb"Set-Cookie: (KTCPVS_SID=[0-9a-f.]+); Path=/; HttpOnly; SameSite=Lax\r\n", choice.answer_lines
    )
    assert found is not None, choice.answer_lines
    return found[1]


def test_a_client_meets_its_server_again_whatever_the_load() -> None:
    service = Service()
    first = service.ask()
    first.destination.active = 100
    cookie = cookie_of(first)
    for _ in range(5):
        again = service.ask(cookie)
        assert again.destination is first.destination
        assert again.answer_lines == b""
        assert again.reason == "rule 1, by the client's cookie"
        assert again.waits
    assert service.ask().destination is not first.destination


def test_the_name_of_a_server_needs_the_key() -> None:
    first = Service().ask()
    other = Service(key=b"another key").ask(cookie_of(first))
    assert other.answer_lines, "it is a foreign cookie"
    same = Service().ask(cookie_of(first))
    assert (same.destination.address, same.answer_lines) == (first.destination.address, b"")
    assert b"10.0.0" not in cookie_of(first)


@pytest.mark.parametrize(
    "cookie",
    [
        b"", b"=", b"a=1", b"KTCPVS_SID", b"KTCPVS_SID=", b"KTCPVS_SID=10.0.0.1:80", b"KTCPVS_SID=" + b"0" * 32,
        b"ktcpvs_sid=%b", b"XKTCPVS_SID=%b", b"KTCPVS_SIDX=%b", b"a=KTCPVS_SID=%b",
        b"KTCPVS_SID=%bx", b"KTCPVS_SID=x%b",
        b"KTCPVS_SID=%b0", b"KTCPVS_SID=..........%b",
    ],
)  # fmt: skip
def test_what_is_no_cookie_of_ours_is_none(cookie: bytes) -> None:
    service = Service()
    good = cookie_of(service.ask()).partition(b"=")[2]
    assert service.ask(cookie.replace(b"%b", good)).answer_lines


@pytest.mark.parametrize(
    "cookie",
    [
        b"%b", b" %b ", b"a=1; %b", b"a=1;%b;b=2", b"%b; %b", b"KTCPVS_SID=old; %b", b'KTCPVS_SID="%v"',
        b"KTCPVS_SID=unknown.%v", b"KTCPVS_SID=%v.unknown", b";;%b;;",
    ],
)  # fmt: skip
def test_wherever_the_good_one_stands_it_is_found(cookie: bytes) -> None:
    service = Service()
    first = service.ask()
    good = cookie_of(first)
    service.ask()
    again = service.ask(cookie.replace(b"%b", good).replace(b"%v", good.partition(b"=")[2]))
    assert (again.destination, again.answer_lines) == (first.destination, b"")


def test_a_quiesced_server_keeps_its_sessions_and_gets_no_new_ones() -> None:
    service = Service()
    first = service.ask()
    first.destination.weight = 0
    assert service.ask(cookie_of(first)).destination is first.destination
    assert all(service.ask().destination is not first.destination for _ in range(6))


def test_a_dead_server_loses_its_sessions_and_the_cookie_changes() -> None:
    service = Service()
    first = service.ask()
    dead = first.destination.address
    other = service.ask(cookie_of(first), b"/", dead)
    assert other.destination.address != dead
    assert cookie_of(other) != cookie_of(first)
    assert service.ask(cookie_of(other)).destination is other.destination


def test_a_server_taken_out_of_the_rule_loses_them_too() -> None:
    service = Service()
    first = service.ask()
    gone = first.destination.address
    left = Rule(".*", tuple(address for address in (A, B, C) if address != gone))
    after = Service(left, previous=service)
    other = after.ask(cookie_of(first))
    assert other.destination.address != gone
    assert cookie_of(other) != cookie_of(first)


def test_rules_with_servers_of_their_own_keep_a_session_each() -> None:
    service = Service(Rule("^/a", (A,)), Rule(".*", (B, C)))
    at_a = service.ask(None, b"/a")
    elsewhere = service.ask(cookie_of(at_a), b"/")
    cookie = cookie_of(elsewhere)
    assert cookie.count(b".") == 1
    for _ in range(4):
        for path, expected in ((b"/a", at_a), (b"/", elsewhere)):
            again = service.ask(cookie, path)
            assert (again.destination, again.answer_lines) == (expected.destination, b"")


def test_sessions_stay_as_the_first_rule_comes_and_the_last_one_goes() -> None:
    service = Service(rules=())
    first = service.ask()
    assert first.reason == "no rules, fewest connections for its weight among 3 servers, a new session"
    again = service.ask(cookie_of(first))
    assert (again.destination, again.answer_lines) == (first.destination, b"")
    assert again.reason == "no rules, by the client's cookie"
    for rules in (ALL, ()):
        service = Service(rules=rules, previous=service)
        again = service.ask(cookie_of(first))
        assert (again.destination, again.answer_lines) == (first.destination, b"")


def test_a_rule_that_hashes_does_so_where_no_cookie_speaks() -> None:
    service = Service(Rule("^/(.*)", (A, B, C), 1))
    homes = {service.ask(None, b"/%d" % number).destination for number in range(50)}
    assert len(homes) == 3
    first = service.ask(None, b"/7")
    assert service.ask(None, b"/7").destination is first.destination
    assert service.ask(cookie_of(first), b"/8").destination is first.destination


def test_secure_is_an_option() -> None:
    assert Service(cookie_secure="on").ask().answer_lines.endswith(b"; SameSite=Lax; Secure\r\n")


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ({"cookie_domain": "shop.example"}, b"Path=/; Domain=shop.example; HttpOnly; SameSite=Lax"),
        ({"cookie_max_age": 3600}, b"Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"),
        ({"cookie_samesite": "strict"}, b"Path=/; HttpOnly; SameSite=Strict"),
        ({"cookie_samesite": "off"}, b"Path=/; HttpOnly"),
        (
            {"cookie_samesite": "none", "cookie_secure": "on", "cookie_max_age": 1, "cookie_domain": "a"},
            b"Path=/; Domain=a; Max-Age=1; HttpOnly; SameSite=None; Secure",
        ),
    ],
)
def test_attributes_of_the_cookie(options: dict[str, Any], attributes: bytes) -> None:
    line = Service(**options).ask().answer_lines
    assert line.startswith(b"Set-Cookie: KTCPVS_SID=")
    assert line.partition(b"; ")[2] == attributes + b"\r\n"


def test_a_name_of_its_own() -> None:
    service = Service(cookie_name="sid-1")
    first = service.ask()
    line = first.answer_lines
    assert line.startswith(b"Set-Cookie: sid-1=")
    cookie = line.removeprefix(b"Set-Cookie: ").partition(b";")[0]
    again = service.ask(b"a=1; " + cookie)
    assert (again.destination, again.lines) == (first.destination, b"Cookie: a=1\r\n")
    assert service.ask(cookie.replace(b"sid-1", b"KTCPVS_SID")).answer_lines, "the usual name means nothing here"


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        (b"Host: h\r\nCookie: %b\r\nA: b\r\n", b"Host: h\r\nA: b\r\n"),
        (b"COOKIE: a=1; %b\r\n", b"COOKIE: a=1\r\n"),
        (b"Cookie: %b; a=1\r\n", b"Cookie: a=1\r\n"),
        (b"cookie:a=1;%b;b=2\r\n", b"cookie: a=1;b=2\r\n"),
        (b"Cookie: a=1\r\nCookie: %b\r\n", b"Cookie: a=1\r\n"),
        (b"Cookie: KTCPVS_SID=forged; b=2\r\n", b"Cookie: b=2\r\n"),
        (b"Cookie: a=1; b=%b\r\n", None),
        (b"X-Cookie: %b\r\n", None),
        (b"Cookie: a=1\r\n", None),
        (b"Referer: /?KTCPVS_SID=1\r\n", None),
    ],
)
def test_the_server_does_not_see_it(lines: bytes, seen: bytes | None) -> None:
    service = Service()
    lines = lines.replace(b"%b", cookie_of(service.ask()))
    assert service.ask(lines=lines).lines == seen


_ODD = st.text(st.sampled_from('KTCPVS_SID=;. \t"a1,é'), max_size=40).map(lambda text: text.encode("latin-1"))


@examples(300)
@given(st.lists(_ODD, min_size=1, max_size=3), st.lists(_ODD, max_size=2))
def test_whatever_the_cookies_say_a_choice_is_made_and_other_lines_stay(
    cookies: list[bytes], others: list[bytes]
) -> None:
    service = Service()
    rest = b"".join(b"X: %b\r\n" % other for other in others)
    lines = b"".join(b"Cookie: %b\r\n" % cookie for cookie in cookies) + rest
    choice = service.ask(lines=lines)
    assert choice.destination in service.servers.values()
    seen = choice.lines if choice.lines is not None else lines
    assert seen.endswith(rest)
    assert not re.search(rb"(?im)^cookie:(?:[^\n]*;)?[ \t]*KTCPVS_SID=", seen)


def test_a_balance_that_takes_its_time() -> None:
    """A rule's own scheduler may be a plugin that waits."""
    service = Service()
    inner = service.bound.choose_within

    async def later(place: int, request: Request) -> Any:
        return inner(place, request)

    service.bound.choose_within = later  # type: ignore[method-assign]
    answer = service.bound.choose(Request("192.0.2.1", b"GET", b"/", b"/", b""))
    with pytest.raises(StopIteration) as end:
        answer.send(None)
    assert cookie_of(end.value.value)
