"""`pip install .` into an empty environment installs everything that the documents promise."""

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
    """Run a command of an environment in which only ktcpvs was installed, outside of the source."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    source, folder = tmp_path / "source", tmp_path / "venv"
    listed = subprocess.run(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # This environment's pip installs into the other one: installing another pip there, and compiling all
    # modules of the dependencies, takes most of the time that an installation takes.
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", source)

    def command(name: str, *arguments: str) -> str:
        return run(*pip, *arguments) if name == "pip" else run(folder / "bin" / name, *arguments)

    return command


@pytest.mark.long
def test_everything_promised_is_there(run: Run) -> None:
    """One test, since making the environment takes longer than everything else."""
    assert run("tcpvsadm", "--version").startswith("tcpvsadm 0.")
    assert "ktcpvs" in run("twistd", "--help")
    assert "uvloop" in run("twistd", "--help-reactors")
    assert "--state" in run("twistd", "ktcpvs", "--help")
    assert "--control" in run("ktcpvs", "--help")
    if shutil.which("cc"):
        compiled = "from ktcpvs.http import fast_path; from ktcpvs.protocols.http1 import plain; "
        compiled += "from ktcpvs.streams import compiled; from ktcpvs.dispatch.compiled import forms; "
        compiled += "from ktcpvs.streams import tls_operations; from ktcpvs.system import tls_tickets; "
        compiled += "from ktcpvs.protocols.http2 import fast_path as frames, hpack; "
        shown = "fast_path.IS_COMPILED, plain.IS_COMPILED, compiled.IS_COMPILED, forms is not None, "
        shown += "tls_operations.IS_COMPILED, tls_tickets.IS_COMPILED, frames.IS_COMPILED, hpack.IS_COMPILED"
        assert run("python", "-c", f"{compiled}print({shown})") == " ".join(["True"] * 8) + "\n"
    listed = run("pip", "show", "--files", "ktcpvs")
    for file in ("man8/tcpvsadm.8", "completions/tcpvsadm", "_tcpvsadm"):
        assert file in listed
