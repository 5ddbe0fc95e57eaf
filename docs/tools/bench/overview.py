"""The opening of the page: the ratios of realistic work as one chart, what is ahead, and what is behind."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from html import escape

from attrs import frozen

from bench.peers import HTTP, INSPECT, NGINX, TCP
from bench.results import OURS, Case, Scenario, ratio

REALISTIC = {
    ("X", ""): "browser requests",
    ("Y", "combined"): "with a combined log",
    ("Y", "json"): "with a JSON log",
    ("Z", "sessions"): "session cookies",
    ("Z", "new sessions"): "new sessions",
    ("X", "edits"): "edited header fields",
    ("U", ""): "connections by load",
    ("V", ""): "connections by path",
    ("E", "browsers"): "new client connections",
    ("F", "64 KiB"): "64 KiB",
    ("F", "100 MiB"): "100 MiB",
    ("L", ""): "browser requests by TLS",
    ("M", "full"): "new TLS connections",
    ("M", "resumed"): "resumed TLS sessions",
    ("N", "64 KiB"): "64 KiB by TLS",
    ("N", "100 MiB"): "100 MiB by TLS",
}
"""(Letter, label of the case) -> the work in few words, in the order of the chart."""

PEERS = {HTTP: "HAProxy", TCP: "HAProxy", INSPECT: "HAProxy", NGINX: "nginx"}
"""Peers that are shown -> their short name."""

OPEN_LOOP = "W"

WIDTH, WORKS, NAMES, NUMBERS = 760, 180, 70, 50
"""Pixels: all of it, the column of the works, that of the peers, room for a number beside each bar."""

BAR, LINE, GAP, TOP, FOOT = 12, 15, 7, 62, 26
"""Pixels: the height of a bar, from bar to bar, between works, the title with the scale, the legend."""

LEAST_RANGE = 1.0
"""Doublings that the chart shows in each direction, at least."""

STYLE = """\
text { font: 12.5px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 15px; }
.quiet { fill: #59636e; }
.ahead { fill: #1f6feb; }
.behind { fill: #d4711c; }
.axis { stroke: #d0d7de; }
.even { stroke: #1f2328; stroke-width: 1.5; }
.goal { stroke: #1f2328; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .quiet { fill: #9198a1; }
  .ahead { fill: #4493f8; }
  .behind { fill: #e3873c; }
  .axis { stroke: #30363d; }
  .even, .goal { stroke: #e6edf3; }
}"""


@frozen
class Compared:
    """One work beside one peer. ratio: the peer's cost divided by ours. wanted: the goal; None without one."""

    letter: str
    work: str
    peer: str
    ratio: float
    wanted: float | None

    @property
    def is_ahead(self) -> bool:
        return self.ratio >= 1

    def text(self) -> str:
        return f"{self.letter} {self.work}, {self.peer} {self.ratio:.2f}"


def case_of(scenarios: Mapping[str, Scenario], letter: str, label: str) -> Case | None:
    """The case of a work, if it was measured with one of the peers."""
    scenario = scenarios.get(letter)
    for case in scenario.cases if scenario else ():
        if case.label == label and OURS in case.figures and PEERS.keys() & case.figures.keys():
            return case
    return None


def comparisons(scenarios: Mapping[str, Scenario]) -> list[Compared]:
    """Every realistic work that was measured, beside each peer."""
    found = []
    for (letter, label), work in REALISTIC.items():
        case = case_of(scenarios, letter, label)
        if case is None:
            continue
        goals = {goal.text: goal.wanted for goal in scenarios[letter].goals}
        metric = scenarios[letter].metrics[0]
        for peer, name in PEERS.items():
            if peer in case.figures:
                wanted = goals.get(f"{label}: {peer} / {OURS}" if label else f"{peer} / {OURS}")
                found.append(Compared(letter, work, name, ratio(case.figures, peer, OURS, metric), wanted))
    return found


def _listed(rows: list[Compared]) -> str:
    return "; ".join(row.text() for row in rows) or "nothing"


def _open_loop(scenarios: Mapping[str, Scenario]) -> list[str]:
    """A line about latencies, if they were measured."""
    goals = scenarios[OPEN_LOOP].goals if OPEN_LOOP in scenarios else []
    if not goals:
        return []
    told = "; ".join(
        f"{goal.text} {goal.value:.2f}, at most {goal.wanted:g} wanted{'' if goal.reached else ': **not reached**'}"
        for goal in goals
    )
    return [f"- **Latency**, two workers at {OPEN_LOOP}'s rate, lower is better: {told}."]


def lines(scenarios: Mapping[str, Scenario]) -> list[str]:
    """The paragraphs under the introduction: one for each list, and the chart when there is something to show."""
    rows = comparisons(scenarios)
    missing = [
        f"{letter} {work}" for (letter, label), work in REALISTIC.items() if not case_of(scenarios, letter, label)
    ]
    told = []
    ahead = sorted((row for row in rows if row.is_ahead), key=lambda row: -row.ratio)
    behind = sorted((row for row in rows if not row.is_ahead), key=lambda row: row.ratio)
    told += [f"- **Ahead**, ktcpvs needs less CPU than the peer: {_listed(ahead)}."] if rows else []
    told += [f"- **Behind**, ktcpvs needs more: {_listed(behind)}."] if rows else []
    told += _open_loop(scenarios)
    told += [f"- Not measured beside a peer: {'; '.join(missing)}."] if missing else []
    picture = ["![CPU of HAProxy and nginx divided by that of ktcpvs](benchmarks/overview.svg)", ""] if rows else []
    return [*picture, *map(_wrapped, told)]


def _wrapped(item: str) -> str:
    """An item of a list in lines of the usual length."""
    return textwrap.fill(item, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


# The chart.


def _scale(rows: list[Compared]) -> float:
    """Doublings from the middle to each edge."""
    return max(LEAST_RANGE, *(abs(math.log2(row.ratio)) for row in rows))


def _axis(middle: float, doubling: float, doublings: float, bottom: float) -> list[str]:
    """Lines at 1, at each doubling and at each half."""
    drawn = []
    for step in range(-math.floor(doublings), math.floor(doublings) + 1):
        x = middle + step * doubling
        drawn.append(f'<path class="{"axis" if step else "even"}" d="M{x:.1f} {TOP - 6}V{bottom:.1f}"/>')
        drawn.append(f'<text class="quiet" x="{x:.1f}" y="{TOP - 12}" text-anchor="middle">{2.0**step:g}</text>')
    return drawn


def picture(rows: list[Compared]) -> str:
    """The chart: a bar from 1 to the ratio, on a logarithmic scale. Raises ValueError when there is nothing to draw."""
    if not rows:
        raise ValueError("nothing to draw")
    doublings = _scale(rows)
    left, right = WORKS + NAMES + NUMBERS, WIDTH - NUMBERS
    middle, doubling = (left + right) / 2, (right - left) / 2 / doublings
    body, y, work = [], float(TOP), ""
    for row in rows:
        if (heading := f"{row.letter}  {row.work}") != work:
            y += GAP if work else 0
            work = heading
            body.append(f'<text x="10" y="{y + 10.5:.1f}">{escape(heading)}</text>')
        x = middle + math.log2(row.ratio) * doubling
        start, width = min(x, middle), abs(x - middle)
        body.append(f'<text class="quiet" x="{WORKS}" y="{y + 10.5:.1f}">{escape(row.peer)}</text>')
        body.append(
            f'<rect class="{"ahead" if row.is_ahead else "behind"}" x="{start:.1f}" y="{y:.1f}" width="{width:.1f}" '
            f'height="{BAR}"/>'
        )
        anchor, beside = ("start", x + 6) if row.is_ahead else ("end", x - 6)
        if row.wanted is not None:
            goal = middle + math.log2(row.wanted) * doubling
            body.append(f'<path class="goal" d="M{goal:.1f} {y - 1:.1f}v{BAR + 2}"/>')
            if not row.is_ahead and x - 40 < goal < x:
                beside = goal - 6
        body.append(f'<text x="{beside:.1f}" y="{y + 10.5:.1f}" text-anchor="{anchor}">{row.ratio:.2f}</text>')
        y += LINE
    title = "CPU of the peer / CPU of ktcpvs, realistic work"
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + FOOT:.0f}" width="{WIDTH}" '
        f'height="{y + FOOT:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{STYLE}\n</style>",
        f'<text class="title" x="10" y="20">{escape(title)}</text>',
    ]
    foot = "right of 1: ktcpvs needs less CPU; a short upright line is the goal"
    legend = f'<text class="quiet" x="10" y="{y + 18:.1f}">{foot}</text>'
    return "\n".join([*head, *_axis(middle, doubling, doublings, y), *body, legend, "</svg>", ""])
