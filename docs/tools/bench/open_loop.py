"""The open-loop load: requests at a fixed rate, with latencies from the moment at which each was due (open_loop.c)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from attrs import frozen

from bench.failure import Failure
from bench.processes import output_of, program

SOURCE = Path(__file__).with_suffix(".c")


@frozen
class OpenReport:
    """requests: answered. seconds: how long it took. median, slowest: the 50th and the 99th percentile of the
    latencies. late: the 99th percentile of how long a due request waited for the load itself. All in seconds."""

    requests: int
    seconds: float
    median: float
    slowest: float
    late: float


def build(folder: Path) -> Path:
    """Compile the load into the folder; its path. Raises Failure without a compiler."""
    made = folder / "open_loop"
    output_of([program("cc"), "-O2", "-Wall", "-o", str(made), str(SOURCE)], os.sched_getaffinity(0))
    return made


def read(text: str) -> OpenReport:
    """Read the output of the load. Raises Failure when the text is not the load's."""
    total = re.search(r"^requests (\d+)\nseconds ([\d.]+)$", text, re.MULTILINE)
    found = {
        name: {key: float(value) / 1e6 for key, value in re.findall(r"(\w+) ([\d.]+)", values)}
        for name, values in re.findall(r"^(latency|late) (.*)$", text, re.MULTILINE)
    }
    if not total or not int(total[1]) or found.keys() != {"latency", "late"}:
        raise Failure(f"the open-loop load has not measured: {text}")
    latency = found["latency"]
    return OpenReport(int(total[1]), float(total[2]), latency["p50"], latency["p99"], found["late"]["p99"])


def run(
    load: Path, port: int, requests: Path, cores: set[int], *, clients: int, rate: float, seconds: float
) -> OpenReport:
    """Send the requests of a file (`browsers.write_script`) on `clients` connections.

    rate: requests per second; 0 for as many as the proxy answers. Raises Failure when a response is not 200, when a
    connection breaks, and when responses do not come.
    """
    words = [str(load), str(port), str(requests), str(clients), str(rate), str(seconds)]
    return read(output_of(words, cores, seconds + 60))
