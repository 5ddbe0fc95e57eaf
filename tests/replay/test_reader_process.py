"""The process that reads a log: the same report as without it, and its end in each case."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from access_logs import CONFIGURATION, A, B, C, lines, record
from servers import wait_for

from ktcpvs.errors import Refusal
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.replay import log_file, reader_process
from ktcpvs.replay import replay as replay_module
from ktcpvs.replay.log_file import LogFile
from ktcpvs.replay.log_reader import LogReader
from ktcpvs.replay.reader_process import MIN_LOG_BYTES, ReaderProcess
from ktcpvs.replay.replay import Replay, Replayed, choose_service
from ktcpvs.replay.report import as_json, format_text
from ktcpvs.system.process import Process

# Python 3.12 warns of the threads that processes of pytest-xdist have. Those take no lock that a reader needs.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    """Check that no process is left, not even one that has ended, and no descriptor."""

    def own() -> tuple[set[str], set[str]]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()), set(
            os.listdir("/proc/self/fd")
        )

    before = own()
    yield
    assert own() == before


def replayed(log: Path, aside: bool, scheduler: str, **more: Any) -> Replayed:
    table = parse(CONFIGURATION).apply(Table())
    service = choose_service(table, None, scheduler, None)
    return Replay(table, service, LogFile(str(log)), only="web", reads_aside=aside, **more).run()


def varied(form: str, number: int = 1500) -> bytes:
    """Return a log with most of what a log can have: other services, errors, malformed and long lines."""
    chance = Random(5)
    found = []
    for at in range(number):
        server = chance.choice((A, B, C))
        more: dict[str, Any] = {"client": f"192.0.2.{chance.randrange(90)}", "total": chance.lognormvariate(-2, 0.5)}
        if at % 50 == 0:
            more |= {"error": f"{B}: refused", "retries": 1}
        if at % 70 == 0:
            more["status"] = 503
        if at % 90 == 0:
            more |= {"server": None, "status": 400, "reason": None}
        target = chance.choice(("/shop/%d", "/old/%d", "/%d")) % chance.randrange(300)
        one = record(at / 100 + chance.random(), target, **{"server": server, **more})
        found.append(lines(one, form=form, service="other" if at % 110 == 0 else "web"))
        if at % 400 == 1:
            found.append(b"damaged \xff\n" if at % 800 == 1 else b"x" * (log_file.MAX_LINE_BYTES + 1) + b"\n")
    return b"".join(found)


@pytest.mark.parametrize("scheduler", ["phttp", "chttp", "wlc", "sh"])
@pytest.mark.parametrize("form", ["json", "combined"])
def test_the_report_is_the_same(tmp_path: Path, form: str, scheduler: str) -> None:
    log = tmp_path / "l.gz"
    log.write_bytes(gzip.compress(varied(form), 1))
    here, aside = (replayed(log, where, scheduler, headers=b"X-Beta: 1\r\n") for where in (False, True))
    assert as_json(here) == as_json(aside)
    assert format_text(here) == format_text(aside)
    assert here.log.late == aside.log.late
    assert here.log.malformed
    assert here.simulated.requests > 1400


@pytest.mark.parametrize("limit", ["BATCH_ROWS", "BATCH_BYTES"])
def test_batches_of_any_size_are_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    (tmp_path / "l").write_bytes(varied("json", 300))
    whole = as_json(replayed(tmp_path / "l", False, "phttp"))
    monkeypatch.setattr(reader_process, limit, 1)
    assert as_json(replayed(tmp_path / "l", True, "phttp")) == whole


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(gzip.compress(varied("json", 400))[:-2000], id="archive that ends early"),
        pytest.param(
            gzip.compress(varied("json", 400))[:3000] + b"\0" * 999, id="archive that is damaged in the middle"
        ),
        pytest.param(b"", id="empty file"),
        pytest.param(b"neither\nof them\n", id="no log"),
        pytest.param(None, id="no file"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_the_same_words(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "l").write_bytes(data)
    refusals = []
    for aside in (False, True):
        with pytest.raises(Refusal) as refused:
            replayed(tmp_path / "l", aside, "phttp")
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]
    assert "\n" not in refusals[0]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[ReaderProcess]:
    """Yield a process that reads a log which never ends, and has sent nothing."""
    os.mkfifo(tmp_path / "endless")
    log = os.open(tmp_path / "endless", os.O_RDWR)
    os.write(log, lines(record(1)))
    with ReaderProcess(LogReader(LogFile(str(tmp_path / "endless")), None, True)) as process:
        yield process
    os.close(log)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_reader_that_dies_ends_the_replay_with_one_line(waiting: ReaderProcess, number: signal.Signals) -> None:
    os.kill(waiting.pid, number)
    words = re.escape(f"was ended by signal {number.value} ({signal.strsignal(number)}) near line 0")
    expected = rf"/endless: the process that reads it {words}; run the command again\Z"
    with pytest.raises(Refusal, match=expected):
        list(waiting.rows())


def test_a_reader_that_fails_is_named_with_its_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(LogReader):
        def rows(self) -> Iterator[Any]:
            raise ZeroDivisionError("of a test")

    (tmp_path / "l").write_bytes(lines(record(1)))
    why = "/l: the process that reads it has ended with status 1 near line 0"
    broken = Broken(LogFile(str(tmp_path / "l")), None, True)
    with ReaderProcess(broken) as process, pytest.raises(Refusal, match=why):
        list(process.rows())
    assert "ZeroDivisionError: of a test" in capfd.readouterr().err


def test_a_replay_that_ends_early_ends_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "MAX_BYTES_AT_ONCE", 10 * replay_module.REQUEST_BYTES)
    monkeypatch.setattr(log_file, "MAX_REORDERED", 1)
    (tmp_path / "l").write_bytes(lines(*[record(number / 100, total=1e6) for number in range(5000)]))
    with pytest.raises(Refusal, match=r"near line 51[0-9]: requests of more than 0 MiB are in progress at once"):
        replayed(tmp_path / "l", True, "phttp")


def test_a_reader_ends_with_the_process_that_replays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    code = (
        "import sys; from ktcpvs.replay.log_file import LogFile; from ktcpvs.replay.log_reader import LogReader\n"
        "from ktcpvs.replay.reader_process import ReaderProcess\n"
        "process = ReaderProcess(LogReader(LogFile(sys.argv[1]), None, True)); print(process.pid, flush=True)\n"
        "next(process.rows())"
    )
    log = os.open(tmp_path / "endless", os.O_RDWR)
    program = [sys.executable, "-c", code, str(tmp_path / "endless")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        reader = Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        wait_for(reader.has_ended, "the reader to end")
    os.close(log)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the process has one core")
def test_large_logs_and_pipes_are_read_aside_where_there_are_two_cores(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * (MIN_LOG_BYTES - 1))
    (tmp_path / "large").write_bytes(b"x" * MIN_LOG_BYTES)
    os.mkfifo(tmp_path / "pipe")
    code = (
        "import os, sys; from ktcpvs.replay.reader_process import is_worthwhile\n"
        "print([name for name in sys.argv[1:] if is_worthwhile(name)])\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
        "print([name for name in sys.argv[1:] if is_worthwhile(name)])\n"
    )
    names = ["small", "large", "pipe", "-", "missing", "a\udc80b"]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['large', 'pipe', '-']\n[]\n", "")
