"""The screen of --top: lines that fit into any terminal, with aligned columns."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.control.tcpvsadm.columns import fit, pad, text_width
from ktcpvs.control.tcpvsadm.top import layout_screen
from ktcpvs.director.director import Director
from ktcpvs.inspect.views import Views
from ktcpvs.model.language.parser import parse
from ktcpvs.model.scheduling import EACH_REQUEST
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.system.log import EventLog

LONG = "shop.customers.eu-central-1.production.internal.example.org-blue-and-green"
CONFIGURATION = f"""
    Virtual empty {{ }}
    Virtual {LONG} {{
        redirect = [2001:db8:1234:5678:9abc:def0:1234:5678]:8443
        server = 10.0.0.1:80
        server = a-very-long-name-of-a-server.in-a-zone.that-is-longer.{LONG}:8080 0
        server = [2001:db8:1234:5678:9abc:def0:1234:5678]:8080
        server = unix:/run/{"application-" * 7}/socket
    }}
    Virtual {"名" * 40} {{ server = 10.0.0.1:80 }}
    Virtual {"e" * 128} {{ server = 10.0.0.1:80 }}
"""


def stats(text: str = CONFIGURATION) -> dict[str, Any]:
    """The view `stats` of a daemon with this configuration."""
    director = Director(Context(MemoryReactorClock(), EventLog(), Descriptors(100)))
    director.submit(parse(text)).addErrback(lambda failure: failure.raiseException())
    answer: dict[str, Any] = Views(director).view("stats", None)
    return answer


def later(answer: dict[str, Any]) -> dict[str, Any]:
    """The same one second later, with higher counters."""
    answer = deepcopy(answer)
    for service in answer["services"]:
        for row in (service, *service["servers"]):
            row["stats"].update(active=123456, total=9_999_999, bytes_in=99_999_999_999, bytes_out=99_999_999_999)
        for server in service["servers"]:
            server["stats"]["buckets"][-1] += 5
    return answer


@pytest.mark.parametrize("columns", [40, 41, 59, 60, 72, 80, 81, 100, 132, 200, 300])
def test_the_columns_are_aligned(columns: int) -> None:
    answer = stats()
    for before in (None, answer):
        shown = layout_screen(before, answer if before is None else later(answer), 1.0, (columns, 50))
        assert all(text_width(line) <= columns for line in shown)
        heading = shown[1]
        ends = [found.end() for found in re.finditer(r"\S+(?: %)?", heading[heading.index("State") :])]
        assert "Active" in heading
        for line in shown[2:]:
            at = heading.index("State") - (text_width(line) - len(line))  # wide characters take two columns
            assert line[at - 1] == " "
            state, *numbers = line[at:].split()
            assert state in ("stopped", "up", "draining", "redirect")
            assert len(numbers) == len(ends) - 1
            assert [found.end() for found in re.finditer(r"\S+", line[at:])][1:] == ends[1:]


def test_all_numbers_are_shown_at_80_columns_and_fewer_below() -> None:
    assert layout_screen(None, stats(), 0, (80, 50))[1].split() == [
        "Service", "/", "Server", "State", "Active", "Conns/s", "In/s", "Out/s", "Err/s", "99", "%",
    ]  # fmt: skip
    assert layout_screen(None, stats(), 0, (60, 50))[1].split()[4:] == ["Active", "Conns/s", "Err/s"]
    assert layout_screen(None, stats(), 0, (40, 50))[1].split()[4:] == ["Active"]
    short = layout_screen(None, stats("Virtual web { server = 10.0.0.1:80 }"), 0, (60, 50))
    assert short[1].split()[4:] == ["Active", "Conns/s", "Err/s", "99", "%"]


def test_a_long_name_is_cut_in_the_middle() -> None:
    assert any(line.startswith(f"{LONG} ") for line in layout_screen(None, stats(), 0, (200, 50)))
    cut = next(line for line in layout_screen(None, stats(), 0, (80, 50)) if line.startswith("shop."))
    assert cut[:21] == "shop.cust...nd-green "


def test_a_service_without_servers_has_a_line_of_zeros() -> None:
    answer = stats("Virtual empty { }")
    assert layout_screen(answer, answer, 1.0, (80, 24))[2].split() == ["empty", "stopped", "0", "0", "0", "0", "0", "-"]
    refused = deepcopy(answer)
    refused["services"][0]["stats"]["refused"] += 7
    assert layout_screen(answer, refused, 1.0, (80, 24))[2].split()[-2:] == ["7", "-"]


def test_rates_that_are_not_known_are_dashes() -> None:
    before = stats("Virtual web { server = 10.0.0.1:80 }")
    assert [line.split()[-6:] for line in layout_screen(None, before, 0, (80, 24))[2:]] == [["0", *"-----"]] * 2
    after = stats("Virtual web { server = 10.0.0.1:80\n server = 10.0.0.2:80 }")
    rows = [line.split()[-6:] for line in layout_screen(before, after, 1.0, (80, 24))[2:]]
    assert rows == [[*"00000", "-"], [*"00000", "-"], ["0", *"-----"]], "the last server is new"


def test_the_rate_of_a_service_is_that_of_its_requests() -> None:
    """Its clients keep their connections, and the switch responds itself."""
    before = stats("Virtual own { scheduler = phttp\n rule = pattern .* use respond 200 }")
    before["services"][0]["unit"] = EACH_REQUEST
    after = deepcopy(before)
    after["services"][0]["stats"].update(requests=12, bytes_in=600, bytes_out=1200)
    assert layout_screen(before, after, 2.0, (80, 24))[2].split()[3:6] == ["6", "300", "600"]


def test_a_table_without_services_is_a_heading() -> None:
    assert len(layout_screen(None, stats("global { }"), 0, (80, 24))) == 2


@examples(60)
@given(columns=st.integers(1, 300), lines=st.integers(1, 40))
def test_no_terminal_is_too_small(columns: int, lines: int) -> None:
    answer = stats()
    shown = layout_screen(answer, later(answer), 1.0, (columns, lines))
    assert len(shown) <= lines
    assert all(text_width(line) <= columns for line in shown)


@given(st.text(st.characters(exclude_categories=("C",)), max_size=40), st.integers(0, 50))
def test_a_text_is_fitted_into_the_exact_width(text: str, width: int) -> None:
    assert text_width(fit(text, width)) == width
    if text_width(text) <= width:
        assert fit(text, width) == pad(text, width)
