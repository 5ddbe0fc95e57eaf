"""docs/benchmarks.md, its charts and its raw figures, written from results."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from bench import overview
from bench.chart import Bar, Group, draw
from bench.peers import OURS
from bench.results import METRICS, Case, Goal, Scenario, from_json, median, ratio, to_json

OPENING = """\
# Benchmarks

How much work the switch ktcpvs has with a request, next to the proxies that people use for the same: HAProxy and nginx,
and Twisted's own port forwarder, from which a Python program starts. `make bench` has measured all of it on one machine
and has written this page; the figures of every round are in [results.json](benchmarks/results.json).

**What counts is the CPU time that the proxy spends on a request.** It says how many requests one core can carry, and it
depends less on what else the machine does than requests per second.
"""

OVERVIEW = "overview.svg"
"""The chart that the page opens with."""

METHOD = """\
## How it is measured

- The proxy has a core to itself. The load, [wrk](https://github.com/wg/wrk) with one thread and 64 connections, and the
  real servers, one nginx, share the others. Everything talks over loopback.
- All proxies of a scenario run at the same time and are measured in turn: one round for each, then the next round. What
  disturbs the machine meets all of them.
- *CPU of the proxy* is what the kernel counts as user and system time for all processes of the proxy, divided by the
  requests that wrk saw answered. *Busy time of its core* is all that the core did meanwhile: what the kernel does when
  packets arrive belongs to no process, and shows here. The kernel counts in steps of 10 ms.
- The tables give the median of all rounds, and the least and the most in brackets. The last column is the peer's median
  divided by ours: **over 1, ktcpvs needs less than the peer**.
- Where the requests per second of several proxies are nearly the same, it is the core of load and servers that is busy
  all the time, and not the proxy's. CPU per request does not suffer from that.
- `phttp`, `http` and `wlc` are [schedulers](schedulers.md#the-built-in-schedulers) of the switch: what it
  decides by, and when.
- L to P speak TLS 1.3 with one certificate of ECDSA P-256. In L to O it ends at the proxy, in P at the servers.
- HAProxy has one thread and nginx one worker process, as ktcpvs has one process; in W each has two. Only Y and W have
  an access log. Every proxy that can keeps its server connections. The configurations are in
  `docs/tools/bench/configurations.py`.
- Before anything is measured, every proxy's answers are looked at: status, body, and whether the right server gave
  them. A wrong answer, a broken connection or a missing program ends the run with an error.

`make bench QUICK=1` takes under two minutes and is good for a look; `make bench ONLY=A,E` measures some scenarios and
leaves the others as they are. It needs Debian's packages haproxy, nginx-light, wrk, gcc, libssl-dev and openssl.
"""


@frozen
class Results:
    """machine: what figures depend on. scenarios: by letter."""

    machine: dict[str, str]
    scenarios: dict[str, Scenario]


def merged(old: Results | None, new: Results) -> Results:
    """The new scenarios, and the old ones that were measured on the same machine with the same programs."""
    kept = old.scenarios if old and old.machine == new.machine else {}
    both = {**kept, **new.scenarios}
    return Results(new.machine, {letter: both[letter] for letter in sorted(both)})


def as_json(results: Results) -> str:
    content = {"machine": results.machine, "scenarios": [to_json(one) for one in results.scenarios.values()]}
    return json.dumps(content, indent=1) + "\n"


def from_text(text: str) -> Results:
    """Read the text that `as_json` wrote. Raises ValueError, KeyError or TypeError when it is something else."""
    content: dict[str, Any] = json.loads(text)
    return Results(content["machine"], {one["letter"]: from_json(one) for one in content["scenarios"]})


def spread(metric: str, values: Sequence[float]) -> str:
    """The median, and the least and the most when there are several."""
    text = METRICS[metric].text
    middle = text(statistics.median(values))
    return middle if len(values) < 2 else f"{middle} ({text(min(values))}..{text(max(values))})"


def metrics_of(case: Case, wanted: Sequence[str]) -> list[str]:
    """Those of the metrics that the case has."""
    return [key for key in wanted if any(key in measured for measured in case.figures.values())]


def heading(metric: str) -> str:
    described = METRICS[metric]
    return f"{described.title}, {described.unit}" if described.unit else described.title


def table(case: Case, wanted: Sequence[str]) -> list[str]:
    """The lines of a case's table. The ratio is that of its first metric; it is left out where we are not compared."""
    metrics = metrics_of(case, wanted)
    compared = OURS in case.figures and len(case.figures) > 1
    columns = ["", *map(heading, metrics), *(["peer / ktcpvs"] if compared else [])]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for name, measured in case.figures.items():
        cells = [name, *(spread(key, measured[key]) if key in measured else "" for key in metrics)]
        if compared:
            cells.append("" if name == OURS else f"{ratio(case.figures, name, OURS, metrics[0]):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def goal_line(goal: Goal) -> str:
    """Return the goals, and whether they were reached."""
    sign = "at most" if goal.at_most else "at least"
    unit = f" {goal.unit}" if goal.unit else ""
    verdict = "reached" if goal.reached else "**not reached**"
    return f"| {goal.text} | {sign} {goal.wanted:g}{unit} | {goal.value:.2f}{unit} | {verdict} |"


def goal_table(goals: Sequence[Goal]) -> list[str]:
    return ["| goal | wanted | found | |", "|---|---:|---:|---|", *map(goal_line, goals)]


def picture_name(scenario: Scenario) -> str:
    return f"{scenario.letter.lower()}.svg"


def picture(scenario: Scenario) -> str:
    """The chart of what the scenario is about."""
    groups = []
    for case in scenario.cases:
        key = metrics_of(case, scenario.metrics)[0]
        bars = [
            Bar(
                name,
                tuple(measured[key]),
                f"{METRICS[key].text(median(case.figures, name, key))} {METRICS[key].unit}".strip(),
                name.startswith(OURS),
            )
            for name, measured in case.figures.items()
            if key in measured
        ]
        what = METRICS[key].title
        groups.append(Group(f"{case.label}: {what}" if case.label else what, tuple(bars)))
    return draw(f"{scenario.letter}. {scenario.title}", groups)


def wrapped(text: str) -> str:
    """A paragraph in lines of the usual length."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def section(scenario: Scenario) -> str:
    """One scenario, with its tables, its chart and its goals."""
    lines = [f"## {scenario.letter}. {scenario.title}", "", wrapped(scenario.work), ""]
    if scenario.skipped:
        return "\n".join([*lines, f"**Not measured**: {scenario.skipped}", ""])
    lines += [f"Measured on {scenario.when}: {scenario.how}.", ""]
    lines += [f"![{scenario.title}: chart of the medians](benchmarks/{picture_name(scenario)})", ""]
    for case in scenario.cases:
        lines += [f"**{case.label}**", ""] if case.label else []
        lines += [*table(case, scenario.metrics), ""]
    for note in scenario.notes:
        lines += [wrapped(note), ""]
    lines += [*goal_table(scenario.goals), ""] if scenario.goals else []
    return "\n".join(lines)


def machine_table(machine: Mapping[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in machine.items())]


def summary(results: Results) -> list[str]:
    """All goals in one table."""
    lines = ["| | goal | wanted | found | |", "|---|---|---:|---:|---|"]
    for letter, scenario in results.scenarios.items():
        if scenario.skipped:
            lines.append(f"| {letter} | {scenario.title} | | | not measured |")
        lines += [f"| {letter} {goal_line(goal)}" for goal in scenario.goals]
    return lines


def markdown(results: Results) -> str:
    """The whole page."""
    parts = [
        OPENING,
        *overview.lines(results.scenarios),
        "",
        "## The goals\n",
        *summary(results),
        "",
        METHOD,
        "## The machine\n",
    ]
    parts += [*machine_table(results.machine), ""]
    parts += [section(scenario) for scenario in results.scenarios.values()]
    return "\n".join(parts)


def write(results: Results, page: Path) -> Results:
    """Write the page, the charts and the raw figures beside it; what was written, with the older scenarios."""
    folder = page.parent / "benchmarks"
    folder.mkdir(exist_ok=True)
    raw = folder / "results.json"
    old = from_text(raw.read_text(encoding="utf-8")) if raw.exists() else None
    together = merged(old, results)
    for scenario in together.scenarios.values():
        chart = folder / picture_name(scenario)
        if scenario.skipped:
            chart.unlink(missing_ok=True)
        else:
            chart.write_text(picture(scenario), encoding="utf-8")
    rows = overview.comparisons(together.scenarios)
    if rows:
        (folder / OVERVIEW).write_text(overview.picture(rows), encoding="utf-8")
    else:
        (folder / OVERVIEW).unlink(missing_ok=True)
    raw.write_text(as_json(together), encoding="utf-8")
    page.write_text(markdown(together), encoding="utf-8")
    return together
