"""Which connections --filter chooses, and their order by --sort."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.control.tcpvsadm.connections import ORDERS, check_filter, check_order, select_connections


def connection(id: str, client: str, server: str | None, state: str, *numbers: int, **more: Any) -> dict[str, Any]:
    counts = dict(zip(("age", "idle", "bytes_in", "bytes_out"), numbers, strict=True))
    return (
        {"id": id, "service": "web", "client": client, "server": server, "name": None, "state": state} | counts | more
    )


CONNECTIONS = [
    connection("a", "10.0.0.9:5000", "10.1.0.1:80", "answering", 5, 5, 100, 1),
    connection("b", "10.0.1.2:5001", "10.1.0.2:80", "relaying", 90, 0, 2, 3000, name="db"),
    connection("c", "[2001:db8::5]:5002", None, "queued", 30, 30, 0, 0, service="mail", node="n1"),
    connection("d", "unix:/run/x", "10.1.0.1:81", "waiting for a request", 1, 1, 7, 7),
]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([], "bcad"),
        (["client=10.0.0.0/16"], "ba"),
        (["client=10.0.0.9"], "a"),
        (["client=10.0.1.2:5001"], "b"),
        (["client=2001:db8::/32"], "c"),
        (["client=10.0.0.9", "client=2001:db8::5"], "ca"),
        (["server=10.1.0.1"], "ad"),
        (["server=10.1.0.1:81"], "d"),
        (["server=db"], "b"),
        (["state=waiting"], "d"),
        (["state=relaying", "client=10.0.0.0/8"], "b"),
        (["service=mail"], "c"),
        (["node=n1"], "c"),
        (["node=n2"], ""),
    ],
)
def test_filters(filters: list[str], ids: str) -> None:
    assert [check_filter(text) for text in filters] == [""] * len(filters)
    assert "".join(one["id"] for one in select_connections(CONNECTIONS, filters)) == ids


@pytest.mark.parametrize(
    ("order", "ids"), list(zip(ORDERS, ("bcad", "cadb", "adbc", "bdac", "abcd", "cadb", "acbd"), strict=True))
)
def test_orders(order: str, ids: str) -> None:
    assert check_order(order) == ""
    assert "".join(one["id"] for one in select_connections(CONNECTIONS, [], order)) == ids


def test_wrong_filters_and_orders() -> None:
    assert check_order("aeg") == (
        "sort 'aeg': not one of age, idle, in, out, client, server, state; did you mean 'age'?"
    )
    assert check_filter("10.0.0.1") == (
        "filter '10.0.0.1': not NAME=VALUE (examples: client=10.0.0.0/8, state=relaying)"
    )
    assert check_filter("cleint=x").endswith("not one of client, server, state, service, node; did you mean 'client'?")
    assert check_filter("client=10.0.0.0/33") == (
        "filter 'client=10.0.0.0/33': not a network (example: client=10.0.0.0/8)"
    )
