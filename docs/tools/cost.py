"""cost.py BEFORE [AFTER]: the CPU time of a request in two source trees, in turns. AFTER: this one.

wrk asks a daemon (phttp, one process, on a core of its own) before nginx for a second, then the daemon of the other
tree, and so on; what a daemon uses is counted by the kernel (/proc/PID/schedstat). Rounds beside each other are
compared, since other work on the machine comes and goes; printed are medians, and the median of the differences with
the middle half of them.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = 100
SECONDS = 1

_CORES = sorted(os.sched_getaffinity(0))
OURS, OTHERS = _CORES[:1], _CORES[1:2] or _CORES
"""The core of the daemons, and the one of wrk and nginx."""

NGINX = """daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{ }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
server {{ listen 127.0.0.1:{port}; location / {{ return 200 "ok"; }} }} }}"""

CONFIGURATION = """Virtual web {{ listen = 127.0.0.1:{port}
scheduler = phttp
server = 127.0.0.1:{nginx}
rule = pattern ".*" use server 127.0.0.1:{nginx}
}}"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def cpu(pid: int) -> float:
    """Seconds of CPU time that the process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def wait(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nothing listens on {port}")


def load(port: int, seconds: int) -> int:
    """Return the number of requests that wrk gets answered."""
    done = subprocess.run(
        ["wrk", "-t1", "-c32", f"-d{seconds}s", f"http://127.0.0.1:{port}/"], capture_output=True, text=True, check=True
    )
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found is not None, done.stdout
    return int(found[1])


def main() -> None:
    trees = {"before": Path(sys.argv[1]).resolve(), "after": Path(sys.argv[2]).resolve() if sys.argv[2:] else ROOT}
    with tempfile.TemporaryDirectory() as name:
        folder, nginx = Path(name), free_port()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=nginx))
        os.sched_setaffinity(0, OTHERS)  # wrk and nginx inherit it
        started = [subprocess.Popen(["nginx", "-p", name, "-c", f"{name}/nginx.conf"], stderr=subprocess.DEVNULL)]
        daemons = {}
        try:
            for tree, path in trees.items():
                port = free_port()
                config = folder / f"{tree}.conf"
                config.write_text(CONFIGURATION.format(port=port, nginx=nginx))
                twistd = [
                    sys.executable,
                    "-c",
                    "from twisted.scripts.twistd import run; run()",
                    "--nodaemon",
                    "--pidfile=",
                ]
                options = ["--reactor=uvloop", "ktcpvs", "--workers", "0", "--config", str(config)]
                options += ["--control", f"unix:{name}/{tree}.sock"]
                environment = {**os.environ, "PYTHONPATH": str(path)}
                with open(folder / f"{tree}.log", "w") as log:
                    process = subprocess.Popen(
                        [*twistd, *options], env=environment, cwd=path, stdout=log, stderr=subprocess.STDOUT
                    )
                os.sched_setaffinity(process.pid, OURS)
                started.append(process)
                daemons[tree] = process.pid, port
                wait(port)
                load(port, 1)
            took: dict[str, list[float]] = {tree: [] for tree in trees}
            for number in range(ROUNDS):
                for tree in sorted(trees, reverse=bool(number % 2)):
                    pid, port = daemons[tree]
                    began = cpu(pid)
                    requests = load(port, SECONDS)
                    took[tree].append((cpu(pid) - began) / requests * 1e6)
            before, after = (statistics.median(took[tree]) for tree in trees)
            gained = [100 * (two / one - 1) for one, two in zip(took["before"], took["after"], strict=True)]
            low, middle, high = statistics.quantiles(gained, n=4)
            best = [statistics.quantiles(took[tree], n=10)[0] for tree in trees]
            print(f"where others disturbed least (the best tenth): before {best[0]:.2f} us, after {best[1]:.2f} us")
            print(f"CPU time of a request: before {before:.1f} us, after {after:.1f} us (medians of {ROUNDS} rounds)")
            print(f"difference of neighbours: {middle:+.1f} %, the middle half {low:+.1f} to {high:+.1f} %")
        finally:
            for process in reversed(started):
                process.terminate()
            for process in started:
                process.wait()


if __name__ == "__main__":
    main()
