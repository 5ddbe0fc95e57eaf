"""Finds the scheduler plugins that a service names, and binds them to its next configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Generator, Mapping
from math import inf
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from ktcpvs.director import config_tests
from ktcpvs.errors import BadValue, NoSuchScheduler, Refusal, shorten
from ktcpvs.interfaces import CLIENT_HELLO, CONNECTION, USES_BALANCE, ISchedulerFactory, IUsesOptions
from ktcpvs.model.scheduler_options import read_options
from ktcpvs.model.scheduler_words import name_of
from ktcpvs.model.service import NO_FALLBACK, VirtualService
from ktcpvs.model.service_plugins import ServicePlugins
from ktcpvs.model.settings import Settings
from ktcpvs.model.template_checks import check_other_templates, check_own_templates
from ktcpvs.runtime.context import Context
from ktcpvs.schedulers.missing import MissingScheduler
from ktcpvs.services.prepared import Prepared
from ktcpvs.services.running import RunningService
from ktcpvs.system.plugin_errors import describe, raise_interrupt
from ktcpvs.system.plugin_reload import NOT_TRIED, Reloaded, loaded_sources, packages_of, reload_schedulers
from ktcpvs.system.plugins import Schedulers, find_schedulers

MAX_LOGGED = 100
"""The most plugins whose errors are logged."""

MAX_NAMES_LENGTH = 400
"""The most characters of the names in the line about schedulers that are not found any more."""


class SchedulerBinder:
    """Binds schedulers of services without changing anything that runs."""

    def __init__(
        self,
        context: Context,
        search: Callable[[], Schedulers] = find_schedulers,
        logs_broken: bool = True,
        most_seconds: Callable[[Settings], float] = lambda _: inf,
    ) -> None:
        """search: finds all installed schedulers. logs_broken: log plugins that cannot be used, each once.
        most_seconds: see ServingProcesses.most_seconds_to_bind."""
        self._context = context
        self._most_seconds = most_seconds
        self._logs_broken = logs_broken
        self._logged: set[tuple[str, str]] = set()
        self._search = search
        self._found: Schedulers | None = None
        self._installed = Schedulers({})  # as the last search has found them
        self._sources: Mapping[str, str] = {}  # file of a plugin -> the digest of its contents when it was loaded
        self._lost: set[str] = set()
        self._yields_turns = False
        self._units: Mapping[str, str] = {}  # see stand_in
        self._missing: dict[str, str] = {}  # name -> unit of those for which there was a stand-in
        self._missing_of: dict[str, dict[str, tuple[str, str]]] = {}  # ident -> name -> what the log says
        self._is_loading = False  # whether one that cannot be bound is replaced too, whatever the service has now

    def start(self) -> None:
        """The reactor runs: from now on it serves clients between two steps of a long binding."""
        self._yields_turns = True

    def find_all(self) -> Schedulers:
        """Search for all installed schedulers. Those that were found before, and are not any more, stay in use."""
        before, modules = self._found, frozenset(sys.modules)
        found = self._search()
        self._sources = {**self._sources, **loaded_sources(found, modules)}
        self._installed = found
        if before is not None:
            found = self._keep_loaded(found, before)
        self._found = found
        for where, error in found.broken if self._logs_broken else ():
            if (where, error) not in self._logged and len(self._logged) < MAX_LOGGED:
                self._logged.add((where, error))
                self._context.log.warn("scheduler plugin not loaded: {where}: {error}", where=where, error=error)
        return found

    def _keep_loaded(self, found: Schedulers, before: Schedulers) -> Schedulers:
        """Return `found` with what it lacks of `before`. Logs each such scheduler once, until it is found again."""
        kept = found.and_loaded(before)
        lost = {name for name, origin in kept.origins.items() if found.origins.get(name) != origin}
        if self._logs_broken and lost - self._lost:
            self._context.log.warn(
                "schedulers not found any more, and used as they were loaded: {names}; is ktcpvs or a plugin being "
                "installed or removed?",
                names=shorten(", ".join(sorted(lost - self._lost)), MAX_NAMES_LENGTH),
            )
        self._lost = lost
        return kept

    def installed(self) -> Collection[ISchedulerFactory]:
        """Return the schedulers that the last search has found; searches if none has yet."""
        found = self._found if self._found is not None else self.find_all()
        return found.known.values()

    def units(self) -> Mapping[str, str]:
        """Return name -> unit of the schedulers that this process has loaded, and of those that it misses."""
        found = self._found.known if self._found is not None else {}
        return {**self._missing, **{name: factory.unit for name, factory in found.items()}}

    def stand_in(self, units: Mapping[str, str]) -> None:
        """From now on, let the fallback choose for a scheduler of these that this process cannot load or bind: the
        process before this one could, and one broken plugin must not end the service of all. units: name -> unit."""
        self._units = dict(units)
        self._is_loading = True

    def end_loading(self) -> None:
        """The first table runs: from now on, let the fallback choose for no other schedulers than now, and refuse an
        edit where one cannot be bound that could be before."""
        self._units = dict(self._missing)
        self._is_loading = False

    def missing(self) -> Mapping[str, str]:
        """Return name -> unit of the schedulers in whose place the fallback chooses."""
        return dict(self._missing)

    def mended(self, names: Collection[str]) -> None:
        """These schedulers were loaded again, and their services bound to them."""
        self._missing = {name: unit for name, unit in self._missing.items() if name not in names}
        if not self._is_loading:
            self._units = dict(self._missing)

    def packages_of(self, name: str | None) -> Collection[str]:
        """Return the packages that `reload` loads again. Raises a Refusal if it would."""
        return packages_of(self._before_reload(name), name)

    def _before_reload(self, name: str | None) -> Schedulers:
        found = self._found
        if found is not None and name in found.known:
            return found
        self.find_all()
        return self._installed  # those that are not installed any more cannot be loaded again

    def reload(self, name: str | None, tried: Mapping[str, str] = NOT_TRIED) -> Reloaded:
        """Load a plugin's package again; None: those of all plugins. tried: see reload_schedulers. Raises a Refusal;
        then nothing has changed.

        `undo` of the result makes that undone here too.
        """
        reloaded = reload_schedulers(self._before_reload(name), name, self._search, tried)
        before, installed, sources = self._found, self._installed, self._sources
        self._sources = {**sources, **reloaded.sources}
        self._installed = reloaded.found
        self._found = reloaded.found if before is None else self._keep_loaded(reloaded.found, before)

        def undo() -> None:
            reloaded.undo()
            self._found, self._installed, self._sources = before, installed, sources

        is_same = reloaded.replaced == reloaded.sources.keys() and reloaded.sources.items() <= sources.items()
        return evolve(reloaded, undo=undo, is_same=is_same)

    def _factory(self, text: str, where: str, may_be_missing: bool) -> Any:
        """Return the scheduler that `text` names. where: for errors. may_be_missing: return a stand-in for it if there
        may be one. Raises NoSuchScheduler, or BadValue for options that it does not take."""
        found, name = self._found, name_of(text)
        if found is None or found.named(name) is None:
            found = self.find_all()
        try:
            factory = found.factory(name)
        except NoSuchScheduler as refusal:
            return self._instead_of(text, refusal, may_be_missing)
        try:
            read_options(factory, text)
        except BadValue as error:
            refused = BadValue(f"{where} = {shorten(text, 60)}: {error}", name)
            return self._instead_of(text, refused, may_be_missing)
        return factory

    def _instead_of(self, text: str, refusal: Refusal, may_be_missing: bool = True) -> MissingScheduler:
        """Return the stand-in for a scheduler, if there may be one; else raise the refusal."""
        name = name_of(text)
        unit = self._units.get(name)
        if unit is None or not may_be_missing:
            raise refusal from None
        self._missing[name] = unit
        return MissingScheduler(text, unit, str(refusal))

    def plugins_of(self, config: VirtualService, new: Collection[str] = ()) -> ServicePlugins:
        """Return the schedulers that `config` names. new: those, as texts of the configuration, that must not be
        missing.

        Raises NoSuchScheduler, or BadValue if one does not take its options, or if balance or fallback needs requests
        that the service's scheduler does not read.
        """

        def found(text: str, where: str) -> Any:
            return self._factory(text, f"service {config.ident}: {where}", text not in new)

        service = f"service {config.ident}"
        factory = found(config.scheduler, "scheduler")
        balance = found(config.balance, "balance")
        _check_balance(f"balance = {config.balance}", balance, config.balance)
        names = dict.fromkeys(rule.modifiers.balance for rule in config.rules if rule.modifiers.balance is not None)
        rule_balances = {name: found(name, "rule: balance") for name in names}
        for name, plugin in rule_balances.items():
            _check_balance(f"{service}: balance {name} of a rule", plugin, name)
        fallback = None if config.fallback == NO_FALLBACK else found(config.fallback, "fallback")
        if fallback is not None and factory.unit in (CONNECTION, CLIENT_HELLO) and fallback.unit != CONNECTION:
            raise BadValue(
                f"fallback = {config.fallback}: it chooses per request, and {config.scheduler_name} reads no requests; "
                "use a fallback that chooses per connection, such as wlc or rr",
                name_of(config.fallback),
            )
        return ServicePlugins(factory, balance, fallback, rule_balances)

    def check(self, config: VirtualService, new: Collection[str] = ()) -> None:
        """Raise what `plugins_of` raises, and BadValue for a template of values that are not read when it is used."""
        plugins = self.plugins_of(config, new)
        factory = plugins.scheduler
        if factory.unit not in (CONNECTION, CLIENT_HELLO):
            return
        ident, scheduler = config.ident, config.scheduler
        check_own_templates(ident, scheduler, read_options(factory, scheduler))
        others: list[tuple[str, Any, str]] = []
        if plugins.fallback is not None:
            others += [("fallback", plugins.fallback, config.fallback)]
        if IUsesOptions.providedBy(factory) and USES_BALANCE in factory.uses:
            others += [("balance", plugins.balance, config.balance)]
            others += [("balance", plugin, text) for text, plugin in plugins.of_rules.items()]
        for use, plugin, text in others:
            check_other_templates(ident, use, text, config.scheduler_name, read_options(plugin, text))

    async def bind(
        self,
        service: RunningService,
        config: VirtualService,
        settings: Settings,
        is_dry_run: bool = False,
        is_rebound: bool = False,
    ) -> Prepared:
        """Bind `config` for `service`. is_dry_run: the scheduler is only used for dry runs. is_rebound: it was loaded
        again. Raises a Refusal."""
        steps = self._binding(service, config, settings, is_dry_run)
        try:
            prepared = await self._run_steps(steps, config, self._most_seconds(settings))
        except Refusal as refusal:
            is_missing = isinstance(service.scheduler.factory, MissingScheduler) and not is_rebound
            if config.scheduler_name not in self._units or not (is_missing or self._is_loading):
                raise
            steps = self._binding(service, config, settings, is_dry_run, self._instead_of(config.scheduler, refusal))
            prepared = await self._run_steps(steps, config, self._most_seconds(settings))
        if not is_dry_run:
            self._log_missing(prepared)
        return prepared

    def _log_missing(self, prepared: Prepared) -> None:
        """Log which schedulers of a service are missing, if that has changed."""
        ident, fallback = prepared.config.ident, prepared.fallback
        missing = [factory for factory in prepared.plugins if isinstance(factory, MissingScheduler)]
        instead = f"fallback {prepared.config.fallback} chooses"
        if fallback is None:
            instead = "there is no fallback"
        elif fallback in missing:
            instead = "so is the fallback"
        found = {
            factory.name: ("it cannot choose as the fallback" if factory is fallback else instead, factory.why)
            for factory in reversed(missing)  # the service's own scheduler comes last, and counts
        }
        before = self._missing_of.pop(ident, {})
        if found:
            self._missing_of[ident] = found
        for name, said in found.items() if found != before else ():
            self._context.log.warn(
                "service {ident}: scheduler {name} is missing, and {instead}: {why}; mend that, then run: tcpvsadm "
                "--reload-schedulers",
                ident=ident,
                name=name,
                instead=said[0],
                why=said[1],
            )

    def _binding(
        self,
        service: RunningService,
        config: VirtualService,
        settings: Settings,
        is_dry_run: bool,
        instead: MissingScheduler | None = None,
    ) -> Generator[None, None, Prepared]:
        """instead: takes the place of the service's scheduler, which could not be bound."""
        key = self._context.cookie_key(settings)
        prepared = Prepared(config, service.destinations_for(config), *self.plugins_of(config), key, is_dry_run)
        prepared.factory = instead or prepared.factory
        try:
            yield from service.scheduler.binding(prepared)
            if not callable(getattr(prepared.scheduler, "choose", None)):
                raise BadValue(
                    f"service {config.ident}: scheduler {config.scheduler_name}: its bind returned "
                    f"{shorten(type(prepared.scheduler).__name__, 40)}, which has no method choose(request)"
                )
        except (Refusal, KeyboardInterrupt, GeneratorExit):
            raise  # the steps may be given up: `_run_steps` handles these two of a plugin
        except BaseException as error:
            self._context.log.failure("scheduler {name} cannot be bound", name=config.scheduler_name)
            raise _cannot_serve(config, error) from None
        return prepared

    async def run_tests(self, config: VirtualService, settings: Settings) -> None:
        """Run the tests that `config` contains. Raises BrokenTest for the first that fails, or another Refusal."""
        if not config.tests:
            return
        steps = config_tests.bind_for_tests(config, self.plugins_of(config), self._context.cookie_key(settings))
        try:
            await config_tests.run(self._context, await self._run_steps(steps, config))
        except (Refusal, GeneratorExit):
            raise
        except BaseException as error:
            raise_interrupt(error)
            raise _cannot_serve(config, error) from None

    async def _run_steps(
        self, steps: Generator[None, None, Prepared], config: VirtualService, most_seconds: float = inf
    ) -> Prepared:
        """Raise BadValue for a step that takes too long, unless nobody is served yet."""
        while True:
            begun = self._context.monotonic()
            prepared: Prepared | None = None
            try:
                next(steps)
            except StopIteration as end:
                prepared = end.value
            except (KeyboardInterrupt, GeneratorExit) as error:
                raise_interrupt(error)
                self._context.log.failure("scheduler {name} cannot be bound", name=config.scheduler_name)
                raise _cannot_serve(config, error) from None
            took = self._context.monotonic() - begun
            if took > most_seconds and self._yields_turns:
                raise BadValue(
                    f"service {config.ident}: scheduler {config.scheduler_name}: its bind takes {took:.0f} s, in which "
                    "a worker serves nobody, and is killed by worker_timeout; it must bind in steps (IBindsInSteps)"
                )
            if prepared is not None:
                return prepared
            if self._yields_turns:
                turn: Deferred[None] = Deferred()
                self._context.reactor.callLater(0, turn.callback, None)
                await turn


def _check_balance(said: str, balance: Any, text: str) -> None:
    """Raise BadValue for a scheduler that cannot choose among the servers of a rule. said: what names it. text: as it
    is configured."""
    name = name_of(text)
    if balance.unit != CONNECTION:
        raise BadValue(
            f"{said}: it chooses per request; balance needs a scheduler that chooses per connection, such as wlc or rr",
            name,
        )
    if IUsesOptions.providedBy(balance) and USES_BALANCE in balance.uses:
        raise BadValue(f"{said}: it chooses by rules, and needs a balance itself; use one such as wlc", name)


def _cannot_serve(config: VirtualService, error: BaseException) -> BadValue:
    return BadValue(f"scheduler {config.scheduler_name} cannot serve {config.ident}: {describe(error)}")
