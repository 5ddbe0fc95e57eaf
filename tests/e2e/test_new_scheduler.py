"""tcpvsadm --new-scheduler: the package that it writes passes its own tests, which start a real switch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ktcpvs.testing import NotStarted, RunningSwitch

from .harness import ROOT, TIMEOUT, is_installed, tcpvsadm

pytestmark = pytest.mark.e2e


@pytest.mark.packages
@pytest.mark.long
def test_the_package_of_a_new_scheduler_passes_its_tests(tmp_path: Path) -> None:
    done = tcpvsadm("--new-scheduler", "by-tenant", "ktcpvs-by-tenant", folder=tmp_path)
    assert done.stderr == ""
    assert done.stdout.startswith("ktcpvs-by-tenant: the package ktcpvs-by-tenant. Test it: ")
    folder = tmp_path / "ktcpvs-by-tenant"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    install = [*pip, "--target", installed, folder]
    done = subprocess.run(install, env=environment, capture_output=True, text=True, timeout=TIMEOUT * 4)
    assert done.returncode == 0, done.stderr
    environment["PYTHONPATH"] = f"{installed}" if is_installed() else f"{installed}:{ROOT}"
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT * 4,
    )  # fmt: skip
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "4 passed" in tests.stdout
    again = tcpvsadm("--new-scheduler", "by-tenant", "ktcpvs-by-tenant", folder=tmp_path)
    assert (again.returncode, again.stderr) == (
        1,
        "tcpvsadm: new-scheduler: ktcpvs-by-tenant exists already; give a folder that does not\n",
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("By-Tenant", "expected 2 to 32 lower-case letters and digits"),
        ("a", "expected 2 to 32"),
        ("x" * 33, "expected 2 to 32"),
        ("wlc", "a scheduler with this name is installed"),
        ("leastconn", "another program has one with this name; here, use wlc"),
    ],
)
def test_a_name_that_is_no_good_is_refused_and_writes_nothing(tmp_path: Path, name: str, why: str) -> None:
    done = tcpvsadm("--new-scheduler", name, "package", folder=tmp_path)
    assert done.returncode == 1
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    done = tcpvsadm("--new-scheduler", "by-tenant", "none/package", folder=tmp_path)
    assert done.stderr == "tcpvsadm: new-scheduler: cannot write none/package: No such file or directory\n"


def test_a_switch_that_does_not_start_says_why() -> None:
    with pytest.raises(NotStarted, match="no scheduler 'wcl'; did you mean 'wlc'"):
        RunningSwitch("wcl")
