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


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command of an environment in which only ktcpvs was installed, far from the source."""
    folder = tmp_path
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


def test_everything_promised_is_there(run: Run) -> None:
    """One test: the environment takes longer to make than all the rest."""
    assert run("tcpvsadm", "--version").startswith("tcpvsadm 0.")
    assert "ktcpvs" in run("twistd", "--help")
    assert "uvloop" in run("twistd", "--help-reactors")
    assert "--state" in run("twistd", "ktcpvs", "--help")
    assert "--control" in run("ktcpvs", "--help")
    listed = run("pip", "show", "--files", "ktcpvs")
    for file in ("man8/tcpvsadm.8", "completions/tcpvsadm", "_tcpvsadm"):
        assert file in listed
