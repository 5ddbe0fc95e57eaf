"""Every program of tests/soak, tests/fuzz and docs/tools can be imported, so none is broken unseen by a rename."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("tests/soak", "tests/fuzz", "docs/tools")
GUARD = 'if __name__ == "__main__":'

FILES = {
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py") and not path.name.startswith("test_")
}

IMPORT = """
import runpy, sys
sys.path[0] = {folder!r}
runpy.run_path({file!r}, run_name="imported")
"""
"""Imports a program as Python does when it starts it, but does not run it."""

SHOW = """
print(*(module.__file__ for module in [*sys.modules.values()] if getattr(module, "__file__", None)), sep="\\n")
"""

PROGRAMS = {
    name: IMPORT.format(folder=str((ROOT / name).parent), file=str(ROOT / name))
    for name in sorted(FILES)
    if GUARD in (ROOT / name).read_text("utf-8")
}
"""The name of each program -> the code that imports it."""

PROGRAMS["tests/fuzz/run.py"] += "import tests.fuzz.targets\n"  # which it imports when it runs
PROGRAMS["docs/tools/bench"] = f"import sys\nsys.path[0] = {str(ROOT / 'docs/tools')!r}\nimport bench.run\n"


STARTED_BY_OTHERS = {
    f"tests/soak/{name}.py" for name in ("good_servers", "hostile_clients", "hostile_servers", "rough")
}
"""Programs that other programs start with the folder of the tests in PYTHONPATH."""


RUN_BY_IMPORT = {"docs/tools/bench/forwarder.py"}
"""Programs that cannot be imported without running. They must use nothing of ktcpvs or of the tests."""


def imported(program: str) -> set[str]:
    """Import a program in a process of its own; return the names of the files of this repository that it loads."""
    environment = {**os.environ, **({"PYTHONPATH": str(ROOT / "tests")} if program in STARTED_BY_OTHERS else {})}
    command = [sys.executable, "-c", PROGRAMS[program] + SHOW]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)
    assert done.returncode == 0, f"{program} cannot be imported: {done.stderr}"
    paths = [Path(line) for line in done.stdout.splitlines()]
    return {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)} | {program}


@pytest.mark.long
def test_every_program_can_be_imported_and_every_file_belongs_to_one() -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = set().union(*pool.map(imported, PROGRAMS))
    assert FILES - loaded == RUN_BY_IMPORT


@pytest.mark.parametrize(
    ("installed", "folder"),
    [("lib/python3.11/site-packages/ktcpvs/__init__.py", ".venv-dev"), ("lib/python3.11/site-packages/x.pth", ".venv")],
    ids=["of the quick start", "of make"],
)
def test_make_leaves_an_environment_with_an_installed_ktcpvs_as_it_is(
    tmp_path: Path, installed: str, folder: str
) -> None:
    file = tmp_path / ".venv" / installed
    file.parent.mkdir(parents=True)
    file.touch()
    command = ["make", "--dry-run", "--no-print-directory", "-f", str(ROOT / "Makefile"), "clean"]
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "VENV")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith(f"rm -rf {folder} build "), done.stderr
