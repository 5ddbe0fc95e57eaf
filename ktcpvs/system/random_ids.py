"""Random identifiers, from random bytes that are drawn in bulk: one system call makes many of them."""

from __future__ import annotations

import os
from binascii import hexlify

ID_BYTES = 16
"""The random bytes of an identifier, which is written as hexadecimal digits."""

IDS_PER_DRAW = 256
"""The identifiers that one system call makes."""


class RandomIDs:
    """Makes identifiers that nobody can guess: their bytes come from the system's generator and are used once."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: list[bytes] = []

    def __repr__(self) -> str:
        return f"<RandomIDs, {len(self._left)} left>"

    def make(self) -> bytes:
        """Return a new identifier, as hexadecimal digits."""
        left = self._left
        if not left:
            digits = hexlify(os.urandom(ID_BYTES * IDS_PER_DRAW))
            size = 2 * ID_BYTES
            left.extend([digits[place : place + size] for place in range(0, len(digits), size)])
        return left.pop()

    def clear(self) -> None:
        """Forget what is drawn: a process that has forked must not use the same bytes in the child."""
        self._left.clear()


request_ids = RandomIDs()
"""The IDs of this process's requests."""

os.register_at_fork(after_in_child=request_ids.clear)
