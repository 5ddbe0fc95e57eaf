"""A Python that every user can run, with ktcpvs and what it needs: the tests' own may lie where only root can read."""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

from .harness import ROOT

NOBODY = pwd.getpwnam("nobody")

_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"


def nobody_can_run(python: str | Path, python_path: str = "") -> bool:
    """True when the user `nobody` can import ktcpvs with that Python. python_path: PYTHONPATH."""
    code = [str(python), "-c", "import ktcpvs.errors, twisted, encodings.idna"]
    identity = {"user": "nobody", "group": NOBODY.pw_gid, "extra_groups": []}
    words = {**os.environ, "PYTHONPATH": python_path}
    try:
        return subprocess.run(code, cwd="/", env=words, stderr=subprocess.DEVNULL, **identity).returncode == 0
    except PermissionError:
        return False


def readable_python(folder: Path) -> Path | None:
    """The system's Python of this version, for use with PYTHONPATH = `folder`, to which all that is needed is copied.
    None when there is none that `nobody` can run."""
    _copy_everything(folder)
    for python in (Path("/usr/bin", _NAME), Path("/usr/local/bin", _NAME)):
        if python.exists() and nobody_can_run(python, str(folder)):
            return python
    return None


def _copy_everything(folder: Path) -> None:
    for needed in _needed("ktcpvs", frozenset({"tls", "acme"})).values():
        for file in needed.files or ():
            source = Path(str(needed.locate_file(file)))
            if ".." not in file.parts and source.is_file():
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)  # with its time, so that its byte code is up to date
    for name in ("ktcpvs", "twisted"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    for path in folder.glob("__editable__*"):
        path.unlink()


def _needed(name: str, extras: frozenset[str]) -> dict[str, Distribution]:
    """A distribution and all that it requires, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(name, extras)]
    while waiting:
        name, extras = waiting.pop()
        one = found[name] = distribution(name)
        for line in one.requires or ():
            wanted = Requirement(line)
            holds = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            if holds and wanted.name not in found:
                waiting.append((wanted.name, frozenset(wanted.extras)))
    return found


@functools.cache
def everybodys_python() -> tuple[Path, Path | None] | None:
    """(a Python that `nobody` can run, PYTHONPATH for it or None); None when there is none. Made once for a process."""
    if nobody_can_run(sys.executable):
        return Path(sys.executable), None
    folder = Path(tempfile.mkdtemp(prefix="ktcpvs-readable-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    python = readable_python(folder)
    return (python, folder) if python is not None else None
