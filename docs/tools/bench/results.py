"""Results as values: figures of each round, their medians and ratios, and the goals they are held to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from attrs import Factory, asdict, define, frozen

OURS = "ktcpvs"

Figures = dict[str, dict[str, list[float]]]
"""Name of the measured program -> metric's key -> a value for each round."""


@frozen
class Metric:
    """title: what it is. unit: of the values, as written behind them. digits: after the point."""

    title: str
    unit: str
    digits: int = 1

    def text(self, value: float) -> str:
        """A value with its digits; thousands are set apart."""
        return f"{value:,.{self.digits}f}"


METRICS = {
    "cpu": Metric("CPU of the proxy per request", "us"),
    "core": Metric("busy time of its core per request", "us"),
    "own": Metric("CPU of the proxy per request", "us", 3),
    "all": Metric("busy time of all cores per request", "us"),
    "beyond": Metric("busy time of all cores per request, beyond the load's", "us"),
    "rate": Metric("requests per second", "", 0),
    "capacity": Metric("requests per second of CPU of its busiest process", "", 0),
    "p99": Metric("99th percentile of the latency", "ms", 2),
    "p50": Metric("median of the latency", "ms", 2),
    "late": Metric("99th percentile of the load's own delay", "ms", 2),
    "saturation": Metric("requests per second at saturation", "", 0),
    "cpu_gb": Metric("CPU of the proxy per GB", "s", 2),
    "core_gb": Metric("busy time of its core per GB", "s", 2),
    "own_gb": Metric("CPU of the proxy per GB", "ms", 2),
    "all_gb": Metric("busy time of all cores per GB", "ms", 0),
    "beyond_gb": Metric("busy time of all cores per GB, beyond the load's", "ms", 0),
    "speed": Metric("throughput", "MB/s", 0),
    "resident": Metric("resident memory per connection", "KiB", 2),
    "proportional": Metric("proportional memory (Pss) per connection", "KiB", 2),
    "base": Metric("resident memory before", "MiB"),
    "load": Metric("time to load", "s", 3),
    "slowest": Metric("slowest request", "ms", 2),
}
"""Key -> what it is. The first metric of a scenario is the one that its goal is about, and its chart shows."""


def median(figures: Mapping[str, Mapping[str, list[float]]], who: str, metric: str) -> float:
    """The median of all rounds. Raises ValueError when nothing was measured."""
    values = figures.get(who, {}).get(metric, [])
    if not values:
        raise ValueError(f"{who} has no figures for {metric}")
    return statistics.median(values)


def ratio(figures: Mapping[str, Mapping[str, list[float]]], peer: str, ours: str, metric: str) -> float:
    """The peer's median divided by ours: over 1 where we cost less. Raises ValueError when something is missing."""
    own = median(figures, ours, metric)
    if own <= 0:
        raise ValueError(f"{ours} has spent nothing: {metric} is {own}")
    return median(figures, peer, metric) / own


@frozen
class Goal:
    """One goal. value: the measured one. at_most: True when less is better. unit: behind both numbers."""

    text: str
    value: float
    wanted: float
    at_most: bool = False
    unit: str = ""

    @property
    def reached(self) -> bool:
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted


@define
class Case:
    """One table of a scenario. label: an empty text where there is only one."""

    label: str
    figures: Figures

    def goals(self, metric: str, wanted: Mapping[str, float]) -> list[Goal]:
        """The goals that the cost of each of these peers, divided by ours, is at least so much; without those that were
        not measured."""
        return [self.ratio_goal(peer, OURS, metric, ratio) for peer, ratio in wanted.items() if peer in self.figures]

    def ratio_goal(self, peer: str, ours: str, metric: str, wanted: float) -> Goal:
        """The goal that the peer's cost divided by ours is at least `wanted`."""
        label = f"{self.label}: " if self.label else ""
        return Goal(f"{label}{peer} / {ours}", ratio(self.figures, peer, ours, metric), wanted)


@define
class Scenario:
    """letter: its name. title: a few words. work: what is done, one paragraph. metrics: keys, the most important one
    first. ours: whose ratios to all others are shown. how: rounds and seconds. skipped: why it was not measured; an
    empty text when it was. when: the day."""

    letter: str
    title: str
    work: str
    metrics: list[str]
    cases: list[Case] = Factory(list)
    goals: list[Goal] = Factory(list)
    notes: list[str] = Factory(list)
    how: str = ""
    skipped: str = ""
    when: str = ""


def to_json(scenario: Scenario) -> dict[str, Any]:
    """As JSON keeps it."""
    return asdict(scenario)


def from_json(kept: dict[str, Any]) -> Scenario:
    """Read the text that `to_json` made. Raises TypeError or KeyError when it is something else."""
    cases = [Case(**case) for case in kept["cases"]]
    goals = [Goal(**goal) for goal in kept["goals"]]
    return Scenario(**{**kept, "cases": cases, "goals": goals})
