"""`make demo-cluster`, which checks its own steps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .harness import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_every_step_of_the_demonstration_succeeds() -> None:
    command = [sys.executable, str(ROOT / "docs/tools/demo_cluster.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every step succeeded" in done.stdout
    assert "WRONG" not in done.stdout
