"""Looks up the names of servers again when their TTL is over: host names, and names of SRV records.

Of several processes, one looks names up and sends the results to the others. A name that is not found keeps its
addresses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from ktcpvs.errors import Refusal
from ktcpvs.model.address import SRV
from ktcpvs.model.expansion import Resolution
from ktcpvs.model.srv import is_target, read_target
from ktcpvs.runtime.context import Context
from ktcpvs.system.log import ANNOUNCE
from ktcpvs.system.pending import cancel_pending
from ktcpvs.system.periodic import PeriodicJob

MAX_CONCURRENT_LOOKUPS = 8
"""The most look-ups at the same time; further ones wait."""

MAX_RETRY_DELAY = 60
"""Seconds: the longest pause after a name was not found. The first pause is the setting resolve_least; each further
one is twice as long."""

ASKED_BY_CONNECTIONS = "each connection to it asks the system's resolver"

MAX_LOGGED_ADDRESSES = 8
"""The most addresses of one name in a line of the log."""


class Found(Protocol):
    """The result of a look-up: of a host name, or of SRV records."""

    @property
    def failed_form(self) -> str:
        """The line of the log for a look-up that has failed in part, with {host} and {reason}."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses, or the targets, in a stable order."""

    @property
    def seconds(self) -> int:
        """The time for which they are valid."""

    @property
    def failed(self) -> str:
        """The reason why a part of it could not be looked up; "": nothing has failed."""

    def beside(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return the addresses of a name that had the addresses `known`: a failed look-up removes none of them."""


@frozen
class Unresolved:
    """A name that has no addresses. since: seconds since 1970 at which it came into the table. reason: why the last
    look-up has failed; "": the first one is in progress."""

    since: float
    reason: str


class Resolver:
    """Keeps the addresses of the names in one table up to date.

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

    def unresolved(self) -> Mapping[str, Unresolved]:
        """Return the names that have no addresses, since no look-up has found any yet."""
        return {host: name.unresolved for host, name in self._names.items() if name.unresolved is not None}

    def stop(self) -> None:
        """Stop all look-ups."""
        self.follow((), {})

    def look_up(self, host: str) -> Deferred[Found]:
        """Fires with the addresses of `host`, or the targets of `srv:NAME`; fails with NotFound."""
        return _look_up_in_thread(self.context, host)


class NoResolver:
    """Looks no names up, because another process does and sends the results."""

    def __init__(self, context: Context, resolved: Callable[[Resolution], Deferred[None]]) -> None:
        """context, resolved: as for a Resolver; not used."""

    def follow(self, hosts: Iterable[str], known: Resolution) -> None:
        """Do nothing."""

    def unresolved(self) -> Mapping[str, Unresolved]:
        """Return nothing: the other process knows."""
        return {}

    def stop(self) -> None:
        """Do nothing."""


class _ResolvedName:
    """A host name with its addresses at the last look-up. unresolved: why it has none; None: it has some."""

    def __init__(self, resolver: Resolver, host: str, known: tuple[str, ...]) -> None:
        self.host = host
        self._resolver = resolver
        self._context = resolver.context
        self._addresses = known
        self.unresolved = None if known else Unresolved(resolver.context.wall(), "")
        self._failures = 0
        self._failed_part = ""  # why a part, as one address family, cannot be looked up; "": all can
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
            if self.unresolved is not None:
                self.unresolved = Unresolved(self.unresolved.since, str(error))
            return self._retry_delay(error)
        self._failures, self.unresolved = 0, None
        return min(max(found.seconds, settings.resolve_least), settings.resolve_most)

    async def _update(self, found: Found) -> None:
        """Put the addresses found in force. If there are too many, those that are in use take precedence."""
        most, before = self._context.settings.resolve_addresses, self._addresses
        self._log_failed_part(found)
        answered = found.beside(before)
        in_use = {_address_of(one) for one in before}
        now = sorted(answered, key=lambda one: (_priority_of(one), _address_of(one) not in in_use))[:most]
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

    def _log_failed_part(self, found: Found) -> None:
        """Log once that a part of the name cannot be looked up."""
        before, self._failed_part = self._failed_part, found.failed
        if found.failed and found.failed != before:
            self._context.log.warn(found.failed_form, host=self.host, reason=found.failed)

    def _retry_delay(self, error: Exception) -> int:
        """Log the first of several consecutive failures. Return the seconds until the next look-up."""
        if not self._failures:
            addresses = _listed(self._addresses)
            unknown = "no server of it is used until it is" if self.host.startswith(SRV) else ASKED_BY_CONNECTIONS
            then = f"it stays {addresses}" if addresses else unknown
            self._context.log.warn("{host} is not found: {why}; {then}", host=self.host, why=error, then=then)
        self._failures += 1
        least = self._context.settings.resolve_least
        return int(min(least << min(self._failures - 1, 16), max(MAX_RETRY_DELAY, least)))

    def _log(self, form: str, **values: Any) -> None:
        self._context.log.event(ANNOUNCE, form, host=self.host, **values)

    def _log_bug(self, why: Failure) -> None:
        self._context.log.failure("internal error: {host} cannot be looked up", why, host=self.host)


def _address_of(text: str) -> str:
    """Return the address of a target, or the address itself."""
    return text.partition(" ")[0]


def _priority_of(text: str) -> int:
    """Return the priority of a target; 0 for an address."""
    return read_target(text).priority if is_target(text) else 0


def _shown(text: str) -> str:
    """Return an address, or a target, for the log."""
    if not is_target(text):
        return text
    target = read_target(text)
    return f"{target.address} (priority {target.priority}, weight {target.weight})"


def _listed(addresses: tuple[str, ...]) -> str:
    shown = ", ".join(map(_shown, addresses[:MAX_LOGGED_ADDRESSES]))
    more = len(addresses) - MAX_LOGGED_ADDRESSES
    return f"{shown} and {more} more" if more > 0 else shown


def _look_up_in_thread(context: Context, host: str) -> Deferred[Found]:
    """Look `host` up in a daemon thread: a slow name server must not delay the reactor's thread pool or the end."""
    look_up = _look_up_function(host)
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


def _look_up_function(host: str) -> Callable[[str, int, Sequence[tuple[str, int]]], Found]:
    """Return what looks the name up. It imports a DNS client, whose memory only configurations with names need."""
    if host.startswith(SRV):
        from ktcpvs.system.srv_lookup import look_up_targets

        return look_up_targets
    from ktcpvs.system.lookup import look_up

    return look_up
