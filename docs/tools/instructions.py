"""instructions.py TREE BASELINE [--only A,U]: the instructions of the daemon for each request, in two checkouts.

instructions.py TREE --balance wlc,maglev [--only A,X]: in one checkout, with these schedulers among three servers.

instructions.py TREE --learning: in one checkout, what ILearns costs a plugin, and a balance scheduler within a rule.

Each is counted in several rounds, in turn: the tables have medians, with the spread in brackets.
The processor's time of the same work scatters by a tenth and more on a shared machine. The number of instructions in
user space does not: valgrind counts them, in what is done for events of sockets. What the kernel does is not among
them; `strace -c` counts its calls.
Both checkouts need their own environment (`make compiled`), and valgrind, nginx and openssl must be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

LOOPBACK, NAME = "127.0.0.1", "site.example"
START_SECONDS = 1200.0
"""A daemon starts fifty times slower in valgrind, and slower still on a busy machine."""

TIMEOUT = 120.0
SERVING = "uv__io_cb"
"""The function of uvloop that is called for each event of a socket. All else is left out: timers and other threads,
which have the more to do for a request the slower the machine is."""

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

    return implementer(ILearns)(type("Learning" + bound.__name__, (bound,), {"completed": completed, "__slots__": ()}))


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
rr_plain = Factory("rr-plain", CONNECTION, type("PlainRR", (BoundRR,), {"__slots__": ()}), RR())
rr_learning = Factory("rr-learning", CONNECTION, learning(BoundRR), RR())
chash_plain = Factory("chash-plain", CONNECTION, type("PlainCHash", (BoundCHash,), {"__slots__": ()}), CHash())
chash_learning = Factory("chash-learning", CONNECTION, learning(BoundCHash), CHash())
"""


Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Rounds:
    """The counts of one case, one for each round."""

    numbers: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.numbers)

    @property
    def spread(self) -> float:
        """The distance of the least and the largest, as a part of the median."""
        return (max(self.numbers) - min(self.numbers)) / self.median

    def __str__(self) -> str:
        return f"{self.median:,.0f} ({self.spread:.1%})" if self.median >= 1000 else f"{self.median:.2f}"

    def beside(self, others: Rounds) -> str:
        """Return how much more this is than others: the median of the pairs; and at least and at most, or from 20 pairs
        on the bounds between which the median of endless pairs is with 95 % (order statistics)."""
        shares = sorted(mine / other - 1 for mine, other in zip(self.numbers, others.numbers, strict=True))
        outside = 0 if len(shares) < 20 else int((len(shares) - 1.96 * len(shares) ** 0.5) / 2)
        return f"{statistics.median(shares):+.1%} ({shares[outside]:+.1%} to {shares[-1 - outside]:+.1%})"


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


Write = Callable[[str], object]

Count = Callable[[Case], float]
"""Returns what each request of a case costs a daemon: its instructions, or its CPU time."""


@dataclass(frozen=True)
class Daemon:
    """A daemon that serves cases. ports: by the names of cases."""

    folder: Path
    pid: int
    ports: Mapping[str, int]


@contextlib.contextmanager
def serving(tree: Path, cases: list[Case], wrapper: Callable[[Path], list[str]]) -> Iterator[Daemon]:
    """The daemon of a checkout with a service for each case, and nginx behind it, while they run.

    wrapper: returns the command that runs the daemon's command as its arguments, from the folder with all files.
    """
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
        daemon = [*wrapper(folder), python, program, "--workers", "0", "--config", f"{folder}/ktcpvs.conf"]
        daemon += ["--control", f"unix:{folder}/control"]
        os.environ["PYTHONHASHSEED"], os.environ["PYTHONPATH"] = "0", name
        nginx = ["nginx", "-c", f"{folder}/nginx.conf"]
        with (
            running(nginx, folder / "nginx.log", server),
            running(daemon, folder / "log", ports[cases[0].name]) as process,
        ):
            yield Daemon(folder, process.pid, ports)


@contextlib.contextmanager
def counting(tree: Path, cases: list[Case]) -> Iterator[Count]:
    """The daemon of a checkout in valgrind, which runs meanwhile."""
    valgrind = "valgrind", "--tool=callgrind"
    with serving(tree, cases, lambda folder: [*valgrind, f"--callgrind-out-file={folder}/counts"]) as daemon:
        yield lambda case: count(daemon, Client(daemon.ports[case.name], case), case)


Counting = Callable[[Path, list[Case]], contextlib.AbstractContextManager[Count]]
"""`counting`, or another way to find what requests cost the daemon of a checkout."""


def count_all(counting: Counting, tree: Path, cases: list[Case], rounds: int) -> dict[str, Rounds]:
    """Name of a case -> the counts of the daemon of a checkout, the cases in turn in each round."""
    with counting(tree, cases) as count_case:
        return turns(rounds, {case.name: functools.partial(count_case, case) for case in cases})


def count_both(
    counting: Counting, tree: Path, baseline: Path, cases: list[Case], rounds: int
) -> dict[str, tuple[Rounds, Rounds]]:
    """Name of a case -> the counts of the baseline and those of the tree, in turn: both daemons run meanwhile."""
    with counting(baseline, cases) as before, counting(tree, cases) as now:
        what = {
            (case.name, count_case): functools.partial(count_case, case)
            for case in cases
            for count_case in (before, now)
        }
        found = turns(rounds, what)
    return {case.name: (found[case.name, before], found[case.name, now]) for case in cases}


def turns(rounds: int, what: Mapping[Key, Callable[[], float]]) -> dict[Key, Rounds]:
    """Call these functions in turn, so often, every other time from the last to the first."""
    found: dict[Key, list[float]] = {key: [] for key in what}
    for number in range(rounds):
        for key in list(what)[:: -1 if number % 2 else 1]:
            found[key].append(what[key]())
    return {key: Rounds(tuple(numbers)) for key, numbers in found.items()}


def count(daemon: Daemon, client: Client, case: Case) -> float:
    """Return the instructions for each request of a case, once its caches are warm."""
    client.ask(max(case.count // 2, 50))
    control("--zero", daemon.pid)
    client.ask(case.count)
    known = set(daemon.folder.glob("counts.*"))
    control("--dump", daemon.pid)
    until = time.monotonic() + TIMEOUT
    while True:
        for path in set(daemon.folder.glob("counts.*")) - known:
            text = path.read_text(errors="replace")
            if re.search(r"(?m)^totals:", text):
                return spent_in(SERVING, text) / case.count
        if time.monotonic() > until:
            raise SystemExit(f"{case.letter}: valgrind has written no counts")
        time.sleep(0.2)


def spent_in(name: str, text: str) -> int:
    """Return the instructions within the calls of a function, by a dump of callgrind: its name stands where it is first
    named, and its number from then on; the line behind that of its calls has what they took."""
    number = re.search(rf"(?m)^c?fn=(\(\d+\)) {re.escape(name)}$", text)
    if number is None:
        raise SystemExit(f"the daemon never calls {name}: it must run on uvloop's reactor")
    pattern = rf"(?m)^cfn={re.escape(number[1])}.*\ncalls=.*\n\S+ (\d+)$"
    return sum(int(one) for one in re.findall(pattern, text))


def control(what: str, pid: int) -> None:
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True)


def letters(text: str) -> list[Case]:
    wanted = text.upper().split(",")
    return [case for case in CASES if case.letter in wanted]


def report(write: Write, cases: list[Case], counted: dict[str, tuple[Rounds, Rounds]]) -> None:
    write("| | work | before | now | |\n|---|---|---:|---:|---:|\n")
    for case in cases:
        old, new = counted[case.name]
        write(f"| {case.letter} | {case.work} | {old} | {new} | {new.beside(old)} |\n")


def report_balances(write: Write, cases: list[Case], counted: dict[str, Rounds]) -> None:
    write("| | balance | instructions | beside the first |\n|---|---|---:|---:|\n")
    for case in cases:
        first = next(one for one in cases if one.letter == case.letter)
        number = counted[case.name]
        write(f"| {case.letter} | {case.balance} | {number} | {number.beside(counted[first.name])} |\n")


def report_learning(write: Write, counted: dict[str, Rounds]) -> None:
    write("| scheduler | without ILearns | with it | more | |\n|---|---:|---:|---:|---:|\n")
    for case, learning in zip(LEARNING[::2], LEARNING[1::2], strict=True):
        old, new = counted[case.name], counted[learning.name]
        scheduler = f"{case.work} {case.balance}".strip()
        write(f"| {scheduler} | {old} | {new} | {new.median - old.median:,.0f} | {new.beside(old)} |\n")


def compare(counting: Counting, description: str, rounds: int) -> int:
    """Do what the command line says. rounds: counts of each case, unless it says how many."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("baseline", type=Path, nargs="?")
    parser.add_argument(
        "--balance", metavar="NAME,NAME", help="compare these schedulers within a rule of three servers"
    )
    parser.add_argument("--learning", action="store_true", help="compare schedulers that learn with those that do not")
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="COUNT", help=f"counts of each, in turn; {rounds}"
    )
    parser.add_argument("--only", type=letters, default=list(CASES), metavar="A,U", help="these scenarios")
    options = parser.parse_args()
    tree, write = options.tree.resolve(), sys.stdout.write
    if options.learning:
        report_learning(write, count_all(counting, tree, list(LEARNING), options.rounds))
        return 0
    if options.balance is not None:
        cases = [replace(case, balance=name) for case in options.only for name in options.balance.split(",")]
        report_balances(write, cases, count_all(counting, tree, cases, options.rounds))
        return 0
    if options.baseline is None:
        parser.error("a second checkout to compare with, --balance or --learning is needed")
    both = count_both(counting, tree, options.baseline.resolve(), options.only, options.rounds)
    report(write, options.only, both)
    return 0


if __name__ == "__main__":
    sys.exit(compare(counting, __doc__, rounds=3))
