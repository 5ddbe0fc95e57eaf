"""Values that several HTTP requests share: computed once for all that wait, and cached for a short time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

MIN_AGE = 0.5
"""Seconds for which a value is cached at least."""

AGE_PER_COST = 4
"""A value is cached for this many times as long as it took, so that computing takes a fifth of the time at most."""


class SharedValue(Generic[T]):
    """A value that `compute` returns. All requests that come while it is computed wait for the same result."""

    def __init__(self, compute: Callable[[], Awaitable[T]], reactor: Any) -> None:
        """reactor: measures the time of `compute`, and its timer drops the value."""
        self._compute = compute
        self._reactor = reactor
        self._waiting: list[Deferred[T]] = []
        self._is_computing = False
        self._cached: list[T] = []  # at most one
        self._expiry: Any = None

    def get(self) -> Deferred[T]:
        """Return the value. Cancelling the Deferred ends only this wait. Fails as `compute` does."""
        result: Deferred[T] = Deferred(self._waiting.remove)
        if self._cached:
            result.callback(self._cached[0])
            return result
        self._waiting.append(result)
        if not self._is_computing:
            self._is_computing = True
            Deferred.fromCoroutine(self._compute_once())
        return result

    def forget(self) -> None:
        """Drop the cached value."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expire()

    async def _compute_once(self) -> None:
        began = self._reactor.seconds()
        try:
            value: Any = await self._compute()
        except Exception:
            value = Failure()
        else:
            age = max(MIN_AGE, AGE_PER_COST * (self._reactor.seconds() - began))
            self._cached.append(value)
            self._expiry = self._reactor.callLater(age, self._expire)
        self._is_computing = False
        while self._waiting:  # the callback of one waiter may cancel others
            self._waiting.pop(0).callback(value)

    def _expire(self) -> None:
        self._expiry = None
        self._cached.clear()
