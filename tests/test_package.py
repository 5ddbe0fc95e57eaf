"""`pip install .` into an empty environment gives everything that a user is promised."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

Run = Callable[..., str]

pytestmark = pytest.mark.xdist_group("package")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command of an environment in which only ktcpvs was installed, far from the source."""
    folder = tmp_path_factory.mktemp("empty")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, env=environment)
    pip = [folder / "venv" / "bin" / "pip", "install", "--quiet", "--quiet", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, str(source)], check=True, env=environment, cwd=folder)

    def command(name: str, *arguments: str) -> str:
        done = subprocess.run(
            [folder / "venv" / "bin" / name, *arguments], capture_output=True, text=True, env=environment, cwd=folder
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return command


def test_tcpvsadm_is_on_the_path(run: Run) -> None:
    assert run("tcpvsadm", "--version").startswith("tcpvsadm 0.")


def test_twistd_knows_ktcpvs(run: Run) -> None:
    assert "ktcpvs" in run("twistd", "--help")
    assert "--state" in run("twistd", "ktcpvs", "--help")
    assert "--control" in run("ktcpvs", "--help")


def test_twistd_knows_the_reactor(run: Run) -> None:
    assert "uvloop" in run("twistd", "--help-reactors")


def test_the_manual_and_the_completions_are_installed(run: Run) -> None:
    listed = run("pip", "show", "--files", "ktcpvs")
    for file in ("man8/tcpvsadm.8", "completions/tcpvsadm", "_tcpvsadm"):
        assert file in listed
