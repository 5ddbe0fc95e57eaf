"""The load of new TLS connections: a handshake for each request, full or resumed (handshakes.c)."""

from __future__ import annotations

import os
import re
from pathlib import Path

from attrs import frozen

from bench.failure import Failure
from bench.processes import output_of, program

SOURCE = Path(__file__).with_suffix(".c")

FULL, RESUMED = "full", "resumed"


@frozen
class HandshakeReport:
    """requests: answered, each on a connection of its own. resumed: how many of these resumed a session. seconds: how
    long it took. slowest: the 99th percentile, seconds, from the beginning of a connection to the end of its
    response."""

    requests: int
    resumed: int
    seconds: float
    slowest: float


def build(folder: Path) -> Path:
    """Compile the load into the folder; its path. Raises Failure without a compiler or OpenSSL's headers."""
    made = folder / "handshakes"
    command = [program("cc"), "-O2", "-Wall", "-o", str(made), str(SOURCE), "-lssl", "-lcrypto"]
    try:
        output_of(command, os.sched_getaffinity(0))
    except Failure as failure:
        if "openssl/" in str(failure):
            raise Failure("openssl/ssl.h is missing: install the Debian package libssl-dev") from None
        raise
    return made


def read(text: str) -> HandshakeReport:
    """Read the output of the load. Raises Failure when the text is not the load's."""
    found = re.search(r"^requests (\d+)\nresumed (\d+)\nseconds ([\d.]+)\nlatency .*p99 ([\d.]+)", text, re.MULTILINE)
    if not found or not int(found[1]):
        raise Failure(f"the load of handshakes has not measured: {text}")
    return HandshakeReport(int(found[1]), int(found[2]), float(found[3]), float(found[4]) / 1e6)


def check(report: HandshakeReport, kind: str, clients: int) -> None:
    """Raises Failure when the handshakes were of another kind: a session was refused, or resumed without being offered.
    clients: as for `run`; the first connection of each has no session to offer."""
    if (kind == FULL and report.resumed) or (kind == RESUMED and report.resumed < report.requests - clients):
        raise Failure(f"{report.resumed} of {report.requests} connections were resumed; handshakes are to be {kind}")


def run(
    load: Path, port: int, requests: Path, cores: set[int], kind: str, *, clients: int, seconds: float
) -> HandshakeReport:
    """Send the requests of a file (`browsers.write_script`), `clients` at a time, each on a new connection.

    kind: FULL or RESUMED. Raises Failure when a response is not 200, a handshake fails, responses do not come, or the
    handshakes were of the other kind.
    """
    words = [str(load), str(port), str(requests), str(clients), str(seconds), kind]
    report = read(output_of(words, cores, seconds + 60))
    check(report, kind, clients)
    return report
