"""Keys that this node has deleted, until the watch tells of it: what the watch tells before that is older."""

from __future__ import annotations


class OwnDeletions:
    """The revisions of the deletions, by key."""

    def __init__(self) -> None:
        self._revisions: dict[str, int] = {}

    def add(self, key: str, revision: int) -> None:
        """This node has deleted a key, and the watch has not told of it yet."""
        self._revisions[key] = revision

    def hide(self, key: str, revision: int) -> bool:
        """Return whether a change that the watch tells was before the deletion of its key."""
        if revision < self._revisions.get(key, 0):
            return True
        self._revisions.pop(key, None)
        return False

    def clear(self) -> None:
        """All keys have been read."""
        self._revisions.clear()
