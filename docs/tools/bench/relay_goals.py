"""The goals of K, for the relays, each from the case whose name says where it was measured."""

from __future__ import annotations

from collections.abc import Sequence

from bench.peers import OURS, TCP, TCP_SPLICE
from bench.results import Case, Goal, median, ratio

ALONE = "no proxy"
COPY, SPLICE, KERNEL = (f"{OURS} {relay}" for relay in ("copy", "splice", "kernel"))

PROCESS = 0.5
"""Microseconds of the switch's own processes for a request that the kernel relays."""

SHARE = 1.0
"""Per cent of HAProxy's CPU, for the bytes of large answers."""

ALIKE, TWO_THIRDS = 1.0, 1.5
"""Of HAProxy's busy time to ours."""

NEARLY = 0.9
"""As fast, within what rounds differ on busy cores."""

MEMORY = 3.0
"""KiB."""


def goals_of(cases: Sequence[Case]) -> tuple[list[Goal], list[str]]:
    """The goals of all cases that have the kernel's figures, and notes on those that could not be compared."""
    goals: list[Goal] = []
    notes: list[str] = []
    for case in cases:
        if case.label.endswith("contended"):
            goals += _contended(case)
        elif KERNEL in case.figures:
            more, why = _goals(case)
            goals += more
            notes += why
    return goals, notes


def _goals(case: Case) -> tuple[list[Goal], list[str]]:
    figures, label = case.figures, case.label
    if "proportional" in figures[KERNEL]:
        found = median(figures, KERNEL, "proportional")
        return [Goal(f"{label}: {KERNEL}", found, MEMORY, at_most=True, unit="KiB each")], []
    goals: list[Goal] = []
    beyond = "beyond" if "beyond" in figures[KERNEL] else "beyond_gb"
    others = [peer for peer in (TCP, TCP_SPLICE) if peer in figures and (peer == TCP or beyond == "beyond_gb")]
    if label == "wlc, pinned":
        found = median(figures, KERNEL, "own")
        goals.append(Goal(f"{label}: CPU of {KERNEL} per request", found, PROCESS, at_most=True, unit="us"))
    if label.startswith("100 MiB"):
        for peer in others:
            share = 100 / ratio(figures, peer, KERNEL, "own_gb")
            goals.append(Goal(f"{label}: CPU, {KERNEL} / {peer}", share, SHARE, at_most=True, unit="%"))
    if median(figures, KERNEL, beyond) > 0:
        wanted = TWO_THIRDS if label.endswith("one core") else ALIKE
        for peer in others:
            found = ratio(figures, peer, KERNEL, beyond)
            goals.append(Goal(f"{label}: all cores beyond the load, {peer} / {KERNEL}", found, wanted))
        notes: list[str] = []
    else:
        notes = [f"{label}: with {KERNEL} the cores were no busier than with the load alone, so there is no ratio."]
    if label.endswith("unpinned"):
        speed = "rate" if "rate" in figures[KERNEL] else "speed"
        for peer in others:
            found = 1 / ratio(figures, peer, KERNEL, speed)
            goals.append(Goal(f"{label}: throughput, {KERNEL} / {peer}", found, ALIKE))
    return goals, notes


def _contended(case: Case) -> list[Goal]:
    """On busy cores what `relay = auto` may choose must not be slower than copying."""
    if SPLICE not in case.figures or COPY not in case.figures:
        return []
    found = 1 / ratio(case.figures, COPY, SPLICE, "rate")
    return [Goal(f"{case.label}: throughput, {SPLICE} / {COPY}", found, NEARLY)]
