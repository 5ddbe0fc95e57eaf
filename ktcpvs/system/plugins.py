"""Finds installed schedulers, the built-in ones and those of other packages, in the folders of twisted.plugin.

The name and error of a plugin file that cannot be imported are kept, and shown when a scheduler is not found.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from attrs import frozen
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from ktcpvs.errors import NoSuchScheduler, shorten, unknown
from ktcpvs.interfaces import UNITS, ISchedulerFactory
from ktcpvs.model.language.foreign_words import SCHEDULERS
from ktcpvs.model.scheduler_options import check_declared

TWISTED_PREFIXES = ("twisted_", "cred_")
"""The beginnings of the names of Twisted's own plugin files."""


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
    broken: list[tuple[str, str]] = []
    failed: list[tuple[str, str]] = []
    for module in _plugin_modules(failed):
        for plugin in list(vars(module).values()):
            if not ISchedulerFactory.providedBy(plugin):
                continue
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
    return Schedulers(known, (*broken, *failed))


def _plugin_modules(failed: list[tuple[str, str]]) -> Iterator[ModuleType]:
    """Yield the modules of all twisted.plugins folders, except Twisted's own, which have no schedulers.

    failed: (file, error) of modules that cannot be imported are added to it.

    twisted.plugin.getPlugins would import Twisted's own ones too, unless it may keep a file `dropin.cache` beside
    them: a user who may not write there would wait for that at each start, and read of it in the log.
    """
    import twisted.plugins as package  # not before: it finds its folders on the path of this moment

    importlib.invalidate_caches()
    for found in pkgutil.iter_modules(package.__path__, "twisted.plugins."):
        if found.name.rpartition(".")[2].startswith(TWISTED_PREFIXES):
            continue
        try:
            yield importlib.import_module(found.name)
        except (Exception, SystemExit) as error:
            spec = found.module_finder.find_spec(found.name, None)
            failed.append((spec.origin if spec is not None and spec.origin else found.name, str(error)))
