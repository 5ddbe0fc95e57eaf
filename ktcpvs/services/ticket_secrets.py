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

MAX_DELAY = 2.0
"""A cluster that cannot be asked for another secret is awaited until this one is so many times as old as the setting
allows; then this daemon makes one alone."""


@frozen
class SecretsRecord:
    """The secrets of a daemon, for the one that takes over, or for the nodes of a cluster. current, previous: as in
    TicketSecrets. age: seconds since `current` was made."""

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
    """The secrets of session tickets. current: tickets are made with it. previous: its tickets are still accepted;
    None: there is none."""

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
        self._propose: Callable[[SecretsRecord], object] | None = None
        self._job = PeriodicJob(context.reactor, self._check, self._failed)
        self.adopt(former or SecretsRecord(os.urandom(SECRET_BYTES), None, 0.0))

    def start(self) -> None:
        """The reactor runs: rotate from now on."""
        self._job.start(CHECK_INTERVAL)

    def stop(self) -> None:
        self._job.stop()

    def rotate(self) -> None:
        """Make tickets with a new secret; those of the one before are still accepted."""
        self.adopt(self._next())

    def _next(self) -> SecretsRecord:
        return SecretsRecord(os.urandom(SECRET_BYTES), self.current, 0.0)

    def adopt(self, secrets: SecretsRecord) -> None:
        """Use these secrets from now on."""
        self.current, self.previous = secrets.current, secrets.previous
        self._made = self._context.monotonic() - secrets.age
        self._use(self.current, self.previous)

    def share(self, propose: Callable[[SecretsRecord], object]) -> None:
        """Let a cluster rotate. propose: called when it is time, with the secrets that could be next; `adopt` is called
        with those that all nodes use."""
        self._propose = propose

    def record(self) -> SecretsRecord:
        """Return the secrets as they are now."""
        return SecretsRecord(self.current, self.previous, self._age)

    @property
    def _age(self) -> float:
        """Seconds since `current` was made."""
        return self._context.monotonic() - self._made

    def _check(self) -> float:
        rotation = self._context.settings.tls_ticket_rotation * HOUR
        if self._age >= rotation:
            if self._propose is not None and self._age < MAX_DELAY * rotation:
                self._propose(self._next())
            else:
                self.rotate()
        return CHECK_INTERVAL

    def _failed(self, why: Any) -> None:
        self._context.log.failure("the secrets of session tickets cannot be rotated", why)
