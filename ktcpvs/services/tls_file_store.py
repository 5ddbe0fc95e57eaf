"""The contents of all files that the TLS of running services needs, read again when the files change.

A file is read when an edit begins to need it; one that cannot be used refuses the edit. Later, a new version that
cannot be used changes nothing: what was read before stays in use, and the log says so once.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from attrs import Factory, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from ktcpvs.errors import NoTLS
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import DAY
from ktcpvs.model.tls_files import AUTHORITIES, ISSUED, TLSFile, files_of
from ktcpvs.runtime.context import Context
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.thread import WorkerThread
from ktcpvs.system.tls_files import Authorities, Contents, FileAccess, OwnAccess, Validity, validities

SECOND_LOOK_DELAY = 1.0
"""Seconds after which a changed file that cannot be used is read once more, before the log tells of it: the files of a
certificate are not all replaced at one moment."""

MAX_PAUSE = 10.0
"""The most seconds until the setting `certificate_check_interval` is looked at again: it may change at any moment."""

EXPIRY_INTERVAL = 3600.0
"""Seconds between two looks at the validity of certificates that have not changed."""

MAX_NAMES = 3
"""The most names of a certificate in a line of the log."""

InThread = Callable[..., "Deferred[Any]"]
"""Calls a function with its arguments, in a thread; fires with its result."""


def _ignore(files: Collection[TLSFile]) -> Deferred[Any]:
    return succeed(None)


def not_read_before(file: TLSFile) -> Contents | None:
    """Return None: no other daemon has read the file."""
    return None


@frozen
class Update:
    """Files of TLS that an edit brings and drops. contents: of files that are new, or have changed. dropped: files that
    no service needs any more."""

    contents: Mapping[TLSFile, Contents] = Factory(dict)
    dropped: Collection[TLSFile] = ()

    def __bool__(self) -> bool:
        return bool(self.contents or self.dropped)


class TLSFiles(Protocol):
    """The files of TLS, for a director and for what uses their contents.

    errors: file -> why its newest version cannot be used. changed: called with files that have changed; it must call
    `reload`, between two edits.
    """

    errors: dict[TLSFile, str]
    changed: Callable[[Collection[TLSFile]], Deferred[Any]]

    def start(self) -> None:
        """The reactor runs: watch the files, and warn of certificates that expire, from now on."""

    def stop(self) -> None:
        """Watch no longer."""

    def __iter__(self) -> Iterator[tuple[TLSFile, Contents]]:
        """Iterate over all files that running services need."""

    def contents(self, file: TLSFile) -> Contents:
        """Return the contents of a file that has been prepared, or that a running service needs. Raises NoTLS."""

    def observe(self, observer: Callable[[], object]) -> None:
        """Call `observer` when the contents of a file have been replaced."""

    async def prepare(self, services: Iterable[VirtualService], *, is_strict: bool) -> Sequence[str]:
        """Read the files of services that an edit starts or changes, as far as none that runs needs them. is_strict:
        False: certificates that cannot be read are left out. Returns warnings, a line each. Raises NoTLS."""

    def follow(self, services: Iterable[VirtualService]) -> Update:
        """The edit is in force, and these services run: forget the files that none of them needs. Returns what has
        changed."""

    async def reload(self, files: Collection[TLSFile] | None = None) -> tuple[Update, Sequence[str]]:
        """Read files again. files: those that `changed` was called with; None: all of them.

        Returns what has changed, and for each file that cannot be used an error, in one line.
        """


class PassedFiles:
    """Files that another process reads, watches and passes to this one. Provides TLSFiles."""

    def __init__(self) -> None:
        self.errors: dict[TLSFile, str] = {}
        self.changed: Callable[[Collection[TLSFile]], Deferred[Any]] = _ignore
        self._contents: dict[TLSFile, Contents] = {}
        self._observers: list[Callable[[], object]] = []

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def __iter__(self) -> Iterator[tuple[TLSFile, Contents]]:
        return iter(self._contents.items())

    def contents(self, file: TLSFile) -> Contents:
        if file not in self._contents:
            raise NoTLS(f"{file.path}: the supervisor has not passed it")
        return self._contents[file]

    def observe(self, observer: Callable[[], object]) -> None:
        self._observers.append(observer)

    async def prepare(self, services: Iterable[VirtualService], *, is_strict: bool) -> Sequence[str]:
        return ()

    def follow(self, services: Iterable[VirtualService]) -> Update:
        return Update()  # the other process says which files are dropped

    async def reload(self, files: Collection[TLSFile] | None = None) -> tuple[Update, Sequence[str]]:
        return Update(), ()

    def add(self, file: TLSFile, contents: Contents) -> None:
        """Use these contents from now on."""
        is_new = file not in self._contents
        self._contents[file] = contents
        for observer in () if is_new else self._observers:
            observer()

    def drop(self, file: TLSFile) -> None:
        """No service needs the file any more."""
        self._contents.pop(file, None)


class TLSFileStore:
    """Files that this process reads and watches. Provides TLSFiles."""

    def __init__(
        self,
        context: Context,
        access: FileAccess | None = None,
        in_thread: InThread | None = None,
        read_before: Callable[[TLSFile], Contents | None] = not_read_before,
    ) -> None:
        """access: reads the files; None: with the rights of this process. in_thread: None: a thread of its own, as soon
        as the reactor runs. read_before: returns a file as the daemon has read it from which this one takes over; None:
        it has not."""
        self.errors: dict[TLSFile, str] = {}
        self.changed: Callable[[Collection[TLSFile]], Deferred[Any]] = _ignore
        self._context = context
        self._access = access or OwnAccess()
        self._thread = WorkerThread(context.reactor, "certificates")
        self._in_thread = in_thread or self._call_in_thread
        self._read_before = read_before
        self._observers: list[Callable[[], object]] = []
        self._contents: dict[TLSFile, Contents] = {}
        self._prepared: dict[TLSFile, Contents] = {}
        self._fingerprints: dict[TLSFile, str] = {}
        self._suspects: dict[TLSFile, str] = {}  # file -> why it could not be used at the last look, not told yet
        self._warned: dict[Validity, float] = {}  # -> when the log has warned last
        self._looked = 0.0  # on the reactor's clock
        self._expiry_due = 0.0  # on the reactor's clock
        self._job = PeriodicJob(context.reactor, self._watch, self._watch_failed)

    def start(self) -> None:
        self._job.start(0)

    def stop(self) -> None:
        self._job.stop()
        self._thread.stop()

    def __iter__(self) -> Iterator[tuple[TLSFile, Contents]]:
        return iter(self._contents.items())

    def contents(self, file: TLSFile) -> Contents:
        for known in self._prepared, self._contents:
            if file in known:
                return known[file]
        raise NoTLS(f"{file.path}: it has not been read")

    def observe(self, observer: Callable[[], object]) -> None:
        self._observers.append(observer)

    # Edits.

    async def prepare(self, services: Iterable[VirtualService], *, is_strict: bool) -> Sequence[str]:
        self._prepared = {}
        needed: dict[TLSFile, str] = {}
        for config in services:
            needed |= {file: where for file, where in files_of(config).items() if file not in needed}
        missing = [file for file in needed if file not in self._contents]
        if not missing:
            return ()
        prepared: dict[TLSFile, Contents] = {}
        for file, (fingerprint, contents) in (await self._read(missing)).items():
            if isinstance(contents, NoTLS):
                contents = self._instead(file, contents, needed[file], is_strict)
            prepared[file] = contents
            self._fingerprints[file] = fingerprint
        self._prepared = prepared
        now = self._now()
        found = [(file, one) for file, contents in prepared.items() for one in validities(file, contents)]
        return [f"{needed[file]}{one.warning(now)}" for file, one in found if one.warning(now)]

    def _instead(self, file: TLSFile, error: NoTLS, where: str, is_strict: bool) -> Contents:
        """Return the contents of a file that cannot be used. where: names what needs it. Raises NoTLS."""
        why = f"{where}{error}"
        before = None if is_strict else self._read_before(file)
        if before is not None:
            self._context.log.warn("{why}; what the daemon before has read stays in use", why=why)
        elif is_strict or file.use == AUTHORITIES:
            raise NoTLS(why) from error
        else:  # a table that ran before runs again as far as possible; the file may be good later
            self._context.log.warn("{why}; clients that need it are refused", why=why)
        self.errors[file] = str(error)
        return before or ()

    def follow(self, services: Iterable[VirtualService]) -> Update:
        if not (self._contents or self._prepared):
            return Update()
        needed = {file for config in services for file in files_of(config)}
        before = self._contents
        everything = {**before, **self._prepared}
        self._contents = {file: contents for file, contents in everything.items() if file in needed}
        self._prepared = {}
        for notes in self._fingerprints, self.errors, self._suspects:
            for file in [file for file in notes if file not in needed]:
                del notes[file]
        added = {file: contents for file, contents in self._contents.items() if file not in before}
        self._expiry_due = 0.0
        return Update(added, [file for file in before if file not in needed])

    # New versions.

    async def reload(self, files: Collection[TLSFile] | None = None) -> tuple[Update, Sequence[str]]:
        is_asked = files is None
        changed: dict[TLSFile, Contents] = {}
        if not self._contents:
            return Update(), ()
        read = await self._read(list(self._contents if files is None else files))
        for file, (fingerprint, contents) in read.items():
            if file not in self._contents:
                continue
            self._fingerprints[file] = fingerprint
            if isinstance(contents, NoTLS):
                self._note_error(file, str(contents), is_asked)
                continue
            self._suspects.pop(file, None)
            was_bad = self.errors.pop(file, None) is not None
            if contents != self._contents[file]:
                self._contents[file] = changed[file] = contents
            if (was_bad or file in changed) and file.use != ISSUED:  # what has obtained it says so
                what = _describe(contents)
                self._context.log.event(ANNOUNCE, "{path} is read again: {what}", path=file.path, what=what)
        if changed:
            self._expiry_due = 0.0
        for observer in self._observers if changed else ():
            observer()
        return Update(changed), list(dict.fromkeys(self.errors.values()))

    def _note_error(self, file: TLSFile, why: str, is_asked: bool) -> None:
        """A new version cannot be used. is_asked: an administrator has asked for it, and is told at once."""
        if self.errors.get(file) == why:
            return
        if not is_asked and file not in self._suspects:
            self._suspects[file] = why
            return
        self._suspects.pop(file, None)
        self.errors[file] = why
        self._context.log.warn("{why}; what was read before stays in use", why=why)

    def _read(self, files: Sequence[TLSFile]) -> Deferred[dict[TLSFile, tuple[str, Contents | NoTLS]]]:
        """Fires with each file's fingerprint, and its contents or why it has none."""
        return self._in_thread(_read_all, self._access, files)

    def _call_in_thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """The first table is loaded before the reactor runs, and nobody is served meanwhile."""
        if self._context.reactor.running:
            return self._thread.call(function, *arguments)
        return succeed(function(*arguments))

    # Watching.

    def _watch(self) -> float | Deferred[Any]:
        """Look at the files if it is time. Return the seconds until the next call, or a Deferred of them."""
        now = self._context.reactor.seconds()
        if now >= self._expiry_due:
            self._expiry_due = now + EXPIRY_INTERVAL
            self._warn_of_expiry()
        interval = self._context.settings.certificate_check_interval
        if not interval or not self._contents:
            return MAX_PAUSE
        left = self._looked + (min(SECOND_LOOK_DELAY, interval) if self._suspects else interval) - now
        return min(left, MAX_PAUSE) if left > 0 else Deferred.fromCoroutine(self._look(interval))

    async def _look(self, interval: float) -> float:
        files = list(self._contents)
        found = dict(zip(files, await self._in_thread(self._access.fingerprints, files), strict=True))
        changed = [file for file in files if self._fingerprints.get(file) != found[file] or file in self._suspects]
        if changed:
            await self.changed(changed)
        self._looked = self._context.reactor.seconds()
        return min(SECOND_LOOK_DELAY if self._suspects else interval, interval, MAX_PAUSE)

    def _watch_failed(self, why: Failure) -> None:
        self._context.log.failure("internal error: the files of TLS cannot be watched", why)

    def _warn_of_expiry(self) -> None:
        """Warn of each certificate that is not valid, or should have been renewed, once a day."""
        now, wall = self._now(), self._context.wall()
        warned = {}
        for file, contents in self._contents.items():
            for validity in validities(file, contents):
                if not (warning := validity.warning(now)):
                    continue
                before = self._warned.get(validity)
                if before is None or wall - before >= DAY:
                    self._context.log.warn("{warning}", warning=warning)
                    before = wall
                warned[validity] = before
        self._warned = warned

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._context.wall(), datetime.UTC)


def _read_all(access: FileAccess, files: Sequence[TLSFile]) -> dict[TLSFile, tuple[str, Contents | NoTLS]]:
    """Return each file's fingerprint, and its contents or why it has none. To be called in a thread."""
    # A file that changes after its fingerprint was taken is read again at the next look.
    fingerprints = access.fingerprints(files)
    return {file: (seen, _try_to_read(access, file)) for file, seen in zip(files, fingerprints, strict=True)}


def _try_to_read(access: FileAccess, file: TLSFile) -> Contents | NoTLS:
    try:
        return access.read(file)
    except NoTLS as error:
        return error


def _describe(contents: Contents) -> str:
    """Describe new contents, for the log."""
    if isinstance(contents, Authorities):
        return "1 CA" if contents.count == 1 else f"{contents.count} CAs"
    if len(contents) != 1:
        return f"{len(contents)} certificates"
    (one,) = contents
    names = one.names or (one.subject,)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{', '.join(names[:MAX_NAMES])}{more}, until {one.not_after:%Y-%m-%d %H:%M} UTC"
