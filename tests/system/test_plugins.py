"""Finding schedulers: broken plugins are reported, and do not affect others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import twisted.plugins
from ktcpvs.errors import NoSuchScheduler
from ktcpvs.system.plugins import find_schedulers

GOOD = """
from zope.interface import implementer
from twisted.plugin import IPlugin
from ktcpvs.interfaces import ISchedulerFactory

@implementer(IPlugin, ISchedulerFactory)
class Good:
    "Nothing."
    name, unit = {name!r}, {unit!r}
    def bind(self, service, previous):
        return self

good = Good()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A twisted/plugins folder of another package, on the path."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    before = set(sys.modules)
    twisted.plugins.__path__.append(str(plugins))
    yield plugins
    twisted.plugins.__path__.remove(str(plugins))
    for name in set(sys.modules) - before:
        if name.startswith("twisted.plugins."):
            del sys.modules[name]


def test_a_new_file_is_seen(folder: Path) -> None:
    assert "good" not in find_schedulers().known
    (folder / "somebodys_good.py").write_text(GOOD.format(name="good", unit="CONNECTION"))
    assert find_schedulers().factory("good").name == "good"


def test_nothing_is_written_beside_the_files(folder: Path) -> None:
    """The user of a daemon may not write there, and would wait for Twisted's own plugins at each start."""
    (folder / "somebodys_good.py").write_text(GOOD.format(name="good", unit="CONNECTION"))
    assert "good" in find_schedulers().known
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["somebodys_good.py"]
    program = "import sys; from ktcpvs.system.plugins import find_schedulers as f; f(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    found = {name.removeprefix("twisted.plugins.") for name in modules if name.startswith("twisted.plugins.")}
    assert "ktcpvs_plugins" in found
    assert not {name for name in found if name.startswith("twisted")}


def test_a_file_that_cannot_be_imported_is_named(folder: Path) -> None:
    (folder / "somebodys_import.py").write_text("import there_is_no_such_module\n")
    (folder / "somebodys_syntax.py").write_text("def (:\n")
    found = find_schedulers()
    assert {"wlc", "http"} <= set(found.known)
    with pytest.raises(NoSuchScheduler) as refused:
        found.factory("good")
    message = str(refused.value)
    assert "no scheduler 'good'; there are: chttp, hhttp, http, lc" in message
    assert "there_is_no_such_module" in message
    assert "somebodys_import" in message
    assert "somebodys_syntax" in message


def test_a_plugin_that_breaks_the_contract_is_named(folder: Path) -> None:
    (folder / "somebodys_unit.py").write_text(GOOD.format(name="good", unit="SOMETIMES"))
    found = find_schedulers()
    assert "good" not in found.known
    assert "SOMETIMES" in str(found.broken)


def test_a_name_that_is_taken_stays_with_the_first(folder: Path) -> None:
    (folder / "somebodys_wlc.py").write_text(GOOD.format(name="wlc", unit="CONNECTION"))
    found = find_schedulers()
    assert "a second scheduler has the name wlc" in str(found.broken)
