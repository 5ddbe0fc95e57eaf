"""Who listens on an address, as /proc says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from servers import LOOPBACK, free_port

from ktcpvs.model.address import Inet, Unix
from ktcpvs.system.listening_process import ListeningProcess, process_of

LISTENER = """
import socket, sys
sock = socket.create_server(("127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_another_process_is_named(tmp_path: Path) -> None:
    for program, name in (("listen.py", "python"), ("ktcpvs", "ktcpvs")):
        path = tmp_path / program
        path.write_text(LISTENER)
        with subprocess.Popen([sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            found = process_of(Inet(LOOPBACK, port))
            assert found is not None
            assert found.number == process.pid
            assert found.name.startswith(name)
            process.communicate()


def test_this_process_and_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        found = process_of(Unix(str(path)))
    assert found is not None
    assert found.number == os.getpid()
    assert process_of(Unix(str(path))) is None
    assert process_of(Inet(LOOPBACK, free_port())) is None


def test_processes_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    """A file system of processes with one that is gone, and one whose files this user may not see."""
    (tmp_path / "net").mkdir()
    row = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
    (tmp_path / "net/tcp").write_text("heading\n" + row)
    (tmp_path / "9").mkdir()
    (tmp_path / "12/fd").mkdir(parents=True)
    (tmp_path / "12/fd/3").symlink_to("socket:[4711]")
    assert process_of(Inet(LOOPBACK, 80), str(tmp_path)) is None
    (tmp_path / "12/cmdline").write_bytes(b"nginx: master process\0")
    (tmp_path / "12/comm").write_text("nginx\n")
    assert process_of(Inet(LOOPBACK, 80), str(tmp_path)) == ListeningProcess("nginx", 12)
    assert process_of(Inet(LOOPBACK, 81), str(tmp_path)) is None
