"""Finding schedulers: broken plugins are reported, and do not affect others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import twisted.plugins
from ktcpvs.errors import BadValue, NoSuchScheduler
from ktcpvs.system.plugin_reload import reload_schedulers
from ktcpvs.system.plugins import Schedulers, find_schedulers

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
    assert "no scheduler 'good'; there are: chash, chttp, first, fo, hhttp, http, lc" in message
    assert "there_is_no_such_module" in message
    assert "somebodys_import" in message
    assert "somebodys_syntax" in message


def test_a_plugin_that_breaks_the_contract_is_named(folder: Path) -> None:
    (folder / "somebodys_unit.py").write_text(GOOD.format(name="good", unit="SOMETIMES"))
    found = find_schedulers()
    assert "good" not in found.known
    assert "SOMETIMES" in str(found.broken)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("class Stop(BaseException):\n    pass\nraise Stop('no more')", "Stop: no more"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("class Mute(Exception):\n    def __str__(self):\n        raise ValueError\nraise Mute", "Mute: "),
        (GOOD.format(name=["good"], unit="CONNECTION"), "name is ['good']"),
        (GOOD.format(name="a good one", unit="CONNECTION"), "name is 'a good one'"),
        (
            GOOD.format(name="good", unit="CONNECTION").replace('"Nothing."', "options = property(lambda self: 1 / 0)"),
            "zero",
        ),
        ("class Rude:\n    __providedBy__ = property(lambda self: 1 / 0)\nrude = Rude()", "division by zero"),
    ],
    ids=["stops", "exits", "mute", "list", "words", "property", "rude"],
)
def test_a_plugin_that_does_what_it_likes_is_named(folder: Path, code: str, why: str) -> None:
    (folder / "somebodys_own.py").write_text(code)
    found = find_schedulers()
    assert "wlc" in found.known
    assert "good" not in found.known
    ((_, error),) = found.broken
    assert why in error


def test_a_name_that_is_taken_stays_with_the_first(folder: Path) -> None:
    (folder / "somebodys_wlc.py").write_text(GOOD.format(name="wlc", unit="CONNECTION"))
    found = find_schedulers()
    assert "a second scheduler has the name wlc; that of ktcpvs is used" in str(found.broken)


def test_the_place_of_an_error_is_its_file_and_line(folder: Path) -> None:
    file = folder / "somebodys_late.py"
    file.write_text("import os\n\nos.there_is_no_such_name\n")
    assert (f"{file}:3", "AttributeError: module 'os' has no attribute 'there_is_no_such_name'") in [
        *find_schedulers().broken
    ]


def test_options_that_nobody_could_give_are_named(folder: Path) -> None:
    good = GOOD.format(name="good", unit="CONNECTION").replace('"Nothing."', 'options = {"match": 1}')
    (folder / "somebodys_options.py").write_text(good)
    assert "'match' cannot be the name of an option" in str(find_schedulers().broken)


@pytest.mark.parametrize(
    ("size", "unit", "why"),
    [
        ("None", "EACH_REQUEST", "body_prefix is None; expected 1 to 1048576"),
        ("0", "EACH_REQUEST", "body_prefix is 0; expected 1 to 1048576"),
        ("True", "EACH_REQUEST", "body_prefix is True; expected 1 to 1048576"),
        ("8", "CONNECTION", "it has a body_prefix, and chooses per CONNECTION; only EACH_REQUEST can have one"),
        ("8", "EACH_REQUEST", ""),
    ],
    ids=["none", "0", "bool", "connection", "fine"],
)
def test_beginnings_of_bodies_that_nobody_could_see_are_named(folder: Path, size: str, unit: str, why: str) -> None:
    good = GOOD.format(name="good", unit=unit).replace('"Nothing."', f"body_prefix = {size}")
    (folder / "somebodys_bodies.py").write_text(good)
    found = find_schedulers()
    assert [error.removeprefix("ValueError: ") for _, error in found.broken] == ([why] if why else [])
    assert ("good" in found.known) == (not why)


# Entry points.

PACKAGE = """
from zope.interface import implementer
from ktcpvs.interfaces import ISchedulerFactory

@implementer(ISchedulerFactory)
class Good:
    "Nothing."
    name, unit = {name!r}, "CONNECTION"
    def bind(self, service, previous):
        return {version!r}
"""


def install(site: Path, name: str, entry: str, code: str) -> None:
    """Install a package that has one module and one entry point."""
    (site / f"{name}_module.py").write_text(code)
    info = site / f"{name}-1.5.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[ktcpvs.schedulers]\n{entry}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages."""
    packages = tmp_path / "site"
    packages.mkdir()
    monkeypatch.syspath_prepend(str(packages))
    before = set(sys.modules)
    yield packages
    for name in set(sys.modules) - before:
        if name.endswith("_module"):
            del sys.modules[name]


def test_an_entry_point_is_found_and_stays_the_same_object(site: Path) -> None:
    install(site, "acme", "good = acme_module:Good", PACKAGE.format(name="good", version=1))
    found = find_schedulers()
    assert found.factory("good").unit == "CONNECTION"
    assert found.origins["good"].text == "entry point good of acme 1.5"
    assert find_schedulers().known["good"] is found.known["good"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("good = acme_module:Bad", "AttributeError: module 'acme_module' has no attribute 'Bad'"),
        ("good = no_module:Good", "ModuleNotFoundError: No module named 'no_module'"),
        ("other = acme_module:Good", "ValueError: acme_module:Good has the name 'good'; expected 'other'"),
        ("good = os:path", "interface"),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_named(site: Path, entry: str, why: str) -> None:
    install(site, "acme", entry, PACKAGE.format(name="good", version=1))
    found = find_schedulers()
    assert {"wlc", "http"} <= set(found.known)
    ((where, error),) = found.broken
    assert why in error
    assert where == f"entry point {entry.split()[0]} of acme 1.5"


def test_a_breach_of_the_contract_begins_with_what_is_wrong(site: Path) -> None:
    """The log and the refusals show the first 200 characters."""
    code = PACKAGE.format(name="good", version=1).replace("service, previous", "service")
    install(site, "acme", "good = acme_module:Good", code)
    ((_, error),) = find_schedulers().broken
    assert error.startswith("The contract of ktcpvs.model.scheduling.ISchedulerFactory.bind(service, previous) is")
    assert error.endswith("'Good.bind(service)' doesn't allow enough arguments.")
    assert len(error) < 200


def test_a_built_in_scheduler_goes_before_an_entry_point(site: Path) -> None:
    install(site, "acme", "wlc = acme_module:Good", PACKAGE.format(name="wlc", version=1))
    found = find_schedulers()
    assert found.origins["wlc"].is_built_in
    assert found.broken == (
        ("entry point wlc of acme 1.5", "a second scheduler has the name wlc; that of ktcpvs is used"),
    )


# Reload.


def bound(found: Schedulers, name: str = "good") -> Any:
    """What the scheduler's bind returns, which is the version of its package."""
    factory: Any = found.known[name]
    return factory.bind(None, None)


def test_the_module_of_an_entry_point_is_not_found(site: Path) -> None:
    """As after `pip install -e` beside a running daemon, which reads no new files of paths."""
    install(site, "acme", "good = acme_module:Good", PACKAGE.format(name="good", version=1))
    (site / "acme_module.py").unlink()
    with pytest.raises(NoSuchScheduler, match=r"'acme_module'; installed with -e\? start the daemon again"):
        find_schedulers().factory("good")


def test_a_package_is_loaded_again_whatever_the_time_of_its_file(site: Path) -> None:
    install(site, "acme", "good = acme_module:Good", PACKAGE.format(name="good", version=1))
    before = find_schedulers()
    assert bound(before) == 1
    install(site, "acme", "good = acme_module:Good", PACKAGE.format(name="good", version=2))
    reloaded = reload_schedulers(before, "good", find_schedulers)
    assert reloaded.names == {"good"}
    assert reloaded.packages == ("acme_module",)
    assert reloaded.replaced == reloaded.sources.keys() == {str(site / "acme_module.py")}
    assert bound(reloaded.found) == bound(find_schedulers()) == 2
    assert reloaded.found.known["wlc"] is before.known["wlc"], "built-in schedulers stay"
    reloaded.undo()
    assert bound(find_schedulers()) == 1


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def (:\n", r"acme_module\.py:1: SyntaxError: "),
        ("import os\n1 / 0\n", r"acme_module\.py:2: ZeroDivisionError: division by zero"),
        ("import there_is_no_such_module\n", r"acme_module\.py:1: ModuleNotFoundError"),
        (PACKAGE.format(name="good", version=2).replace("class Good", "class Better"), "has no attribute 'Good'"),
        (PACKAGE.format(name="other", version=2), "has the name 'other'; expected 'good'"),
        (PACKAGE.format(name="good", version=2).replace("bind", "bend"), "bind"),
    ],
)
def test_what_is_broken_changes_nothing(site: Path, code: str, why: str) -> None:
    install(site, "acme", "good = acme_module:Good", PACKAGE.format(name="good", version=1))
    before = find_schedulers()
    (site / "acme_module.py").write_text(code)
    for name in ("good", None):
        with pytest.raises(BadValue, match=rf"{why}.*; what was loaded before stays in use$"):
            reload_schedulers(before, name, find_schedulers)
        assert find_schedulers().known["good"] is before.known["good"]


def test_a_file_that_was_changed_after_its_trial_is_not_loaded(site: Path) -> None:
    """The trial finds out what would hold up the daemon, so the daemon must load what was tried."""
    install(site, "acme", "good = acme_module:Good", PACKAGE.format(name="good", version=1))
    before = find_schedulers()
    tried = {str(site / "acme_module.py"): sha256((site / "acme_module.py").read_bytes()).hexdigest()}
    assert bound(reload_schedulers(before, "good", find_schedulers, tried).found) == 1
    (site / "acme_module.py").write_text("while True:\n    pass\n")
    found = find_schedulers()
    with pytest.raises(BadValue) as refused:
        reload_schedulers(found, "good", find_schedulers, tried)
    assert str(refused.value) == (
        f"entry point good of acme 1.5: ImportError: {site}/acme_module.py was changed after it was tried; reload it "
        "again; what was loaded before stays in use"
    )
    assert find_schedulers().known["good"] is found.known["good"]


def test_a_scheduler_that_is_gone_stays_in_use(folder: Path) -> None:
    (folder / "somebodys_gone.py").write_text(GOOD.format(name="good", unit="CONNECTION"))
    before = find_schedulers()
    (folder / "somebodys_gone.py").write_text("")
    with pytest.raises(BadValue, match=r"^good: not found any more in twisted/plugins/somebodys_gone\.py; it stays"):
        reload_schedulers(before, "good", find_schedulers)


def test_only_plugins_can_be_loaded_again() -> None:
    found = find_schedulers()
    with pytest.raises(BadValue, match=r"^scheduler wlc is built in: a new one comes with an upgrade of ktcpvs"):
        reload_schedulers(found, "wlc", find_schedulers)
    with pytest.raises(NoSuchScheduler, match=r"^no scheduler 'wcl'; did you mean 'wlc'"):
        reload_schedulers(found, "wcl", find_schedulers)
    with pytest.raises(BadValue, match=r"^there are no scheduler plugins"):
        reload_schedulers(found, None, find_schedulers)


def test_http_rule_is_another_name_of_http() -> None:
    """KTCPVS's files and commands may use it; it is no scheduler of its own in the list."""
    found = find_schedulers()
    assert found.factory("http-rule") is found.factory("http")
    assert "http-rule" not in found.known
