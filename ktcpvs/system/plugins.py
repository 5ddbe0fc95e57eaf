"""The schedulers that are installed: ours and other people's, found by twisted.plugin.

A plugin file that cannot be imported is not silently passed over: its name and error are kept, and shown when a
scheduler is not found.
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


@frozen
class Schedulers:
    """known: name -> scheduler plugin. broken: (where, error) of what could not be used."""

    known: dict[str, Any]
    broken: tuple[tuple[str, str], ...] = ()

    def factory(self, name: str) -> Any:
        """The L{ISchedulerFactory} of that name. Raises NoSuchScheduler, which names those there are."""
        if name in self.known:
            return self.known[name]
        message = f"no scheduler {unknown(name, sorted(self.known))}"
        for where, error in self.broken:
            message += f"; {where} failed to load: {shorten(error)}"
        raise NoSuchScheduler(message)


def find_schedulers() -> Schedulers:
    """Look through all twisted.plugins folders on the path; new files are seen each time."""
    known: dict[str, Any] = {}
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
                    raise ValueError(f"unit is {plugin.unit!r}, not one of {', '.join(UNITS)}")
            except (Invalid, ValueError) as error:
                broken.append((where, " ".join(str(error).split())))
                continue
            if plugin.name in known:
                broken.append((where, f"a second scheduler named {plugin.name}"))
            else:
                known[plugin.name] = plugin
    finally:
        globalLogPublisher.removeObserver(observe)
    for failure in failures:
        broken.append((_culprit(failure), failure.getErrorMessage()))
    return Schedulers(known, tuple(broken))


def _culprit(failure: Any) -> str:
    frames = [frame[1] for frame in failure.frames if "plugins" in frame[1]]
    return str(frames[-1]) if frames else "a plugin"
