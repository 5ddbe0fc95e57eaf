"""The load: wrk, and what it says."""

from __future__ import annotations

import re

from attrs import frozen

from bench.configurations import CLIENTS, LOOPBACK, NAME
from bench.failure import Failure
from bench.processes import output_of, program

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""As wrk writes durations -> seconds."""


@frozen
class Report:
    """requests: answered. seconds: how long it took. slowest: the 99th percentile of the latencies, seconds."""

    requests: int
    seconds: float
    slowest: float


def _seconds(text: str) -> float:
    """A duration of wrk's. Raises ValueError."""
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m|h)", text)
    if not found:
        raise ValueError(f"not a duration: {text}")
    return float(found[1]) * UNITS[found[2]]


def read(text: str) -> Report:
    """Read the output of wrk --latency. Raises Failure when an answer was wrong or a connection broke, and when the
    text is not wrk's."""
    for line in text.splitlines():
        if "Non-2xx" in line or "Socket errors" in line:
            raise Failure(f"wrk: {line.strip()}\n{text}")
    total = re.search(r"^\s*(\d+) requests in (\S+),", text, re.MULTILINE)
    slowest = re.search(r"^\s*99%\s+(\S+)\s*$", text, re.MULTILINE)
    if not total or not slowest or not int(total[1]):
        raise Failure(f"wrk has not measured: {text}")
    return Report(int(total[1]), _seconds(total[2]), _seconds(slowest[1]))


def command(
    port: int,
    path: str,
    seconds: int,
    *,
    threads: int = 1,
    clients: int = CLIENTS,
    close: bool = False,
    script: str = "",
    is_tls: bool = False,
) -> list[str]:
    """The command line of wrk. close: a new connection for each request. script: a file that makes requests
    (`browsers.write_script`); an empty text for always the same path. is_tls: it speaks TLS, and verifies nothing."""
    options = [f"-t{threads}", f"-c{clients}", f"-d{seconds}s", "--latency"]
    if close:
        options += ["-H", "Connection: close"]
    if script:
        options += ["-s", script]
    base = f"https://{NAME}" if is_tls else f"http://{LOOPBACK}"
    return [program("wrk"), *options, f"{base}:{port}{path}"]


def wrk(
    port: int,
    path: str,
    seconds: int,
    cores: set[int],
    *,
    threads: int = 1,
    close: bool = False,
    script: str = "",
    is_tls: bool = False,
) -> Report:
    """Ask for a path, from `CLIENTS` connections, as fast as answers come. Raises Failure as `read` does."""
    words = command(port, path, seconds, threads=threads, close=close, script=script, is_tls=is_tls)
    return read(output_of(words, cores, seconds + 30))
