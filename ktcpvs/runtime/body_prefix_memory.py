"""The memory of bodies that requests hold for schedulers, counted over all connections of one process."""

from __future__ import annotations


class BodyPrefixMemory:
    """Counts the bytes of bodies that wait for a scheduler or for a server. used: bytes."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    def has_room(self, size: int, limit: int) -> bool:
        """Return whether further bytes fit. size: of them. limit: in KiB."""
        return self.used + size <= limit << 10
