"""Compares all installed schedulers in simulation: brings the table and the pictures of docs/simulations.md up to date.

python docs/tools/compare_schedulers.py [--seconds N]

Schedulers that choose by rules, or that need options, are left out.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from attrs import frozen

from ktcpvs.errors import Refusal
from ktcpvs.interfaces import CONNECTION, USES_BALANCE, IUsesOptions
from ktcpvs.system.plugins import find_schedulers
from ktcpvs.testing import (
    FakeServer,
    Report,
    Simulation,
    failing,
    flapping,
    lognormal,
    slow,
    without_server,
)

DOCS = Path(__file__).parents[1]
BEGIN, END = "<!-- compared by docs/tools/compare_schedulers.py: begin -->", "<!-- compared: end -->"

MEDIAN = 0.02
RATE = 1000
CLIENTS = 10_000
CAPACITY = 8

SLOW, FAILING, FLAPPING = 17, 18, 19
"""The places of the three odd servers."""

BLUE, ORANGE, RED, GREY = "#2f6fb3", "#d9822b", "#b23b3b", "#8a8f98"


@frozen
class Row:
    """The results of one scheduler: without and with ejection, and where a server is deleted."""

    name: str
    plain: Report
    ejecting: Report
    deleting: Report


def odd_servers() -> list[FakeServer]:
    """17 good servers; one that is ten times slower, one that fails fast, one that comes and goes."""
    usual = lognormal(MEDIAN)
    good = [FakeServer(usual, capacity=CAPACITY) for _ in range(17)]
    return [
        *good,
        FakeServer(slow(usual, 10), capacity=CAPACITY),
        FakeServer(failing()),
        FakeServer(flapping(usual, 5, 5), capacity=CAPACITY),
    ]


def compare(name: str, seconds: float) -> Row:
    """Run the three simulations of a scheduler. Raises a Refusal for one that needs options."""

    def run(servers: Sequence[FakeServer], eject: int, change: bool = False) -> Report:
        changes = [(seconds / 2, without_server(0))] if change else []
        options = {"balance": name, "eject": eject}
        simulation = Simulation("phttp", servers, rate=RATE, clients=CLIENTS, options=options, changes=changes)
        return simulation.run(seconds)

    good = [FakeServer(lognormal(MEDIAN), capacity=CAPACITY) for _ in range(20)]
    return Row(name, run(odd_servers(), 0), run(odd_servers(), 5), run(good, 0, change=True))


def names() -> list[str]:
    """The installed schedulers that choose by themselves."""
    return sorted(
        name
        for name, factory in find_schedulers().known.items()
        if factory.unit == CONNECTION and not (IUsesOptions.providedBy(factory) and USES_BALANCE in factory.uses)
    )


def table(rows: Sequence[Row]) -> str:
    """The results as a table."""
    lines = [
        "| scheduler | errors | p50 | p99 | to the slow one | with `eject = 5`: errors | p50 | p99 | "
        "other server than before |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        moves = row.deleting.moves
        cells = [
            f"`{row.name}`",
            percent(row.plain.errors / row.plain.requests),
            milliseconds(row.plain.p50),
            milliseconds(row.plain.p99),
            percent(row.plain.share(SLOW)),
            percent(row.ejecting.errors / row.ejecting.requests),
            milliseconds(row.ejecting.p50),
            milliseconds(row.ejecting.p99),
            percent(moves.moves / moves.repeats),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.1 else f"{share:.0%}"


def milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


# Pictures.

LEFT, BAR, GAP, WIDTH = 110, 13, 9, 760


def bars(
    title: str,
    rows: Sequence[Row],
    series: Sequence[tuple[str, str, Callable[[Row], float]]],
    unit: Callable[[float], str],
    is_logarithmic: bool = False,
) -> str:
    """Horizontal bars: a group for each scheduler, a bar for each of the series (name, colour, value)."""
    most = max(value(row) for row in rows for _, _, value in series) or 1.0
    room = WIDTH - LEFT - 90
    parts, y = [], 58
    for row in rows:
        middle = y + BAR * len(series) / 2 + 4
        parts.append(f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{escape(row.name)}</text>')
        for _, colour, value in series:
            part = math.log1p(value(row)) / math.log1p(most) if is_logarithmic else value(row) / most
            width = max(room * part, 1)
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + BAR - 3}" class="n">{unit(value(row))}</text>')
            y += BAR
        y += GAP
    legend, x = [], LEFT
    for name, colour, _ in series:
        legend.append(f'<rect x="{x}" y="34" width="11" height="11" fill="{colour}"/>')
        legend.append(f'<text x="{x + 16}" y="44">{escape(name)}</text>')
        x += 34 + 7 * len(name)
    style = "text{font:13px sans-serif;fill:#6b7280}.n{font-size:11px}.t{font-weight:bold}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{escape(title)}">'
        f'<style>{style}</style><text x="10" y="20" class="t">{escape(title)}</text>{"".join(legend + parts)}</svg>\n'
    )


def draw(rows: Sequence[Row]) -> None:
    """Write the pictures."""
    latency = bars(
        "p99 of 20 servers, of which one is slow, one fails and one flaps (logarithmic)",
        rows,
        (
            ("without ejection", GREY, lambda row: (row.plain.p99 or 0.0) * 1000),
            ("with eject = 5", BLUE, lambda row: (row.ejecting.p99 or 0.0) * 1000),
        ),
        lambda value: milliseconds(value / 1000),
        is_logarithmic=True,
    )
    shares = bars(
        "share of the requests, without ejection (a twentieth is 5 %)",
        rows,
        (
            ("slow", ORANGE, lambda row: row.plain.share(SLOW) * 100),
            ("failing", RED, lambda row: row.plain.share(FAILING) * 100),
            ("flapping", GREY, lambda row: row.plain.share(FLAPPING) * 100),
        ),
        lambda value: f"{value:.3g} %",
    )
    (DOCS / "pictures/schedulers-p99.svg").write_text(latency, encoding="utf-8")
    (DOCS / "pictures/schedulers-shares.svg").write_text(shares, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of virtual time (default: 60)")
    seconds = parser.parse_args().seconds
    rows = []
    for name in names():
        try:
            rows.append(compare(name, seconds))
        except Refusal as refusal:
            print(f"{name} is left out: {refusal}")
            continue
        print(str(rows[-1].plain).partition("\n")[0].replace("phttp", name))
    draw(rows)
    page = DOCS / "simulations.md"
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    page.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{table(rows)}\n\n{END}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
