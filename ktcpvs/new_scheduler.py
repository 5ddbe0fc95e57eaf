"""The beginning of a scheduler of one's own: a package with its entry point, its tests and a README (tcpvsadm
--new-scheduler)."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from ktcpvs.errors import BadValue, Refusal, shorten
from ktcpvs.model.language.foreign_words import SCHEDULERS
from ktcpvs.system.plugins import find_schedulers

MAX_NAME_LENGTH = 32

_NAME = re.compile(rf"[a-z][a-z0-9]+(?:[-_][a-z0-9]+)*(?<!.{{{MAX_NAME_LENGTH + 1}}})")

_PYPROJECT = """\
[build-system]
requires = ["setuptools >= 80"]
build-backend = "setuptools.build_meta"

[project]
name = "ktcpvs-@NAME@"
version = "0.1"
description = "The scheduler @NAME@ for ktcpvs"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["ktcpvs"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."ktcpvs.schedulers"]
@NAME@ = "@MODULE@:@CLASS@"

[tool.setuptools]
packages = ["@MODULE@"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

_MODULE = '''\
"""@NAME@: the usable server with the fewest connections for its weight; ties rotate. Change `choose` into what you
need."""

from __future__ import annotations

from zope.interface import implementer

from ktcpvs.interfaces import (
    CONNECTION,
    USES_WEIGHT,
    Choice,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    Request,
    ServiceView,
)


@implementer(ISchedulerFactory, IUsesOptions)
class @CLASS@:
    """Per connection: the server with the fewest connections for its weight."""

    name = "@NAME@"
    unit = CONNECTION  # or EACH_REQUEST, to see and to distribute each HTTP request
    uses = frozenset((USES_WEIGHT,))

    def bind(self, service: ServiceView, previous: IScheduler | None) -> Bound@CLASS@:
        return Bound@CLASS@(service, getattr(previous, "place", 0))


@implementer(IScheduler)
class Bound@CLASS@:
    """@NAME@ over the servers of one service, until its next edit. place: behind the server that was chosen last."""

    def __init__(self, service: ServiceView, place: int) -> None:
        self.place = place
        self._destinations = service.destinations
        self._reason = f"{service.why}fewest connections for its weight of {len(service.destinations)}"

    def choose(self, request: Request) -> Choice | None:
        in_turn = self._destinations[self.place :] + self._destinations[: self.place]  # min() takes the first of equals
        usable = [one for one in in_turn if one.weight > 0 and one not in request.tried]
        if not usable:
            return None
        chosen = min(usable, key=lambda one: one.active / one.weight)
        self.place = self._destinations.index(chosen) + 1
        return Choice(chosen, self._reason)
'''

_CONFTEST = '''\
"""The fixture ktcpvs_switch."""

pytest_plugins = ["ktcpvs.testing.fixtures"]
'''

_TESTS = '''\
"""The scheduler @NAME@: its contract, in simulation, and in a real switch."""

from @MODULE@ import @CLASS@

from ktcpvs.testing import FakeServer, Simulation, check_scheduler, constant, lognormal, slow


def test_it_keeps_the_contract():
    check_scheduler(@CLASS@())


def test_equal_servers_share_evenly_while_there_is_little_to_do():
    servers = [FakeServer(constant(0.01)), FakeServer(constant(0.01)), FakeServer(constant(0.01))]
    report = Simulation(@CLASS@(), servers, rate=5).run(seconds=60)
    assert all(0.3 < report.share(number) < 0.37 for number in range(3)), report


def test_a_slow_server_gets_less():
    servers = [FakeServer(lognormal(0.05)), FakeServer(lognormal(0.05)), FakeServer(slow(lognormal(0.05), 10))]
    report = Simulation(@CLASS@(), servers, rate=100).run(seconds=60)
    assert report.errors == 0
    assert report.share(2) < 0.2, report


def test_a_real_switch_serves_with_it(ktcpvs_switch):
    switch = ktcpvs_switch("@NAME@", servers=2)
    for _ in range(5):
        response = switch.get("/")
        assert response.status == 200
        assert response.server in [server.address for server in switch.servers]
'''

_README = """\
# ktcpvs-@NAME@

The scheduler `@NAME@` for ktcpvs. `@MODULE@/__init__.py` is all of it.

Install it into the environment of ktcpvs, test it, and give it to a service. A daemon that runs finds it by itself, but
after `pip install -e` it must be started again. In another environment install ktcpvs first, from its repository: there
is no release yet that pip could find.

    pip install '.[test]'
    python -m pytest
    tcpvsadm --schedulers
    tcpvsadm -E -i SERVICE -s @NAME@

The tests run the files in this folder, the daemon those that pip has installed. So after each change:

    python -m pytest
    pip install .
    tcpvsadm --reload-schedulers @NAME@

Try it on the access log of a service before:

    tcpvsadm --replay access.log -i SERVICE -s @NAME@
"""


def new_scheduler(name: str, folder: str) -> str:
    """Write the package of a scheduler.

    name: as behind `scheduler =`. folder: of the package, which must not exist. Returns what to do next, in lines.
    Raises BadValue for a name that no scheduler can have, or that is taken, and Refusal where the folder cannot be
    written; then nothing is.
    """
    if not _NAME.fullmatch(name):
        raise BadValue(
            f"scheduler '{shorten(name, 40)}': expected 2 to {MAX_NAME_LENGTH} lower-case letters and digits, a letter "
            "first, with single - or _ between words (example: by-tenant)"
        )
    if name in find_schedulers().known:
        raise BadValue(f"scheduler '{name}': a scheduler with this name is installed; choose another name")
    if name in SCHEDULERS:
        raise BadValue(f"scheduler '{name}': another program has one with this name; here, use {SCHEDULERS[name]}")
    target = Path(folder)
    if os.path.lexists(target):
        raise BadValue(f"{shorten(folder)} exists already; give a folder that does not")
    words = re.split("[-_]", name)
    module = "ktcpvs_" + "_".join(words)
    values = {
        "@NAME@": name,
        "@MODULE@": module,
        "@CLASS@": "".join(word.capitalize() for word in words) + "Scheduler",  # so that it hides no other name
    }
    files = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"{module}/__init__.py": _MODULE,
        "tests/conftest.py": _CONFTEST,
        f"tests/test_{module}.py": _TESTS,
    }
    try:
        _write(target, {path: _filled(text, values) for path, text in files.items()})
    except OSError as error:
        raise Refusal(f"cannot write {shorten(folder)}: {error.strerror}") from None
    return f"{folder}: the package ktcpvs-{name}. Test it: cd {folder} && pip install '.[test]' && python -m pytest\n"


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _write(target: Path, files: dict[str, str]) -> None:
    """Write these files into a new folder, which is there as a whole or not at all. Raises OSError."""
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".new-scheduler-") as work:
        whole = Path(work) / "package"
        for path, text in files.items():
            file = whole / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        shutil.move(whole, target)
