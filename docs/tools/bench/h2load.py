"""The load of HTTP/2: h2load, and what it says."""

from __future__ import annotations

import re
from pathlib import Path

from bench.configurations import LOOPBACK, NAME
from bench.failure import Failure
from bench.load import Report, read_duration
from bench.processes import output_of, program

CONNECTIONS, STREAMS = 16, 10
"""Connections, and requests at a time on each."""


def read(text: str) -> Report:
    """Read the output of h2load. Raises Failure when a request failed or an answer was wrong, and when the text is not
    h2load's. The slowest request stands for the 99th percentile, which it does not tell."""
    counts = re.search(r"^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored", text, re.MULTILINE)
    statuses = re.search(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text, re.MULTILINE)
    total = re.search(r"^finished in ([\d.]+)(us|ms|s|m|h), ", text, re.MULTILINE)
    slowest = re.search(r"^time for request: +\S+ +(\S+) ", text, re.MULTILINE)
    if not counts or not statuses or not total or not slowest or not int(counts[1]):
        raise Failure(f"h2load has not measured: {text}")
    if int(counts[2]) or int(counts[3]) or any(int(count) for count in statuses.groups()[1:]):
        raise Failure(f"h2load: {counts[0]}\n{statuses[0]}")
    return Report(int(counts[1]), read_duration(total[1] + total[2]), read_duration(slowest[1]))


def command(
    port: int,
    seconds: int,
    *,
    path: str = "/",
    paths: Path | None = None,
    clients: int = CONNECTIONS,
    streams: int = STREAMS,
    lines: tuple[str, ...] = (),
    body: Path | None = None,
    is_tls: bool = False,
) -> list[str]:
    """The command line of h2load. paths: a file with a path in each line, requested in turn; None: always `path`.
    lines: header fields. body: a file that each request posts. is_tls: it speaks TLS, and verifies nothing."""
    base = f"{'https' if is_tls else 'http'}://{NAME if is_tls else LOOPBACK}:{port}"
    options = [f"-c{clients}", f"-m{streams}", "-t1", f"-D{seconds}"]
    for line in lines:
        options += ["-H", line]
    options += ["-d", str(body)] if body else []
    if paths is None:
        return [program("h2load"), *options, base + path]
    return [program("h2load"), *options, "-B", base, "-i", str(paths)]


def h2load(cores: set[int], seconds: int, port: int, **options: object) -> Report:
    """Send requests for so many seconds, as fast as answers come. options: as for `command`. Raises Failure as `read`
    does."""
    words = command(port, seconds, **options)  # type: ignore[arg-type]
    return read(output_of(words, cores, seconds + 30))
