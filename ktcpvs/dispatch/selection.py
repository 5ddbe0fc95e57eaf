"""Whom a service's scheduler cannot serve as it would: the fallback chooses, or the scheduler anew, from fewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve

from ktcpvs.model.destination import Destination
from ktcpvs.model.health import EJECTED
from ktcpvs.model.retries import RetryBudget
from ktcpvs.model.scheduling import Choice, Request
from ktcpvs.model.service import VirtualService
from ktcpvs.runtime.context import Context
from ktcpvs.system.pending import cancel_pending


class Selector:
    """What a running service has for them."""

    context: Context
    config: VirtualService
    scheduler: Any
    usable: frozenset[Destination]
    down: set[Destination]
    retries: RetryBudget
    _limited: tuple[Destination, ...]
    _fallback: Callable[[], Any] | None
    _bound_fallback: Any

    @property
    def ident(self) -> str:
        return self.config.ident

    def fall_back(self, request: Request, why: str) -> Choice | None:
        """The fallback scheduler's choice, since the scheduler has none: `why`."""
        try:
            if self._bound_fallback is None and self._fallback is not None:
                self._bound_fallback = self._fallback()
            choice = self._bound_fallback.choose(request) if self._bound_fallback is not None else None
        except Exception:
            self.context.log.failure(
                "fallback {name} of service {ident} failed", name=self.config.fallback, ident=self.ident
            )
            return None
        if not isinstance(choice, Choice) or choice.destination not in self.usable:
            cancel_pending(choice, self.context.log)
            return None
        return evolve(choice, reason=f"fallback {self.config.fallback}, since {why}: {choice.reason}")

    def instead_of_full(self, choice: Choice, request: Request) -> Choice | None:
        """Another choice, since the one made has no room now; None: wait for room."""
        if choice.waits:
            return None
        return self._another(request, {destination for destination in self._limited if destination.is_full})

    def instead_of_silent(self, silent: Destination, request: Request) -> Choice | None:
        """Another choice, since that destination does not answer; None: there is none, or no room for more retries."""
        if not self.may_retry():
            return None
        return self._another(request, {silent, *(destination for destination in self._limited if destination.is_full)})

    def may_retry(self) -> bool:
        """May one more request that a server did not answer go to another one?"""
        settings = self.context.settings
        live = sum(destination.own for destination in self.usable)
        return self.retries.allows(live, settings.retry_budget, settings.retry_least)

    def last_resort(self, request: Request) -> Choice | None:
        """One of those that clients' errors have ejected, since nobody else is left: better than nobody."""
        ejected = {one for one in self.down if one.health.state == EJECTED and not one.is_full} - request.failed
        choice = self._asked(request, request.tried - ejected) if ejected else None
        return None if choice is None else evolve(choice, reason=f"{choice.reason}, ejected, since nobody else is left")

    def _another(self, request: Request, not_these: set[Destination]) -> Choice | None:
        """Whom the scheduler chooses, at once, besides these."""
        return self._asked(request, request.tried | not_these)

    def _asked(self, request: Request, not_these: set[Destination]) -> Choice | None:
        """Whom the scheduler chooses, at once, when these are as tried."""
        tried = request.tried
        request.tried = not_these
        try:
            other = self.scheduler.choose(request)
            usable = isinstance(other, Choice) and other.destination in self.usable.difference(request.tried)
        except Exception:
            self.context.log.failure("scheduler of service {ident} failed", ident=self.ident)
            return None
        finally:
            request.tried = tried
        if usable:
            found: Choice = other
            return found
        cancel_pending(other, self.context.log)
        return None
