"""The types of the scheduler interfaces: mypy accepts a correct plugin and rejects wrong ones at the wrong line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAD = """
from collections.abc import Generator

from twisted.internet.defer import Deferred, succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION, Choice, IBindsInSteps, IScheduler, ISchedulerFactory, IUsesOptions, Request, ServiceView,
)
"""

GOOD = """
@implementer(IScheduler)
class Bound:
    def __init__(self, service: ServiceView) -> None:
        self._choices = [Choice(destination, "first") for destination in service.destinations]

    def choose(self, request: Request) -> Choice | None:
        return self._choices[0] if self._choices else None


@implementer(IScheduler)
class Asynchronous:
    async def choose(self, request: Request) -> Choice | None:
        return None


@implementer(IScheduler)
class WithDeferred:
    def choose(self, request: Request) -> Deferred[Choice | None]:
        return succeed(None)


@implementer(IPlugin, ISchedulerFactory, IUsesOptions)
class Factory:
    name = "first"
    unit = CONNECTION
    uses = frozenset[str]()

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Bound:
        return Bound(service)


@implementer(IPlugin, ISchedulerFactory, IBindsInSteps)
class InSteps:
    name = "steps"
    unit = CONNECTION

    def bind(self, service: ServiceView, previous: IScheduler | None) -> IScheduler:
        return Bound(service)

    def binding(self, service: ServiceView, previous: IScheduler | None) -> Generator[None, None, IScheduler]:
        yield
        return Asynchronous()


factories: list[ISchedulerFactory] = [Factory(), InSteps()]
"""

BAD = {
    "choice_is_a_number": (
        """
@implementer(IScheduler)
class Bound:
    def choose(self, request: Request) -> int:  # here
        return 0
""",
        r'Return type "int" of .* in "choose" of supertype "IScheduler"',
    ),
    "awaited_choice_is_a_number": (
        """
@implementer(IScheduler)
class Bound:
    async def choose(self, request: Request) -> int:  # here
        return 0
""",
        r'Return type "Coroutine\[Any, Any, int\]" of .* in "choose" of supertype "IScheduler"',
    ),
    "unit_is_missing": (
        """
@implementer(IPlugin, ISchedulerFactory)
class Factory:  # here
    name = "first"

    def bind(self, service: ServiceView, previous: IScheduler | None) -> IScheduler:
        raise ValueError("only its types are checked")
""",
        r"'Factory' is missing following 'ISchedulerFactory' interface members: unit",
    ),
    "what_is_bound_is_no_scheduler": (
        """
class Bound:
    pass


@implementer(IPlugin, ISchedulerFactory)
class Factory:
    name = "first"
    unit = CONNECTION

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Bound:  # here
        return Bound()
""",
        r'Return type "Bound" of .* in "bind" of supertype "ISchedulerFactory"',
    ),
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, str]]]:
    """File -> (line, message) of each error that mypy reports in it."""
    folder = tmp_path_factory.mktemp("plugins")
    config = folder / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\nplugins = mypy_zope:plugin\nfollow_imports = silent\n")
    (folder / "good.py").write_text(HEAD + GOOD)
    for name, (text, _) in BAD.items():
        (folder / f"{name}.py").write_text(HEAD + text)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(config),
        "--cache-dir",
        str(ROOT / ".mypy_cache" / "of_plugins"),
    ]
    command += ["--no-error-summary", *map(str, sorted(folder.glob("*.py")))]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not ran.stderr, ran.stderr
    found: dict[str, list[tuple[int, str]]] = {}
    for path, line, message in re.findall(r"^(\S+?):(\d+): error: (.*)$", ran.stdout, re.MULTILINE):
        found.setdefault(Path(path).stem, []).append((int(line), message))
    return found


def test_a_correct_plugin_is_accepted(reported: dict[str, list[tuple[int, str]]]) -> None:
    assert "good" not in reported


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_plugin_is_rejected(reported: dict[str, list[tuple[int, str]]], name: str) -> None:
    text, expected = BAD[name]
    here = next(number for number, line in enumerate((HEAD + text).split("\n"), 1) if line.endswith("# here"))
    assert [line for line, message in reported.get(name, []) if re.search(expected, message)] == [here]
