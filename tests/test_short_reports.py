"""Short reports of pytest-xdist: tests that do not pass are reported as without them, and none is lost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_passes(number):
    print("quiet words")

def test_fails():
    print("loud words")
    assert 2 + 2 == 5

def test_is_skipped():
    pytest.skip("no need")

@pytest.mark.xfail(reason="known")
def test_fails_as_expected():
    assert False

@pytest.mark.xfail(reason="known", strict=False)
def test_passes_unexpectedly():
    pass

@pytest.fixture
def broken():
    raise ValueError("at setup")

def test_has_a_broken_setup(broken):
    pass

@pytest.fixture
def ends_badly():
    yield
    raise ValueError("at teardown")

def test_has_a_broken_teardown(ends_badly):
    pass
"""

COUNTS = {"passed": 21, "failed": 1, "skipped": 1, "xfailed": 1, "xpassed": 1, "errors": 2}


@pytest.mark.starts
@pytest.mark.parametrize("options", [[], ["-rP"]], ids=["short", "whole"])
def test_every_outcome_is_reported(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {Path(__file__).parent}\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "short_reports",
        "-p",
        "no:cacheprovider",
        "-n",
        "1",
        *options,
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", summary) if word in COUNTS} == COUNTS
    for words in ("loud words", "assert (2 + 2) == 5", "ValueError: at setup", "ValueError: at teardown"):
        assert words in done.stdout
    assert ("quiet words" in done.stdout) == bool(options)
