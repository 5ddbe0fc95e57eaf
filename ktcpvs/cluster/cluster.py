"""One node of a cluster: it stores its administrators' edits in etcd, and follows the edits of the others.

An edit is prepared here, stored by one transaction, and then put in force (`Director` calls `save` between the two). If
what it changes has changed meanwhile, it is tried again on the new table, unless both change the same part.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from random import uniform
from secrets import token_hex
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from ktcpvs import __version__
from ktcpvs.cluster.conflicts import changed_parts, conflicting_parts
from ktcpvs.cluster.etcd import Change, Etcd, EtcdError, KeyValue, Unreachable
from ktcpvs.cluster.follower import Follower
from ktcpvs.cluster.membership import Membership, NameTaken
from ktcpvs.cluster.records import NodeReport
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.cluster.table_store import NotInForce, TableStore
from ktcpvs.errors import Busy, CannotSave, ChangedMeanwhile, NoCluster, Refusal
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.describe import describe_service
from ktcpvs.model.difference import differences
from ktcpvs.model.edits import Confirm, Edit, Load, ReloadCertificates, Unload
from ktcpvs.model.table import Table
from ktcpvs.services.director import Director
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.periodic import PeriodicJob

REPORT_INTERVAL = 2.0
"""Seconds between two reports of a node."""

SILENCE = 8.0
"""Seconds without any message of the watch after which it counts as cut: the reports of this node come on it."""

MAX_ATTEMPTS = 10
"""How often an edit is tried when others change the table at the same time."""

MAX_BACKOFF = 5.0
"""The most seconds between two attempts to reach etcd."""

RETRY_INTERVAL = 15.0
"""Seconds until a node tries again what it could not put in force."""

HEAR_SECONDS = 1.5
"""The most seconds for which an edit waits for the reports of other nodes."""

MAX_CONFLICT_LINES = 5
"""The changes of another administrator that a refused edit names."""

Save = Callable[[Table], Awaitable[None]]


class Cluster:
    """is_connected: etcd responds, and this node follows. problem: why it is not; "": it is."""

    def __init__(self, etcd: Etcd, prefix: str, name: str, save: Save, sealer: Sealer | None = None) -> None:
        """save: writes the table to this node's own disk. Raises CannotSave. sealer: seals secrets; None: this node has
        no --cluster-secret."""
        self.etcd = etcd
        self.sealer = sealer
        self.store = TableStore(prefix, sealer)
        self.membership = Membership(etcd, prefix, name)
        self.followers: list[Follower] = [self.store, self.membership]
        self.problems: list[Callable[[], Sequence[str]]] = []  # what else this node cannot do, for its reports
        self.is_connected = False
        self.problem = "this node has not reached it yet"
        self._save_here = save
        self._director: Director | None = None
        self._instance = token_hex(8)
        self._since = int(time.time())
        self._errors: tuple[str, ...] = ()  # what is not in force here
        self._applied = 0  # the revision of the table in force
        self._watch: Deferred[None] | None = None
        self._heard = 0.0
        self._follower: Deferred[None] | None = None
        self._has_more = False  # to follow
        self._is_adopting = False  # what is saved now comes from the cluster
        self._waiting: list[Deferred[None]] = []  # for any change
        self._first: Deferred[None] = Deferred()
        self._pause: Deferred[None] | None = None
        self._is_over = False
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
        failed = self._log.failure
        self._reports = PeriodicJob(self._reactor, self._report_now, lambda why: failed("a report failed", why))
        self._retries = PeriodicJob(self._reactor, self._retry, lambda why: failed("following failed", why))
        Deferred.fromCoroutine(self._run()).addErrback(lambda why: failed("internal error: the cluster is left", why))
        return self._first

    async def stop(self) -> None:
        """Leave the cluster."""
        self._is_over = True
        for job in (self._reports, self._retries):
            if job is not None:
                job.stop()
        if self._watch is not None:
            self._watch.cancel()
        if self._pause is not None:
            self._pause.cancel()
        with contextlib.suppress(EtcdError):  # the lease ends by itself
            await self.membership.leave()
        await self.etcd.close()

    async def _run(self) -> None:
        delay = 0.0
        while not self._is_over:
            try:
                await self._join()
                delay = 0.0
                await self._follow_watch()
            except (EtcdError, NameTaken) as error:
                self._disconnected(str(error))
            except CancelledError:
                if self.is_connected:
                    self._disconnected(f"the watch of {self.etcd.url} was silent for {SILENCE:g} seconds")
            except Exception:
                self._log.failure("internal error: the cluster cannot be followed")
                self._disconnected("internal error; see the log")
            delay = min(MAX_BACKOFF, max(0.1, delay * 2))
            await self._sleep(uniform(delay / 2, delay))

    async def _sleep(self, seconds: float) -> None:
        if self._is_over:
            return
        pause: Deferred[None] = deferLater(self._reactor, seconds)
        self._pause = pause
        with contextlib.suppress(CancelledError):
            await pause
        self._pause = None

    async def _join(self) -> None:
        """Read everything, and become a member. Raises EtcdError and NameTaken."""
        prefix = self.store.prefix
        revision = self._replace_all(await self.etcd.range(prefix))
        if self.store.problem:
            raise EtcdError(self.store.problem)
        if self.store.generation is None:
            await self._store_first()
            revision = self._replace_all(await self.etcd.range(prefix))
        await self.membership.join(self._report())
        ended = await self.etcd.watch(prefix, revision + 1, self._received)
        self._watch = ended()
        self._heard = self._reactor.seconds()
        await self._follow()
        self.is_connected, self.problem = True, ""
        await self._joined()
        self._log.event(
            ANNOUNCE,
            "cluster: node {name} follows {where} at revision {revision}, with {count} services",
            name=self.membership.name, where=self.etcd.url, revision=self.store.table_revision,
            count=len(self.director.table.services),
        )  # fmt: skip
        self._began()
        if not self._is_over:  # `stop` may have come meanwhile
            self._job(self._reports).start()

    def _replace_all(self, found: tuple[int, Sequence[KeyValue]]) -> int:
        revision, pairs = found
        for follower in self.followers:
            follower.replace(revision, pairs)
        return revision

    async def _joined(self) -> None:
        for follower in self.followers:
            if not self._is_over:  # a node that leaves writes nothing more
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

    def _disconnected(self, why: str) -> None:
        if self._is_over:
            return
        if self.is_connected or self.problem != why:
            self._log.warn(
                "cluster: {why}; this node goes on with the table that it has, and refuses edits until etcd responds",
                why=why,
            )
        self.is_connected, self.problem = False, why
        self._began()

    def _began(self) -> None:
        if not self._first.called:
            self._first.callback(None)

    # Following the others.

    def _received(self, revision: int, changes: Sequence[Change]) -> None:
        """The watch reports changes."""
        self._heard = self._reactor.seconds()
        before = self.store.table_revision
        for follower in self.followers:
            follower.apply(revision, changes)
        if self.store.table_revision != before:
            self._follow_soon()
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def _follow_soon(self) -> None:
        self._has_more = True
        if self._follower is None:
            self._follower = Deferred.fromCoroutine(self._follow_all())
            self._follower.addErrback(lambda why: self._log.failure("internal error: following the cluster", why))
            self._follower.addCallback(lambda _: setattr(self, "_follower", None))

    async def _follow_all(self) -> None:
        while self._has_more:
            self._has_more = False
            await self._follow()

    async def _follow(self) -> None:
        """Put the cluster's table in force, as far as this node can."""
        revision, errors = await self.director.between_edits(self._adopt)
        has_changed = errors != self._errors or revision != self._applied
        if errors and errors != self._errors:
            for error in errors:
                self._log.warn("cluster: not in force on this node: {error}", error=error)
        self._errors, self._applied = errors, revision
        retries = self._job(self._retries)
        if errors and not retries.is_scheduled:
            retries.start(RETRY_INTERVAL)
        if has_changed and self.is_connected:
            await self._try_to_report()

    async def _adopt(self) -> tuple[int, tuple[str, ...]]:
        """Adopt the cluster's table between two edits. Return its revision, and what cannot be put in force, a line
        each."""
        director = self.director
        revision = self.store.table_revision
        adopt = Adopt.between(director.table, self.store.table(director.table))
        errors = list(self.store.unreadable)
        if adopt is not None:
            self._is_adopting = True
            try:
                await self._adopt_parts(adopt, errors)
            finally:
                self._is_adopting = False
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
            await self._adopt_parts(part, errors)

    def _halves(self, adopt: Adopt) -> list[Adopt]:
        """Return two parts of an edit; none if there is only one thing in it. Deleted services come first."""
        if adopt.settings is not None and adopt.services:
            return [evolve(adopt, services={}, running=frozenset()), evolve(adopt, settings=None)]
        idents = sorted(adopt.services, key=lambda ident: adopt.services[ident] is not None)
        if len(idents) < 2:
            return []
        middle = len(idents) // 2
        return [adopt.restricted_to(frozenset(part)) for part in (idents[:middle], idents[middle:])]

    def _retry(self) -> float | None:
        self._follow_soon()
        return RETRY_INTERVAL if self._errors else None

    # Reports.

    def _report(self) -> NodeReport:
        director = self.director
        living = sum(service.living for service in director.services.values())
        return NodeReport(
            instance=self._instance,
            revision=self._applied,
            errors=(*self._errors, *(line for found in self.problems for line in found())),
            version=__version__,
            connections=living,
            since=self._since,
        )

    def _report_now(self) -> Deferred[float]:
        async def report() -> float:
            if self._reactor.seconds() - self._heard > SILENCE and self._watch is not None:
                self._watch.cancel()
            await self._try_to_report()
            return REPORT_INTERVAL

        return Deferred.fromCoroutine(report())

    async def _try_to_report(self) -> None:
        lease = self.membership.lease
        try:
            await self.membership.report(self._report())
            if self.membership.lease != lease:  # the former one had ended, and with it the keys under it
                await self._joined()
        except EtcdError as error:
            self._disconnected(str(error))
            if self._watch is not None:
                self._watch.cancel()
        except NameTaken as taken:
            self._disconnected(str(taken))
            if self._watch is not None:
                self._watch.cancel()

    def nodes(self) -> dict[str, Any]:
        """Return what is known of all nodes, as plain data."""
        members = self.membership
        table_revision = self.store.table_revision
        rows: list[dict[str, Any]] = []
        for name in sorted({*members.members, *members.reports, *members.unreadable}):
            report = members.reports.get(name)
            if report is None:
                why = members.unreadable.get(name)
                rows.append({"node": name, "state": "unknown" if why else "gone", "errors": [why] if why else []})
                continue
            is_behind = report.revision < table_revision
            rows.append(
                {
                    "node": name,
                    "state": "refused" if report.errors else "behind" if is_behind else "ok",
                    "revision": report.revision,
                    "version": report.version,
                    "connections": report.connections,
                    "since": report.since,
                    "errors": list(report.errors),
                }
            )
        return {
            "node": members.name,
            "etcd": self.etcd.url,
            "connected": self.is_connected,
            "problem": self.problem,
            "revision": table_revision,
            "nodes": rows,
        }

    # Edits of administrators.

    async def submit(self, edit: Edit) -> Sequence[str]:
        """Carry an edit out in the whole cluster. Returns warnings, a line each. Raises a Refusal; then nothing has
        changed."""
        director = self.director
        if isinstance(edit, ReloadCertificates | Unload):
            return await director.submit(edit)
        if isinstance(edit, Confirm) or (isinstance(edit, Load) and edit.confirm):
            raise Refusal(
                "a load on trial (--confirm) is not possible in a cluster: load it without, and load the former file "
                "to undo it"
            )
        for _ in range(MAX_ATTEMPTS):
            self._check_connected()
            base = director.table
            try:
                warnings = await director.submit(edit)
            except _Conflict as conflict:
                await self._catch_up(conflict.revision)
                self._check_commuting(edit, base, director.table)
                continue
            revision = self.store.table_revision
            await self._try_to_report()
            return [*warnings, *await self._hear_others(revision)]
        raise Busy(f"others change the table all the time; {edit.name} was tried {MAX_ATTEMPTS} times")

    def _check_connected(self) -> None:
        if not self.is_connected:
            raise NoCluster(f"etcd cannot be asked, and edits are refused until it responds: {self.problem}")

    async def save(self, table: Table) -> None:
        """Store the table in the cluster and on this node's disk; the director calls it for each edit. Raises
        _Conflict and CannotSave."""
        director = self._director
        if director is not None and not self._is_adopting:
            await self._store(director.table, table)
        await self._save_here(table)

    async def _store(self, old: Table, new: Table) -> None:
        try:
            transaction = self.store.transaction(old, new)
        except NotInForce as why:
            raise _Conflict(str(why), 0) from None
        if transaction is None:
            return
        self._check_connected()
        is_up_to_date = self._applied == self.store.table_revision
        revisions = []
        try:
            for step in transaction.steps:
                is_done, revision = await self.etcd.transact(step.compares, step.operations)
                if not is_done:
                    raise _Conflict("the table has changed meanwhile", revision)
                revisions.append(revision)
        except Unreachable as error:
            raise CannotSave(
                f"etcd did not respond; whether the edit is stored is not known, see --list: {error}"
            ) from None
        except EtcdError as error:
            raise CannotSave(f"etcd refuses it: {error}") from None
        self.store.committed(transaction, revisions)
        if is_up_to_date:  # or else _follow comes soon
            self._applied = self.store.table_revision

    async def _catch_up(self, revision: int) -> None:
        """Return when this node follows the cluster up to a revision; 0: up to what it knows."""
        while self.is_connected and self.store.revision < revision:
            await self._change()
        await self._follow()

    def _change(self) -> Deferred[None]:
        """Fires when the watch reports anything, or after a second."""
        change: Deferred[None] = Deferred()
        self._waiting.append(change)
        call = self._reactor.callLater(1, self._wake, change)
        return change.addBoth(lambda _: call.cancel() if call.active() else None)

    def _wake(self, change: Deferred[None]) -> None:
        if change in self._waiting:
            self._waiting.remove(change)
            change.callback(None)

    def _check_commuting(self, edit: Edit, base: Table, now: Table) -> None:
        """Raise ChangedMeanwhile if somebody else has changed what the edit changes."""
        others = changed_parts(base, now)
        if not others:
            if self._errors:
                raise Busy(
                    f"this node does not run the cluster's table: {self._errors[0]}; make this edit on another node"
                )
            return
        mine = changed_parts(base, edit.apply(base))
        if conflicting_parts(mine, others) or isinstance(edit, Load):
            lines = _differences(base, now)
            more = f"; and {len(lines) - MAX_CONFLICT_LINES} more" if len(lines) > MAX_CONFLICT_LINES else ""
            shown = "; ".join(lines[:MAX_CONFLICT_LINES])
            raise ChangedMeanwhile(f"another administrator has changed it at the same time: {shown}{more}")

    async def _hear_others(self, revision: int) -> Sequence[str]:
        """Wait a little for the reports of the other nodes. Return their refusals, a line each."""
        until = self._reactor.seconds() + HEAR_SECONDS
        while self.is_connected and self._behind(revision) and self._reactor.seconds() < until:
            await self._change()
        return [
            f"node {name}: {error}"
            for name, report in self.membership.reports.items()
            for error in report.errors
            if name != self.membership.name
        ]

    def _behind(self, revision: int) -> bool:
        return any(
            report.revision < revision
            for name, report in self.membership.reports.items()
            if name != self.membership.name
        )


class _Conflict(Exception):
    """The table that an edit was prepared for is not the cluster's any more. revision: at which this was seen."""

    def __init__(self, why: str, revision: int) -> None:
        super().__init__(why)
        self.revision = revision


def _differences(before: Table, after: Table) -> list[str]:
    def described(table: Table) -> list[dict[str, Any]]:
        return [{**describe_service(service), "running": service.ident in table.running} for service in table]

    return differences(described(before), before.settings.described(), described(after), after.settings.described())
