"""The benchmark from its command line to its page: chooses the scenarios, runs them one after another, writes."""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import (
    machine,
    scenario_browsers,
    scenario_http2,
    scenario_memory,
    scenario_open_loop,
    scenario_passthrough,
    scenario_relays,
    scenario_requests,
    scenario_rules,
    scenario_servers,
    scenario_table,
    scenario_tls,
    scenario_transfer,
    scenario_workers,
)
from bench.document import Results, from_text, goal_line, write
from bench.failure import Failure
from bench.results import Scenario
from bench.workshop import Workshop, raise_descriptor_limit

PAGE = Path(__file__).parents[2] / "benchmarks.md"

SCENARIOS: dict[str, Callable[[Workshop], Scenario]] = {
    "A": scenario_requests.run_a,
    "B": scenario_requests.run_b,
    "C": scenario_requests.run_c,
    "D": scenario_rules.run,
    "E": scenario_requests.run_e,
    "F": scenario_transfer.run,
    "G": scenario_servers.run,
    "H": scenario_memory.run,
    "I": scenario_workers.run,
    "J": scenario_table.run,
    "K": scenario_relays.run,
    "L": scenario_tls.run_l,
    "M": scenario_tls.run_m,
    "N": scenario_tls.run_n,
    "O": scenario_memory.run_o,
    "P": scenario_passthrough.run,
    "Q": scenario_http2.run_q,
    "R": scenario_http2.run_r,
    "S": scenario_http2.run_s,
    "T": scenario_http2.run_t,
    "U": scenario_browsers.run_u,
    "V": scenario_browsers.run_v,
    "W": scenario_open_loop.run,
    "X": scenario_browsers.run_x,
    "Y": scenario_browsers.run_y,
    "Z": scenario_browsers.run_z,
}


def letters(text: str) -> list[str]:
    """`A,E` as scenarios; all of them for an empty text. Raises ArgumentTypeError."""
    chosen = [letter.strip().upper() for letter in text.split(",") if letter.strip()]
    for letter in chosen:
        if letter not in SCENARIOS:
            raise argparse.ArgumentTypeError(f"there is no scenario {letter}, only {', '.join(SCENARIOS)}")
    return [letter for letter in SCENARIOS if letter in chosen or not chosen]


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds, in under two minutes")
    parser.add_argument("--only", type=letters, default=letters(""), metavar="A,E", help="these scenarios")
    parser.add_argument("--rounds", type=int, help="how often everybody is measured (default: 5, quick: 2)")
    parser.add_argument("--seconds", type=int, help="how long each time (default: 4, quick: 1)")
    parser.add_argument("--baseline", type=checkout, help="another checkout of ktcpvs, which is measured too")
    parser.add_argument("--only-ours", action="store_true", help="leave the other proxies out")
    parser.add_argument("--page", type=Path, default=PAGE, help="the Markdown file to write")
    parser.add_argument(
        "--redraw",
        type=Path,
        nargs="*",
        metavar="RESULTS.json",
        help="measure nothing: write the page from the figures that it has and those of these files",
    )
    return parser.parse_args(arguments)


def checkout(text: str) -> Path:
    """The folder of a checkout. Raises ArgumentTypeError."""
    path = Path(text).resolve()
    if not (path / "ktcpvs" / "tap.py").exists():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of ktcpvs")
    return path


def run_all(shop: Workshop, chosen: list[str], page: Path) -> None:
    """Run the scenarios and write after each, so that a later failure costs none of the earlier ones."""
    described = machine.describe()
    os.sched_setaffinity(0, shop.load)
    for letter in chosen:
        began = time.monotonic()
        scenario = SCENARIOS[letter](shop)
        scenario.when = datetime.date.today().isoformat()
        scenario.how = scenario.how or f"{shop.rounds} rounds of {shop.seconds} s"
        if shop.quick:
            scenario.how += ", a quick run"
        write(Results(described, {letter: scenario}), page)
        for goal in scenario.goals:
            shop.say(f"{letter}: {goal_line(goal).strip('| ')}")
        shop.say(f"{letter}: took {time.monotonic() - began:.0f} s")


def redraw(page: Path, files: list[Path]) -> None:
    """Write the page anew from its own figures and from those of other runs on this machine. A later file replaces the
    scenarios of an earlier one, and figures of another machine the whole page."""
    for file in [page.parent / "benchmarks" / "results.json", *files]:
        try:
            write(from_text(file.read_text(encoding="utf-8")), page)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure(f"{file} has no figures: {error!r}") from error


def main(arguments: list[str]) -> int:
    """The exit code: 0, or 1 after a failure, which is told on standard error."""
    options = read_arguments(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (1 if options.quick else 4)
    try:
        if options.redraw is not None:
            redraw(options.page, options.redraw)
            return 0
        proxy, load = machine.cores()
        raise_descriptor_limit()
        with tempfile.TemporaryDirectory(prefix="ktcpvs-bench-") as name:
            os.chmod(name, 0o755)  # an nginx of root has workers of somebody else, who read their files here
            folder = Path(name)
            trees = options.baseline, options.only_ours
            shop = Workshop(folder, {proxy}, load, rounds, seconds, options.quick, *trees)
            run_all(shop, options.only, options.page)
    except Failure as failure:
        print(f"\nThe benchmark has failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nEnded; nothing runs any more.", file=sys.stderr)
        return 130
    print(f"\nWritten: {options.page.name}, and beside it benchmarks/ with charts and figures")
    return 0
