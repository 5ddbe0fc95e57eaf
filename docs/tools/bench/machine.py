"""The machine on which figures were taken: its processor, its kernel, and the programs on it."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from bench.failure import Failure
from bench.processes import output_of, program


def cores() -> tuple[int, set[int]]:
    """The core for the proxy, and those for load and servers. Raises Failure where there are fewer than two."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise Failure("two cores are needed: one for the proxy, one for the load and the servers")
    return allowed[-1], set(allowed[:-1])


def processor(text: str) -> str:
    """The name of the processor, from the text of /proc/cpuinfo."""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "unknown"


def describe() -> dict[str, str]:
    """The facts on which the figures depend. Raises Failure when a program that is needed is missing."""
    everywhere = os.sched_getaffinity(0)
    haproxy = output_of([program("haproxy"), "-v"], everywhere)
    nginx = output_of([program("nginx"), "-v"], everywhere)
    wrk = output_of(["/bin/sh", "-c", f"{program('wrk')} -v || true"], everywhere)  # it says so and ends with 1
    return {
        "processor": processor(Path("/proc/cpuinfo").read_text()),
        "cores": str(len(everywhere)),
        "kernel": platform.release(),
        "ktcpvs": version("ktcpvs"),
        "Python": platform.python_version(),
        "Twisted": version("twisted"),
        "uvloop": version("uvloop"),
        "HAProxy": _first(r"version (\S+)", haproxy),
        "nginx": _first(r"nginx/(\S+)", nginx),
        "wrk": _first(r"wrk (?:debian/)?(\S+)", wrk),
    }
