"""The quick start of the README: the lines as they are, except for the address of the control socket and the port.

The environment of the tests stands for the one that its first line makes, and the daemon has no workers; a slow test
makes an environment, and has workers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, Block, blocks_of
from servers import LOOPBACK, free_port

from .harness import write_tcpvsadm

pytestmark = pytest.mark.e2e

PROGRAM = """#!/bin/sh
exec {program} {options} "$@"
"""


def quick_start() -> Block:
    return next(block for block in blocks_of("README.md") if block.run_by == "tests/e2e/test_quick_start.py")


def play(folder: Path, lines: list[str], timeout: float, options: str = "", programs: Path | None = None) -> str:
    """Type the lines in bash; return what they print.

    options: more options of ktcpvs. programs: the folder of ktcpvs and tcpvsadm; None: those of the tests.
    """
    control = f"unix:{folder}/control.sock"
    wrappers = {"ktcpvs": f"--control {control} {options}"}
    (folder / "bin").mkdir()
    if programs is None:
        write_tcpvsadm(folder / "bin/tcpvsadm")
    else:
        wrappers["tcpvsadm"] = ""
    for name, words in wrappers.items():
        path = folder / "bin" / name
        program = (programs or Path(sys.executable).parent) / name
        path.write_text(PROGRAM.format(program=program, options=words))
        path.chmod(0o755)
    # An environment that is activated goes in front of the path.
    script = "\n".join(
        ["trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT TERM", *(f"{line}\nPATH={folder}/bin:$PATH" for line in lines)]
    )
    port = free_port()
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace("127.0.0.1:8080", f"{LOOPBACK}:{port}")],
        cwd=folder,
        env={
            **os.environ,
            "HOME": str(folder),
            "KTCPVS_CONTROL": control,
            "NO_PROXY": "*",
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_has_five_lines() -> None:
    lines = quick_start().text.splitlines()
    words = ("venv", "ktcpvs", "-A", "--add-rule", "curl")
    assert [word in line for word, line in zip(words, lines, strict=True)] == [True] * 5


@pytest.mark.starts
def test_the_quick_start(tmp_path: Path) -> None:
    """With the commands below it, which lead on to a server."""
    below = re.findall(r"`(tcpvsadm (?:-a|--[a-z]+-rule) -i web [^`]*)`", (ROOT / "README.md").read_text())
    assert [command.split()[1] for command in below] == ["-a", "--add-rule", "--edit-rule"]
    lines = [*quick_start().text.splitlines()[1:], *below, "tcpvsadm --save"]
    said = play(tmp_path, lines, 150, "--workers 0")
    assert said.startswith("hello from ktcpvs\n")
    assert re.findall(r"rule = (.*)", said) == [
        'pattern ".*" use server 10.0.0.1:80',
        "path /shop/ use server 10.0.0.1:80",
    ]


@pytest.mark.slow
def test_the_quick_start_with_its_own_environment(tmp_path: Path) -> None:
    """pip fetches packages."""
    for name in ("ktcpvs", "twisted", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "benchmarks", "pictures")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    said = play(tmp_path, quick_start().text.splitlines(), 600, programs=tmp_path / ".venv/bin")
    assert said.splitlines()[-1] == "hello from ktcpvs"
