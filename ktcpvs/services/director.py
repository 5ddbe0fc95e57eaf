"""Carries edits out: the one place where the table and what is alive change, together or not at all.

Edits are taken one at a time. For each: the new table is made; everything that could fail is tried (schedulers
found and bound, sockets opened); the table is saved; and only then what differs is started, changed or drained.

Once the table is saved, the edit cannot be refused any more. Each step from then on is taken by `Context.steps`: an
exception in one is logged, and the others follow.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, DeferredLock, succeed

from ktcpvs.errors import BadValue, Busy, NoSuchServer, Refusal
from ktcpvs.health.active_checks import ActiveChecks
from ktcpvs.interfaces import CONNECTION
from ktcpvs.model.address import Address, Unix
from ktcpvs.model.edits import Confirm, Edit, Load, Unload
from ktcpvs.model.expansion import Resolution, expanded, names_of
from ktcpvs.model.plan import Plan, plan
from ktcpvs.model.service import AUTO, KERNEL, NO_FALLBACK, NO_LOG, VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table
from ktcpvs.model.warnings import warnings_about
from ktcpvs.relay.engines import NOT_TCP
from ktcpvs.runtime.context import Context
from ktcpvs.services import config_tests as expectations
from ktcpvs.services.confirmation import PendingConfirmation
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.resolver import Resolver
from ktcpvs.services.running import RunningService
from ktcpvs.system import log as levels
from ktcpvs.system.plugins import Schedulers, find_schedulers
from ktcpvs.system.sockets import close_listener


@define
class _Preparation:
    """Everything that an edit needs, service by service; `abandon` gives back what was opened.

    changes: what differs. others: what the other processes of the switch will be told."""

    changes: Plan
    others: Any = None
    ready: list[tuple[RunningService, Prepared]] = Factory(list)

    def abandon(self) -> None:
        for _, prepared in self.ready:
            for sock in prepared.socks:
                close_listener(sock)


async def _saved_nowhere(table: Table) -> None:
    return None


class Director:
    """table: as it is configured now. resolution: what the names in it mean. expanded: the table that runs, with a
    server for each address of a name. services: ident -> what is alive of it; also services that ran and still drain.
    checks: those of servers, resolver: who looks names up; None: another process does. is_strict: an edit is refused
    that wants what the machine does not give: an access log that cannot be written, a relay that is not there.
    successor: carries edits out since another process has taken over; None: none has. grace: seconds after the drain
    timeout that the end may take besides."""

    grace = 0.0

    def __init__(
        self,
        context: Context,
        save: Callable[[Table], Awaitable[None]] = _saved_nowhere,
        unload: Callable[[], object] = lambda: None,
    ) -> None:
        """save: keeps the table where a crash cannot take it; raises CannotSave. unload: called when the edit Unload
        has been carried out."""
        self.context = context
        self.table = self.expanded = Table()
        self.resolution: Resolution = {}
        self.services: dict[str, RunningService] = {}
        self.draining: set[RunningService] = set()
        self.save = save
        self._unload = unload
        self.is_strict = True
        self.checks: ActiveChecks | None = ActiveChecks(context)
        self.resolver: Resolver | None = Resolver(context, self.resolved)
        self.successor: Callable[[Edit], Awaitable[Sequence[str]]] | None = None
        self.trial = PendingConfirmation(context.reactor, context.log, self._undo_trial)
        self._started = False
        self._ending = False
        self._lock: DeferredLock = DeferredLock()
        self._schedulers: Schedulers | None = None

    def start(self) -> None:
        """Time begins."""
        self._started = True
        self.context.start()

    def stop(self) -> None:
        """Time ends."""
        run = self.context.steps.run
        run("trial", self.trial.end)
        if self.checks is not None:
            run("checks", self.checks.stop)
        if self.resolver is not None:
            run("names", self.resolver.stop)
        self.context.stop()

    def schedulers(self) -> Schedulers:
        """The schedulers there are, looked up anew."""
        self._schedulers = find_schedulers()
        return self._schedulers

    def submit(self, edit: Edit) -> Deferred[Sequence[str]]:
        """Carry `edit` out. Fires with the warnings about it, a line each, when it is in force and saved; fails with a
        Refusal, and then nothing has changed."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._take(edit)))

    async def _take(self, edit: Edit) -> Sequence[str]:
        if self.successor is not None:
            return await self.successor(edit)
        return await self._carry_out(edit)

    def _undo_trial(self) -> Deferred[None]:
        undoing = self.trial.undoing
        return self._lock.run(lambda: Deferred.fromCoroutine(undoing(self._carry_out, lambda: self.table.running)))

    async def _carry_out(self, edit: Edit) -> Sequence[str]:
        if self._ending:
            raise Busy("the daemon is ending")
        self.trial.admit(edit)
        old = self.table
        try:
            new = edit.apply(old)
        except NoSuchServer as refusal:
            raise NoSuchServer(f"{refusal}{self._of_a_name(edit)}") from None
        await self._check(old, new)
        warnings = self.warnings(edit, new) if self.is_strict else ()
        runs = expanded(new, self.resolution)
        preparation = await self._prepare(self.expanded, runs)
        try:
            preparation.others = self._words(edit)
            if (new != old and not getattr(edit, "confirm", 0)) or isinstance(edit, Confirm):
                await self.save(new)
        except BaseException:
            preparation.abandon()
            raise
        steps = self.context.steps
        self.table = new
        await self._put_in_force(runs, preparation)
        if self.resolution or self.resolver is not None:
            steps.run("names", self._follow_names)
        steps.run("trial", self.trial.carried_out, edit, old)
        steps.run("log", lambda: self.context.log.event(levels.CONFIGURATION, "{edit}", edit=_in_words(edit)))
        if isinstance(edit, Unload):
            steps.run("end", self._unload)
        return warnings

    def warnings(self, edit: Edit, new: Table) -> Sequence[str]:
        """What `edit`, which makes the table `new`, configures and has no effect: a line each. Never raises."""
        try:
            return warnings_about(edit, new.services, self._plugins)
        except Exception:  # a plugin says something odd of itself
            self.context.log.failure("no warnings can be given about {name}", name=edit.name)
            return ()

    async def _put_in_force(self, runs: Table, preparation: _Preparation) -> None:
        """Nothing in here raises. runs: the table that is to run."""
        steps = self.context.steps
        self._commit(runs, preparation)
        await steps.wait("listeners before", self._retired, preparation)
        if not await steps.wait("other processes", self._spread, preparation.others) and not self._ending:
            steps.run("replace other processes", self._replace_others)

    # What names mean.

    def _of_a_name(self, edit: Any) -> str:
        """What to say besides when a server is named that there is only because of a name; "" for others."""
        service = self.expanded.services.get(getattr(edit, "ident", ""))
        address = getattr(edit, "address", None)
        if service is None or address is None:
            return ""
        for server in service.servers:
            if server.name is not None and server.address == service.complete(address):
                return f": it is one address of {server.name}, which can be changed as a whole"
        return ""

    def _follow_names(self) -> None:
        """What the names mean that the table has no more is forgotten, and those that it has are looked up."""
        names = names_of(self.table)
        self.resolution = {host: addresses for host, addresses in self.resolution.items() if host in names}
        if self.resolver is not None:
            self.resolver.follow(names, self.resolution)

    def resolved(self, found: Resolution) -> Deferred[None]:
        """From now on these names mean that. Fires when it is in force; fails with a Refusal."""
        return self._lock.run(lambda: Deferred.fromCoroutine(self._resolve(found)))

    async def _resolve(self, found: Resolution) -> None:
        if self._ending or self.successor is not None:
            return
        resolution = {**self.resolution, **found}
        runs = expanded(self.table, resolution)
        others = self._words_of_names(found)
        preparation = await self._prepare(self.expanded, runs)
        preparation.others = others
        self.resolution = resolution
        await self._put_in_force(runs, preparation)

    # Try what can fail.

    def _factory(self, name: str) -> Any:
        if self._schedulers is None or name not in self._schedulers.known:
            self.schedulers()
        assert self._schedulers is not None
        return self._schedulers.factory(name)

    def _plugins(self, config: VirtualService) -> tuple[Any, Any, Any]:
        """The schedulers of a service: its own, the one within rules, the one that helps out (None: nobody does).

        Raises NoSuchScheduler, or BadValue for one that looks at more than it would be shown.
        """
        factory, balance = self._factory(config.scheduler), self._factory(config.balance)
        if balance.unit != CONNECTION:
            raise BadValue(f"balance = {config.balance}: one that decides per connection is wanted, as wlc or rr")
        fallback = None if config.fallback == NO_FALLBACK else self._factory(config.fallback)
        if fallback is not None and factory.unit == CONNECTION and fallback.unit != CONNECTION:
            raise BadValue(
                f"fallback = {config.fallback}: one that decides per connection is wanted, as wlc or rr, since "
                f"{config.scheduler} reads no request"
            )
        return factory, balance, fallback

    def binding(
        self, live: RunningService, config: VirtualService, settings: Settings, trial: bool = False
    ) -> Generator[None, None, Prepared]:
        """`config` bound for `live`, little by little; nothing is changed yet. Raises a Refusal.

        trial: the scheduler will be asked and thrown away.
        """
        key = self.context.cookie_key(settings)
        prepared = Prepared(config, live.destinations_for(config), *self._plugins(config), key, trial)
        try:
            yield from live.binding(prepared)
        except Refusal:
            raise
        except Exception as error:
            self.context.log.failure("scheduler {name} cannot be bound", name=config.scheduler)
            raise BadValue(f"scheduler {config.scheduler} cannot serve {config.ident}: {error!r}") from None
        return prepared

    async def bind(
        self, live: RunningService, config: VirtualService, settings: Settings, trial: bool = False
    ) -> Prepared:
        """The same; others are served between its steps."""
        return await self._stepped(self.binding(live, config, settings, trial))

    async def run_tests(self, config: VirtualService, settings: Settings) -> None:
        """Raises BrokenTest when one of the service's tests does not come out as is wanted, or another Refusal."""
        if not config.tests:
            return
        steps = expectations.bound_for_tests(config, self._plugins(config), self.context.cookie_key(settings))
        try:
            await expectations.run(self.context, await self._stepped(steps))
        except Refusal:
            raise
        except Exception as error:
            raise BadValue(f"scheduler {config.scheduler} cannot serve {config.ident}: {error!r}") from None

    async def _stepped(self, steps: Generator[None, None, Prepared]) -> Prepared:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                prepared: Prepared = end.value
                return prepared
            if self._started:
                turn: Deferred[None] = Deferred()
                self.context.reactor.callLater(0, turn.callback, None)
                await turn

    async def _check(self, old: Table, new: Table) -> None:
        """Raises a Refusal when `new`, as it is configured, asks for what cannot be."""
        for service in new:
            before = old.services.get(service.ident)
            if before is None or _plugin_names(before) != _plugin_names(service):
                self._plugins(service)
            if self.is_strict and service.access_log not in (NO_LOG, before and before.access_log):
                self.context.access_logs.check(service.access_log)
            if self.is_strict and (before is None or _relayed(before) != _relayed(service)):
                self._check_relay(service)
            if self.is_strict and before != service:
                await self.run_tests(service, new.settings)

    async def _prepare(self, old: Table, new: Table) -> _Preparation:
        changes = plan(old, new)
        moving = [before.ident for before, config in changes.change if before.listen != config.listen]
        moving += [config.ident for config in changes.stop]
        closing = [sock for ident in moving for sock in self.sockets_of(ident)]
        preparation = _Preparation(changes)
        begun = [(None, config) for config in changes.start]
        try:
            for before, config in (*begun, *changes.change):
                live = self.services.get(config.ident) or RunningService(self.context, config)
                prepared = await self.bind(live, config, new.settings)
                preparation.ready.append((live, prepared))
                if before is None or before.listen != config.listen:
                    prepared.socks = self._open(config.listen, new.settings.max_backlog, closing)
        except BaseException:
            preparation.abandon()
            raise
        return preparation

    def _check_relay(self, service: VirtualService) -> None:
        """Raises BadValue when the relay that the service asks for by its name is not possible."""
        why = self.context.relays.refusal(service.relay)
        if why is None and service.relay == KERNEL and isinstance(service.listen, Unix):
            why = NOT_TCP
        if why is not None:
            form = f"service {service.ident}: relay = {service.relay}: {why}"
            raise BadValue(f"{form}; relay = {AUTO} takes what there is")

    # What a supervisor does otherwise.

    def sockets_of(self, ident: str) -> list[socket.socket]:
        """The sockets on which a service listens now."""
        listener = self.services[ident].listener
        return [] if listener is None else [listener.socket]

    def _open(self, address: Address, backlog: int, closing: list[socket.socket]) -> list[socket.socket]:
        """Sockets that listen on `address`. closing: those that will be closed then. Raises CannotListen."""
        return [self.context.sockets.open(address, backlog, closing)]

    def _listen(self, live: RunningService, socks: list[socket.socket]) -> None:
        live.listen(socks[0])

    def _stop(self, live: RunningService) -> None:
        live.stop()

    def _words(self, edit: Edit) -> Any:
        """What `_spread` will tell of that edit. Raises whatever can be wrong with it: nothing has changed yet."""

    def _words_of_names(self, found: Resolution) -> Any:
        """The same of names."""

    async def _spread(self, words: Any) -> None:
        """The edit is in force here; it is to be in force wherever else the switch is. words: of `_words`."""

    def _replace_others(self) -> None:
        """`_spread` has failed: other processes must not go on with another table than this one."""

    # Put in place what was prepared: nothing here raises.

    def _commit(self, new: Table, preparation: _Preparation) -> None:
        changes, run = preparation.changes, self.context.steps.run
        self.expanded = new
        if changes.settings:
            self.context.settings = new.settings
            self.context.log.level = new.settings.debug_level
            run("relay window", self.context.relays.set_window, new.settings.relay_window << 10)
        for live in [self.services[config.ident] for config in changes.stop if config.ident in self.services]:
            run(f"service {live.ident}: stop", self._stop, live)
        for live, prepared in preparation.ready:
            self.services[prepared.config.ident] = live
            run(f"service {live.ident}: change", live.adopt, prepared)
            if prepared.socks:
                run(f"service {live.ident}: listen", self._listen, live, prepared.socks)
        if changes.settings:
            for ident, live in self.services.items():
                run(f"service {ident}: settings", live.settings_changed)
        for ident in [ident for ident in self.services if ident not in new.services]:
            live = self.services.pop(ident)
            run(f"service {ident}: delete", live.delete)
            self.draining.add(live)
        self.draining = {live for live in self.draining if live.connections}
        run("checks", self._follow_checks)

    async def _retired(self, preparation: _Preparation) -> None:
        """No socket is left on an address that no service has any more."""
        for live, prepared in preparation.ready:
            if prepared.socks and live.retired is not None:
                await live.retired

    def _follow_checks(self) -> None:
        if self.checks is not None:
            self.checks.follow(self.services[ident] for ident in self.table.services if ident in self.table.running)

    def mark(self, ident: str, address: str, is_up: bool, why: str) -> None:
        """Another process has found a server up, or down."""
        live = self.services.get(ident)
        for destination in live.usable if live is not None else ():
            if str(destination.address) == address:
                live.health.mark(destination, is_up, why)  # type: ignore[union-attr]

    # Another process takes over.

    def hold(self) -> Deferred[None]:
        """Fires when no edit is under way; further ones wait until `go_on`."""
        return self._lock.acquire().addCallback(lambda _: None)

    def go_on(self) -> None:
        """Edits are taken again."""
        self._lock.release()

    def ready(self) -> Deferred[None]:
        """Fires when all is there that serves. Fails with a Refusal when it is not to be had."""
        return succeed(None)

    def answers(self) -> Deferred[bool]:
        """Fires with True when all that serves has just answered, with False when it has not."""
        return succeed(True)

    def serves(self) -> str:
        """What serves, in words."""
        return "one process serves"

    def serve(self) -> None:
        """Accept clients, who were held back until now."""
        self.context.holds = False
        for live in self.services.values():
            if live.listener is not None:
                live.listener.resume()  # which does not raise

    def hand_over(self, taken: Mapping[str, int]) -> None:
        """Another process accepts from now on: take no more edits, accept nobody, let drain what lives.

        taken: ident -> how many of its sockets the other has; where some are left, they are closed a little later.
        """
        self._ending = True
        for ident, live in self.services.items():
            late = ident in taken and taken[ident] < 1
            self.context.steps.run(f"service {ident}: hand over", live.hand_over, late)

    # The end.

    def reopen_logs(self) -> None:
        """The access logs' files are opened anew."""
        self.context.access_logs.reopen()

    def end(self) -> None:
        """Take no more edits and listen no more; what lives drains. The table stays: its services are to run again."""
        if self.context.holds:
            self.hand_over({})  # the sockets are another's still
        self._ending = True
        self.stop_all()

    def stop_all(self) -> None:
        """Close all listeners."""
        for ident, live in self.services.items():
            self.context.steps.run(f"service {ident}: stop", live.stop)

    drains = "connections"
    """What `connections` counts, in a word for people."""

    def connections(self) -> int:
        """How many client connections live."""
        return sum(live.living for live in (*self.services.values(), *self.draining))

    def end_all(self) -> None:
        """End every connection now."""
        for live in (*self.services.values(), *self.draining):
            live.end_all()


def _plugin_names(service: VirtualService) -> tuple[str, str, str]:
    return service.scheduler, service.balance, service.fallback


def _relayed(service: VirtualService) -> tuple[str, Address]:
    return service.relay, service.listen


def _in_words(edit: Edit) -> str:
    if isinstance(edit, Load):
        return f"{edit.name}: {len(edit.services)} services"
    return f"{edit.name}: {edit}"
