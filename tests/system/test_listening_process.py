"""Who listens on an address, as /proc says."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from servers import LOOPBACK, free_port
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ktcpvs.model.address import Inet, Unix
from ktcpvs.system import listening_process
from ktcpvs.system.listening_process import ListeningProcess, ListeningProcesses, process_of

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


def test_nobody_is_known_without_a_file_system_of_processes(tmp_path: Path) -> None:
    assert process_of(Inet(LOOPBACK, 80), str(tmp_path / "none")) is None


def test_files_that_are_closed_meanwhile_hide_no_others(tmp_path: Path) -> None:
    """The folder of its own files is open while this process lists it, with the first free number."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as before, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        before.close()
        found = process_of(Unix(str(path)))
    assert found is not None
    assert found.number == os.getpid()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Of a socket of any other program, and of the one that is found."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as odd, socket.socket(socket.AF_UNIX) as sock:
        odd.bind(b"\0ktcpvs-\xff-%d" % os.getpid())
        sock.bind(str(path))
        sock.listen()
        found = process_of(Unix(str(path)))
    assert found is not None
    (tmp_path / "net").mkdir()
    (tmp_path / "net/unix").write_text(f"heading\n0: 00000002 00000000 00010000 0001 01 4711 {path}\n")
    (tmp_path / "12/fd").mkdir(parents=True)
    (tmp_path / "12/fd/3").symlink_to("socket:[4711]")
    (tmp_path / "12/cmdline").write_bytes(b"odd\0")
    (tmp_path / "12/comm").write_bytes(b"odd\xff\n")
    assert process_of(Unix(str(path)), str(tmp_path)) == ListeningProcess("odd\ufffd", 12)


def test_a_search_ends_after_so_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_process, "MAX_FILES", 3)
    (tmp_path / "net").mkdir()
    (tmp_path / "net/unix").write_text("heading\n0: 00000002 00000000 00010000 0001 01 4711 /s\n")
    (tmp_path / "12/fd").mkdir(parents=True)
    (tmp_path / "12/cmdline").write_bytes(b"ktcpvs\0")
    for number in range(10):
        (tmp_path / f"12/fd/{number}").symlink_to("socket:[1]")
    (tmp_path / "13/fd").mkdir(parents=True)
    (tmp_path / "13/fd/3").symlink_to("socket:[4711]")
    (tmp_path / "13/cmdline").write_bytes(b"ktcpvs\0")
    assert process_of(Unix("/s"), str(tmp_path)) is None
    monkeypatch.setattr(listening_process, "MAX_FILES", 11)
    assert process_of(Unix("/s"), str(tmp_path)) == ListeningProcess("ktcpvs", 13)


def test_one_search_answers_all_questions_of_a_second(tmp_path: Path) -> None:
    """A node of a cluster with 1,000 services whose ports are taken asks as often."""
    clock = Clock()
    answers: list[ListeningProcess | None] = []
    (tmp_path / "net").mkdir()
    row = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n"
    (tmp_path / "net/tcp").write_text("heading\n" + row + row.replace(":0050", ":0051").replace("4711", "4712"))
    (tmp_path / "12/fd").mkdir(parents=True)
    (tmp_path / "12/fd/3").symlink_to("socket:[4711]")
    (tmp_path / "12/fd/4").symlink_to("socket:[4712]")
    (tmp_path / "12/cmdline").write_bytes(b"ktcpvs\0")
    processes = ListeningProcesses(clock.seconds, str(tmp_path))

    def ask(port: int) -> None:
        Deferred.fromCoroutine(processes.process_of(Inet(LOOPBACK, port))).addCallback(answers.append)

    ask(80)
    ask(82)
    (tmp_path / "12/fd/4").unlink()
    clock.advance(0.9)
    ask(81)
    assert answers == [ListeningProcess("ktcpvs", 12), None, ListeningProcess("ktcpvs", 12)]
    clock.advance(0.1)
    ask(81)
    ask(80)
    assert answers[3:] == [None, ListeningProcess("ktcpvs", 12)]
