"""Tests in a configuration: their syntax, and that they are written as they were read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadValue
from ktcpvs.model.address import parse_address
from ktcpvs.model.assumed_request import LOCAL_CLIENT
from ktcpvs.model.describe import configuration
from ktcpvs.model.expectation import OUTCOMES, REDIRECT, RESPOND, Expectation
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table

A, B = (parse_address(f"10.0.0.{number}:80") for number in (1, 2))

LETTERS = st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_categories=("C", "Z"))
WORDS = st.text(LETTERS, min_size=1, max_size=12)
REQUESTS = st.builds(lambda method, path: f"{method} /{path}", st.sampled_from(("GET", "POST")), WORDS)
LINES = st.builds(lambda name, value: f"{name}: {value}", st.sampled_from(("Host", "X-A")), WORDS)
HEADERS = st.lists(LINES, max_size=2)
CLIENTS = st.sampled_from((LOCAL_CLIENT, "192.0.2.7", "2001:db8::1"))


@st.composite
def expectations(draw: st.DrawFn) -> Expectation:
    outcome = draw(st.sampled_from(("", *OUTCOMES)))
    servers = () if outcome else tuple(draw(st.lists(st.sampled_from((A, B)), min_size=1, max_size=2, unique=True)))
    port = draw(st.sampled_from((None, 1, 65535)))
    location = draw(st.sampled_from(("", "https://h/a b", '"', "/x"))) if outcome == REDIRECT else ""
    status = draw(st.integers(200, 599)) if outcome == RESPOND else None
    return Expectation(draw(REQUESTS), tuple(draw(HEADERS)), draw(CLIENTS), servers, outcome, port, location, status)


@given(st.lists(expectations(), max_size=3))
def test_they_are_written_as_they_were_read(tests: list[Expectation]) -> None:
    service = VirtualService("web", servers=(RealServer(A), RealServer(B)), tests=tuple(tests), eject=3)
    table = Table({"web": service})
    assert parse(write(*configuration(table))).services == table.services


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"request": "GET", "servers": (A,)}, "expected METHOD TARGET"),
        ({"request": "GET /a b", "servers": (A,)}, "expected METHOD TARGET"),
        ({"request": "GET /\n", "servers": (A,)}, "expected METHOD TARGET"),
        ({"request": "GET /", "headers": ("Host",), "servers": (A,)}, 'expected "NAME: VALUE"'),
        ({"request": "GET /", "headers": ("A: b\r\nC: d",), "servers": (A,)}, 'expected "NAME: VALUE"'),
        ({"request": "GET /", "client": "me", "servers": (A,)}, "expected an IP address"),
        ({"request": "GET /"}, "expected servers, redirect, respond or nobody after ->"),
        (
            {"request": "GET /", "servers": (A,), "outcome": "nobody"},
            "expected servers, redirect, respond or nobody after ->",
        ),
        ({"request": "GET /", "outcome": "somebody"}, "expected servers, redirect, respond or nobody after ->"),
    ],
)
def test_what_is_none(values: dict[str, object], why: str) -> None:
    with pytest.raises(BadValue) as caught:
        Expectation(**values)  # type: ignore[arg-type]
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_port_of_the_service_is_added() -> None:
    text = 'Virtual web { listen = 127.0.0.1:81 server = 10.0.0.1 test "GET /" -> 10.0.0.1 }'
    assert parse(text).services["web"].tests[0].servers == (parse_address("10.0.0.1:81"),)
