"""Names of servers are looked up again when what is known of them does not hold any more.

Where several processes serve, one of them asks, and tells the others. A name that is not found keeps what it had.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from ktcpvs.errors import Refusal
from ktcpvs.model.expansion import Resolution
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.periodic import PeriodicJob

if TYPE_CHECKING:
    from ktcpvs.runtime.context import Context
    from ktcpvs.system.lookup import Found

AT_ONCE = 8
"""So many names are looked up at the same time; the next ones wait."""

FAILED_MOST = 60
"""Seconds: the longest pause after a name was not found. The first is the setting resolve_least; each next one is twice
as long."""


class Resolver:
    """The names of one table. Where the settings change, all are looked up at once."""

    def __init__(self, context: Context, resolved: Callable[[Resolution], Deferred[None]]) -> None:
        """resolved: called with what names mean from now on; fires when it is in force, fails with a Refusal."""
        self.context = context
        self.resolved = resolved
        self.turns: DeferredSemaphore = DeferredSemaphore(AT_ONCE)
        self._names: dict[str, _Name] = {}
        self._wishes: tuple[int, ...] = ()  # what the settings were

    def follow(self, names: Iterable[str], known: Resolution) -> None:
        """From now on these are looked up, and no others. known: what they mean so far."""
        wanted = set(names)
        settings = self.context.settings
        wishes = tuple(getattr(settings, name) for name in settings.names() if name.startswith("resolve_"))
        if wishes != self._wishes:
            self._wishes = wishes
            for one in self._names.values():
                one.look_now()
        for host in [host for host in self._names if host not in wanted]:
            self._names.pop(host).stop()
        for host in wanted:
            if host not in self._names:
                self._names[host] = _Name(self, host, known.get(host, ()))

    def stop(self) -> None:
        """Look up nothing any more."""
        self.follow((), {})

    def look_up(self, host: str) -> Deferred[Found]:
        """Fires with what the name means, fails with NotFound."""
        return _in_thread(self.context, host)


class _Name:
    """One name. host: itself."""

    def __init__(self, resolver: Resolver, host: str, known: tuple[str, ...]) -> None:
        self.host = host
        self._resolver = resolver
        self._context = resolver.context
        self._known = known
        self._failures = 0
        self._trouble = ""  # with one family of addresses
        self._looking: Deferred[int] | None = None
        self._job = PeriodicJob(self._context.reactor, self._begin, self._broken, FAILED_MOST)
        self._job.start()

    def stop(self) -> None:
        self._job.stop()
        looking, self._looking = self._looking, None
        if looking is not None:
            cancel_pending(looking, self._context.log)

    def look_now(self) -> None:
        """What was wanted of it has changed."""
        if self._job.is_scheduled:
            self._job.start()

    def _begin(self) -> Deferred[int]:
        looking: Deferred[int] = self._resolver.turns.run(lambda: Deferred.fromCoroutine(self._look()))
        self._looking = looking
        return looking

    async def _look(self) -> int:
        """Seconds until the next look."""
        from ktcpvs.system.lookup import NotFound

        settings = self._context.settings
        try:
            found = await self._resolver.look_up(self.host)
            await self._take(found)
        except (NotFound, Refusal) as error:
            return self._failed(error)
        self._failures = 0
        return min(max(found.seconds, settings.resolve_least), settings.resolve_most)

    async def _take(self, found: Found) -> None:
        """Those that it had stay first, if it has too many."""
        most, before = self._context.settings.resolve_addresses, self._known
        self._tell_trouble(found.failed)
        meant = found.beside(before)
        kept = [one for one in before if one in meant]
        now = (*kept, *(one for one in meant if one not in kept))[:most]
        if set(now) == set(before):
            if self._failures:
                self._say("{host} is found again, and means what it did")
            return
        addresses = tuple(one for one in meant if one in now)
        await self._resolver.resolved({self.host: addresses})
        self._known = addresses
        self._say("{host} is {now}; before: {before}", now=_listed(addresses), before=_listed(before) or "not known")
        if len(meant) > most:
            self._say("{host} has {n} addresses, of which {most} serve", n=len(meant), most=most)

    def _tell_trouble(self, trouble: str) -> None:
        """The addresses of one family cannot be looked up: told once. trouble: "" when they can."""
        before, self._trouble = self._trouble, trouble
        if trouble and trouble != before:
            form = "{host} is found by one address family alone; {trouble}; those that it had stay"
            self._context.log.warn(form, host=self.host, trouble=trouble)

    def _failed(self, error: Exception) -> int:
        if not self._failures:
            keeps = f"it stays {_listed(self._known)}" if self._known else "each connection to it asks the system anew"
            self._context.log.warn("{host} is not found: {why}; {keeps}", host=self.host, why=error, keeps=keeps)
        self._failures += 1
        least = self._context.settings.resolve_least
        return int(min(least << min(self._failures - 1, 16), max(FAILED_MOST, least)))

    def _say(self, form: str, **values: Any) -> None:
        self._context.log.event(ANNOUNCE, form, host=self.host, **values)

    def _broken(self, why: Failure) -> None:
        self._context.log.failure("{host} cannot be looked up", why, host=self.host)


def _listed(addresses: tuple[str, ...]) -> str:
    shown = ", ".join(addresses[:8])
    return shown if len(addresses) <= 8 else f"{shown} and {len(addresses) - 8} more"


def _in_thread(context: Context, host: str) -> Deferred[Found]:
    """In a thread of its own, which nobody waits for at the end: name servers may take their time."""
    from ktcpvs.system.lookup import look_up  # a client of the DNS takes memory, which many do not need

    answer: Deferred[Found] = Deferred()
    ipv6, nameservers = context.settings.resolve_ipv6, context.nameservers

    def ask() -> None:
        try:
            found: Any = look_up(host, ipv6, nameservers)
        except Exception:
            found = Failure()
        context.reactor.callFromThread(answer.callback, found)

    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    return answer
