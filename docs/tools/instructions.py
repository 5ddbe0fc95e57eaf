"""instructions.py TREE BASELINE [--only A,U]: the instructions of the daemon for each request, in two checkouts.

instructions.py TREE --balance wlc,maglev [--only A,X]: in one checkout, with these schedulers among three servers.

instructions.py TREE --learning: in one checkout, what ILearns costs a plugin, and a balance scheduler within a rule.

The processor's time of the same work scatters by a tenth and more on a shared machine. The number of instructions in
user space does not: valgrind counts them. What the kernel does is not among them; `strace -c` counts its calls.
Both checkouts need their own environment (`make compiled`), and valgrind, nginx and openssl must be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

LOOPBACK, NAME = "127.0.0.1", "site.example"
START_SECONDS = 1200.0
"""A daemon starts fifty times slower in valgrind, and slower still on a busy machine."""

TIMEOUT = 120.0
BODY = b"x" * 65536
HEAD = (
    "GET {path} HTTP/1.1\r\nHost: site.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html\r\n"
    "Accept-Language: en\r\nAccept-Encoding: gzip\r\n{more}\r\n"
)

NGINX = """daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off; keepalive_requests 1000000; client_body_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen {host}:{port}; listen 127.0.0.2:{port}; listen 127.0.0.3:{port}; listen {host}:{tls} ssl; root {folder};
        ssl_certificate {folder}/pem; ssl_certificate_key {folder}/pem;
        location / {{ return 200 "hello, this is the server\\n"; }}
        location = /large {{ }}
    }}
}}
"""

PLUGINS = """
from zope.interface import directlyProvides, implementer
from twisted.plugin import IPlugin
from ktcpvs.interfaces import CONNECTION, EACH_REQUEST, Choice, ILearns, IScheduler, ISchedulerFactory
from ktcpvs.schedulers.chash import BoundCHash, CHash
from ktcpvs.schedulers.rr import RR, BoundRR


@implementer(IScheduler)
class One:
    def __init__(self, service):
        self.choice = Choice(service.destinations[0], "the only one")

    def choose(self, request):
        return self.choice


def learning(bound):
    def completed(self, outcome):
        pass

    return implementer(ILearns)(type("Learning" + bound.__name__, (bound,), {"completed": completed}))


@implementer(IPlugin, ISchedulerFactory)
class Factory:
    def __init__(self, name, unit, kind, base=None):
        self.name, self.unit, self.kind, self.base = name, unit, kind, base

    def bind(self, service, previous):
        if self.base is None:
            return self.kind(service)
        bound = self.base.bind(service, None)
        bound.__class__ = self.kind
        return bound


one = Factory("one", EACH_REQUEST, One)
one_learning = Factory("one-learning", EACH_REQUEST, learning(One))
rr_plain = Factory("rr-plain", CONNECTION, type("PlainRR", (BoundRR,), {}), RR())
rr_learning = Factory("rr-learning", CONNECTION, learning(BoundRR), RR())
chash_plain = Factory("chash-plain", CONNECTION, type("PlainCHash", (BoundCHash,), {}), CHash())
chash_learning = Factory("chash-learning", CONNECTION, learning(BoundCHash), CHash())
"""


@dataclass(frozen=True)
class Case:
    """letter: of the scenario of the benchmark. lines: of the service. path: {n}: the number of the request. closes: a
    connection for each request. count: of requests. balance: chooses among three servers; "": there is one."""

    letter: str
    work: str
    scheduler: str
    lines: tuple[str, ...] = ()
    path: str = "/"
    closes: bool = False
    is_tls: bool = False
    is_passed: bool = False
    count: int = 2000
    balance: str = ""

    @property
    def name(self) -> str:
        """The name of its service."""
        return f"{self.letter}-{self.scheduler}-{self.balance}".lower().rstrip("-")


CASES = (
    Case("A", "HTTP, request by request", "phttp"),
    Case("B", "HTTP, decided once for a connection", "http"),
    Case("C", "connections by load", "wlc"),
    Case("E", "a connection for each request", "phttp", closes=True, count=400),
    Case("F", "64 KiB", "phttp", path="/large", count=200),
    Case("L", "requests over TLS", "phttp", path="/{n}", is_tls=True),
    Case("M", "TLS connections", "phttp", closes=True, is_tls=True, count=100),
    Case("P", "TLS passed through", "sni", is_tls=True, is_passed=True),
    Case("U", "a connection for each request, relayed", "wlc", closes=True, count=400),
    Case("X", "requests that vary", "phttp", path="/{n}"),
    Case(
        "Y", "the same, with X-Forwarded-For and a log", "phttp", ("x_forwarded_for = append", "access_log = {log}"),
        path="/{n}",
    ),
)  # fmt: skip

LEARNING = (
    Case("A", "a plugin that returns one choice", "one"),
    Case("A", "the same", "one-learning"),
    *(
        Case("A", "phttp", "phttp", balance=name)
        for name in ("rr-plain", "rr-learning", "chash-plain", "chash-learning")
    ),
)
"""Pairs: without ILearns, and with it."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], log: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on a port. It is ended."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            until = time.monotonic() + START_SECONDS
            while not is_open(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{command[0]} does not start: {log.read_text()}")
                time.sleep(0.1)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port)):
        return True
    return False


class Client:
    """Sends requests, one after the other, and reads the responses."""

    def __init__(self, port: int, case: Case) -> None:
        self._port = port
        self._case = case
        self._context = ssl._create_unverified_context()
        self._sent = 0

    def ask(self, count: int) -> None:
        """Send so many requests."""
        connection = None
        for _ in range(count):
            if connection is None:
                connection = self._connect()
            self._ask(connection)
            if self._case.closes:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((LOOPBACK, self._port), timeout=TIMEOUT)
        if self._case.is_tls:
            return self._context.wrap_socket(connection, server_hostname=NAME)
        return connection

    def _ask(self, connection: socket.socket) -> None:
        self._sent += 1
        more = "Connection: close\r\n" if self._case.closes else ""
        connection.sendall(HEAD.format(path=self._case.path.format(n=self._sent), more=more).encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._read(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{self._case.letter}: {head.decode('latin-1')}")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None
        left = int(length[1]) - len(body)
        while left > 0:
            left -= len(self._read(connection))

    def _read(self, connection: socket.socket) -> bytes:
        data = connection.recv(1 << 17)
        if not data:
            raise SystemExit(f"{self._case.letter}: the connection was closed")
        return data


def configuration(folder: Path, cases: list[Case], ports: dict[str, int], server: int, tls_server: int) -> str:
    """The configuration with a service for each case."""
    lines = []
    for case in cases:
        ends_tls = case.is_tls and not case.is_passed
        address = f"{LOOPBACK}:{tls_server if case.is_passed else server}"
        addresses = [address, f"127.0.0.2:{server}", f"127.0.0.3:{server}"] if case.balance else [address]
        lines += [f"Virtual {case.name} {{", f"    scheduler = {case.scheduler}"]
        lines += [f"    balance = {case.balance}"] if case.balance else []
        lines += [f"    listen = {LOOPBACK}:{ports[case.name]}{' tls' if ends_tls else ''}"]
        lines += [f"    server = {one}" for one in addresses]
        lines += [f"    certificate = {folder}/pem"] if ends_tls else []
        lines += [f"    {line.format(log=folder / 'access.log')}" for line in case.lines]
        if case.scheduler in ("http", "phttp"):
            lines.append(f'    rule = pattern "^/" use server {" server ".join(addresses)}')
        if case.scheduler == "sni":
            lines.append(f"    rule = host {NAME} use server {address}")
        lines.append("}")
    return "\n".join(lines) + "\n"


def count_all(tree: Path, cases: list[Case]) -> dict[str, float]:
    """Name of a case -> instructions of the daemon of a checkout for each request."""
    with tempfile.TemporaryDirectory(prefix="ktcpvs-instructions-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        ports = {case.name: free_port() for case in cases}
        server, tls_server = free_port(), free_port()
        (folder / "large").write_bytes(BODY)
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={NAME}"]
        request += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout"]
        subprocess.run([*request, f"{folder}/key", "-out", f"{folder}/crt"], check=True, capture_output=True)
        (folder / "pem").write_bytes((folder / "crt").read_bytes() + (folder / "key").read_bytes())
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, host=LOOPBACK, port=server, tls=tls_server))
        (folder / "ktcpvs.conf").write_text(configuration(folder, cases, ports, server, tls_server))
        plugins = folder / "twisted/plugins"
        plugins.mkdir(parents=True)
        (plugins / "ktcpvs_instructions_plugin.py").write_text(PLUGINS)
        python, program = (str(tree / ".venv/bin" / name) for name in ("python", "ktcpvs"))
        daemon = [
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts", python, program, "--workers", "0",
            "--config", f"{folder}/ktcpvs.conf", "--control", f"unix:{folder}/control",
        ]  # fmt: skip
        os.environ["PYTHONHASHSEED"], os.environ["PYTHONPATH"] = "0", name
        nginx = ["nginx", "-c", f"{folder}/nginx.conf"]
        with (
            running(nginx, folder / "nginx.log", server),
            running(daemon, folder / "log", ports[cases[0].name]) as process,
        ):
            return {case.name: count_twice(folder, process.pid, ports[case.name], case) for case in cases}


def count_twice(folder: Path, pid: int, port: int, case: Case) -> float:
    """Return the smaller of two counts: what the daemon does besides is in the other one."""
    client = Client(port, case)
    return min(count(folder, pid, client, case) for _ in range(2))


def count(folder: Path, pid: int, client: Client, case: Case) -> float:
    """Return the instructions for each request of a case, once its caches are warm."""
    client.ask(max(case.count // 2, 50))
    control("--zero", pid)
    client.ask(case.count)
    known = set(folder.glob("counts.*"))
    control("--dump", pid)
    until = time.monotonic() + TIMEOUT
    while True:
        for path in set(folder.glob("counts.*")) - known:
            found = re.search(r"(?m)^totals: *(\d+)", path.read_text(errors="replace"))
            if found is not None:
                return int(found[1]) / case.count
        if time.monotonic() > until:
            raise SystemExit(f"{case.letter}: valgrind has written no counts")
        time.sleep(0.2)


def control(what: str, pid: int) -> None:
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True)


def letters(text: str) -> list[Case]:
    wanted = text.upper().split(",")
    return [case for case in CASES if case.letter in wanted]


def report(write: Callable[[str], object], cases: list[Case], ours: dict[str, float], before: dict[str, float]) -> None:
    write("| | work | before | now | |\n|---|---|---:|---:|---:|\n")
    for case in cases:
        old, new = before[case.name], ours[case.name]
        write(f"| {case.letter} | {case.work} | {old:,.0f} | {new:,.0f} | {new / old - 1:+.1%} |\n")


def report_balances(write: Callable[[str], object], cases: list[Case], counted: dict[str, float]) -> None:
    write("| | balance | instructions | beside the first |\n|---|---|---:|---:|\n")
    for case in cases:
        first = next(one for one in cases if one.letter == case.letter)
        number = counted[case.name]
        write(f"| {case.letter} | {case.balance} | {number:,.0f} | {number / counted[first.name] - 1:+.1%} |\n")


def report_learning(write: Callable[[str], object], counted: dict[str, float]) -> None:
    write("| scheduler | without ILearns | with it | more | |\n|---|---:|---:|---:|---:|\n")
    for case, learning in zip(LEARNING[::2], LEARNING[1::2], strict=True):
        old, new = counted[case.name], counted[learning.name]
        scheduler = f"{case.work} {case.balance}".strip()
        write(f"| {scheduler} | {old:,.0f} | {new:,.0f} | {new - old:,.0f} | {new / old - 1:+.1%} |\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("baseline", type=Path, nargs="?")
    parser.add_argument(
        "--balance", metavar="NAME,NAME", help="compare these schedulers within a rule of three servers"
    )
    parser.add_argument("--learning", action="store_true", help="compare schedulers that learn with those that do not")
    parser.add_argument("--only", type=letters, default=list(CASES), metavar="A,U", help="these scenarios")
    options = parser.parse_args()
    if options.learning:
        report_learning(sys.stdout.write, count_all(options.tree.resolve(), list(LEARNING)))
        return 0
    if options.balance is not None:
        cases = [replace(case, balance=name) for case in options.only for name in options.balance.split(",")]
        report_balances(sys.stdout.write, cases, count_all(options.tree.resolve(), cases))
        return 0
    if options.baseline is None:
        parser.error("a second checkout to compare with, --balance or --learning is needed")
    before = count_all(options.baseline.resolve(), options.only)
    ours = count_all(options.tree.resolve(), options.only)
    report(sys.stdout.write, options.only, ours, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
