"""The screen of --top as lines, made from two reads of the counters. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ktcpvs.control.tcpvsadm.all_nodes import comparable, describe_nodes, describe_place
from ktcpvs.control.tcpvsadm.colours import paint
from ktcpvs.control.tcpvsadm.columns import fit, text_width
from ktcpvs.control.tcpvsadm.output import format_duration, format_heading, format_server, format_state
from ktcpvs.errors import shorten
from ktcpvs.model.language.writer import ShowAddress
from ktcpvs.model.latency import described, within

_WIDTHS = {"Active": 7, "Conns/s": 8, "In/s": 8, "Out/s": 8, "Err/s": 6, "99 %": 7}
"""The columns of numbers, and their widths."""

_DROP_ORDER = ("Out/s", "In/s", "99 %", "Err/s", "Conns/s", "Active")
"""The order in which columns of numbers are dropped where the terminal is too narrow for all of them."""

_NAME, _NAME_SHORT = "Service / Server", "Server"
_STATE_WIDTH = 9
_MIN_NAME_WIDTH = 20
"""Columns of numbers are dropped until long names have this width."""

_MAX_NAME_LENGTH = 1000
"""The most characters of a name that are processed."""

_NO_BUCKETS: list[int] = described(None)["buckets"]

_Row = tuple[str, str, tuple[str, ...]]
"""(label, state, numbers)"""


def layout_screen(
    before: dict[str, Any] | None,
    now: dict[str, Any],
    seconds: float,
    size: tuple[int, int],
    show: ShowAddress = str,
    in_colour: bool = False,
) -> list[str]:
    """Lay the screen out.

    before, now: two answers of `stats`, `seconds` apart; None: there is only one yet, and rates are 0. size: columns
    and lines of the terminal, which the result does not exceed.
    """
    columns, lines = size
    if before is not None:
        before, now = comparable(before, now)
    rows = list(_make_rows(before, now, max(seconds, 0.001), show))
    longest = max(text_width(label) for label in (_NAME, *(label for label, _, _ in rows)))
    numbers_shown, name = _layout_columns(columns, longest)
    title = f"{format_heading(now['version'])}, {len(now['services'])} services"
    if of_nodes := describe_nodes(now):
        title += f", {of_nodes}"
    shown = [fit(title, max(columns - 8, 0)) + " q quits"[:columns]]
    headings = "".join(f" {number:>{_WIDTHS[number]}}" for number in numbers_shown)
    shown.append(
        f"{fit(_NAME if len(_NAME) <= name else _NAME_SHORT, name)} {'State':{_STATE_WIDTH}}{headings}"[:columns]
    )
    room = max(lines - len(shown), 0)
    if len(rows) > room:
        left = len(rows) - room + 1
        rows = rows[: max(room - 1, 0)]
    else:
        left = 0
    for label, state, numbers in rows:
        begin = f"{fit(label, name)} "
        cell = f"{state:{_STATE_WIDTH}}"[: max(columns - name - 1, 0)]
        values = dict(zip(_WIDTHS, numbers, strict=True))
        rest = "".join(f" {values[number]:>{_WIDTHS[number]}}" for number in numbers_shown)
        shown.append(begin + (paint(state, cell) if in_colour else cell) + rest)
    if left and room:
        shown.append(f"... and {left} more lines: tcpvsadm --top -i ID shows one service"[:columns])
    return shown[:lines]


def _layout_columns(columns: int, longest: int) -> tuple[list[str], int]:
    """Return (the columns of numbers to show, the width of names) for a terminal of `columns`. longest: the width of
    the longest name."""
    shown = list(_WIDTHS)

    def room() -> int:
        return columns - 1 - _STATE_WIDTH - sum(1 + _WIDTHS[number] for number in shown)

    for number in _DROP_ORDER:
        if room() >= min(longest, _MIN_NAME_WIDTH):
            break
        shown.remove(number)
    return shown, max(min(longest, room()), min(longest, _MIN_NAME_WIDTH, columns - 1))


def _make_rows(before: dict[str, Any] | None, now: dict[str, Any], seconds: float, show: ShowAddress) -> Iterator[_Row]:
    known = {service["ident"]: service for service in before["services"]} if before is not None else {}
    for service in now["services"]:
        then = known.get(service["ident"])
        is_here = service.get("here", True)
        of_servers = {server["address"]: server["stats"] for server in then["servers"]} if then is not None else {}
        servers = [
            (
                f"  -> {format_server(server, show)}{describe_place(now, server['health'].get('nodes'))}",
                server["health"]["state"],
                server["stats"],
                of_servers.get(server["address"]),
            )
            for server in service["servers"]
            if is_here
        ]
        if service["redirect"] is not None and is_here:
            same = then is not None and then["redirect"] == service["redirect"]
            redirected = then["redirect_stats"] if same and then is not None else None
            servers.append((f"  -> {show(service['redirect'])}", "redirect", service["redirect_stats"], redirected))
        gained = [_compute_increase(stats, earlier) for _, _, stats, earlier in servers]
        own = _compute_increase(service["stats"], then["stats"] if then is not None else None)
        own["errors"] += sum(one["errors"] for one in gained)
        own["buckets"] = [sum(column) for column in zip(_NO_BUCKETS, *(one["buckets"] for one in gained), strict=True)]
        state = format_state(service)
        yield (
            shorten(service["ident"], _MAX_NAME_LENGTH),
            state,
            _format_numbers(service["stats"]["active"], own, seconds),
        )
        for (label, state, stats, _), one in zip(servers, gained, strict=True):
            yield shorten(label, _MAX_NAME_LENGTH), state, _format_numbers(stats["active"], one, seconds)


def _compute_increase(now: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """Return the increase of each counter; 0 for one that was reset, or is new."""
    if before is None:
        before = now
    gained: dict[str, Any] = {name: max(0, now[name] - before[name]) for name in ("total", "bytes_in", "bytes_out")}
    errors, earlier = (_count_errors(one) for one in (now, before))
    gained["errors"] = max(0, errors - earlier)
    buckets = zip(now.get("buckets", ()), before.get("buckets", ()), strict=True)
    gained["buckets"] = [max(0, count - counted) for count, counted in buckets]
    return gained


def _count_errors(stats: dict[str, Any]) -> int:
    """Return how many failures and 5xx responses a server had, or how many clients and requests a service refused."""
    if "answers" in stats:
        return int(stats["failures"] + stats["answers"]["5xx"])
    return int(stats["refused"])


def _format_numbers(active: int, gained: dict[str, Any], seconds: float) -> tuple[str, ...]:
    rates = (gained[name] / seconds for name in ("total", "bytes_in", "bytes_out", "errors"))
    return (
        str(active),
        *(_format_short(rate) for rate in rates),
        format_duration(within(gained["buckets"], 0.99)).replace(" ", ""),
    )


def _format_short(number: float) -> str:
    """Format a number in at most six characters: 9999, 12.3k, 4.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.1f}{letter}"
    return str(round(number))
