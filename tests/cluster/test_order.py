"""Three nodes that edit one table while their watches, requests and responses are late, out of step and lost."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from attrs import define
from e2e.harness import PROMPT, ControlThread
from memory import log_into
from servers import wait_for
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from unsteady_etcd import UnsteadyEtcd

from ktcpvs.cluster.administration import ClusterAdministration
from ktcpvs.cluster.cluster import RECONNECT_SECONDS, Cluster
from ktcpvs.cluster.editing import HEAR_SECONDS, ClusterEdits
from ktcpvs.cluster.etcd import Change, Etcd
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.membership import LEASE_SECONDS
from ktcpvs.cluster.records import TABLE_KEY, TABLES, decode_table, ident_of, settings_key
from ktcpvs.cluster.table_store import MAX_OPERATIONS, Transaction
from ktcpvs.director.director import Director
from ktcpvs.errors import Refusal
from ktcpvs.model.describe import describe_service
from ktcpvs.model.edits import AddService, Confirm, DeleteService, DrainNode, Edit, EditService, Load, Set, UndrainNode
from ktcpvs.model.language.writer import write_service, write_settings
from ktcpvs.model.service import VirtualService
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.runtime.descriptors import Descriptors

IDENTS = tuple("abcdef")
NAMES = ("one", "two", "three")
LONGEST_EDIT = RECONNECT_SECONDS + 2 * HEAR_SECONDS + PROMPT
"""Seconds."""

GONE_BACK = "this node goes back to the table before it"
"""A node that cannot undo a trial in etcd says so, and may run what was on trial again."""

State = Mapping[str, str]
"""Services by ident, as text; the settings are at ""."""


def text_of(service: VirtualService) -> str:
    return write_service(describe_service(service))


def state_of(table: Table) -> State:
    services = {ident: text_of(service) for ident, service in table.services.items()}
    return {**services, "": write_settings(table.settings.described())}


@define
class Prepared:
    """A transaction that a node has prepared, from one table to another one."""

    node: str
    old: Table
    new: Table
    transaction: Transaction


class UnsteadyNode:
    """A node without listeners. states: what it has run, one after the other."""

    def __init__(self, thread: ControlThread, address: EtcdAddress, name: str, *unsteady: Any) -> None:
        self.thread = thread
        self.name = name
        self.log: list[str] = []
        self.states: list[State] = []
        self.prepared: list[Prepared] = []
        self.etcd = UnsteadyEtcd(thread.reactor, address, *unsteady)
        self.etcd.is_steady = True
        thread.run(self._start, address.prefix)
        wait_for(lambda: self.cluster.is_connected, lambda: f"the node to follow: {self.log}", 3 * LEASE_SECONDS)
        self.etcd.is_steady = False

    async def _start(self, prefix: str) -> None:
        async def save_here(table: Table) -> None:
            pass

        async def save(table: Table) -> None:
            await self.edits.save(table)
            self.states.append(state_of(table))

        reactor, log = self.thread.reactor, log_into(self.log)
        self.cluster = Cluster(self.etcd, prefix, self.name)
        self.edits = ClusterEdits(self.cluster, save_here)
        self.director = Director(Context(reactor, log, Descriptors(100)), save)
        self.administration = ClusterAdministration(self.cluster, lambda *_: {}, lambda *_: {}, reactor, log)
        store = self.cluster.store
        for name in ("transaction", "trial"):
            setattr(store, name, self._remembering(getattr(store, name)))
        await self.administration.start(self.director)

    def _remembering(self, prepare: Any) -> Any:
        def prepared(old: Table, new: Table, *more: Any) -> Any:
            transaction = prepare(old, new, *more)
            if transaction is not None:
                self.prepared.append(Prepared(self.name, old, new, transaction))
            return transaction

        return prepared

    async def carry_out(self, edit: Edit) -> Sequence[str]:
        if isinstance(edit, DrainNode | UndrainNode):
            return await self.administration.carry_out(edit)
        return await self.edits.submit(edit)

    def _column(self, name: str) -> dict[str, str]:
        return {row["node"]: row[name] for row in self.administration.view("nodes", None)["nodes"]}

    @property
    def state(self) -> str:
        """Its state, as --nodes says."""
        return self._column("state")[self.name]

    @property
    def drains(self) -> dict[str, str]:
        """The drains of all nodes, as --nodes says."""
        return self._column("drain")

    @property
    def is_settled(self) -> bool:
        """Whether it knows that all nodes run what it runs."""
        cluster = self.cluster
        reports = cluster.membership.reports
        is_known = all(report.revision == cluster.store.table_revision for report in reports.values())
        is_whole = cluster.is_connected and not cluster.errors and not self.edits.trial.record
        return is_whole and len(reports) == len(NAMES) and is_known and cluster.applied == cluster.store.table_revision

    def __repr__(self) -> str:
        cluster = self.cluster
        reports = {name: report.revision for name, report in cluster.membership.reports.items()}
        return (
            f"{self.name}: connected {cluster.is_connected}, applied {cluster.applied}, table at "
            f"{cluster.store.table_revision}, reports {reports}, errors {cluster.errors}, trial "
            f"{self.edits.trial.record}, runs {sorted(state_of(self.director.table))}"
        )


class Administrators:
    """Edit a table at random, on all nodes at once. done: the edits that were carried out. slowest: the most seconds
    that one took, of those that were refused as well."""

    def __init__(self, nodes: Sequence[UnsteadyNode], random: Random) -> None:
        self._nodes = nodes
        self._random = random
        self._number = 0
        self.done: list[Edit] = []
        self.refusals: list[str] = []
        self.slowest = 0.0

    async def edit(self, count: int, pause: float) -> None:
        """Begin `count` edits, and wait until all are done. pause: the most seconds between two on one node."""
        await DeferredList(
            [Deferred.fromCoroutine(self._edit_on(node, count, pause)) for node in self._nodes],
            fireOnOneErrback=True, consumeErrors=True,
        )  # fmt: skip

    async def _edit_on(self, node: UnsteadyNode, count: int, pause: float) -> None:
        running = []
        for _ in range(count):
            running.append(Deferred.fromCoroutine(self._carry_out(node, self._next_edit(node.director.table))))
            await deferLater(node.thread.reactor, pause * self._random.random())
        await DeferredList(running, fireOnOneErrback=True, consumeErrors=True)

    async def _carry_out(self, node: UnsteadyNode, edit: Edit) -> None:
        began = node.thread.reactor.seconds()
        try:
            await node.carry_out(edit)
        except Refusal as refusal:
            self.refusals.append(f"{node.name}: {edit.name}: {refusal}")
        else:
            self.done.append(edit)
        self.slowest = max(self.slowest, node.thread.reactor.seconds() - began)

    def _service(self, ident: str) -> VirtualService:
        return AddService(ident, self._unique()).apply(Table()).services[ident]

    def _unique(self) -> dict[str, Any]:
        self._number += 1
        return {"maxclients": self._number}

    def _next_edit(self, table: Table) -> Edit:
        """table: that the node runs now."""
        random = self._random
        kind, ident = random.random(), random.choice(IDENTS)
        if kind < 0.55:
            return EditService(ident, self._unique()) if ident in table.services else AddService(ident, self._unique())
        if kind < 0.7:
            return DeleteService(ident)
        if kind < 0.78:
            return Confirm()
        if kind < 0.84:
            return random.choice([DrainNode, UndrainNode])(random.choice(NAMES))
        if kind < 0.88:
            return Set({"connect_timeout": str(random.randrange(1, 1000))})
        several = [f"s{number}" for number in range(MAX_OPERATIONS + 5 if kind > 0.92 else 3)]
        idents = (*random.sample(IDENTS, 3), *several)
        services = {ident: self._service(ident) for ident in idents}
        return Load(services, confirm=random.choice([1, 60]) if random.random() < 0.3 else 0)

    async def end_trial(self) -> None:
        """Confirm what is on trial still."""
        while any(node.edits.trial.record is not None for node in self._nodes):
            await self._carry_out(self._nodes[0], Confirm())
            await self._nodes[0].cluster.next_change()


class History:
    """The states of the table in etcd, by revision."""

    def __init__(self, changes: Sequence[Change], prefix: str) -> None:
        self._states: dict[int, State] = {}
        keys: dict[str, bytes] = {}
        for change in changes:
            key = change.key.removeprefix(prefix)
            if key != TABLE_KEY and not key.startswith(TABLES):
                continue
            if change.value is None:
                keys.pop(key, None)
            else:
                keys[key] = change.value
            generation = decode_table(keys[TABLE_KEY]) if TABLE_KEY in keys else 0
            found = ((ident_of(key, generation), value) for key, value in keys.items())
            state = {ident: json.loads(value)["service"] for ident, value in found if ident is not None}
            settings = keys.get(settings_key(generation))
            state[""] = json.loads(settings)["settings"] if settings is not None else ""
            self._states[change.mod_revision] = state

    @property
    def states(self) -> Collection[State]:
        return self._states.values()

    def at(self, revision: int) -> State:
        """Return the state after a revision."""
        return self._states[max(at for at in self._states if at <= revision)]

    @property
    def last(self) -> State:
        return self._states[max(self._states)]

    def check_states(self, states: Sequence[State]) -> None:
        """Check that a node has run nothing again that was changed before."""
        rows = [self._states[revision] for revision in sorted(self._states)]
        for ident in {ident for state in states for ident in state}:
            stored = iter([row.get(ident) for row in rows])
            value = next(stored)
            for number, state in enumerate(states):
                while value != state.get(ident):
                    value = next(stored, "end")
                    assert value != "end", f"{ident}: {state.get(ident)!r} again, in state {number} of {len(states)}"


async def read_history(etcd: Etcd, prefix: str, first: int) -> History:
    """first: the revision before all of it; etcd may have forgotten those before that."""
    revision, _ = await etcd.range(prefix)
    changes: list[Change] = []
    heard: Deferred[None] = Deferred()

    def received(at: int, some: Sequence[Change]) -> None:
        changes.extend(some)
        if some and some[-1].mod_revision >= revision and not heard.called:
            heard.callback(None)

    watch = (await etcd.watch(prefix, first + 1, received))()
    watch.addErrback(lambda why: None if heard.called else heard.errback(why))
    await heard
    watch.cancel()
    return History(changes, prefix)


def check_transactions(nodes: Sequence[UnsteadyNode], history: History) -> None:
    """Check that each transaction has changed what it was prepared for, and nothing that its node did not know."""
    for node in nodes:
        revisions = {id(operations): revision for operations, revision in node.etcd.carried_out}
        for prepared in node.prepared:
            revision = revisions.get(id(prepared.transaction.steps[-1].operations))
            if revision is None:
                continue
            before, after = history.at(revision - 1), history.at(revision)
            old, new = state_of(prepared.old), state_of(prepared.new)
            idents = {*before, *after, *old, *new}
            if len(prepared.transaction.steps) == 1:
                idents = {ident for ident in idents if old.get(ident) != new.get(ident)}
            for ident in idents:
                assert before.get(ident) == old.get(ident), (node.name, revision, ident)
                assert after.get(ident) == new.get(ident), (node.name, revision, ident)


def check_done(administrators: Administrators, history: History) -> None:
    """Check that what was answered as done has been in the table. It has been since then, until another edit has
    changed it that knew it: see `check_transactions`."""
    texts = {text for state in history.states for text in state.values()}
    for edit in administrators.done:
        if isinstance(edit, AddService | EditService):
            assert any(f"maxclients = {edit.options['maxclients']}\n" in text for text in texts), edit
        elif isinstance(edit, Load):
            assert {text_of(service) for service in edit.services.values()} <= texts, edit


def edit_at_random(
    thread: ControlThread, address: EtcdAddress, seed: int, count: int, longest: float, losses: float
) -> None:
    """Have three nodes edit, and check what has become of that. count: of edits on each. longest, losses: as for
    UnsteadyEtcd."""
    random = Random(seed)
    etcd = Etcd(thread.reactor, address)
    first, _ = thread.run(etcd.range, address.prefix)
    nodes = [UnsteadyNode(thread, address, name, random, longest, losses) for name in NAMES]
    try:
        administrators = Administrators(nodes, random)
        thread.run(administrators.edit, count, 2 * longest / 3)
        for node in nodes:
            node.etcd.is_steady = True
        thread.run(administrators.end_trial)
        wait_for(lambda: all(node.is_settled for node in nodes), lambda: f"seed {seed}: {nodes}", 30)
        wait_for(lambda: nodes[0].drains == nodes[1].drains == nodes[2].drains, lambda: f"seed {seed}: {nodes}")
        history = thread.run(read_history, etcd, address.prefix, first)
        for node in nodes:
            assert state_of(node.director.table) == state_of(node.cluster.store.table(Table())) == history.last, node
            if not any(GONE_BACK in line for line in node.log):
                history.check_states(node.states)
        check_transactions(nodes, history)
        check_done(administrators, history)
        assert administrators.slowest < LONGEST_EDIT, administrators.refusals
        assert not [line for node in nodes for line in node.log if "internal error" in line]
    finally:
        for node in nodes:
            thread.run(node.cluster.stop)
        thread.run(etcd.close)


def test_nodes_agree_whatever_is_late_or_lost(thread: ControlThread, address: EtcdAddress) -> None:
    edit_at_random(thread, address, 1, 12, 0.3, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_nodes_agree_with_other_seeds(thread: ControlThread, address: EtcdAddress, seed: int) -> None:
    edit_at_random(thread, address, seed, 15, 0.4, 0.03)


async def edit_and_view(one: UnsteadyNode) -> tuple[str, str]:
    """Store a service that the watch does not tell of yet. Return this node's state before and after it does."""
    while one.name not in one.cluster.membership.reports:
        await one.cluster.next_change()
    received, reported = one.cluster.received, []
    one.cluster.received = lambda *report: reported.append(report)  # type: ignore[method-assign]
    await one.carry_out(AddService("a"))
    before = one.state
    one.cluster.received = received  # type: ignore[method-assign]
    for report in reported:
        received(*report)
    return before, one.state


def test_a_node_is_behind_until_it_is_told_of_what_it_has_stored(thread: ControlThread, address: EtcdAddress) -> None:
    """`--wait-nodes` waits for that: it knows only then what it has to wait for."""
    one = UnsteadyNode(thread, address, "one", Random(1), 0.0, 0.0)
    assert thread.run(edit_and_view, one) == ("behind", "ok")
    thread.run(one.cluster.stop)
