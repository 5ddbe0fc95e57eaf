"""The screen of --top as lines, made from two reads of the counters. This module does no I/O."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from ktcpvs.control.tcpvsadm.all_nodes import comparable, describe_nodes, describe_place
from ktcpvs.control.tcpvsadm.colours import paint
from ktcpvs.control.tcpvsadm.columns import fit, text_width
from ktcpvs.control.tcpvsadm.output import EACH_REQUEST, format_duration, format_heading, format_server, format_state
from ktcpvs.control.tcpvsadm.top_view import KEYS, TopView
from ktcpvs.errors import shorten
from ktcpvs.model.language.writer import ShowAddress
from ktcpvs.model.latency import described, within
from ktcpvs.model.unserved import label_of, unserved_rows

_WIDTHS = {"Active": 7, "Conns/s": 8, "In/s": 8, "Out/s": 8, "Err/s": 6, "99 %": 7}
"""The columns of numbers, and their widths."""

_DROP_ORDER = ("Out/s", "In/s", "99 %", "Err/s", "Conns/s", "Active")
"""The order in which columns of numbers are dropped where the terminal is too narrow for all of them."""

_NAME, _NAME_SHORT = "Service / Server", "Server"
_MIN_STATE_WIDTH = 9
_MIN_NAME_WIDTH = 20
"""Columns of numbers are dropped until long names have this width."""

_MAX_NAME_LENGTH = 1000
"""The most characters of a name that are processed."""

_NO_BUCKETS: list[int] = described(None)["buckets"]

_Row = tuple[str, str, tuple[str, ...]]
"""(label, state, numbers)"""

_Group = tuple[int, _Row, list[tuple[int, _Row]]]
"""The rank of a service's trouble, its row, and the rank and row of each of its servers."""

_NO_SERVER = "no server"
"""The state of a rule none of whose servers can be used."""

_TROUBLES = ("down", "ejected", "unresolved", _NO_SERVER)
"""States of a server that is out of service by itself, and of a rule that has no other."""

_KEY_HINTS = ("  / filter  space pause  h help  q quits", "  h help  q quits", " q quits")
"""The keys that the title names, as many as there is room for."""


def layout_screen(
    before: dict[str, Any] | None,
    now: dict[str, Any],
    seconds: float,
    size: tuple[int, int],
    show: ShowAddress = str,
    in_colour: bool = False,
    view: TopView | None = None,
) -> list[str]:
    """Lay the screen out.

    before, now: two answers of `stats`, `seconds` apart; None: there is only one yet, and rates are not known. size:
    columns and lines of the terminal, which the result does not exceed.
    """
    columns, lines = size
    view = TopView() if view is None else view
    if view.has_help:
        return _layout_help(columns, lines)
    if before is not None:
        before, now = comparable(before, now)
    rows = _choose_rows(_make_groups(before, now, max(seconds, 0.001), show), view)
    longest = max(text_width(label) for label in (_NAME, *(label for label, _, _ in rows)))
    state_width = max(_MIN_STATE_WIDTH, *(len(state) for _, state, _ in rows)) if rows else _MIN_STATE_WIDTH
    numbers_shown, name = _layout_columns(columns, longest, state_width)
    count = f"{len(now['services'])} service{'' if len(now['services']) == 1 else 's'}"
    title = f"{format_heading(now['version'])}, {count}"
    if of_nodes := describe_nodes(now):
        title += f", {of_nodes}"
    hint = next((text for text in _KEY_HINTS if len(text) < columns // 2), "")
    if text_width(title) > columns - len(hint):
        title = count if not of_nodes else f"{count}, {of_nodes}"
    note = fit(view.note, min(text_width(view.note), columns // 2)) if view.note else ""
    shown = [note + fit(title, max(columns - len(hint) - text_width(note), 0)) + hint[:columns]]
    headings = "".join(f" {number:>{_WIDTHS[number]}}" for number in numbers_shown)
    shown.append(
        f"{fit(_NAME if len(_NAME) <= name else _NAME_SHORT, name)} {'State':{state_width}}{headings}"[:columns]
    )
    room = max(lines - len(shown), 0)
    view.page = max(room - 2, 1)
    view.offset = min(view.offset, max(len(rows) - room, 0))
    rows = rows[view.offset :]
    if len(rows) > room:
        left = len(rows) - room + 1
        rows = rows[: max(room - 1, 0)]
    else:
        left = 0
    for label, state, numbers in rows:
        begin = f"{fit(label, name)} "
        cell = f"{state:{state_width}}"[: max(columns - name - 1, 0)]
        values = dict(zip(_WIDTHS, numbers, strict=True))
        rest = "".join(f" {values[number]:>{_WIDTHS[number]}}" for number in numbers_shown)
        shown.append(begin + (paint(state, cell) if in_colour else cell) + rest)
    if left and room:
        shown.append(f"... and {left} more lines: arrows scroll, / filters, h help"[:columns])
    return shown[:lines]


def _layout_help(columns: int, lines: int) -> list[str]:
    width = max(len(key) for key, _ in KEYS)
    shown = ["Keys of tcpvsadm --top", ""]
    for key, meaning in KEYS:
        begin, *further = textwrap.wrap(meaning, max(columns - width - 4, 10))
        shown += [f"  {key:{width}}  {begin}", *(f"{'':{width + 4}}{line}" for line in further)]
    return [line[:columns] for line in shown[:lines]]


def _choose_rows(groups: Iterable[_Group], view: TopView) -> list[_Row]:
    """Return the rows that pass the filter, in the order that the user has chosen. Where only servers pass, their
    service is shown above them."""
    wanted = view.filter.casefold()
    chosen = []
    for rank, service, servers in groups:
        found = servers
        if wanted not in service[0].casefold():
            found = [one for one in servers if wanted in f"{one[1][0]} {one[1][1]}".casefold()]
        if found or wanted in service[0].casefold():
            chosen.append((rank, service, found))
    if view.has_trouble_first:
        chosen.sort(key=lambda group: -group[0])
        for _, _, servers in chosen:
            servers.sort(key=lambda server: -server[0])
    return [row for _, service, servers in chosen for row in (service, *(server for _, server in servers))]


def _layout_columns(columns: int, longest: int, state_width: int) -> tuple[list[str], int]:
    """Return (the columns of numbers to show, the width of names) for a terminal of `columns`. longest: the width of
    the longest name. state_width: that of the states."""
    shown = list(_WIDTHS)

    def room() -> int:
        return columns - 1 - state_width - sum(1 + _WIDTHS[number] for number in shown)

    for number in _DROP_ORDER:
        if room() >= min(longest, _MIN_NAME_WIDTH):
            break
        shown.remove(number)
    return shown, max(min(longest, room()), min(longest, _MIN_NAME_WIDTH, columns - 1))


def _rank(state: str, gained: dict[str, Any], is_full: bool) -> int:
    """Return how much trouble a row is: 3: out of service, 2: errors, 1: full, 0: none."""
    if state in _TROUBLES:
        return 3
    if gained["errors"]:
        return 2
    return 1 if is_full else 0


def _make_groups(
    before: dict[str, Any] | None, now: dict[str, Any], seconds: float, show: ShowAddress
) -> Iterator[_Group]:
    known = {service["ident"]: service for service in before["services"]} if before is not None else {}
    for service in now["services"]:
        then = known.get(service["ident"])
        is_here = service.get("here", True)
        of_servers = {server["address"]: server["stats"] for server in then["servers"]} if then is not None else {}
        limits = [server["maxconn"] for server in service["servers"] if is_here]
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
        own = _compute_increase(_with_requests(service), _with_requests(then) if then is not None else None)
        own["errors"] += sum(one["errors"] for one in gained)
        own["buckets"] = [sum(column) for column in zip(_NO_BUCKETS, *(one["buckets"] for one in gained), strict=True)]
        state = format_state(service)
        rows = []
        for (label, of_server, stats, earlier), one, limit in zip(servers, gained, [*limits, 0], strict=False):
            numbers = _format_numbers(stats["active"], one, None if earlier is None else seconds)
            rank = _rank(of_server, one, bool(limit) and stats["active"] >= limit)
            rows.append((rank, (shorten(label, _MAX_NAME_LENGTH), of_server, numbers)))
        unserved = unserved_rows(service) if is_here and service["running"] else ()
        rows += [
            (_rank(_NO_SERVER, own, False), (f"  rule {label_of(rule)}", _NO_SERVER, ("-",) * len(_WIDTHS)))
            for rule, _ in unserved
        ]
        is_full = bool(service["stats"].get("queued")) or 0 < service["maxclients"] <= service["stats"]["active"]
        worst = max([_rank(state, own, is_full), *(rank for rank, _ in rows)])
        numbers = _format_numbers(service["stats"]["active"], own, None if then is None else seconds)
        yield worst, (shorten(service["ident"], _MAX_NAME_LENGTH), state, numbers), rows


def _with_requests(service: dict[str, Any]) -> dict[str, Any]:
    """Return the counters of a service, whose total is that of its requests where its scheduler chooses for each, as
    that of its servers is."""
    stats: dict[str, Any] = service["stats"]
    return (
        {**stats, "total": stats["requests"]} if service.get("unit") == EACH_REQUEST and "requests" in stats else stats
    )


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


def _format_numbers(active: int, gained: dict[str, Any], seconds: float | None) -> tuple[str, ...]:
    """Return the numbers of a row. seconds: the time in which the counters have gained; None: it is not known."""
    names = ("total", "bytes_in", "bytes_out", "errors")
    return (
        str(active),
        *("-" if seconds is None else _format_short(gained[name] / seconds) for name in names),
        format_duration(within(gained["buckets"], 0.99)).replace(" ", ""),
    )


def _format_short(number: float) -> str:
    """Format a number in at most six characters: 9999, 12.3k, 4.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.1f}{letter}"
    return str(round(number))
