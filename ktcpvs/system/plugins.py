"""Finds installed schedulers, the built-in ones and those of other packages, by twisted.plugin.

The name and error of a plugin file that cannot be imported are kept, and shown when a scheduler is not found.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.plugin import getPlugins
from zope.interface import implementer
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from ktcpvs.errors import NoSuchScheduler, shorten, unknown
from ktcpvs.interfaces import UNITS, ISchedulerFactory
from ktcpvs.model.language.foreign_words import SCHEDULERS
from ktcpvs.model.scheduler_options import check_declared


@frozen
class Schedulers:
    """The installed schedulers. known: name -> plugin. broken: (module, error) of plugins that cannot be used."""

    known: dict[str, ISchedulerFactory]
    broken: tuple[tuple[str, str], ...] = ()

    def factory(self, name: str) -> ISchedulerFactory:
        """Return the plugin of that name. Raises NoSuchScheduler, with the names of all plugins."""
        if name in self.known:
            return self.known[name]
        if name in SCHEDULERS:
            message = f"no scheduler '{name}': use {SCHEDULERS[name]}"
        else:
            message = f"no scheduler {unknown(name, sorted(self.known))}"
        for where, error in self.broken:
            message += f"; {where} failed to load: {shorten(error)}"
        raise NoSuchScheduler(message)


def find_schedulers() -> Schedulers:
    """Search all twisted.plugins folders on the path; new files are found each time."""
    known: dict[str, ISchedulerFactory] = {}
    failures: list[Any] = []

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        failure = event.get("log_failure") or event.get("failure")  # twisted.plugin logs in the old style
        if failure is not None:
            failures.append(failure)

    broken: list[tuple[str, str]] = []
    globalLogPublisher.addObserver(observe)
    try:
        for plugin in getPlugins(ISchedulerFactory):
            where = type(plugin).__module__
            try:
                verifyObject(ISchedulerFactory, plugin)
                if plugin.unit not in UNITS:
                    raise ValueError(f"unit is {plugin.unit!r}; expected one of {', '.join(UNITS)}")
                check_declared(plugin)
            except (Invalid, ValueError) as error:
                broken.append((where, " ".join(str(error).split())))
                continue
            if plugin.name in known:
                broken.append((where, f"a second scheduler has the name {plugin.name}"))
            else:
                known[plugin.name] = plugin
    finally:
        globalLogPublisher.removeObserver(observe)
    for failure in failures:
        broken.append((_plugin_file(failure), failure.getErrorMessage()))
    return Schedulers(known, tuple(broken))


def _plugin_file(failure: Any) -> str:
    """Return the plugin file in which an import failed."""
    frames = [frame[1] for frame in failure.frames if "plugins" in frame[1]]
    return str(frames[-1]) if frames else "a plugin"
