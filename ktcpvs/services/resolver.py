"""Looks up the host names of servers again when their TTL is over.

Of several processes, one looks names up and sends the results to the others. A name that is not found keeps its
addresses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from ktcpvs.errors import Refusal
from ktcpvs.model.expansion import Resolution
from ktcpvs.runtime.context import Context
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.periodic import PeriodicJob

if TYPE_CHECKING:
    from ktcpvs.system.lookup import Found

MAX_CONCURRENT_LOOKUPS = 8
"""The most look-ups at the same time; further ones wait."""

MAX_RETRY_DELAY = 60
"""Seconds: the longest pause after a name was not found. The first pause is the setting resolve_least; each further
one is twice as long."""

MAX_LOGGED_ADDRESSES = 8
"""The most addresses of one name in a line of the log."""


class Resolver:
    """Keeps the addresses of one table's host names up to date.

    When one of the settings `resolve_*` changes, it looks all names up at once.
    """

    def __init__(self, context: Context, resolved: Callable[[Resolution], Deferred[None]]) -> None:
        """resolved: called with the new addresses of names; fires when they are in force, fails with a Refusal."""
        self.context = context
        self.resolved = resolved
        self.turns: DeferredSemaphore = DeferredSemaphore(MAX_CONCURRENT_LOOKUPS)
        self._names: dict[str, _ResolvedName] = {}
        self._settings: tuple[int, ...] = ()  # the values of resolve_* at the last call of `follow`

    def follow(self, hosts: Iterable[str], known: Resolution) -> None:
        """Look these names up from now on, and no others. known: the addresses that they have so far."""
        wanted = set(hosts)
        settings = self.context.settings
        values = tuple(getattr(settings, name) for name in settings.names() if name.startswith("resolve_"))
        if values != self._settings:
            self._settings = values
            for name in self._names.values():
                name.look_up_now()
        for host in [host for host in self._names if host not in wanted]:
            self._names.pop(host).stop()
        for host in wanted:
            if host not in self._names:
                self._names[host] = _ResolvedName(self, host, known.get(host, ()))

    def stop(self) -> None:
        """Stop all look-ups."""
        self.follow((), {})

    def look_up(self, host: str) -> Deferred[Found]:
        """Fires with the addresses of `host`; fails with NotFound."""
        return _look_up_in_thread(self.context, host)


class NoResolver:
    """Looks no names up, because another process does and sends the results."""

    def __init__(self, context: Context, resolved: Callable[[Resolution], Deferred[None]]) -> None:
        """context, resolved: as for a Resolver; not used."""

    def follow(self, hosts: Iterable[str], known: Resolution) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class _ResolvedName:
    """A host name with its addresses at the last look-up."""

    def __init__(self, resolver: Resolver, host: str, known: tuple[str, ...]) -> None:
        self.host = host
        self._resolver = resolver
        self._context = resolver.context
        self._addresses = known
        self._failures = 0
        self._failed_family = ""  # why one address family cannot be looked up; "": both can
        self._lookup: Deferred[int] | None = None
        self._job = PeriodicJob(self._context.reactor, self._begin, self._log_bug, MAX_RETRY_DELAY)
        self._job.start()

    def stop(self) -> None:
        self._job.stop()
        lookup, self._lookup = self._lookup, None
        if lookup is not None:
            cancel_pending(lookup, self._context.log)

    def look_up_now(self) -> None:
        """Look the name up now, unless a look-up is in progress."""
        if self._job.is_scheduled:
            self._job.start()

    def _begin(self) -> Deferred[int]:
        lookup: Deferred[int] = self._resolver.turns.run(lambda: Deferred.fromCoroutine(self._look_up()))
        self._lookup = lookup
        return lookup

    async def _look_up(self) -> int:
        """Look the name up once. Return the seconds until the next look-up."""
        from ktcpvs.system.lookup import NotFound

        settings = self._context.settings
        try:
            found = await self._resolver.look_up(self.host)
            await self._update(found)
        except (NotFound, Refusal) as error:
            return self._retry_delay(error)
        self._failures = 0
        return min(max(found.seconds, settings.resolve_least), settings.resolve_most)

    async def _update(self, found: Found) -> None:
        """Put the addresses found in force. If there are too many, those that are in use take precedence."""
        most, before = self._context.settings.resolve_addresses, self._addresses
        self._log_failed_family(found.failed)
        answered = found.beside(before)
        kept = [address for address in before if address in answered]
        now = (*kept, *(address for address in answered if address not in kept))[:most]
        if set(now) == set(before):
            if self._failures:
                self._log("{host} is found again, with the same addresses as before")
            return
        addresses = tuple(address for address in answered if address in now)
        await self._resolver.resolved({self.host: addresses})
        self._addresses = addresses
        self._log("{host} is {now}; before: {before}", now=_listed(addresses), before=_listed(before) or "not known")
        if len(answered) > most:
            self._log("{host} has {n} addresses; {most} of them serve", n=len(answered), most=most)

    def _log_failed_family(self, reason: str) -> None:
        """Log once that one address family cannot be looked up. reason: "" when both can."""
        before, self._failed_family = self._failed_family, reason
        if reason and reason != before:
            form = "{host} is found for one address family only: {reason}; it keeps its previous addresses"
            self._context.log.warn(form, host=self.host, reason=reason)

    def _retry_delay(self, error: Exception) -> int:
        """Log the first of several consecutive failures. Return the seconds until the next look-up."""
        if not self._failures:
            addresses = _listed(self._addresses)
            then = f"it stays {addresses}" if addresses else "each connection to it asks the system's resolver"
            self._context.log.warn("{host} is not found: {why}; {then}", host=self.host, why=error, then=then)
        self._failures += 1
        least = self._context.settings.resolve_least
        return int(min(least << min(self._failures - 1, 16), max(MAX_RETRY_DELAY, least)))

    def _log(self, form: str, **values: Any) -> None:
        self._context.log.event(ANNOUNCE, form, host=self.host, **values)

    def _log_bug(self, why: Failure) -> None:
        self._context.log.failure("internal error: {host} cannot be looked up", why, host=self.host)


def _listed(addresses: tuple[str, ...]) -> str:
    shown = ", ".join(addresses[:MAX_LOGGED_ADDRESSES])
    more = len(addresses) - MAX_LOGGED_ADDRESSES
    return f"{shown} and {more} more" if more > 0 else shown


def _look_up_in_thread(context: Context, host: str) -> Deferred[Found]:
    """Look `host` up in a daemon thread: a slow name server must not delay the reactor's thread pool or the end."""
    from ktcpvs.system.lookup import look_up  # imports a DNS client, whose memory only configurations with names need

    result: Deferred[Found] = Deferred()
    ipv6, nameservers = context.settings.resolve_ipv6, context.nameservers

    def ask() -> None:
        try:
            found: Any = look_up(host, ipv6, nameservers)
        except Exception:
            found = Failure()
        context.reactor.callFromThread(result.callback, found)

    threading.Thread(target=ask, name=f"look up {host}", daemon=True).start()
    return result
