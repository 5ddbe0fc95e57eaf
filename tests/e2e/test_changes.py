"""Changes under load: no request fails, and no connection is dropped."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, free_port, program, wait_for

from .harness import TIMEOUT, Daemon

pytestmark = pytest.mark.e2e

Make = Callable[..., Daemon]

CHANGES = 500
"""The number of changes for each number of workers."""


PACE = "function delay() return 20 end"
"""For wrk: each connection pauses for 20 ms after a response. At full speed, wrk and the daemon would take all
processors for as long as the changes last; `make soak` does that."""


class Wrk:
    """wrk with some clients, until `stop`: several requests are on their way at each change."""

    def __init__(self, folder: Path, port: int, clients: int, *options: str) -> None:
        """folder: for its script."""
        script = folder / "pace.lua"
        script.write_text(PACE)
        command = [program("wrk"), "-t1", f"-c{clients}", "-d600s", "--timeout", "10s", "-s", str(script), *options]
        self._process = subprocess.Popen([*command, f"http://{LOOPBACK}:{port}/"], stdout=subprocess.PIPE, text=True)

    def stop(self) -> tuple[int, list[str]]:
        """Return how many requests were answered, and the errors that its report lists."""
        self._process.send_signal(signal.SIGINT)
        said, _ = self._process.communicate(timeout=TIMEOUT)
        found = re.search(r"(\d+) requests in", said)
        assert found is not None, said
        return int(found[1]), re.findall(r"^ *((?:Socket errors|Non-2xx).*)$", said, re.MULTILINE)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class Downloads:
    """Downloads that take a second each, one after another. `wrong` lists their errors."""

    SIZE = 100_000

    def __init__(self, port: int) -> None:
        self.whole = 0
        self.wrong: list[str] = []
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with contextlib.closing(http.client.HTTPConnection(LOOPBACK, self._port, timeout=TIMEOUT)) as client:
                    client.request("GET", "/slow/file")
                    answer = client.getresponse()
                    assert (answer.status, len(answer.read())) == (200, self.SIZE)
                self.whole += 1
            except Exception as error:
                self.wrong.append(repr(error))

    def stop(self) -> None:
        self._over.set()
        self._thread.join(TIMEOUT)


class Changes:
    """Makes random changes that the present table allows."""

    def __init__(self, daemon: Daemon, file: Path, port: int, servers: list[str]) -> None:
        self._daemon = daemon
        self._file = file
        self._port = port
        self._servers = servers
        self._chance = random.Random(7)
        self._loaded = 0
        self.made: dict[str, int] = {}
        self._there: list[str] = []
        self._rules: list[str] = []

    def configuration(self, number: int) -> str:
        """One of two configurations; it becomes the table that the next changes start from."""
        some = self._servers[:1] if number % 2 else self._servers[:2]
        rules = "".join(f' rule = pattern ".*" use server {server}' for server in some)
        servers = "".join(f" server = {server} {2 - number % 2}" for server in some)
        self._there, self._rules = list(some), list(some)
        return (
            f"global {{ read_timeout = {100 + number % 50} }}\n"
            f"Virtual web {{ listen = {LOOPBACK}:{self._port} scheduler = phttp{servers}{rules} }}\n"
        )

    def make(self) -> None:
        """Make one change and wait until the daemon has answered."""
        kinds = [self._add, self._delete, self._weight, self._rule, self._option, self._setting, self._look]
        kinds += [self._other, self._load, self._hang_up]
        kind = self._chance.choices(kinds, [4, 4, 4, 4, 4, 2, 1, 0.5, 1, 0.3])[0]
        kind()
        self.made[kind.__name__] = self.made.get(kind.__name__, 0) + 1

    def _call(self, *words: Any, **named: Any) -> Any:
        return self._daemon.call(*words, **named)

    def _add(self) -> None:
        missing = [server for server in self._servers if server not in self._there]
        if missing:
            server = self._chance.choice(missing)
            self._call("add_server", "web", server, weight=self._chance.randint(1, 3))
            self._there.append(server)

    def _delete(self) -> None:
        """Delete a server, unless it is the last one that rules use."""
        server = self._chance.choice(self._there)
        if server in self._rules:
            if len(self._rules) == 1:
                return
            self._call("delete_rule", "web", ".*", server)
            self._rules.remove(server)
        self._call("delete_server", "web", server)
        self._there.remove(server)

    def _weight(self) -> None:
        server = self._chance.choice(self._there)
        least = 0 if server not in self._rules else 1
        self._call(
            "edit_server", "web", server, weight=self._chance.randint(least, 3), maxconn=self._chance.choice([0, 200])
        )

    def _rule(self) -> None:
        free = [server for server in self._there if server not in self._rules]
        if free:
            self._call("edit_server", "web", free[0], weight=1)  # it may be the only one soon
            self._call("add_rule", "web", ".*", free[0])
            self._rules.append(free[0])
            return
        self._call("add_rule", "web", "^/images/", self._there[0])
        self._call("delete_rule", "web", "^/images/", self._there[0])

    def _option(self) -> None:
        name, *values = self._chance.choice(
            [
                ("scheduler", "phttp", "chttp", "http", "wlc", "p2c", "sh"),
                ("balance", "wlc", "rr", "p2c"),
                ("via", "off", "append"),
                ("x_forwarded_for", "off", "replace"),
                ("maxclients", 0, 500),
                ("access_log", "off", str(self._file.with_suffix(".log"))),
                ("fallback", "none", "wlc"),
            ]
        )
        self._call("edit_service", "web", **{name: self._chance.choice(values)})

    def _setting(self) -> None:
        name, *values = self._chance.choice(
            [
                ("pool_size", 0, 1, 64),
                ("max_backlog", 512, 1024, 2048),
                ("debug_level", 0, 1),
                ("keepalive_timeout", 20, 30),
                ("cookie_key", "", "a secret of ours".replace(" ", "_")),
            ]
        )
        self._call("set", {name: self._chance.choice(values)})

    def _look(self) -> None:
        look = self._chance.choice(["table", "stats", "settings", "connections", "schedulers", "explain"])
        self._call(look, *(["web"] if look == "explain" else []))

    def _other(self) -> None:
        """Add another service, start it, move it, stop it and delete it."""
        port = free_port()
        self._call("add_service", "other", listen=f"{LOOPBACK}:{port}", scheduler="wlc")
        self._call("start", "other")
        self._call("edit_service", "other", listen=f"0.0.0.0:{port}")
        self._call("stop", "other")
        self._call("delete_service", "other")

    def _load(self) -> None:
        self._loaded += 1
        self._call("load", self.configuration(self._loaded))

    def _hang_up(self) -> None:
        self._loaded += 1
        self._file.write_text(self.configuration(self._loaded))
        before = self._daemon.log().count("is loaded")
        self._daemon.signal(signal.SIGHUP)
        wait_for(lambda: self._daemon.log().count("is loaded") > before)


@pytest.mark.load
@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_changes_under_load_fail_no_request(
    make_daemon: Make, web: list[Nginx], stack: contextlib.ExitStack, tmp_path: Path, workers: int
) -> None:
    port, file = free_port(), tmp_path / "ktcpvs.conf"
    daemon = make_daemon("--config", file, "--state", tmp_path / "state", workers=workers)
    changes = Changes(daemon, file, port, [server.address for server in web])
    file.write_text(changes.configuration(0))
    for server in web:
        server.file("file", Downloads.SIZE)
    daemon.start()
    loads = [Wrk(tmp_path, port, 16), Wrk(tmp_path, port, 8, "-H", "Connection: close")]
    for load in loads:
        stack.callback(load.kill)
    downloads = [Downloads(port) for _ in range(2)]
    for download in downloads:
        stack.callback(download.stop)
    for _ in range(CHANGES):
        changes.make()
    answered = [load.stop() for load in loads]
    for download in downloads:
        download.stop()
    assert [download.wrong for download in downloads] == [[], []]
    assert [wrong for _, wrong in answered] == [[], []]
    assert min(count for count, _ in answered) > CHANGES
    assert all(download.whole for download in downloads)
    assert len(changes.made) == 10, changes.made
