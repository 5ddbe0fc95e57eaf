"""cost.py TREE BASELINE [--only A,E,X,Y]: the CPU time of a request, in two checkouts; in microseconds.

cost.py TREE --balance wlc,maglev [--only A,X]: in one checkout, with these schedulers among three servers.

cost.py TREE --learning: in one checkout, what ILearns costs a plugin, and a balance scheduler within a rule.

The cases are those of instructions.py. wrk asks the daemon (one process, on a core of its own) before nginx for a
second, then asks for the next case, and so on; what the daemon uses, in the kernel too, is counted by the kernel
(/proc/PID/schedstat). Other work on the machine comes and goes, so counts are compared with those beside them: the
tables have medians, the median of the differences, and the bounds between which that is with 95 %.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from instructions import LOOPBACK, Case, Count, Daemon, compare, serving

ROUNDS = 60

_CORES = sorted(os.sched_getaffinity(0))
OURS, OTHERS = _CORES[:1], _CORES[1:2] or _CORES
"""The core of the daemons, and the one of wrk and nginx."""

VARYING = """local number = 0
request = function() number = number + 1; return wrk.format(nil, "/" .. number) end
"""


@contextlib.contextmanager
def timing(tree: Path, cases: list[Case]) -> Iterator[Count]:
    """The daemon of a checkout, which runs meanwhile on its core."""
    with serving(tree, cases, lambda folder: ["taskset", "-c", str(OURS[0])]) as daemon:
        (daemon.folder / "varying.lua").write_text(VARYING)
        for case in cases:
            load(daemon, case)
        yield lambda case: cost(daemon, case)


def cost(daemon: Daemon, case: Case) -> float:
    """Return the microseconds of CPU time for each request of a second."""
    began = used(daemon.pid)
    requests = load(daemon, case)
    return (used(daemon.pid) - began) / requests * 1e6


def used(pid: int) -> float:
    """Return the seconds of CPU time that the main thread of a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def load(daemon: Daemon, case: Case) -> int:
    """Return the number of requests that wrk gets answered in a second."""
    command = ["wrk", "-t1", "-c32", "-d1s", "-H", "Host: site.example"]
    command += ["-H", "Connection: close"] if case.closes else []
    command += ["-s", f"{daemon.folder}/varying.lua"] if "{n}" in case.path else []
    scheme, path = "https" if case.is_tls else "http", case.path.partition("{")[0]
    address = f"{scheme}://{LOOPBACK}:{daemon.ports[case.name]}{path}"
    done = subprocess.run([*command, address], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) requests in", done.stdout)
    if found is None or "Non-2xx" in done.stdout:
        raise SystemExit(f"{case.letter}: {done.stdout}")
    return int(found[1])


if __name__ == "__main__":
    os.sched_setaffinity(0, OTHERS)  # nginx and wrk inherit it
    sys.exit(compare(timing, __doc__, ROUNDS))
