"""Types: mypy finds no error in the source and in the programs of docs/client.md, accepts a correct plugin and rejects
wrong ones at the wrong line.

One run of mypy checks all of them: without a cache, most of its time goes into the types of Twisted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest
from documents import blocks_of

pytestmark = [pytest.mark.together, pytest.mark.packages]

ROOT = Path(__file__).parent.parent

HEAD = """
from collections.abc import Generator
from typing import Any, assert_type

from twisted.internet.defer import Deferred, succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

import ktcpvs
from ktcpvs.in_process.endpoint import ServiceEndpoint
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


async def use_services(reactor: object) -> None:
    switch = ktcpvs.Switch(reactor, "services.conf")
    await assert_type(switch.start(), Deferred[None])
    assert_type(switch.servers("web"), list[dict[str, Any]])
    assert_type(switch.endpoint("web"), ServiceEndpoint)
    assert_type(ktcpvs.endpoint(reactor, "vs:web", config="services.conf"), ServiceEndpoint)
    assert_type(ktcpvs.__version__, str)
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
    "configuration_is_a_number": (
        """
switch = ktcpvs.Switch(object(), 80)  # here
""",
        r'Argument 2 to "Switch" has incompatible type "int"',
    ),
    "switch_has_no_such_method": (
        """
ktcpvs.Switch(object(), "services.conf").begin()  # here
""",
        r'"Switch" has no attribute "begin"',
    ),
}


@attrs.frozen
class Report:
    """The report of mypy. source: the lines about the source. plugins: name of a plugin -> (line, message)."""

    source: list[str]
    plugins: dict[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in ("good", GOOD), *((name, text) for name, (text, _) in BAD.items()):
        (folder / f"plugin_{name}.py").write_text(HEAD + text)
    programs = [block for block in blocks_of("docs/client.md") if block.language == "python"]
    assert programs
    for number, block in enumerate(programs):
        (folder / f"docs_client_{number}.py").write_text(block.text)
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    modules = [*config["modules"], *(path.stem for path in sorted(folder.iterdir()))]
    command = [sys.executable, "-m", "mypy", "--no-error-summary"]
    command += [word for name in config["packages"] for word in ("-p", name)]
    command += [word for name in modules for word in ("-m", name)]
    environment = {**os.environ, "MYPYPATH": str(folder)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert not ran.stderr, ran.stderr
    found = Report([], {})
    for line in ran.stdout.splitlines():
        of_plugin = re.fullmatch(r"\S*/plugin_(\w+)\.py:(\d+): (error|note): (.*)", line)
        if of_plugin is None:
            found.source.append(line)
        elif of_plugin[3] == "error":
            found.plugins.setdefault(of_plugin[1], []).append((int(of_plugin[2]), of_plugin[4]))
    return found


def test_the_source_and_the_programs_of_documents_have_no_error(report: Report) -> None:
    assert report.source == []


def test_a_correct_plugin_is_accepted(report: Report) -> None:
    assert "good" not in report.plugins


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_plugin_is_rejected(report: Report, name: str) -> None:
    text, expected = BAD[name]
    here = next(number for number, line in enumerate((HEAD + text).split("\n"), 1) if line.endswith("# here"))
    assert [line for line, message in report.plugins.get(name, []) if re.search(expected, message)] == [here]
