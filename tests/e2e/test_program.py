"""The program `ktcpvs`: in the foreground, in the background, and as a check of a configuration."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import free_port, wait_for

from .harness import KTCPVS, TIMEOUT, command, environment, has_ended, tcpvsadm

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command("ktcpvs", KTCPVS), *map(str, words)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            cwd=tmp_path,
            env=environment(),
        )

    return run


@pytest.fixture
def ended() -> Iterator[list[int]]:
    """Numbers of processes, which are killed after the test if they still run."""
    numbers: list[int] = []
    yield numbers
    for pid in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def write_configuration(folder: Path, port: int) -> Path:
    path = folder / "web.conf"
    path.write_text(f"Virtual web {{\n    listen = 127.0.0.1:{port}\n    server = 127.0.0.1:{free_port()}\n}}\n")
    return path


@pytest.mark.starts
def test_in_the_background_with_a_pid_file_and_a_log(run: Run, tmp_path: Path, ended: list[int]) -> None:
    """It ends the start when it serves; SIGUSR1 opens the log again, and SIGUSR2 starts a program that takes over."""
    config = write_configuration(tmp_path, free_port())
    control, pid_file, log = f"unix:{tmp_path}/c.sock", tmp_path / "pid", tmp_path / "log"
    with subprocess.Popen(["true"]) as dead:  # one that has ended, and that nobody has waited for
        wait_for(lambda: has_ended(dead.pid))
        pid_file.write_text(str(dead.pid))
        done = run("-D", "-c", config, "-w", 0, "--control", control, "--pidfile", "pid", "--logfile", "log")
    first = int(pid_file.read_text())
    said = f"ktcpvs serves in the background, process {first}; its log is {log}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    ended.append(first)
    wait_for(lambda: "control at" in log.read_text(), log)
    assert "Virtual web {" in tcpvsadm("--control", control).stdout

    again = run("-c", config, "--pidfile", pid_file, "--control", control)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == (
        f"ktcpvs: --pidfile {pid_file}: process {first} runs already; --takeover takes over from it without losing "
        "clients\n"
    )

    log.rename(tmp_path / "log.1")
    os.kill(first, signal.SIGUSR1)
    wait_for(log.exists, "the log to be opened again")
    os.kill(first, signal.SIGUSR2)
    wait_for(lambda: pid_file.exists() and pid_file.read_text() not in ("", str(first)), log, timeout=TIMEOUT)
    second = int(pid_file.read_text())
    ended.append(second)
    wait_for(lambda: has_ended(first), log, timeout=TIMEOUT)
    assert "Virtual web {" in tcpvsadm("--control", control).stdout
    os.kill(second, signal.SIGTERM)
    wait_for(lambda: has_ended(second), log, timeout=TIMEOUT)
    assert not pid_file.exists()
    written = (tmp_path / "log.1").read_text() + log.read_text()
    for word in ("Traceback", "twistd", "starting on", "plugin cache"):
        assert word not in written, written


@pytest.mark.starts
def test_a_start_that_is_refused_has_one_line(run: Run, tmp_path: Path) -> None:
    words = ("--config", "/nonexistent/web.conf", "--control", f"unix:{tmp_path}/c.sock", "-w", 0)
    done = run("-D", *words, "--logfile", "log")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ktcpvs: /nonexistent/web.conf: No such file or directory\n"
    log = tmp_path / "log"
    wait_for(lambda: "not started: /nonexistent/web.conf: No such file" in log.read_text(), log)


@pytest.mark.starts
def test_check(run: Run, tmp_path: Path) -> None:
    config = write_configuration(tmp_path, free_port())
    done = run("--check", config)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{config} is valid\n", "")
    config.write_text("Virtual web {\n    scheduller = wlc\n}\n")
    done = run("--check", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"ktcpvs: {config}:2:5: unknown keyword 'scheduller'; did you mean 'scheduler'?")
