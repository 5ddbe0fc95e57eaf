"""Draw the pictures of the README: tcpvsadm in a terminal, with a real daemon and servers, and bars of benchmarks."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

TOOLS = Path(__file__).parent
ROOT = TOOLS.parents[1]
PICTURES = ROOT / "docs/pictures"
RESULTS = ROOT / "docs/benchmarks/results.json"
sys.path.append(str(TOOLS))

from bench.chart import Bar, Group, draw  # noqa: E402
from bench.document import Results, from_text, metrics_of  # noqa: E402
from bench.peers import OURS  # noqa: E402
from bench.results import METRICS  # noqa: E402
from terminal import Terminal, moving, still  # noqa: E402

COLUMNS = 92
PORTS = ("8080", "8001", "8002", "8003")
TABLE = """
Virtual shop {{
    listen = 127.0.0.1:{8080}
    scheduler = phttp
    server = 127.0.0.1:{8001}
    server = 127.0.0.1:{8002} 2
    server = 127.0.0.1:{8003} 1 drain
    rule = name images path /images/ use server 127.0.0.1:{8001}
    rule = name beta header X-Beta use server 127.0.0.1:{8002} server 127.0.0.1:{8003}
    rule = name rest pattern ".*" use server 127.0.0.1:{8001} server 127.0.0.1:{8002}
}}
"""

SPEED = (
    ("X", "", "Requests of browsers"),
    ("F", "64 KiB", "Responses of 64 KiB"),
    ("X", "edits", "Requests with edited header fields"),
)
"""The bars: letter of the scenario, label of the case, title. The last is one that the switch loses."""


def free_ports() -> dict[str, str]:
    """Ports of the pictures -> free ones on loopback with as many digits: the same if possible."""
    found: dict[str, str] = {}
    others = iter(range(5100, 9900))
    for name in PORTS:
        for port in itertools.chain([int(name)], others):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found[name] = str(port)
                break
    return found


@contextlib.contextmanager
def running(*command: str, log: Path) -> Iterator[None]:
    """Run a program while the block lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_for_port(port: str) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


@contextlib.contextmanager
def switch(folder: Path, ports: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A daemon and three web servers; yields the environment for tcpvsadm."""
    control = f"unix:{folder}/control.sock"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KTCPVS_CONTROL": control,
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "NO_PROXY": "*",
    }
    with contextlib.ExitStack() as stack:
        for name in PORTS[1:]:
            root = folder / name
            root.mkdir()
            (root / "index.html").write_text(f"hello from {name}\n")
            web = [sys.executable, "-m", "http.server", ports[name], "--bind", "127.0.0.1", "--directory", str(root)]
            stack.enter_context(running(*web, log=folder / f"{name}.log"))
            wait_for_port(ports[name])
        daemon = [str(Path(sys.executable).with_name("ktcpvs")), "--control", control, "--workers", "0"]
        stack.enter_context(running(*daemon, log=folder / "ktcpvs.log"))
        end = time.monotonic() + 30
        while not (folder / "control.sock").exists():
            if time.monotonic() > end:
                raise RuntimeError((folder / "ktcpvs.log").read_text())
            time.sleep(0.05)
        yield environment


def record(folder: Path) -> dict[str, str]:
    """The pictures of the terminal, by file name."""
    ports = free_ports()
    shown = {real: name for name, real in ports.items() if real != name}

    def real(command: str) -> str:
        for name, port in ports.items():
            command = command.replace(name, port)
        return command

    table = TABLE
    for name, port in ports.items():
        table = table.replace(f"{{{name}}}", port)
    (folder / "shop.conf").write_text(table.replace("{{", "{").replace("}}", "}"))
    pictures = {}
    with switch(folder, ports) as environment:
        os.chdir(folder)
        load = [str(Path(sys.executable).with_name("tcpvsadm")), "-f", "shop.conf", "--start"]
        subprocess.run(load, env=environment, check=True)
        terminal = Terminal(COLUMNS, 26, environment, shown)
        terminal.run("tcpvsadm --explain -i shop 'GET /cart' -H 'X-Beta: 1'")
        pictures["explain.svg"] = still("tcpvsadm --explain", terminal.recording)
        terminal.close()
        subprocess.run([load[0], "--stop"], env=environment, check=True)
        subprocess.run([load[0], "-F"], env=environment, check=True)
        terminal = Terminal(COLUMNS, 22, environment, shown)
        terminal.run(real("tcpvsadm -A -i web -s phttp -l 127.0.0.1:8080"), 0.3)
        terminal.run(real("tcpvsadm -a -i web -r 127.0.0.1:8001"), 0.3)
        terminal.run("tcpvsadm --start -i web", 0.6)
        terminal.run(real("curl http://127.0.0.1:8080/"), 1.2)
        terminal.run("# Clients, without a pause:", 0.3)
        get = real("curl -fsS http://127.0.0.1:8080/ || echo failed")
        terminal.run(f"touch go; (while [ -e go ]; do {get}; done >log 2>&1 &)", 0.8)
        terminal.run(real("tcpvsadm -a -i web -r 127.0.0.1:8002 -w 3"), 0.6)
        terminal.run("tcpvsadm -E -i web -s chttp response_header='X-Served-By ktcpvs'", 0.6)
        terminal.run(real("tcpvsadm --drain -r 127.0.0.1:8001 --wait"), 1.0)
        terminal.run(real("tcpvsadm -d -i web -r 127.0.0.1:8001"), 0.8)
        terminal.run("rm go; sort -u log", 1.5)
        terminal.run("grep -c failed log", 1.5)
        terminal.run("tcpvsadm --save", 5)
        pictures["live-edit.svg"] = moving("A table that changes under load", terminal.recording)
        terminal.close()
        if "failed" in (folder / "log").read_text():
            raise SystemExit(f"requests failed: {(folder / 'log').read_text()[-1000:]}")
    return pictures


def speed(results: Results) -> str:
    """Some benchmarks as bars: CPU time of the proxies."""
    groups = []
    for letter, label, title in SPEED:
        scenario = results.scenarios[letter]
        case = next(case for case in scenario.cases if case.label == label)
        metric = metrics_of(case, scenario.metrics)[0]
        bars = []
        for name, figures in case.figures.items():
            text = f"{METRICS[metric].text(statistics.median(figures[metric]))} {METRICS[metric].unit}"
            bars.append(Bar(name, tuple(figures[metric]), text, name == OURS))
        groups.append(Group(f"{title}: {METRICS[metric].title}", tuple(bars)))
    return draw("CPU time of the proxy: shorter is better", groups)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ktcpvs-pictures-") as name:
        pictures = record(Path(name))
    pictures["speed.svg"] = speed(from_text(RESULTS.read_text()))
    for name, text in pictures.items():
        (PICTURES / name).write_text(text)
        print(f"docs/pictures/{name}")


if __name__ == "__main__":
    main()
