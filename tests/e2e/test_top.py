"""--top on a terminal, and colours, which only terminals get."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import LOOPBACK, SocketServer, chunks, dial, free_port, read_exactly, wait_for

from .harness import TCPVSADM, TIMEOUT, Daemon, command, environment

pytestmark = pytest.mark.e2e

ROWS, COLUMNS = 24, 80
ANSWER = b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"


class Terminal:
    """tcpvsadm on a terminal. written: its output."""

    def __init__(self, daemon: Daemon, *arguments: str, **variables: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.written = ""
        given = [*command("tcpvsadm", TCPVSADM), "--control", daemon.control, *arguments]
        known = {**environment(), "TERM": "xterm", **variables}
        self._process = subprocess.Popen(given, stdin=slave, stdout=slave, stderr=slave, env=known, cwd=daemon.folder)
        self.slave = slave

    def look(self) -> str:
        """Its output so far."""
        while select.select([self._master], [], [], 0)[0]:
            self.written += os.read(self._master, 65536).decode()
        return self.written

    def screen(self) -> list[str]:
        """The lines of the last complete screen, without colours."""
        drawn = re.findall(r"\x1b\[H(.*?)\x1b\[J", self.look(), re.DOTALL)
        return re.sub(r"\x1b\[[0-9;]*[mK]", "", drawn[-1]).split("\r\n") if drawn else []

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self) -> int:
        def ended() -> bool:
            self.look()
            return self._process.poll() is not None

        wait_for(ended, timeout=TIMEOUT)
        self.look()
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def terminal(daemon: Daemon) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*arguments: str, **variables: str) -> Terminal:
        made.append(Terminal(daemon, *arguments, **variables))
        return made[-1]

    yield make
    for one in made:
        one.close()


def answers(sock: object) -> None:
    for _ in chunks(sock):  # type: ignore[arg-type]
        sock.sendall(ANSWER)  # type: ignore[attr-defined]


def test_top_shows_rates_until_q(
    daemon: Daemon, terminal: Callable[..., Terminal], serve: Callable[..., SocketServer]
) -> None:
    port, server = free_port(), f"{LOOPBACK}:{serve(answers).port}"
    daemon.service("web", port, server, scheduler="phttp", rules=((".*", server),))
    daemon.call("add_service", "idle", listen=f"{LOOPBACK}:{free_port()}")
    for number in range(30):
        daemon.call("add_server", "idle", f"10.0.0.{number}:80", weight=0)
    top = terminal("--top", "-n")
    with dial((LOOPBACK, port)) as client:

        def happens() -> bool:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_exactly(client, len(ANSWER)) == ANSWER
            rows = [line.split() for line in top.screen() if line.startswith(f"  -> {server} ")]
            return bool(rows) and rows[0][2] == "up" and not {rows[0][4], rows[0][7]} & {"0", "-"}

        wait_for(happens, "requests and errors in a second", timeout=TIMEOUT, pause=0.02)
    screen = top.screen()
    assert len(screen) == ROWS
    assert max(map(len, screen)) <= COLUMNS
    # A long version, as that of a changed tree, is left out.
    assert screen[0].startswith(("TCP Virtual Server version ", "2 services "))
    assert "2 services " in screen[0]
    assert screen[-1].startswith("... and 12 more lines: ")
    assert re.search(r"ms\s*$", next(line for line in screen if line.startswith("web ")))
    assert "\x1b[32mup" in top.written
    assert "\x1b[36mdraining" in top.written
    assert termios.tcgetattr(top.slave)[3] != top.before[3]
    top.type(b"q")
    assert top.wait() == 0
    assert top.written.endswith("\x1b[?25h\x1b[?1049l")
    assert termios.tcgetattr(top.slave) == top.before


def test_top_goes_on_with_the_daemon_that_takes_over(make_daemon: Callable[..., Daemon]) -> None:
    old = make_daemon()
    old.start()
    top = Terminal(old, "--top", "-n")
    try:
        wait_for(lambda: top.screen(), timeout=TIMEOUT)
        new = make_daemon("--takeover", old.control, control=old.control)
        new.start()
        assert old.wait() == 0
        new.adm("-A", "-i", "later", "-l", f"{LOOPBACK}:{free_port()}")  # the connection of `call` was that of `old`
        wait_for(lambda: any(line.startswith("later ") for line in top.screen()), timeout=TIMEOUT)
        top.type(b"q")
        assert top.wait() == 0
    finally:
        top.close()


def test_top_ends_with_the_daemon_and_by_ctrl_c(
    daemon: Daemon, terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    assert daemon.adm("--top", check=False).returncode == 2
    nobody = terminal("--top", "-i", "nobody")
    assert nobody.wait() == 1
    one, other = terminal("--top", NO_COLOR="1"), terminal("--top")
    wait_for(lambda: one.screen() and other.screen(), timeout=TIMEOUT)
    one.type(b"\x03")
    assert one.wait() == 0
    daemon.kill()
    assert other.wait() == 3
    for top in (nobody, one, other):
        assert termios.tcgetattr(top.slave) == top.before


def test_list_has_colours_only_on_a_terminal(daemon: Daemon, terminal: Callable[..., Terminal]) -> None:
    daemon.service("up", free_port(), "10.0.0.1:80")
    daemon.call("add_service", "stopped", listen=f"{LOOPBACK}:{free_port()}")
    plain = daemon.adm("--list").stdout
    listed, counted, uncoloured = terminal("--list"), terminal("--stats"), terminal("--list", NO_COLOR="1")
    assert (listed.wait(), counted.wait(), uncoloured.wait()) == (0, 0, 0)
    assert "    # \x1b[32mrunning\x1b[0m\r\n" in listed.written
    assert "    # \x1b[31mstopped\x1b[0m\r\n" in listed.written
    assert re.search(r"^up +\x1b\[32mrunning\x1b\[0m +wlc", counted.written, re.MULTILINE)
    assert re.search(r"^stopped +\x1b\[31mstopped\x1b\[0m", counted.written, re.MULTILINE)
    assert uncoloured.written.replace("\r\n", "\n") == plain
    assert "\x1b" not in plain
