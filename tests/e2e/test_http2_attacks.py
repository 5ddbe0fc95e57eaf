"""Each attack over HTTP/2 by itself, for half a second: well-behaved clients are served rightly, and the daemon does
not grow. `make soak-http2` does it for longer; both print latencies and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

SOAK = Path(__file__).parent.parent / "soak" / "http2.py"
KINDS = 12


@pytest.mark.long
def test_attacks_hold_up_nobody() -> None:
    command = [sys.executable, str(SOAK), "--mebibytes", "0", "--edits", "0", "--seconds", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "good requests" in line]) == KINDS + 1
    assert lines[-1] == "all as it must be"
