"""Searches for schedulers: what is loaded stays in use where they find fewer, and what a reload knows of its files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger

from ktcpvs.director.scheduler_binding import SchedulerBinder
from ktcpvs.errors import BadValue, NoSuchScheduler
from ktcpvs.model.language.parser import parse
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors
from ktcpvs.schedulers.rr import RR
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.running import RunningService
from ktcpvs.system.log import EventLog
from ktcpvs.system.plugins import Origin, Schedulers, find_schedulers

OF_ACME = Origin("acme_schedulers", "entry point good of acme 1.5")


class Installation:
    """What is installed, and a daemon that searches it."""

    def __init__(self) -> None:
        self.built_in = find_schedulers()
        good = self.built_in.known["rr"]
        self.plugin = Schedulers({"good": good}, (), {"good": OF_ACME})
        self.now = Schedulers({**self.built_in.known, "good": good}, (), {**self.built_in.origins, "good": OF_ACME})
        self.lines: list[str] = []

        def observe(event: Any) -> None:
            self.lines.append(event["log_format"].format(**event))

        log = EventLog(logger=Logger(namespace="test", observer=observe))  # type: ignore[arg-type]
        self.context = Context(MemoryReactorClock(), log, Descriptors(1000))
        self.binder = SchedulerBinder(self.context, lambda: self.now)
        self.binder.find_all()

    def refusal_of(self, scheduler: str) -> str:
        with pytest.raises(NoSuchScheduler) as refused:
            self.binder.plugins_of(service(scheduler))
        return str(refused.value)


def service(scheduler: str) -> VirtualService:
    return parse(f"Virtual web {{ scheduler = {scheduler} }}").services["web"]


@pytest.fixture
def installation() -> Installation:
    return Installation()


@pytest.mark.parametrize("left", [lambda one: one.plugin, lambda one: Schedulers({}), lambda one: one.built_in])
def test_what_is_loaded_stays(installation: Installation, left: Callable[[Installation], Schedulers]) -> None:
    """pip takes away the files of a package before it writes those of the next version."""
    before = installation.binder.find_all()
    installation.now = left(installation)
    assert installation.refusal_of("leastcon").startswith("no scheduler 'leastcon'")
    assert installation.binder.find_all().known == before.known
    for name in ("wlc", "phttp", "good"):
        factory, *_ = installation.binder.plugins_of(service(name))
        assert factory is before.known[name]
    (line,) = installation.lines
    assert line.startswith("schedulers not found any more, and used as they were loaded: ")
    assert ("wlc" in line) == ("wlc" not in installation.now.known)


def test_a_plugin_never_replaces_a_loaded_built_in_scheduler(installation: Installation) -> None:
    other = installation.built_in.known["rr"]
    installation.now = Schedulers({"wlc": other}, (), {"wlc": evolve(OF_ACME, text="entry point wlc of acme 1.5")})
    found = installation.binder.find_all()
    assert found.known["wlc"] is installation.built_in.known["wlc"]
    assert found.origins["wlc"].is_built_in


def test_what_is_back_is_found_again(installation: Installation) -> None:
    whole, installation.now = installation.now, installation.plugin
    installation.binder.find_all()
    installation.now = whole
    assert installation.binder.find_all() is whole
    installation.now = installation.plugin
    installation.binder.find_all()
    assert len(installation.lines) == 2


def test_what_is_not_installed_any_more_is_not_loaded_again(installation: Installation) -> None:
    installation.now = installation.built_in
    with pytest.raises(BadValue, match="there are no scheduler plugins"):
        installation.binder.reload(None)
    assert "good" in installation.binder.find_all().known


PLUGIN = """
from zope.interface import implementer
from ktcpvs.interfaces import ISchedulerFactory

@implementer(ISchedulerFactory)
class Plain:
    name, unit = "plain", "CONNECTION"
    def bind(self, service, previous):
        import plain_package.later
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an installed package with a scheduler."""
    folder, info = tmp_path / "plain_package", tmp_path / "plain-1.0.dist-info"
    folder.mkdir()
    info.mkdir()
    (folder / "__init__.py").write_text(PLUGIN)
    (folder / "later.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ktcpvs.schedulers]\nplain = plain_package:Plain\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_reload_knows_whether_files_are_the_same(package: Path) -> None:
    binder = SchedulerBinder(Context(MemoryReactorClock(), EventLog(), Descriptors(1000)))
    binder.find_all()
    (package / "other.txt").write_text("")
    assert binder.reload("plain").is_same
    (package / "__init__.py").write_text(f"{PLUGIN}# edited\n")
    reloaded = binder.reload("plain")
    assert not reloaded.is_same
    reloaded.undo()
    reloaded = binder.reload("plain")
    assert not reloaded.is_same, "what was undone is not loaded"
    assert binder.reload(None).is_same
    reloaded.found.known["plain"].bind(None, None)
    assert not binder.reload("plain").is_same, "nobody knows what was in a file that a bind has imported"


def test_files_that_were_loaded_before_the_search_are_unknown(package: Path) -> None:
    import_module("plain_package")
    binder = SchedulerBinder(Context(MemoryReactorClock(), EventLog(), Descriptors(1000)))
    binder.find_all()
    assert not binder.reload("plain").is_same
    assert binder.reload("plain").is_same


@pytest.mark.parametrize(("seconds", "is_started"), [(6, True), (5, True), (6, False)])
def test_a_bind_for_which_workers_would_be_killed_is_refused(seconds: int, is_started: bool) -> None:
    """By the supervisor, which tries it before them; not at the start, when nobody is served yet."""
    clock, reactor = Clock(), MemoryReactorClock()
    context = Context(reactor, EventLog(), Descriptors(1000), monotonic=clock.seconds)
    built_in = find_schedulers()

    class Slow(RR):
        name = "slow"

        def bind(self, service: Any, previous: Any) -> Any:
            clock.advance(seconds)
            return super().bind(service, previous)

    found = evolve(built_in, known={**built_in.known, "slow": Slow()})
    binder = SchedulerBinder(context, lambda: found, most_seconds=lambda settings: settings.worker_timeout / 2)
    if is_started:
        binder.start()
    config = service("slow")
    bound = Deferred.fromCoroutine(binder.bind(RunningService(context, config), config, Settings()))
    bound.addErrback(lambda why: why.value)
    reactor.pump([0] * 5)
    results: list[Any] = []
    bound.addCallback(results.append)
    if (seconds, is_started) == (6, True):
        assert str(results[0]).startswith(
            "service web: scheduler slow: its bind takes 6 s, in which a worker serves nob"
        )
    else:
        assert isinstance(results[0], Prepared)


def test_the_fallback_chooses_only_for_schedulers_that_were_missing_at_the_load(installation: Installation) -> None:
    binder, known = installation.binder, {"gone": "EACH_REQUEST", "other": "CONNECTION"}
    binder.stand_in(known)
    of_gone = service("gone depth 3")
    assert binder.plugins_of(of_gone).scheduler.unit == "EACH_REQUEST"
    binder.end_loading()
    assert binder.missing() == {"gone": "EACH_REQUEST"}
    assert binder.units()["gone"] == "EACH_REQUEST"
    assert installation.refusal_of("other").startswith("no scheduler 'other'")
    with pytest.raises(NoSuchScheduler, match="no scheduler 'gone'"):
        binder.check(of_gone, {"gone depth 3"})
    binder.check(of_gone, {"wlc"})  # another option of the service is edited
    binder.mended({"gone"})
    assert binder.missing() == {}
    assert installation.refusal_of("gone depth 3").startswith("no scheduler 'gone'")


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        ("scheduler = gone", ["scheduler gone is missing, and fallback wlc chooses"]),
        ("scheduler = gone fallback = none", ["scheduler gone is missing, and there is no fallback"]),
        ("scheduler = gone fallback = gone", ["scheduler gone is missing, and so is the fallback"]),
        ("scheduler = rr fallback = gone", ["scheduler gone is missing, and it cannot choose as the fallback"]),
        ("scheduler = phttp balance = gone", ["scheduler gone is missing, and fallback wlc chooses"]),
        ("scheduler = rr", []),
    ],
)
def test_the_log_says_once_what_chooses_for_a_missing_scheduler(
    installation: Installation, options: str, instead: list[str]
) -> None:
    binder, config = installation.binder, parse(f"Virtual web {{ {options} }}").services["web"]
    binder.stand_in({"gone": "CONNECTION"})
    running = RunningService(installation.context, config)
    for _ in range(2):
        bound = Deferred.fromCoroutine(binder.bind(running, config, Settings()))
        results: list[Any] = []
        bound.addBoth(results.append)
        assert isinstance(results[0], Prepared)
    assert [line.partition(": no scheduler 'gone'")[0] for line in installation.lines] == [
        f"service web: {text}" for text in instead
    ]
