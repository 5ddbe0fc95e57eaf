"""The recipe with pebble in docs/automatic-https.md: its lines as they are, except for ports and the control socket."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import blocks_of
from servers import free_port

from .harness import write_tcpvsadm

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.programs]

PORTS = ("14000", "15000", "8080", "8443", "8053", "8055")
"""The ports in the recipe."""


def test_the_recipe_with_pebble(tmp_path: Path) -> None:
    blocks = [
        one.text for one in blocks_of("docs/automatic-https.md") if one.run_by == "tests/e2e/test_acme_at_home.py"
    ]
    lines = "\n".join(blocks)
    for port in PORTS:
        assert port in lines
        lines = lines.replace(port, str(free_port()))
    control = f"unix:{tmp_path}/control.sock"
    (tmp_path / "bin").mkdir()
    write_tcpvsadm(tmp_path / "bin/tcpvsadm")
    program = tmp_path / "bin/ktcpvs"
    program.write_text(f'#!/bin/sh\nexec {Path(sys.executable).parent}/ktcpvs --control {control} --workers 0 "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", f"trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT TERM\n{lines}"],
        cwd=tmp_path,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "KTCPVS_CONTROL": control,
            "NO_PROXY": "*",
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    logs = "".join(path.read_text() for path in sorted(tmp_path.rglob("*.log")))
    assert done.returncode == 0, done.stderr + logs
    assert done.stdout.startswith("acme shop.example: to be renewed on 20"), done.stdout + logs
    assert done.stdout.endswith("hello over https\n"), done.stdout + done.stderr + logs
