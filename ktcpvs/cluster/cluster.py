"""One node of a cluster: it joins, puts in force what the others have stored, and reports what it runs.

It never changes the table; `editing` stores the edits of this node's administrators.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import uniform
from secrets import token_hex
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from ktcpvs.cluster.etcd import Change, Etcd, EtcdError, KeyValue, Unreachable
from ktcpvs.cluster.follower import Follower
from ktcpvs.cluster.membership import Membership, NameTaken
from ktcpvs.cluster.records import DrainState, NodeReport
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.cluster.table_store import TableStore
from ktcpvs.control.edit_commands import text_of_edit
from ktcpvs.director.confirmation import Confirmation
from ktcpvs.director.director import Director
from ktcpvs.errors import NoCluster, Refusal, shorten
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.difference import table_differences
from ktcpvs.model.local_edits import LocalEdit, without_forced
from ktcpvs.model.table import Table
from ktcpvs.system.limits import collector_paused
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.periodic import PeriodicJob
from ktcpvs.system.threads import run_beside
from ktcpvs.version import __version__

REPORT_INTERVAL = 2.0
"""Seconds between two reports of a node."""

SILENCE = 8.0
"""Seconds without any message of the watch after which it counts as cut: the reports of this node come on it."""

MAX_BACKOFF = 5.0
"""The most seconds between two attempts to reach etcd."""

MIN_BACKOFF = 0.4
"""The most seconds until the first attempt: all nodes notice it at once when etcd starts again."""

RETRY_INTERVAL = 15.0
"""Seconds until a node tries again what it could not put in force."""

RECONNECT_SECONDS = 6.0
"""Seconds after etcd has stopped to respond until edits are refused: a member that ends is followed by another one, and
a leader by a new one."""

MAX_READ_AT_ONCE = 16384
"""The most bytes of the table that are read on the reactor's thread: more take too long beside clients."""

MAX_NOTES = 20
"""The most edits that hold on a node only which it tells the others, and the most lines on what has become of some."""

MAX_NOTE_LENGTH = 300
"""The most characters of such a line."""


class Cluster:
    """This switch as a node of a cluster. is_connected: etcd responds, and this node follows. problem: why it is not;
    "": it is. applied: the revision of the table in force. errors: what is not in force here, a line each. drain_state:
    of this node. has_left: it has ended, or another daemon has taken over. is_adopting: the director carries out now
    what comes from the cluster. choose_table: returns the table that this node is to run, from the cluster's. notes:
    what has become of edits that held on this node only. node_notes: each returns what else `--nodes` says of a node, a
    line each. confirmation: of a table on trial, for the director; None: it has its own."""

    def __init__(self, etcd: Etcd, prefix: str, name: str, instance: str = "", sealer: Sealer | None = None) -> None:
        """prefix: of all keys. name: of this node. instance: of the daemon whose place this one takes; "": of none.
        sealer: seals secrets; None: this node has no --cluster-secret."""
        self.etcd = etcd
        self.sealer = sealer
        self.store = TableStore(prefix, sealer)
        self.membership = Membership(etcd, prefix, name)
        self.followers: list[Follower] = [self.store, self.membership]
        self.problems: list[Callable[[], Sequence[str]]] = []  # what else this node cannot do, for its reports
        self.node_notes: list[Callable[[str], Sequence[str]]] = []
        self.is_connected = False
        self.problem = "this node has not reached it yet"
        self._director: Director | None = None
        self.instance = instance or token_hex(8)
        self._since = int(time.time())
        self.errors: tuple[str, ...] = ()
        self.notes: deque[str] = deque(maxlen=MAX_NOTES)
        self.applied = 0
        self.drain_state: Callable[[], DrainState] = DrainState
        self._watch: Deferred[None] | None = None
        self._heard = 0.0
        self._lost = float("-inf")  # when etcd stopped to respond
        self._follower: Deferred[None] | None = None
        self._logged: set[type[Exception]] = set()  # kinds of problems that the log has named in this outage
        self._ends_forced = False  # what was changed here without etcd
        self._has_more = False  # to follow
        self.is_adopting = False
        self._waiting: list[Deferred[None]] = []  # for any change
        self._first: Deferred[None] = Deferred()
        self._pause: Deferred[None] | None = None
        self.has_left = False
        self.confirmation: Confirmation | None = None
        self.choose_table: Callable[[Table], Table] = lambda stored: stored
        self._reports: PeriodicJob | None = None
        self._retries: PeriodicJob | None = None

    @property
    def director(self) -> Director:
        assert self._director is not None
        return self._director

    @property
    def _reactor(self) -> Any:
        return self.director.context.reactor

    @property
    def _log(self) -> Any:
        return self.director.context.log

    # Life.

    def start(self, director: Director) -> Deferred[None]:
        """Join the cluster, and follow it from now on. Fires when this node has its table, or knows that etcd does not
        respond."""
        self._director = director
        director.local_dropped = self._local_dropped
        if self.confirmation is not None:
            director.confirmation = self.confirmation
        failed = self._log.failure
        self._reports = PeriodicJob(self._reactor, self._report_regularly, lambda why: failed("a report failed", why))
        self._retries = PeriodicJob(self._reactor, self._retry, lambda why: failed("following failed", why))
        Deferred.fromCoroutine(self._run()).addErrback(lambda why: failed("internal error: the cluster is left", why))
        return self._first

    async def stop(self) -> None:
        """Leave the cluster."""
        self._end()
        with contextlib.suppress(EtcdError):  # the lease ends by itself
            await self.membership.leave()
        await self.etcd.close()

    async def hand_over(self) -> None:
        """Another daemon takes this one's place in the cluster."""
        self._end()
        self.membership.hand_over()
        await self.etcd.close()

    def _end(self) -> None:
        self.has_left = True
        for job in (self._reports, self._retries):
            if job is not None:
                job.stop()
        if self._watch is not None:
            self._watch.cancel()
        if self._pause is not None:
            self._pause.cancel()

    async def _run(self) -> None:
        delay = 0.0
        while not self.has_left:
            try:
                await self._join()
                joined = self._reactor.seconds()
                try:
                    await self._follow_watch()
                finally:
                    if self._reactor.seconds() - joined > MAX_BACKOFF:  # or else it fails again and again
                        delay = 0.0
            except (EtcdError, NameTaken) as error:
                self._disconnected(str(error), type(error))
            except CancelledError:
                if self.is_connected:
                    self._disconnected(f"etcd's watch was silent for {SILENCE:g} seconds", Unreachable)
            except Exception:
                self._log.failure("internal error: the cluster cannot be followed")
                self._disconnected("internal error; see the log")
            delay = min(MAX_BACKOFF, max(MIN_BACKOFF, delay * 2))
            await self._sleep(uniform(delay / 2, delay))

    async def _sleep(self, seconds: float) -> None:
        if self.has_left:
            return
        pause: Deferred[None] = deferLater(self._reactor, seconds)
        self._pause = pause
        with contextlib.suppress(CancelledError):
            await pause
        self._pause = None

    async def _join(self) -> None:
        """Read everything, and become a member. Raises EtcdError and NameTaken."""
        prefix = self.store.prefix
        await self.director.between_edits(self._no_edit)
        self.store.remember(self.director.table.services)
        revision = self._replace_all(await self.etcd.range(prefix))
        if self.store.problem:
            raise EtcdError(self.store.problem)
        if self.store.generation is None:
            await self._store_first()
            revision = self._replace_all(await self.etcd.range(prefix))
        await self.membership.join(self.report())
        ended = await self.etcd.watch(prefix, revision + 1, self._watch_reported)
        self._watch = watch = ended()
        if self.has_left:  # `stop` may have come meanwhile
            watch.cancel()
        try:
            await self._follow_from_now_on()
        except BaseException:
            self._watch = None
            watch.addErrback(lambda _: None)
            watch.cancel()  # the next attempt begins another one
            raise

    async def _no_edit(self) -> None:
        """Do nothing between two edits: one that was being stored is then, and so it is in what is read."""

    async def _follow_from_now_on(self) -> None:
        """Use what has been read. The watch tells what comes after it. Raises EtcdError and NameTaken."""
        self._heard = self._reactor.seconds()
        self._ends_forced = True
        await self.follow()
        self.is_connected, self.problem = True, ""
        self._wake_all()
        await self._joined()
        self._log.event(
            ANNOUNCE,
            "cluster: node {name} follows {where} at revision {revision}, with {count} services",
            name=self.membership.name, where=self.etcd.url, revision=self.store.table_revision,
            count=len(self.director.table.services),
        )  # fmt: skip
        self._began()
        if not self.has_left:
            self._job(self._reports).start()

    def _replace_all(self, found: tuple[int, Sequence[KeyValue]]) -> int:
        revision, pairs = found
        for follower in self.followers:
            follower.replace(revision, pairs)
        return revision

    async def _joined(self) -> None:
        for follower in self.followers:
            if not self.has_left:  # a node that leaves writes nothing more
                await follower.joined()

    async def _store_first(self) -> None:
        """Store this node's table, unless another node is first. Raises EtcdError."""
        try:
            transaction = self.store.transaction(self.director.table, self.director.table)
        except Refusal as refusal:
            raise EtcdError(f"this node's table cannot be stored: {refusal}") from None
        assert transaction is not None
        for step in transaction.steps:
            await self.etcd.transact(step.compares, step.operations)

    async def _follow_watch(self) -> None:
        """Raises EtcdError, or CancelledError, when the watch has ended."""
        watch = self._watch
        assert watch is not None
        try:
            await watch
        finally:
            self._watch = None
            self._job(self._reports).stop()

    def _job(self, job: PeriodicJob | None) -> PeriodicJob:
        assert job is not None
        return job

    def _disconnected(self, why: str, kind: type[Exception] = EtcdError) -> None:
        """Note that etcd does not respond. kind: of error; the log names one of each kind, since the members fail one
        after the other."""
        if self.has_left:
            return
        if self.is_connected:
            self._logged = set()
            self._lost = self._reactor.seconds()
        if kind not in self._logged:
            self._logged.add(kind)
            self._log.warn(
                "cluster: {why}; this node goes on with the table that it has, and refuses edits until etcd responds",
                why=why,
            )
        self.is_connected, self.problem, self._ends_forced = False, why, False
        self._began()

    def _began(self) -> None:
        if not self._first.called:
            self._first.callback(None)
            self._wake_all()

    # Following the others.

    def _watch_reported(self, revision: int, changes: Sequence[Change]) -> None:
        self._heard = self._reactor.seconds()
        self.received(revision, changes)

    def received(self, revision: int, changes: Sequence[Change]) -> None:
        """Use changes: those that the watch reports, or that this node has just stored. revision: up to which these are
        all; 0: changes before them may be missing."""
        before = self.store.table_revision, self.store.problem
        for follower in self.followers:
            follower.apply(revision, changes)
        if (self.store.table_revision, self.store.problem) != before:
            self.follow_soon()
        self._wake_all()

    def _wake_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def next_change(self) -> Deferred[None]:
        """Fires when the watch reports anything, or after a second."""
        change: Deferred[None] = Deferred()
        self._waiting.append(change)
        call = self._reactor.callLater(1, self._wake, change)
        return change.addBoth(lambda _: call.cancel() if call.active() else None)

    def _wake(self, change: Deferred[None]) -> None:
        if change in self._waiting:
            self._waiting.remove(change)
            change.callback(None)

    async def wait_for_start(self) -> None:
        """Return when this node has its table, or knows that etcd does not respond."""
        while not self._first.called:
            await self.next_change()

    async def wait_until_connected(self) -> None:
        """Return when etcd responds. Raises NoCluster if it has not for RECONNECT_SECONDS."""
        await self.wait_for_start()
        until = self._lost + RECONNECT_SECONDS
        while not (self.is_connected or self.has_left) and self._reactor.seconds() < until:
            await self.next_change()
        self.check_connected()

    def check_connected(self) -> None:
        """Raise NoCluster unless etcd responds."""
        if not self.is_connected:
            raise NoCluster(
                f"etcd cannot be asked, and edits are refused until it responds: {self.problem}; "
                "--force-local changes this node until then"
            )

    def follow_soon(self) -> None:
        """Put the cluster's table in force, as `follow` does, as soon as possible."""
        self._has_more = True
        if self._follower is None:
            self._follower = Deferred.fromCoroutine(self._follow_all())
            self._follower.addErrback(lambda why: self._log.failure("internal error: following the cluster", why))
            self._follower.addCallback(lambda _: setattr(self, "_follower", None))

    @property
    def is_following(self) -> bool:
        """Whether etcd has reported a change of the table that is not in force yet, or has just been refused here."""
        return self._follower is not None

    async def _follow_all(self) -> None:
        while self._has_more:
            self._has_more = False
            await self.follow()

    async def follow(self) -> None:
        """Put the cluster's table in force, as far as this node can."""
        has_changed = await self.director.between_edits(self._adopt_and_note)
        retries = self._job(self._retries)
        if self.errors and not retries.is_scheduled:
            retries.start(RETRY_INTERVAL)
        if has_changed and self.is_connected:
            await self.report_now()

    async def _adopt_and_note(self) -> bool:
        """Adopt the cluster's table, and note what is in force now: before another call, which may adopt a later table
        before the result of this one arrives. Return whether that has changed."""
        revision, errors = await self._adopt()
        has_changed = errors != self.errors or revision != self.applied
        if errors and errors != self.errors:
            for error in errors:
                self._log.warn("cluster: not in force on this node: {error}", error=error)
        self.errors, self.applied = errors, revision
        return has_changed

    async def _adopt(self) -> tuple[int, tuple[str, ...]]:
        """Adopt the cluster's table between two edits. Return its revision, and what cannot be put in force, a line
        each."""
        size, read = self.store.unread()
        if size <= MAX_READ_AT_ONCE:
            return await self._adopt_read()
        with collector_paused(is_first=not self.applied):
            await run_beside(partial(read, self.director.table))
            return await self._adopt_read()

    async def _adopt_read(self) -> tuple[int, tuple[str, ...]]:
        director = self.director
        revision = self.store.table_revision
        before, wanted = director.effective, self.choose_table(self.store.table(director.table))
        is_forced = self._ends_forced and without_forced(wanted) != wanted
        adopt = Adopt.between(director.table, without_forced(wanted) if is_forced else wanted)
        errors = list(self.store.unreadable)
        if adopt is not None:
            self.is_adopting = True
            try:
                await self._adopt_parts(adopt, errors)
            finally:
                self.is_adopting = False
        if is_forced:
            self._forced_ended(before, director.effective)
        return revision, tuple(errors)

    async def _adopt_parts(self, adopt: Adopt, errors: list[str]) -> None:
        """Adopt all of it; if that is refused, everything but what is at fault."""
        try:
            await self.director.adopt(adopt)
            return
        except Refusal as refusal:
            parts = self._halves(adopt)
            if not parts:
                named = "".join(f"service {ident}: " for ident in adopt.services)
                text = str(refusal)
                errors.append(text if text.startswith(named) else f"{named}{text}")
                return
        for part in parts:
            await deferLater(self._reactor, 0)  # a table of 1,000 services has as many parts
            await self._adopt_parts(part, errors)

    def _halves(self, adopt: Adopt) -> list[Adopt]:
        """Return two parts of an edit; none if there is only one thing in it. Deleted services come first."""
        if adopt.local is not None and (adopt.services or adopt.settings is not None):
            return [evolve(adopt, local=None), Adopt({}, local=adopt.local)]
        if adopt.settings is not None and adopt.services:
            return [evolve(adopt, services={}, running=frozenset()), evolve(adopt, settings=None)]
        idents = sorted(adopt.services, key=lambda ident: adopt.services[ident] is not None)
        if len(idents) < 2:
            return []
        middle = len(idents) // 2
        return [adopt.restricted_to(frozenset(part)) for part in (idents[:middle], idents[middle:])]

    @property
    def may_force(self) -> bool:
        """Whether edits may hold on this node only until etcd responds."""
        return not self.is_connected and not self._ends_forced

    def _forced_ended(self, before: Table, after: Table) -> None:
        """Note what the edits by --force-local had changed, since etcd responds again. before, after: what this node
        has run until now, and what it runs now."""
        lines = table_differences(before, after)
        more = [f"{len(lines) - MAX_NOTES + 1} more changes"] if len(lines) > MAX_NOTES else []
        for line in [*lines[: MAX_NOTES - len(more)], *more]:
            self._note(f"etcd responds again, and the cluster's table is in force: {line}")

    def _local_dropped(self, dropped: Sequence[tuple[LocalEdit, str]]) -> None:
        for one, why in dropped:
            self._note(f"an edit does not hold on this node any more: {text_of_edit(one.edit)}: {why}")

    def _note(self, line: str) -> None:
        self._log.warn("cluster: {line}", line=line)
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self.notes.append(shorten(f"{at}: {line}", MAX_NOTE_LENGTH))

    def _retry(self) -> float | None:
        self.follow_soon()
        return RETRY_INTERVAL if self.errors else None

    # Reports.

    def report(self) -> NodeReport:
        """Return what this node tells the others of itself."""
        drain, director = self.drain_state(), self.director
        return NodeReport(
            instance=self.instance,
            revision=self.applied,
            errors=(*self.errors, *drain.errors, *(line for found in self.problems for line in found())),
            version=__version__,
            connections=director.count_clients(),
            since=self._since,
            drain=drain.state,
            drain_revision=drain.revision,
            labels=tuple(sorted(director.context.node.labels)),
            local=self._local_texts(),
            notes=tuple(self.notes),
        )

    def _local_texts(self) -> tuple[str, ...]:
        """Return the edits that hold on this node only, as far as others are told of them."""
        texts = [text_of_edit(one.edit) for one in self.director.table.local]
        more = [f"{len(texts) - MAX_NOTES + 1} more"] if len(texts) > MAX_NOTES else []
        return (*texts[: MAX_NOTES - len(more)], *more)

    def _report_regularly(self) -> Deferred[float]:
        async def report() -> float:
            if self._reactor.seconds() - self._heard > SILENCE and self._watch is not None:
                self._watch.cancel()
            await self.report_now()
            return REPORT_INTERVAL

        return Deferred.fromCoroutine(report())

    async def report_now(self) -> None:
        """Tell the other nodes what this one runs."""
        if self.has_left:
            return
        lease = self.membership.lease
        try:
            await self.membership.report(self.report())
            if self.membership.lease != lease:  # the former one had ended, and with it the keys under it
                await self._joined()
        except (EtcdError, NameTaken) as error:
            self._disconnected(str(error), type(error))
            if self._watch is not None:
                self._watch.cancel()
