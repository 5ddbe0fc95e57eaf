"""The text of --rebalance."""

from __future__ import annotations

import pytest

from ktcpvs.control.tcpvsadm.rebalancing import format_rebalance


@pytest.mark.parametrize(
    ("active", "over", "moving", "text"),
    [
        (1, 1, 1, "s: 1 connection moves now\nA: 1 connection, 1 above its share; 1 moves\n"),
        (4, 2, 2, "s: 2 connections move now\nA: 4 connections, 2 above its share; 2 move\n"),
    ],
    ids=["one", "two"],
)
def test_numbers(active: int, over: int, moving: int, text: str) -> None:
    row = {"address": "a", "active": active, "over": over, "moving": moving, "held": 0, "uncloseable": 0}
    assert format_rebalance({"service": "s", "seconds": 0, "servers": [row]}, str.upper) == text
