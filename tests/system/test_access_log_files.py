"""The writer of access logs, with real files, FIFOs and sockets: no avoidable loss, and no blocking."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, formatEvent

from ktcpvs.errors import BadValue
from ktcpvs.system.access_log_files import BATCH_BYTES, MAX_PENDING_BYTES, MAX_SYSLOG_BYTES, AccessLog, AccessLogs
from ktcpvs.system.log import EventLog

MINUTE = 60
"""Ticks."""


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until `condition` is true. Raises AssertionError if that takes too long."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Logs(AccessLogs):
    """said: what the event log was told; all of it in this thread."""

    def __init__(self, limit: int = MAX_PENDING_BYTES) -> None:
        self.said: list[str] = []
        self._mine = threading.get_ident()
        super().__init__(EventLog(logger=Logger(namespace="test", observer=self._hear)), limit)

    def _hear(self, event: Any) -> None:
        assert threading.get_ident() == self._mine
        self.said.append(formatEvent(event))

    def tick_until(self, condition: Callable[[], Any]) -> None:
        """Let seconds pass, quickly, until it is true."""

        def looked() -> Any:
            self.tick()
            return condition()

        wait_for(looked)


@pytest.fixture
def logs() -> Iterator[Logs]:
    made = Logs()
    yield made
    made.close()


@pytest.fixture
def small() -> Iterator[Logs]:
    """No more than 100,000 bytes may wait for one log."""
    made = Logs(100_000)
    yield made
    made.close()


def lines(first: int, count: int) -> list[bytes]:
    """Numbered ones, of 100 bytes."""
    return [b"%099d\n" % number for number in range(first, first + count)]


def numbers(data: bytes) -> list[int]:
    """Of those lines; each must be whole."""
    assert len(data) % 100 == 0
    assert data == b"".join(b"%099d\n" % int(line) for line in data.splitlines())
    return [int(line) for line in data.splitlines()]


def write(log: AccessLog, several: list[bytes]) -> None:
    for line in several:
        log.write(line)


def descriptors(path: object) -> int:
    """Return the number of descriptors that this process has of that path."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}") == str(path)
    return count


def threads() -> int:
    return sum(thread.name == "access logs" for thread in threading.enumerate())


@contextlib.contextmanager
def pipe(path: Path) -> Iterator[int]:
    """A reader of the FIFO, which is made if it is not there; it does not wait for bytes."""
    if not path.exists():
        os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield reader
    finally:
        os.close(reader)


def read_pipe(reader: int) -> bytes:
    """All that is in it now."""
    data = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(reader, 1 << 20):
            data += more
    return data


# Files.


def test_lines_are_appended_in_their_order(tmp_path: Path, logs: Logs) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"before\n")
    log = logs.open(str(path))
    write(log, lines(0, 50))
    logs.tick()
    write(log, lines(50, 50))
    logs.close()
    before, after = path.read_bytes().split(b"\n", 1)
    assert before == b"before"
    assert numbers(after) == list(range(100))
    assert logs.said == []


def test_a_new_file_is_not_readable_by_all_users(tmp_path: Path, logs: Logs) -> None:
    before = os.umask(0)
    try:
        logs.check(str(tmp_path / "a.log"), "web")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.log").stat().st_mode) == 0o640


def test_few_lines_wait_for_the_tick_and_many_do_not(tmp_path: Path, logs: Logs) -> None:
    few, many = tmp_path / "few.log", tmp_path / "many.log"
    log, other = logs.open(str(few)), logs.open(str(many))
    write(log, lines(0, 3))
    write(other, lines(0, BATCH_BYTES // 100 + 1))
    wait_for(lambda: many.exists() and numbers(many.read_bytes()))
    assert not few.exists()
    logs.tick()
    wait_for(lambda: few.exists() and numbers(few.read_bytes()) == [0, 1, 2])


def test_one_place_is_one_log_for_all_its_users(tmp_path: Path, logs: Logs) -> None:
    path = tmp_path / "a.log"
    log = logs.open(str(path))
    assert logs.open(str(path)) is log
    assert logs.open(str(tmp_path / "b.log")) is not log
    log.write(b"one\n")
    log.release()
    log.write(b"two\n")
    logs.tick()
    wait_for(lambda: descriptors(path) == 1 and path.read_bytes() == b"one\ntwo\n")
    log.write(b"three\n")
    log.release()
    wait_for(lambda: descriptors(path) == 0)
    again = logs.open(str(path))
    assert again is not log
    again.write(b"four\n")
    logs.tick_until(lambda: path.read_bytes() == b"one\ntwo\nthree\nfour\n")
    assert threads() == 1
    assert logs.said == []


def test_rotation_while_lines_are_written(tmp_path: Path, logs: Logs) -> None:
    path = tmp_path / "a.log"
    log = logs.open(str(path))
    for turn in range(20):
        write(log, lines(turn * 1000, 500))
        if turn:
            path.rename(tmp_path / f"a.log.{turn:02}")
        logs.reopen()
        write(log, lines(turn * 1000 + 500, 500))
        wait_for(path.exists)
    logs.close()
    found = [numbers(part.read_bytes()) for part in [*sorted(tmp_path.glob("a.log.*")), path]]
    assert [number for part in found for number in part] == list(range(20_000))
    assert [part[-1] for part in found[:-1]] == [turn * 1000 + 499 for turn in range(1, 20)]
    assert log.lost == 0


def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path, logs: Logs) -> None:
    path = tmp_path / "later" / "a.log"
    log = logs.open(str(path))
    write(log, lines(0, 10))
    logs.tick_until(lambda: logs.said)
    why = f"cannot write to access log {path}: No such file or directory"
    assert logs.said == [why]
    for _ in range(MINUTE - 1):
        logs.tick()
    assert logs.said == [why]
    logs.tick()
    assert logs.said == [why, why]
    write(log, lines(10, 10))
    path.parent.mkdir()
    logs.tick_until(path.exists)
    logs.tick_until(lambda: log.waiting == 0)
    assert numbers(path.read_bytes()) == list(range(20))
    assert log.lost == 0


def test_a_full_disk(small: Logs) -> None:
    log = small.open("/dev/full")
    write(log, lines(0, 900))
    small.tick_until(lambda: small.said)
    assert small.said == ["cannot write to access log /dev/full: No space left on device"]
    write(log, lines(0, 600))
    assert (log.waiting, log.lost) == (100_000, 500)
    small.tick()
    assert small.said[1:] == ["access log /dev/full dropped 500 lines"]
    write(log, lines(0, 7))
    for _ in range(MINUTE):
        small.tick()
    assert sorted(small.said[2:]) == [
        "access log /dev/full dropped 7 lines",
        "cannot write to access log /dev/full: No space left on device",
    ]
    small.close()
    assert log.waiting == 0
    assert small.said[-1] == "access log /dev/full dropped 1000 lines"


def test_a_log_in_trouble_does_not_hold_up_the_others(tmp_path: Path, logs: Logs) -> None:
    bad, good = logs.open("/dev/full"), logs.open(str(tmp_path / "a.log"))
    with pipe(tmp_path / "fifo"):
        slow = logs.open(str(tmp_path / "fifo"))
        for log in (bad, slow, good):
            write(log, lines(0, 2000))
        logs.tick_until(lambda: good.waiting == 0)
        assert bad.waiting == 200_000
        assert slow.waiting > 0
        slow.release()


def test_lines_of_a_log_that_is_given_back_in_trouble_are_counted(logs: Logs) -> None:
    log = logs.open("/dev/full")
    write(log, lines(0, 5))
    log.release()
    log.write(b"too late\n")
    logs.tick_until(lambda: logs.said)
    assert logs.said[-1] == "access log /dev/full dropped 6 lines"
    assert descriptors("/dev/full") == 0


# FIFOs.


def test_a_fifo_without_a_reader(tmp_path: Path, small: Logs) -> None:
    path = tmp_path / "fifo"
    with pipe(path) as reader:
        small.check(str(path), "web")
        log = small.open(str(path))
        write(log, lines(0, 50_000))
        small.tick()
        assert 0 < log.waiting <= 100_000
        assert small.said == [f"access log {path} dropped {log.lost} lines"]
        data = b""
        accepted = (50_000 - log.lost) * 100
        while len(data) < accepted:
            wait_for(lambda: log.waiting == 0 or log.sink.full)
            data += read_pipe(reader)
        found = numbers(data)
        assert found == sorted(set(found))
        assert len(found) == 50_000 - log.lost
        assert log.waiting == 0


def test_a_reader_that_leaves_amid_a_line_costs_that_line(tmp_path: Path, logs: Logs) -> None:
    path = tmp_path / "fifo"
    long = b"x" * 200_000 + b"\n"
    with pipe(path):
        log = logs.open(str(path))
        write(log, [long, b"one\n", b"two\n"])
        logs.tick()
        wait_for(lambda: log.sink.full)
        assert 0 < log.waiting < len(long)
    logs.tick_until(lambda: log.lost)
    with pipe(path) as reader:
        logs.tick_until(lambda: log.waiting == 0)
        assert read_pipe(reader) == b"one\ntwo\n"
    assert log.lost == 1


# Syslog.


@contextlib.contextmanager
def syslogd(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(str(path))
        daemon.settimeout(10)
        try:
            yield daemon
        finally:
            path.unlink()


def test_syslog(tmp_path: Path, logs: Logs) -> None:
    with syslogd(tmp_path / "log") as daemon:
        place = f"syslog:{tmp_path / 'log'}"
        logs.check(place, "web")
        log = logs.open(place)
        write(log, [b"one\n", b"y" * 10_000 + b"\n", b"three\n"])
        logs.tick()
        head = b"<134>ktcpvs[%d]: " % os.getpid()
        long = (head + b"y" * 10_000)[:MAX_SYSLOG_BYTES]
        assert [daemon.recv(1 << 20) for _ in range(3)] == [head + b"one", long, head + b"three"]
        logs.reopen()
        write(log, lines(0, 5000))
        logs.tick()
        heard = b"".join(daemon.recv(1 << 20).removeprefix(head) + b"\n" for _ in range(5000))
        assert numbers(heard) == list(range(5000))
    assert log.lost == 0


def test_a_syslogd_that_goes_away_and_comes_back(tmp_path: Path, small: Logs) -> None:
    log = small.open(f"syslog:{tmp_path / 'log'}")
    with syslogd(tmp_path / "log") as daemon:
        log.write(b"one\n")
        small.tick()
        assert daemon.recv(1000).endswith(b": one")
    log.write(b"two\n")
    small.tick_until(lambda: small.said)
    assert small.said[0].startswith(f"cannot write to access log syslog:{tmp_path / 'log'}: ")
    write(log, lines(0, 2000))
    assert log.waiting <= 100_000
    assert log.lost > 1000
    with syslogd(tmp_path / "log") as daemon:
        small.tick()
        assert daemon.recv(1000).endswith(b": two")
        heard = [int(daemon.recv(1000).split(b": ")[1]) for _ in range(2000 - log.lost)]
        assert heard == list(range(2000 - log.lost))
        small.tick_until(lambda: log.waiting == 0)


def test_a_syslogd_that_reads_nothing(tmp_path: Path, small: Logs) -> None:
    log = small.open(f"syslog:{tmp_path / 'log'}")
    with syslogd(tmp_path / "log"):
        write(log, lines(0, 10_000))
        small.tick()
        wait_for(lambda: log.sink.full)
        assert 0 < log.waiting <= 100_000
        small.close()
    assert log.waiting == 0
    assert log.lost > 9000 - 1000
    assert all("dropped" in said for said in small.said)


# Refused edits.


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("{}", "Is a directory"),
        ("{}/none/a.log", "No such file or directory"),
        ("{}/file/a.log", "Not a directory"),
        ("{}/fifo", "no process reads this FIFO"),
        ("syslog:{}/none", "no syslogd at {}/none: No such file or directory"),
        ("syslog:{}/file", "no syslogd at {}/file: Connection refused"),
        ("syslog:{}/" + "x" * 100, "AF_UNIX path too long"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, logs: Logs, place: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadValue) as refused:
        logs.check(place.format(tmp_path), "web")
    assert why.format(tmp_path) in str(refused.value)
    assert str(refused.value).startswith("service web: access_log = ")
    assert "\n" not in str(refused.value)


def test_a_check_leaves_nothing_open(tmp_path: Path, logs: Logs) -> None:
    logs.check(str(tmp_path / "a.log"), "web")
    assert descriptors(tmp_path / "a.log") == 0
    assert (tmp_path / "a.log").read_bytes() == b""
    assert threads() == 0


# The end.


def test_close_drops_lines_that_cannot_be_written(tmp_path: Path, logs: Logs) -> None:
    with pipe(tmp_path / "fifo") as reader:
        log = logs.open(str(tmp_path / "fifo"))
        write(log, lines(0, 3000))
        logs.close()
        assert threads() == 0
        written = len(read_pipe(reader))
        assert log.lost == 3000 - written // 100
        assert logs.said == [f"access log {tmp_path / 'fifo'} dropped {log.lost} lines"]
        assert descriptors(tmp_path / "fifo") == 1  # the reader's


def test_after_close_nothing_happens_any_more(tmp_path: Path, logs: Logs) -> None:
    log = logs.open(str(tmp_path / "a.log"))
    log.write(b"one\n")
    logs.close()
    write(log, lines(0, 2000))
    logs.tick()
    logs.reopen()
    log.release()
    logs.close()
    assert (tmp_path / "a.log").read_bytes() == b"one\n"
    assert log.lost == 2000
    assert threads() == 0


def test_logs_that_are_forgotten_leave_no_thread(tmp_path: Path) -> None:
    forgotten = Logs()
    forgotten.open(str(tmp_path / "a.log")).write(b"one\n")
    forgotten.tick()
    assert threads() == 1
    del forgotten
    gc.collect()
    wait_for(lambda: threads() == 0)
    assert (tmp_path / "a.log").read_bytes() == b"one\n"
    assert descriptors(tmp_path / "a.log") == 0
