"""Values that several visitors share: made once for all who wait, and kept for a short time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")

MAX_AGE = 0.5
"""Seconds for which a value is kept at least."""

REST = 4
"""A value that takes long to make is kept this many times as long: making it takes a fifth of the time at most."""


class SharedValue(Generic[T]):
    """A value made by `make`. While it is being made, everybody who asks waits for the same one."""

    def __init__(self, make: Callable[[], Awaitable[T]], reactor: Any) -> None:
        """reactor: its clock says how long making takes, and its timer forgets the value."""
        self._make = make
        self._reactor = reactor
        self._waiting: list[Deferred[T]] = []
        self._is_making = False
        self._kept: list[T] = []  # at most one
        self._expiry: Any = None

    def get(self) -> Deferred[T]:
        """The value. Cancelling the Deferred ends this wait only, and not the making. Fails as `make` does."""
        answer: Deferred[T] = Deferred(self._waiting.remove)
        if self._kept:
            answer.callback(self._kept[0])
            return answer
        self._waiting.append(answer)
        if not self._is_making:
            self._is_making = True
            Deferred.fromCoroutine(self._make_once())
        return answer

    def forget(self) -> None:
        """Drop the value that is kept."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expire()

    async def _make_once(self) -> None:
        began = self._reactor.seconds()
        try:
            value: Any = await self._make()
        except Exception:
            value = Failure()
        else:
            age = max(MAX_AGE, REST * (self._reactor.seconds() - began))
            self._kept.append(value)
            self._expiry = self._reactor.callLater(age, self._expire)
        self._is_making = False
        while self._waiting:  # a waiter that is told may make others leave
            self._waiting.pop(0).callback(value)

    def _expire(self) -> None:
        self._expiry = None
        self._kept.clear()
