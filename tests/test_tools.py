"""Programs and make: each program of tests/soak, tests/fuzz and docs/tools can be imported, so none is broken unseen by
a rename; and make runs all tests.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import MODULES

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

FORK = """
import importlib, json, os, sys, traceback
modules, programs = json.load(sys.stdin)
for name in modules:
    importlib.import_module(name)
failed = []
for number, (name, (code, path)) in enumerate(programs.items()):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            sys.path[1:1] = path
            exec(code, {"__name__": "__main__"})
            files = [module.__file__ for module in [*sys.modules.values()] if getattr(module, "__file__", None)]
            with open(str(number), "w") as file:
                file.write("\\n".join(files))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
sys.exit(f"cannot be imported: {' '.join(failed)}" if failed else 0)
"""
"""Imports each program in a process of its own, which has the modules of ktcpvs and of Twisted already. Writes the
names of the files of all its modules to a file in the current folder, whose name is the number of the program."""

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


@pytest.mark.long
def test_every_program_can_be_imported_and_every_file_belongs_to_one(tmp_path: Path) -> None:
    programs = {
        name: (code, [str(ROOT / "tests")] if name in STARTED_BY_OTHERS else []) for name, code in PROGRAMS.items()
    }
    command = [sys.executable, "-c", FORK]
    given = json.dumps([MODULES, programs])
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(PROGRAMS)
    for number in range(len(programs)):
        paths = [Path(line) for line in (tmp_path / str(number)).read_text().splitlines()]
        loaded |= {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)}
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


def _selection(target: str, folder: Path) -> str:
    """The expression by which `make TARGET` selects tests. It would run in that folder."""
    command = ["make", "--dry-run", "--no-print-directory", "-f", str(ROOT / "Makefile"), target]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "VENV", "TESTS")
    }
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "constraints.txt", "docs/tools"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.symlink_to(ROOT / name)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    found = re.search(r'-m pytest .*-m "(.*?)"', done.stdout)
    assert found, done.stdout + done.stderr
    return found[1]


def test_make_test_all_runs_each_test_but_the_slow_ones(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    registered = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    some, every = _selection("test", tmp_path), _selection("test-all", tmp_path)
    marks = set(re.findall(r"\w+", f"{some} {every}")) - {"and", "or", "not"}
    assert marks <= registered  # pytest takes an unknown one for a mark that no test has
    for chosen in itertools.product((False, True), repeat=len(marks)):
        of_test = dict(zip(sorted(marks), chosen, strict=True))
        assert eval(every, {}, of_test) is not of_test["slow"], of_test
        assert not eval(some, {}, of_test) or not of_test["slow"], of_test
