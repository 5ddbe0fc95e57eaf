"""Loads the packages of scheduler plugins again in the running process, as a whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from attrs import frozen

from ktcpvs.errors import BadValue
from ktcpvs.system.plugins import Schedulers, keep_instances

NOT_TRIED: Mapping[str, str] = {}
"""No file has been tried."""

_PLUGINS = "twisted.plugins."
_NEVER = frozenset(("ktcpvs", "twisted", "zope", "attr", "attrs", "__main__", *sys.stdlib_module_names))
"""Packages that no reload touches, whatever a plugin takes from them."""


@frozen
class Reloaded:
    """The changes of a reload. found: all schedulers after it. names: of those that were loaded again. packages:
    theirs. replaced: the files of the former modules. sources: the files that were loaded again, each with the digest
    of its contents. undo: puts the former modules back. is_same: the files and their contents are known to be those of
    before."""

    found: Schedulers
    names: frozenset[str]
    packages: tuple[str, ...]
    replaced: frozenset[str]
    sources: Mapping[str, str]
    undo: Callable[[], None]
    is_same: bool = False

    @property
    def files(self) -> dict[str, str]:
        """name -> the file of the class of each scheduler that was loaded again; where it is installed, if it has
        none."""
        modules = {name: sys.modules.get(type(self.found.known[name]).__module__) for name in sorted(self.names)}
        return {
            name: getattr(module, "__file__", None) or self.found.origins[name].text for name, module in modules.items()
        }


def reload_schedulers(
    before: Schedulers, name: str | None, search: Callable[[], Schedulers], tried: Mapping[str, str] = NOT_TRIED
) -> Reloaded:
    """Load the package of a scheduler again, with all schedulers in it; None: those of all plugins.

    before: the schedulers until now. search: finds all of them. tried: the files that a trial has loaded, each with the
    digest of its contents: a file that has changed since is not loaded. Raises NoSuchScheduler, or BadValue where there
    is nothing to load again, or where a plugin is broken now; then nothing has changed.
    """
    roots = packages_of(before, name)
    names = frozenset(one for one in before.origins if _roots_of(before, one) & roots)
    former, put_instances_back = _take_modules(roots), keep_instances()

    def undo() -> None:
        _take_modules(roots)
        sys.modules.update(former)
        put_instances_back()
        for module_name, module in former.items():
            parent, _, child = module_name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, module)

    finder = SourceFinder(roots, tried)
    sys.meta_path.insert(0, finder)
    try:
        found = search()
        _check(before, found, names)
    except BaseException:
        undo()
        raise
    finally:
        sys.meta_path.remove(finder)
    return Reloaded(found, names, tuple(sorted(roots)), frozenset(_files_of(former)), finder.loaded, undo)


def loaded_sources(found: Schedulers, before: Collection[str]) -> dict[str, str]:
    """Return the files of the modules of plugins that have just been imported, each with the digest of its contents.
    found: the schedulers now. before: the names of the modules that were there already."""
    roots = frozenset(root for name in found.origins for root in _roots_of(found, name))
    new = {name: module for name, module in sys.modules.items() if name not in before and _is_within(name, roots)}
    digests = {}
    for file in _files_of(new):
        with suppress(OSError):
            digests[file] = _digest(Path(file).read_bytes())
    return digests


def _files_of(modules: Mapping[str, ModuleType]) -> list[str]:
    files = [getattr(module, "__file__", None) for module in modules.values()]
    return [file for file in files if isinstance(file, str)]


def _digest(source: bytes) -> str:
    return sha256(source).hexdigest()


def packages_of(before: Schedulers, name: str | None) -> frozenset[str]:
    """Return the packages that `reload_schedulers` loads again. Raises what it raises where there are none."""
    if name is not None:
        before.factory(name)
        if before.origins[name].is_built_in:
            raise BadValue(
                f"scheduler {name} is built in: a new one comes with an upgrade of ktcpvs, not with a reload"
            )
    chosen = [one for one, origin in before.origins.items() if not origin.is_built_in and name in (None, one)]
    if not chosen:
        raise BadValue("there are no scheduler plugins: built-in schedulers come with an upgrade of ktcpvs")
    return frozenset(root for one in chosen for root in _roots_of(before, one))


def _check(before: Schedulers, found: Schedulers, names: Collection[str]) -> None:
    """Raise BadValue if a scheduler of `names` is not found any more, or is not that of its package."""
    new = [problem for problem in found.broken if problem not in before.broken]
    lost = [name for name in names if name not in found.known or found.origins[name] != before.origins[name]]
    if new:
        raise BadValue(f"{'; '.join(f'{where}: {error}' for where, error in new)}; what was loaded before stays in use")
    if lost:
        what = ", ".join(sorted(lost))
        raise BadValue(
            f"{what}: not found any more in {before.origins[lost[0]].text}; it stays in use as it was loaded"
        )


def _roots_of(found: Schedulers, name: str) -> frozenset[str]:
    """Return the packages, or the modules outside of a package, that are loaded again for a scheduler; none for a
    built-in one."""
    origin = found.origins[name]
    if origin.is_built_in:
        return frozenset()
    return frozenset(filter(None, map(_root_of, (origin.module, type(found.known[name]).__module__))))


def _root_of(module: str) -> str:
    """Return the outermost package of a module that has files of its own; "" for one that is never loaded again."""
    if module.startswith(_PLUGINS):
        return module
    parts = module.split(".")
    if parts[0] in _NEVER:
        return ""
    names = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return next((one for one in names if getattr(sys.modules.get(one), "__file__", None)), module)


def _is_within(module: str, roots: Collection[str]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def _take_modules(roots: Collection[str]) -> dict[str, ModuleType]:
    """Forget the modules of `roots`, and return them."""
    names = [name for name in sys.modules if _is_within(name, roots)]
    return {name: sys.modules.pop(name) for name in names}


class _UncachedLoader(SourceFileLoader):
    """Compiles the source: a compiled file may be as old as a source that was changed within the same second."""

    finder: SourceFinder

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        self.finder.note(path, source)
        code: CodeType = self.source_to_code(source, path)
        return code


class SourceFinder(MetaPathFinder):
    """Finds the modules of some packages as Python does, and has their sources compiled. loaded: the files of those
    that were, each with the digest of its contents."""

    def __init__(self, roots: Collection[str], tried: Mapping[str, str] = NOT_TRIED) -> None:
        """tried: see reload_schedulers."""
        self._roots = roots
        self._tried = tried
        self.loaded: dict[str, str] = {}

    def note(self, path: str, source: bytes) -> None:
        """The contents of that file are to be loaded. Raises ImportError if others were tried."""
        digest = _digest(source)
        if self._tried.get(path, digest) != digest:
            raise ImportError(f"{path} was changed after it was tried; reload it again")
        self.loaded[path] = digest

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not _is_within(fullname, self._roots):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _UncachedLoader(spec.loader.name, spec.loader.path)
            spec.loader.finder = self
        return spec
