"""The cluster's table as it is stored, and the transactions that change it.

It does no I/O: `cluster` gives it what etcd returns, and carries its transactions out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from secrets import randbits
from typing import Any

from attrs import define, evolve, frozen

from ktcpvs.cluster.etcd import Change, KeyValue, are_older, delete, delete_between, is_unchanged, put, size_of
from ktcpvs.cluster.own_deletions import OwnDeletions
from ktcpvs.cluster.records import (
    FORMAT_KEY,
    TABLE_KEY,
    TABLES,
    TRIAL_KEY,
    BadRecord,
    ServiceRecord,
    SettingsRecord,
    TrialRecord,
    check_format,
    decode_service,
    decode_settings,
    decode_table,
    encode_format,
    encode_service,
    encode_settings,
    encode_table,
    encode_trial,
    ident_of,
    service_key,
    settings_key,
)
from ktcpvs.cluster.sealing import Sealer
from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.adopt import with_known_rules
from ktcpvs.model.service import VirtualService
from ktcpvs.model.settings import DEFAULT_SETTINGS, Settings
from ktcpvs.model.table import Table

MAX_OPERATIONS = 100
"""The most operations of one transaction; etcd allows 128 unless it is configured otherwise."""

MAX_TRANSACTION_BYTES = 1_000_000
"""The most bytes of values in one transaction; etcd allows 1.5 MiB with everything, in base64."""

Operation = dict[str, Any]


class NotInForce(Exception):
    """A transaction would change something that this node does not run: another node has changed it, or this one could
    not put it in force."""


class _Stored:
    """A key. size: bytes of its value, where that is not read yet."""

    def __init__(
        self,
        mod_revision: int,
        record: ServiceRecord | SettingsRecord | None = None,
        read: Callable[[], ServiceRecord | SettingsRecord] | None = None,
        size: int = 0,
        before: VirtualService | None = None,
    ) -> None:
        """read: reads the value; raises BadRecord. None: `record` is the value. before: the service until now; None:
        there was none, or it is no service."""
        self.mod_revision = mod_revision
        self.size = size
        self._record = record
        self._read = read
        self._before = before
        self._why = ""

    def read(self) -> None:
        """Read the value, unless that was done. May be called in a thread."""
        read = self._read
        if read is not None:
            try:
                self._record = read()
            except BadRecord as bad:
                self._why = str(bad)
            self._read, self.size = None, 0

    @property
    def record(self) -> ServiceRecord | SettingsRecord | None:
        """The value; None: it cannot be read, and `why` says why. Settings may be read without their secrets."""
        self.read()
        return self._record

    @property
    def why(self) -> str:
        self.read()
        return self._record.problem if isinstance(self._record, SettingsRecord) else self._why

    @property
    def known(self) -> VirtualService | None:
        """The service as it was last read; None: it was not."""
        return self._record.service if isinstance(self._record, ServiceRecord) else self._before

    def reuse_rules(self, table: Table) -> None:
        """Have a service whose value is read share the rules that `table` has as well."""
        record = self._record
        if isinstance(record, ServiceRecord):
            service = record.service
            self._record = evolve(record, service=with_known_rules(service, table.services.get(service.ident)))


@define
class _Generation:
    """The keys of a generation that was in use."""

    number: int
    services: dict[str, _Stored]
    settings: _Stored | None


@frozen
class Step:
    """Operations that etcd carries out together if all of `compares` hold. records: what they store, by ident; None: a
    service is deleted. settings: that they store; None: none."""

    operations: tuple[Operation, ...]
    compares: tuple[Operation, ...] = ()
    records: Mapping[str, ServiceRecord | None] = {}
    settings: Settings | None = None


@frozen
class Transaction:
    """A change of the table. steps: one after the other; the last one puts them in force. generation: that is in use
    then. trial: on which it is then; None: it stays."""

    steps: tuple[Step, ...]
    generation: int
    trial: TrialRecord | None = None


class TableStore:
    """The table of the cluster, as etcd has it. prefix: of all keys. revision: up to which etcd has told everything.
    generation: of the table in use; None: there is none yet. table_revision: at which the table has last changed, of
    what etcd has told; what this node has stored itself counts when etcd tells of it, since others' changes before it
    may not have been told yet. own_revision: at which this node has stored it last; 0: not since it joined."""

    def __init__(self, prefix: str, sealer: Sealer | None = None) -> None:
        """sealer: seals secret settings; None: this node has no secret of the cluster, so that none can be stored."""
        self.prefix = prefix
        self._sealer = sealer
        self.revision = 0
        self.generation: int | None = None
        self.table_revision = self.own_revision = 0
        self._generation_revision = 0
        self._services: dict[str, _Stored] = {}
        self._settings: _Stored | None = None
        self._former: _Generation | None = None  # the one before, until its keys are deleted
        self._others: dict[str, tuple[int, bytes]] = {}  # keys of other generations, which may become the one in use
        self._deleted = OwnDeletions()  # services, by ident
        self._running: Mapping[str, VirtualService] = {}
        self._problems: dict[str, str] = {}  # what is wrong with the keys on which all depends, by key

    def __repr__(self) -> str:
        return f"<TableStore generation {self.generation}, revision {self.revision}>"

    # What etcd says.

    @property
    def problem(self) -> str:
        """The reason why this version cannot read the cluster's table at all; "": it can."""
        return next(iter(self._problems.values()), "")

    def remember(self, services: Mapping[str, VirtualService]) -> None:
        """Use these services where the cluster has the same, rather than parse them again."""
        self._running = services

    def replace(self, revision: int, pairs: Iterable[KeyValue]) -> None:
        """See Follower."""
        known = self._services
        self._services, self._settings, self._others, self._former = {}, None, {}, None
        self.generation, self._generation_revision = None, 0
        self._problems = {}
        self._deleted.clear()
        self.revision, self.table_revision, self.own_revision = revision, 0, 0
        pairs = sorted(pairs, key=lambda pair: pair.key.removeprefix(self.prefix) != TABLE_KEY)
        for pair in pairs:
            self._change(pair.key.removeprefix(self.prefix), pair.value, pair.mod_revision, known)

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        self.revision = max(self.revision, revision)
        for change in sorted(changes, key=lambda change: change.key.removeprefix(self.prefix) != TABLE_KEY):
            self._change(change.key.removeprefix(self.prefix), change.value, change.mod_revision, {})

    async def joined(self) -> None:
        """See Follower."""

    def _change(self, key: str, value: bytes | None, revision: int, known: dict[str, _Stored]) -> None:
        """Note that a key of the table has another value, or none. known: services that are read already."""
        if key == FORMAT_KEY:
            self._problems.pop(key, None)
            try:
                if value is not None:
                    check_format(value)
            except BadRecord as bad:
                self._problems[key] = f"{self.prefix}{key}: {bad}"
        elif key == TABLE_KEY:
            self._use_generation(value, revision)
        elif key.startswith(TABLES):
            if self.generation is not None and key == settings_key(self.generation):
                self._change_settings(value, revision)
            elif self.generation is not None and (ident := ident_of(key, self.generation)) is not None:
                self._change_service(ident, value, revision, known)
            elif value is None:
                self._forget(key)
            else:
                self._others[key] = revision, value

    def _forget(self, key: str) -> None:
        self._others.pop(key, None)
        former = self._former
        if former is not None and key == settings_key(former.number):
            self._former = None  # it goes as a whole

    def _use_generation(self, value: bytes | None, revision: int) -> None:
        if revision <= self._generation_revision:
            self._changed_at(revision)
            return
        self._problems.pop(TABLE_KEY, None)
        try:
            generation = decode_table(value) if value is not None else None
        except BadRecord as bad:
            self._problems[TABLE_KEY] = f"{self.prefix}{TABLE_KEY}: {bad}"
            return
        self._generation_revision = revision
        self._changed_at(revision)
        if generation == self.generation:
            return
        known, former = self._services, self._former
        self._retire_generation()
        self.generation = generation
        if former is not None and former.number == generation:
            self._services, self._settings = former.services, former.settings
            return
        others, self._others = self._others, {}
        for key, (at, data) in others.items():
            self._change(key, data, at, known)

    def _changed_at(self, revision: int) -> None:
        self.table_revision = max(self.table_revision, revision)

    def _retire_generation(self) -> None:
        """Another generation is in use from now on."""
        if self.generation is not None:
            self._former = _Generation(self.generation, self._services, self._settings)
        self._services, self._settings = {}, None
        self._deleted.clear()

    def _change_settings(self, value: bytes | None, revision: int) -> None:
        self._changed_at(revision)
        if self._settings is not None and revision <= self._settings.mod_revision:
            return
        if value is None:
            self._settings = None
            return
        read = partial(decode_settings, value, self._settings_key, self._sealer)
        self._settings = _Stored(revision, None, read, len(value))

    @property
    def _settings_key(self) -> str:
        """The key of the settings of the generation in use."""
        assert self.generation is not None
        return f"{self.prefix}{settings_key(self.generation)}"

    def _change_service(self, ident: str, value: bytes | None, revision: int, known: dict[str, _Stored]) -> None:
        self._changed_at(revision)
        stored = self._services.get(ident)
        if self._deleted.hide(ident, revision) or (stored is not None and revision <= stored.mod_revision):
            return
        if value is None:
            self._services.pop(ident, None)
            return
        if ident in known and known[ident].mod_revision == revision:
            self._services[ident] = known[ident]
            return
        former = stored or known.get(ident)
        before = (former and former.known) or self._running.get(ident)
        read = partial(decode_service, ident, value, before)
        self._services[ident] = _Stored(revision, None, read, len(value), before)

    # The table.

    def unread(self) -> tuple[int, Callable[[Table], None]]:
        """Return how many bytes of the table are not read yet, and what reads them, which may be called in a thread. It
        takes the table in force, whose rules are used again. Without it, they are read when they are first needed."""
        found = [stored for stored in (*self._services.values(), self._settings) if stored is not None and stored.size]
        size = sum(stored.size for stored in found)

        def read(known: Table) -> None:
            for stored in found:
                stored.read()
                stored.reuse_rules(known)

        return size, read

    @property
    def unreadable(self) -> list[str]:
        """The parts that this node cannot read, a line each."""
        found = [
            f"service {shorten(ident)}: {stored.why}"
            for ident, stored in self._services.items()
            if stored.record is None
        ]
        if self._settings is not None and self._settings.why:
            found.append(f"settings: {self._settings.why}")
        return [self.problem, *found] if self.problem else found

    def text_of(self, service: VirtualService) -> str:
        """Return the text of which this very object was read; "": it was not."""
        stored = self._services.get(service.ident)
        record = stored.record if stored is not None else None
        return record.text if isinstance(record, ServiceRecord) and record.service is service else ""

    def table(self, former: Table) -> Table:
        """Return the cluster's table. former: the one in force, from which come the parts that cannot be read, and the
        edits that hold on this node only."""
        if self.problem or self.generation is None:
            return former
        return self._made_of(self._services, self._settings, former)

    def table_of(self, generation: int, former: Table) -> Table | None:
        """Return the table of another generation than the one in use; None: it is not known. former: as for `table`."""
        if self._former is not None and self._former.number == generation:
            return self._made_of(self._former.services, self._former.settings, former)
        prefix = f"{TABLES}{generation}/"
        keys = {key: value for key, value in self._others.items() if key.startswith(prefix)}
        if settings_key(generation) not in keys:
            return None
        other = TableStore(self.prefix, self._sealer)
        other.generation = generation
        for key, (revision, value) in keys.items():
            other.change(key, value, revision)
        return other.table(former)

    def change(self, key: str, value: bytes | None, revision: int) -> None:
        """Use the value of one key, which is without the prefix. value: None: it is deleted."""
        self._change(key, value, revision, {})

    def _made_of(self, services: Mapping[str, _Stored], stored_settings: _Stored | None, former: Table) -> Table:
        rows: list[tuple[int, str, VirtualService, bool]] = []
        former_places = {ident: place for place, ident in enumerate(former.services)}
        for ident, stored in services.items():
            record = stored.record
            if isinstance(record, ServiceRecord):
                rows.append((record.position, ident, record.service, record.is_running))
            elif ident in former.services:
                rows.append((former_places[ident], ident, former.services[ident], ident in former.running))
        rows.sort(key=lambda row: row[:2])
        return Table(
            {ident: service for _, ident, service, _ in rows},
            frozenset(ident for _, ident, _, is_running in rows if is_running),
            self._usable(stored_settings, former.settings),
            former.local,
        )

    @staticmethod
    def _usable(stored: _Stored | None, former: Settings) -> Settings:
        """Return settings that are stored; those of them that cannot be read are as in `former`."""
        if stored is None:
            return DEFAULT_SETTINGS
        record = stored.record
        if not isinstance(record, SettingsRecord):
            return former
        return evolve(record.settings, cookie_key=former.cookie_key) if record.problem else record.settings

    # Changing it.

    def transaction(self, old: Table, new: Table) -> Transaction | None:
        """Return what stores the change from `old`, the table in force, to `new`; None: they are equal.

        Raises NotInForce, and BadValue for a table that etcd cannot take.
        """
        if self.problem:
            raise NotInForce(self.problem)
        if self.generation is None:
            return self._first(new)
        changed = [
            ident
            for ident in {**old.services, **new.services}
            if old.services.get(ident) != new.services.get(ident) or (ident in old.running) != (ident in new.running)
        ]
        kept = [ident for ident in old.services if ident in new.services]
        is_reordered = [*kept, *(ident for ident in new.services if ident not in old.services)] != list(new.services)
        if is_reordered:
            changed = list({**old.services, **new.services})
        has_settings = old.settings != new.settings
        if not changed and not has_settings:
            return None
        for ident in changed:
            self._check_service(ident, old)
        if has_settings:
            self._check_settings(old, new)
        if len(changed) >= MAX_OPERATIONS:
            return self._replace_all(new, old)
        positions = {ident: place for place, ident in enumerate(new.services)} if is_reordered else {}
        records = self._records(new, changed, positions)
        step = self._edit(records, new.settings if has_settings else None)
        if size_of(step.operations) > MAX_TRANSACTION_BYTES:
            return self._replace_all(new, old)
        return Transaction((step,), self.generation)

    def _check_service(self, ident: str, old: Table) -> None:
        """Raise NotInForce unless this node runs the service as it is stored."""
        stored = self._services.get(ident)
        if stored is None:
            if ident in old.services:
                raise NotInForce(f"service {ident} is deleted")
            return
        record = stored.record
        if not isinstance(record, ServiceRecord):
            raise NotInForce(f"service {ident}: {stored.why}")
        if record.service != old.services.get(ident) or record.is_running != (ident in old.running):
            raise NotInForce(f"service {ident} has changed")

    def _check_settings(self, old: Table, new: Table) -> None:
        """Raise NotInForce unless this node runs the settings as they are stored. A key that does not open may be
        replaced, or a cluster whose secret is lost could never set another one."""
        stored = self._settings
        if stored is None:
            return
        if not isinstance(stored.record, SettingsRecord):
            raise NotInForce(f"settings: {stored.why}")
        if stored.record.problem and new.settings.cookie_key in ("", old.settings.cookie_key):
            raise NotInForce(f"settings: {stored.why}")
        if self._usable(stored, old.settings) != old.settings:
            raise NotInForce("the settings have changed")

    def _records(
        self, new: Table, changed: Iterable[str], positions: Mapping[str, int]
    ) -> dict[str, ServiceRecord | None]:
        """Return the records of services as they are to be stored. positions: of services whose place changes."""
        stored = {
            ident: one.record.position for ident, one in self._services.items() if isinstance(one.record, ServiceRecord)
        }
        last = max(stored.values(), default=-1)
        records: dict[str, ServiceRecord | None] = {}
        for ident in changed:
            service = new.services.get(ident)
            if service is None:
                records[ident] = None
                continue
            place = positions.get(ident, stored.get(ident))
            if place is None:
                place = last = last + 1
            records[ident] = ServiceRecord(service, ident in new.running, place)
        return records

    def _edit(self, records: Mapping[str, ServiceRecord | None], settings: Settings | None) -> Step:
        """A step on the generation in use. settings: None: unchanged. Raises BadValue.

        One that deletes writes `table` again: what is deleted has no revision from which a node that joins later could
        tell that of the table.
        """
        assert self.generation is not None
        compares = [is_unchanged(f"{self.prefix}{TABLE_KEY}", self._generation_revision), self._is_not_on_trial]
        operations = []
        for ident, record in records.items():
            stored = self._services.get(ident)
            key = f"{self.prefix}{service_key(self.generation, ident)}"
            compares.append(is_unchanged(key, stored.mod_revision if stored is not None else 0))
            operations.append(delete(key) if record is None else put(key, _encoded(ident, record)))
        if settings is not None:
            key = f"{self.prefix}{settings_key(self.generation)}"
            compares.append(is_unchanged(key, self._settings.mod_revision if self._settings is not None else 0))
            operations.append(put(key, encode_settings(settings, key, self._sealer)))
        if None in records.values():
            operations.append(put(f"{self.prefix}{TABLE_KEY}", encode_table(self.generation)))
        return Step(tuple(operations), tuple(compares), records, settings)

    @property
    def _is_not_on_trial(self) -> Operation:
        return is_unchanged(f"{self.prefix}{TRIAL_KEY}", 0)

    def trial(self, old: Table, new: Table, seconds: int, node: str) -> Transaction:
        """Return what stores `new` on trial: the generation that is in use now stays, until the trial has ended.

        old: the table in force. seconds: until it is undone. node: that asks for it. Raises NotInForce and BadValue.
        """
        if self.problem or self.generation is None:
            raise NotInForce(self.problem or "the cluster has no table yet")
        return self._replace_all(new, old, TrialRecord(0, self.generation, seconds, node))

    def _replace_all(self, new: Table, old: Table, trial: TrialRecord | None = None) -> Transaction:
        """A transaction that makes a new generation. It holds only if no key of the former one changes meanwhile.
        trial: None: it stays in use."""
        assert self.generation is not None
        for ident in {**self._services, **old.services}:
            self._check_service(ident, old)
        self._check_settings(old, new)
        former = f"{self.prefix}{TABLES}{self.generation}/"
        compares = (
            is_unchanged(f"{self.prefix}{TABLE_KEY}", self._generation_revision),
            are_older(former, self.table_revision),
            self._is_not_on_trial,
        )
        return self._generation(new, compares, (), trial)

    def _first(self, new: Table) -> Transaction:
        """The transaction that makes the cluster's first table."""
        compares = (is_unchanged(f"{self.prefix}{TABLE_KEY}", 0),)
        return self._generation(new, compares, (put(f"{self.prefix}{FORMAT_KEY}", encode_format()),))

    def _generation(
        self,
        new: Table,
        compares: tuple[Operation, ...],
        also: tuple[Operation, ...],
        trial: TrialRecord | None = None,
    ) -> Transaction:
        """The last step deletes what others have begun to write, which their last step notices."""
        generation = randbits(62)
        records = self._records(new, new.services, {ident: place for place, ident in enumerate(new.services)})
        key = f"{self.prefix}{settings_key(generation)}"
        steps = [Step((put(key, encode_settings(new.settings, key, self._sealer)),), settings=new.settings)]
        batch: dict[str, ServiceRecord | None] = {}
        operations: list[Operation] = []
        size = 0
        for ident, record in records.items():
            assert record is not None
            value = _encoded(ident, record)
            if len(batch) >= MAX_OPERATIONS or size + len(value) > MAX_TRANSACTION_BYTES:
                steps.append(Step(tuple(operations), (), batch))
                batch, operations, size = {}, [], 0
            operations.append(put(f"{self.prefix}{service_key(generation, ident)}", value))
            batch[ident] = record
            size += len(value)
        if batch:
            steps.append(Step(tuple(operations), (), batch))
        switch = put(f"{self.prefix}{TABLE_KEY}", encode_table(generation))
        kept = [generation]
        if trial is not None:
            kept.append(trial.former)
            trial = evolve(trial, generation=generation)
            also = (*also, put(f"{self.prefix}{TRIAL_KEY}", encode_trial(trial)))
        return Transaction((*steps, Step((switch, *self.delete_others(*kept), *also), compares)), generation, trial)

    def delete_others(self, *generations: int) -> list[Operation]:
        """Return the operations that delete all generations but these."""
        prefix = f"{self.prefix}{TABLES}"
        ends = sorted(f"{prefix}{generation}" for generation in generations)
        first = [prefix, *(f"{end}0" for end in ends)]  # "0" follows "/"
        behind = [*(f"{end}/" for end in ends), f"{self.prefix}tables0"]
        return [delete_between(*pair) for pair in zip(first, behind, strict=True)]

    def resealing(self) -> Transaction | None:
        """Return what seals the secret settings with the newest secret of the cluster; None: they are, or cannot be
        read."""
        stored = self._settings
        if self.problem or self.generation is None or stored is None or self._sealer is None:
            return None
        record = stored.record
        if not isinstance(record, SettingsRecord) or record.is_current:
            return None
        return Transaction((self._edit({}, record.settings),), self.generation)

    def committed(self, transaction: Transaction, revisions: Sequence[int]) -> None:
        """All steps of a transaction are carried out. revisions: of each.

        The watch may have reported it before, and later changes of other nodes as well, which stay.
        """
        last = self.own_revision = revisions[-1]
        is_latest = self._generation_revision <= last  # no later generation, and nothing has been deleted since
        if transaction.generation != self.generation:
            if not is_latest:
                return
            self._retire_generation()
            self.generation, self._generation_revision = transaction.generation, last
            self._others = {}
        elif is_latest and any(None in step.records.values() for step in transaction.steps):
            self._generation_revision = last
        for step, revision in zip(transaction.steps, revisions, strict=True):
            for ident, record in step.records.items():
                self._commit_service(ident, record, revision, is_latest)
            if step.settings is not None and (self._settings is None or self._settings.mod_revision <= revision):
                self._settings = _Stored(revision, SettingsRecord(step.settings))

    def _commit_service(self, ident: str, record: ServiceRecord | None, revision: int, is_latest: bool) -> None:
        """A service is stored. record: None: it is deleted. is_latest: see `committed`."""
        stored = self._services.get(ident)
        if stored.mod_revision > revision if stored is not None else not is_latest:
            return
        if record is None:
            self._services.pop(ident, None)
            if revision > self.revision:
                self._deleted.add(ident, revision)
        else:
            self._services[ident] = _Stored(revision, record)


def _encoded(ident: str, record: ServiceRecord) -> bytes:
    """Raises BadValue."""
    value = encode_service(record)
    if len(value) > MAX_TRANSACTION_BYTES:
        raise BadValue(
            f"service {ident}: its text has {len(value)} bytes; a service of a cluster may have at most "
            f"{MAX_TRANSACTION_BYTES}: split it"
        )
    return value
