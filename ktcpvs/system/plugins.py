"""Finds installed schedulers: the built-in ones, those of twisted.plugin folders, and entry points of packages.

The place and error of a plugin that cannot be used are kept, and shown when a scheduler is not found.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from attrs import Factory, evolve, frozen
from twisted.python.reflect import safe_str
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

from ktcpvs.errors import NoSuchScheduler, shorten, unknown
from ktcpvs.interfaces import EACH_REQUEST, MAX_BODY_PREFIX, UNITS, ISchedulerFactory
from ktcpvs.model.language.foreign_words import SCHEDULERS
from ktcpvs.model.scheduler_options import check_declared
from ktcpvs.model.scheduler_words import SCHEDULER
from ktcpvs.system.plugin_errors import raise_interrupt

OTHER_NAMES = {"http-rule": "http"}
"""Other names of built-in schedulers, as in files for KTCPVS -> their names."""

ENTRY_POINTS = "ktcpvs.schedulers"
"""The group of the entry points of packages with schedulers."""

TWISTED_PREFIXES = ("twisted_", "cred_")
"""The beginnings of the names of Twisted's own plugin files."""

BUILT_IN_MODULE = "twisted.plugins.ktcpvs_plugins"

LISTED_BY = "'tcpvsadm --schedulers'"
"""The command that lists all schedulers, for errors."""

MAX_NAMES = 40
"""The most schedulers that such an error names: it must help where no daemon answers."""

MAX_ERROR_LENGTH = 200
"""The most characters of each plugin's error in the refusal of an unknown name."""

_BREACH = re.compile(r"The object <.*?> has failed to implement interface \S+: (?=The contract of )")
"""The words of zope.interface before those that say what is wrong: limits of messages would cut the latter off."""

_EDITABLE = "; installed with -e? start the daemon again, or 'pip install .'"
"""The hint where the module of an entry point is not found: a running Python reads no new paths of such packages."""


_MACHINERY = frozenset((__file__, __file__.replace("plugins.py", "plugin_reload.py")))
"""The files of ours that import plugins."""


@frozen
class Origin:
    """The origin of a scheduler. module: the one that is imported for it. text: for people."""

    module: str
    text: str

    @property
    def is_built_in(self) -> bool:
        """Whether it is a part of ktcpvs."""
        return self.module == BUILT_IN_MODULE


@frozen
class Schedulers:
    """The installed schedulers. known: name -> plugin. broken: (place, error) of plugins that cannot be used. origins:
    name -> where it comes from."""

    known: dict[str, ISchedulerFactory]
    broken: tuple[tuple[str, str], ...] = ()
    origins: Mapping[str, Origin] = Factory(dict)

    def named(self, name: str) -> ISchedulerFactory | None:
        """Return the plugin of that name, or of that other name; None: there is none."""
        return self.known.get(name) or self.known.get(OTHER_NAMES.get(name, name))

    def factory(self, name: str) -> ISchedulerFactory:
        """Return the plugin of that name. Raises NoSuchScheduler, with the names of all plugins."""
        found = self.named(name)
        if found is not None:
            return found
        if name in SCHEDULERS:
            message = f"no scheduler '{name}': use {SCHEDULERS[name]}"
        else:
            hint = unknown(name, sorted(self.known), listed_by=LISTED_BY, most=MAX_NAMES)
            message = f"no scheduler {hint} (a plugin must be installed in {sys.prefix})"
        for where, error in self.broken:
            message += f"; {where} failed to load: {shorten(error, MAX_ERROR_LENGTH)}"
        raise NoSuchScheduler(message, name)

    def and_loaded(self, before: Schedulers) -> Schedulers:
        """Return these and those of an earlier search that this one has not found, which stay loaded: pip takes away
        the files of a package before it writes those of the next. A built-in one stays even beside another of its
        name."""
        lost = [
            name
            for name, origin in before.origins.items()
            if name not in self.known or (origin.is_built_in and not self.origins[name].is_built_in)
        ]
        if not lost:
            return self
        known = {**self.known, **{name: before.known[name] for name in lost}}
        return evolve(self, known=known, origins={**self.origins, **{name: before.origins[name] for name in lost}})


def find_schedulers() -> Schedulers:
    """Search all twisted.plugins folders on the path and all entry points; new files and packages are found each time.

    Of two schedulers with one name, the first is used: built-in ones come first, then those of twisted.plugins folders,
    then entry points by their name.
    """
    importlib.invalidate_caches()
    known: dict[str, ISchedulerFactory] = {}
    origins: dict[str, Origin] = {}
    broken: list[tuple[str, str]] = []
    for plugin, origin, error in (*_in_folders(), *_entry_points()):
        if error is not None:
            broken.append(_place_of(error, origin))
            continue
        try:
            _check(plugin)
        except (Invalid, ValueError) as wrong:
            broken.append((origin.text, _BREACH.sub("", " ".join(str(wrong).split()))))
            continue
        except Exception as wrong:  # of an attribute that cannot be read
            broken.append((origin.text, f"{type(wrong).__name__}: {safe_str(wrong)}"))
            continue
        if plugin.name not in known:
            known[plugin.name], origins[plugin.name] = plugin, origin
        elif type(plugin) is not type(known[plugin.name]):  # or else a package declares one scheduler in both ways
            first = origins[plugin.name].text
            broken.append((origin.text, f"a second scheduler has the name {plugin.name}; that of {first} is used"))
    return Schedulers(known, tuple(broken), origins)


def _check(plugin: Any) -> None:
    """Raise Invalid or ValueError for a plugin that breaks the contract."""
    verifyObject(ISchedulerFactory, plugin)
    if type(plugin.name) is not str or not SCHEDULER.fullmatch(plugin.name):
        raise ValueError(f"name is {shorten(repr(plugin.name), 60)}; expected letters, digits, _, . and -, at most 64")
    if plugin.unit not in UNITS:
        raise ValueError(f"unit is {plugin.unit!r}; expected one of {', '.join(UNITS)}")
    _check_body_prefix(plugin)
    check_declared(plugin)


def _check_body_prefix(plugin: Any) -> None:
    """Raise ValueError for an attribute `body_prefix` that the switch cannot follow."""
    if not hasattr(plugin, "body_prefix"):
        return
    size = plugin.body_prefix
    if type(size) is not int or not 0 < size <= MAX_BODY_PREFIX:
        raise ValueError(f"body_prefix is {size!r}; expected 1 to {MAX_BODY_PREFIX}")
    if plugin.unit != EACH_REQUEST:
        raise ValueError(f"it has a body_prefix, and chooses per {plugin.unit}; only {EACH_REQUEST} can have one")


_Found = tuple[Any, Origin, BaseException | None]
"""A plugin, its origin, and None; or None, the origin, and the error at its import."""


def _in_folders() -> list[_Found]:
    """Return the plugins of twisted.plugins folders, the built-in ones first.

    Twisted's own files are passed over. twisted.plugin.getPlugins would import them too, unless it may keep a file
    `dropin.cache` beside them: a user who may not write there would wait for that at each start, and read of it in the
    log.
    """
    import twisted.plugins as package  # not before: it finds its folders on the path of this moment

    found: list[_Found] = []
    modules = [
        one for one in pkgutil.iter_modules(package.__path__, "twisted.plugins.") if not _is_of_twisted(one.name)
    ]
    for one in sorted(modules, key=lambda one: one.name != BUILT_IN_MODULE):
        text = "ktcpvs" if one.name == BUILT_IN_MODULE else f"{one.name.replace('.', '/')}.py"
        origin = Origin(one.name, text)
        try:
            module = importlib.import_module(one.name)
            plugins = [plugin for plugin in vars(module).values() if ISchedulerFactory.providedBy(plugin)]
        except BaseException as error:  # it may call sys.exit, or have an object that answers no question
            raise_interrupt(error)
            found.append((None, origin, error))
            continue
        found += [(plugin, origin, None) for plugin in plugins]
    return found


def _is_of_twisted(module: str) -> bool:
    return module.rpartition(".")[2].startswith(TWISTED_PREFIXES)


_instances: dict[str, tuple[type, Any]] = {}
"""Name of an entry point -> its class and the instance of it: a search must not make another factory."""


def keep_instances() -> Callable[[], None]:
    """Return the function that puts the instances of entry points' classes back that there are now."""
    kept = dict(_instances)

    def put_back() -> None:
        _instances.clear()
        _instances.update(kept)

    return put_back


def _entry_points() -> Iterator[_Found]:
    """Yield the schedulers of entry points, which name a factory or its class."""
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        package = "" if entry.dist is None else f" of {entry.dist.name} {entry.dist.version}"
        origin = Origin(entry.value.partition(":")[0].strip(), f"entry point {entry.name}{package}")
        try:
            found = _load(entry)
        except BaseException as error:
            raise_interrupt(error)
            yield None, origin, error
            continue
        yield found, origin, None


def _load(entry: EntryPoint) -> Any:
    """Return the factory of an entry point. Raises what its import raises, or ValueError for a name that differs."""
    loaded = entry.load()
    if isinstance(loaded, type):
        kind, instance = _instances.get(entry.name, (None, None))
        if kind is not loaded:
            instance = loaded()
            _instances[entry.name] = loaded, instance
        loaded = instance
    name = getattr(loaded, "name", entry.name)
    if name != entry.name:
        raise ValueError(f"{entry.value} has the name {name!r}; expected {entry.name!r}, as its entry point")
    return loaded


def _place_of(error: BaseException, origin: Origin) -> tuple[str, str]:
    """Return where a plugin could not be imported, as FILE:LINE, and why."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}", f"{type(error).__name__}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_machinery(frame.filename)]
    place = f"{own[-1].filename}:{own[-1].lineno}" if own else origin.text
    is_editable = isinstance(error, ModuleNotFoundError) and error.name == origin.module.partition(".")[0]
    return place, f"{type(error).__name__}: {safe_str(error)}{_EDITABLE if is_editable else ''}"


def _is_machinery(file: str) -> bool:
    """Whether a file is a part of what imports plugins."""
    return file.startswith("<frozen") or file in _MACHINERY or "/importlib/" in file
