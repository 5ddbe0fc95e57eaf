"""The house stays easy to see: its floors, its types, its style, the size of its rooms."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
MODULES = [path for path in (ROOT / "ktcpvs").rglob("*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize(
    "command",
    [["lint-imports"], ["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["layers", "ruff", "format", "types"],
)
def test_the_checks_that_need_no_running(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_module_is_one_thing() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert statistics.median(sizes.values()) <= 200
    assert {path.name: size for path, size in sizes.items() if size > 600} == {}


def test_what_is_repeated_survives_its_exceptions() -> None:
    """Twisted's LoopingCall does not: ktcpvs.system.periodic says what does."""
    assert [path.name for path in MODULES if "import LoopingCall" in path.read_text()] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_opens_with_its_law(path: Path) -> None:
    assert path.read_text().startswith('"""')
