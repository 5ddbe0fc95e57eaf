"""Two looks at the counters -> the screen of --top, as lines that fit into it. Nothing is asked or written here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ktcpvs.control.tcpvsadm.colours import painted
from ktcpvs.control.tcpvsadm.show import duration, heading, server_name
from ktcpvs.errors import shorten
from ktcpvs.model.language.writer import ShowAddress
from ktcpvs.model.latency import within

_HEADINGS = ("Active", "Conns/s", "In/s", "Out/s", "Err/s", "99 %")
_FORM = "{:>7} {:>8} {:>8} {:>8} {:>6} {:>7}"
_STATE = 9
_NUMBERS = len(_FORM.format(*_HEADINGS))
_NARROWEST = 12

_Row = tuple[str, str, tuple[str, ...]]
"""What it is, its state, its numbers."""


def screen(
    before: dict[str, Any] | None,
    now: dict[str, Any],
    seconds: float,
    size: tuple[int, int],
    show: ShowAddress = str,
    in_colour: bool = False,
) -> list[str]:
    """before, now: two answers of `stats`, `seconds` apart; None: there is one alone yet, and rates are 0. size:
    columns and lines of the terminal; no line is longer, and there are not more."""
    columns, lines = size
    name = max(columns - _STATE - _NUMBERS - 2, _NARROWEST)
    title = f"{heading(now['version'])}, {len(now['services'])} services"
    shown = [f"{title:{max(columns - 7, 0)}} q ends"[:columns]]
    shown.append(f"{'Service / Server':{name}} {'State':{_STATE}} {_FORM.format(*_HEADINGS)}"[:columns])
    rows = list(_rows(before, now, max(seconds, 0.001), show))
    room = max(lines - len(shown), 0)
    if len(rows) > room:
        left = len(rows) - room + 1
        rows = rows[: max(room - 1, 0)]
    else:
        left = 0
    for what, state, numbers in rows:
        begin, rest = f"{shorten(what, name):{name}} "[:columns], f" {_FORM.format(*numbers)}"
        cell = f"{state:{_STATE}}"[: max(columns - len(begin), 0)]
        rest = rest[: max(columns - len(begin) - len(cell), 0)]
        shown.append(begin + (painted(state, cell) if in_colour else cell) + rest)
    if left and room:
        shown.append(f"... and {left} more lines: tcpvsadm --top -i ID shows one service"[:columns])
    return shown[:lines]


def _rows(before: dict[str, Any] | None, now: dict[str, Any], seconds: float, show: ShowAddress) -> Iterator[_Row]:
    known = {service["ident"]: service for service in before["services"]} if before is not None else {}
    for service in now["services"]:
        then = known.get(service["ident"])
        of_servers = {server["address"]: server["stats"] for server in then["servers"]} if then is not None else {}
        servers = [
            (
                f"  -> {server_name(server, show)}",
                server["health"]["state"],
                server["stats"],
                of_servers.get(server["address"]),
            )
            for server in service["servers"]
        ]
        if service["redirect"] is not None:
            same = then is not None and then["redirect"] == service["redirect"]
            redirected = then["redirect_stats"] if same and then is not None else None
            servers.append((f"  -> {show(service['redirect'])}", "redirect", service["redirect_stats"], redirected))
        gained = [_gained(stats, earlier) for _, _, stats, earlier in servers]
        own = _gained(service["stats"], then["stats"] if then is not None else None)
        own["errors"] += sum(one["errors"] for one in gained)
        own["buckets"] = [sum(column) for column in zip(*(one["buckets"] for one in gained), strict=True)]
        state = "running" if service["running"] else "stopped"
        yield service["ident"], state, _numbers(service["stats"]["active"], own, seconds)
        for (what, state, stats, _), one in zip(servers, gained, strict=True):
            yield what, state, _numbers(stats["active"], one, seconds)


def _gained(now: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """What each counter gained; one that began anew, or was not there before, gained nothing."""
    if before is None:
        before = now
    gained: dict[str, Any] = {name: max(0, now[name] - before[name]) for name in ("total", "bytes_in", "bytes_out")}
    errors, earlier = (_errors(one) for one in (now, before))
    gained["errors"] = max(0, errors - earlier)
    buckets = zip(now.get("buckets", ()), before.get("buckets", ()), strict=True)
    gained["buckets"] = [max(0, count - counted) for count, counted in buckets]
    return gained


def _errors(stats: dict[str, Any]) -> int:
    """Of a server: what it failed; of a service: whom the switch refused."""
    if "answers" in stats:
        return int(stats["failures"] + stats["answers"]["5xx"])
    return int(stats["refused"])


def _numbers(active: int, gained: dict[str, Any], seconds: float) -> tuple[str, ...]:
    rates = (gained[name] / seconds for name in ("total", "bytes_in", "bytes_out", "errors"))
    return str(active), *(_short(rate) for rate in rates), duration(within(gained["buckets"], 0.99)).replace(" ", "")


def _short(number: float) -> str:
    """At most six characters: 9999, 12.3k, 4.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.1f}{letter}"
    return str(round(number))
