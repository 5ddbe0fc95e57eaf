"""The secrets from which the keys of session tickets are derived: made, rotated, and handed to other processes.

They never touch a disk, so that whoever steals one later cannot decrypt what was recorded before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from ktcpvs.runtime.context import Context
from ktcpvs.system.periodic import PeriodicJob

SECRET_BYTES = 32

CHECK_INTERVAL = 60.0
"""Seconds between two checks whether a secret is old enough: the setting may change at any moment."""

HOUR = 3600


@frozen
class SecretsRecord:
    """The secrets of a daemon, for the one that takes over. current, previous: as in TicketSecrets. age: seconds since
    `current` was made."""

    current: bytes = field(repr=False)
    previous: bytes | None = field(repr=False)
    age: float

    def described(self) -> dict[str, Any]:
        """As plain data, which `read` reads back."""
        previous = None if self.previous is None else self.previous.hex()
        return {"current": self.current.hex(), "previous": previous, "age": self.age}

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> SecretsRecord:
        """Raises KeyError, TypeError or ValueError."""
        previous = data["previous"]
        return cls(_secret(data["current"]), None if previous is None else _secret(previous), float(data["age"]))


def _secret(text: str) -> bytes:
    secret = bytes.fromhex(text)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret of {len(secret)} bytes")
    return secret


class TicketSecrets:
    """current: tickets are made with it. previous: its tickets are still accepted; None: there is none."""

    def __init__(
        self,
        context: Context,
        use: Callable[[bytes, bytes | None], object],
        former: SecretsRecord | None = None,
    ) -> None:
        """use: called with `current` and `previous`, now and after each rotation. former: the secrets of the daemon
        that this one takes over from; None: new ones are made."""
        self._context = context
        self._use = use
        self._made = context.monotonic()
        self.current = os.urandom(SECRET_BYTES)
        self.previous: bytes | None = None
        if former is not None:
            self.current, self.previous = former.current, former.previous
            self._made -= former.age
        self._job = PeriodicJob(context.reactor, self._check, self._failed)
        use(self.current, self.previous)

    def start(self) -> None:
        """The reactor runs: rotate from now on."""
        self._job.start(CHECK_INTERVAL)

    def stop(self) -> None:
        self._job.stop()

    def rotate(self) -> None:
        """Make tickets with a new secret; those of the one before are still accepted."""
        self.current, self.previous = os.urandom(SECRET_BYTES), self.current
        self._made = self._context.monotonic()
        self._use(self.current, self.previous)

    def record(self) -> SecretsRecord:
        """Return the secrets for a daemon that takes over."""
        return SecretsRecord(self.current, self.previous, self._age)

    @property
    def _age(self) -> float:
        """Seconds since `current` was made."""
        return self._context.monotonic() - self._made

    def _check(self) -> float:
        if self._age >= self._context.settings.tls_ticket_rotation * HOUR:
            self.rotate()
        return CHECK_INTERVAL

    def _failed(self, why: Any) -> None:
        self._context.log.failure("the secrets of session tickets cannot be rotated", why)
