"""Named values in etcd that only nodes with the secret of the cluster can read, or change unnoticed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from attrs import field, frozen

from ktcpvs.cluster.etcd import Change, Etcd, KeyValue, delete, is_unchanged, put
from ktcpvs.cluster.own_deletions import OwnDeletions
from ktcpvs.cluster.records import SECRETS, BadRecord, decode_sealed, encode_sealed
from ktcpvs.cluster.sealing import CannotOpen, Sealer
from ktcpvs.errors import BadValue, shorten

MAX_VALUE_BYTES = 256 << 10
"""The most bytes of one value."""

MAX_STORED_BYTES = 2 * MAX_VALUE_BYTES
"""The most bytes of one value as it is stored, sealed and in base64; a longer one is not read."""

MAX_VALUES = 4096
"""The most values. Further ones are neither stored nor read: a node has all of them in memory."""

MAX_NAMES, MAX_NAME_LENGTH = 5, 40
"""The most names, and the most characters of one, in a line about values that do not open."""


@frozen
class SealedValue:
    """A value that has been opened. revision: at which it was stored. is_current: it was sealed with the newest
    secret."""

    value: bytes = field(repr=False)
    revision: int
    is_current: bool = True


class SealedStore:
    """Follows the keys below `secrets/`. It provides Follower.

    is_usable: this node has a secret of the cluster, without which it can read nothing.
    """

    def __init__(self, etcd: Etcd, prefix: str, sealer: Sealer | None, always: Collection[str] = ()) -> None:
        """prefix: of all keys of the cluster. sealer: None: this node has no secret of the cluster. always: names of
        values that do not count for MAX_VALUES, and are stored and read however many others there are."""
        self._etcd = etcd
        self._prefix = f"{prefix}{SECRETS}"
        self._sealer = sealer
        self.is_usable = sealer is not None
        self._values: dict[str, SealedValue] = {}
        self._unopened: dict[str, tuple[int, str]] = {}  # (revision, why) of values that do not open
        self._has_too_many = False
        self._heard = 0  # revision of the last change that etcd has reported
        self._deleted = OwnDeletions()  # values, by name
        self._always = frozenset(always)

    def __repr__(self) -> str:
        return f"<SealedStore of {len(self._values)} values>"  # and not what they are

    def get(self, name: str) -> SealedValue | None:
        """Return a value; None: there is none, or it does not open."""
        return self._values.get(name)

    def names(self) -> Sequence[str]:
        """Return the names of all values that open."""
        return list(self._values)

    def is_key_of(self, beginning: str, key: str) -> bool:
        """Return whether this key of etcd stores a value whose name begins so."""
        return key.startswith(f"{self._prefix}{beginning}")

    def has(self, name: str) -> bool:
        """Return whether there is a value of this name, even one that does not open."""
        return name in self._values or name in self._unopened

    @property
    def problems(self) -> Sequence[str]:
        """The store cannot read these values, a line each."""
        if not self._unopened and not self._has_too_many:
            return ()
        if self._sealer is None:
            return ("the cluster's secrets are sealed, and this node has no --cluster-secret",)
        reasons: dict[str, list[str]] = {}
        for name in sorted(self._unopened):
            reasons.setdefault(self._unopened[name][1], []).append(shorten(name, MAX_NAME_LENGTH))
        more = [f"there are more than {MAX_VALUES} secrets of the cluster"] if self._has_too_many else []
        return [*(f"the cluster's secrets {_listed(names)}: {why}" for why, names in reasons.items()), *more]

    # What etcd says.

    def replace(self, revision: int, pairs: Iterable[KeyValue]) -> None:
        """See Follower."""
        self._values, self._unopened, self._has_too_many = {}, {}, False
        self._heard = revision
        self._deleted.clear()
        for pair in pairs:
            if pair.key.startswith(self._prefix):
                self._change(pair.key, pair.value, pair.mod_revision)

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        for change in changes:
            if change.key.startswith(self._prefix):
                self._change(change.key, change.value, change.mod_revision)

    def _change(self, key: str, stored: bytes | None, revision: int) -> None:
        name = key.removeprefix(self._prefix)
        self._heard = max(self._heard, revision)
        if self._deleted.hide(name, revision) or revision <= self._revision(name):
            return
        self._values.pop(name, None)
        self._unopened.pop(name, None)
        if stored is None:
            return
        if self._has_no_room(name):
            self._has_too_many = True
            return
        try:
            value, is_current = self._open(key, stored)
        except (BadRecord, CannotOpen) as why:
            self._unopened[name] = revision, str(why)
        else:
            self._values[name] = SealedValue(value, revision, is_current)

    def _open(self, key: str, stored: bytes) -> tuple[bytes, bool]:
        """Return a value, and whether it was sealed with the newest secret. Raises BadRecord and CannotOpen."""
        if len(stored) > MAX_STORED_BYTES:
            raise BadRecord(f"it has {len(stored)} bytes; expected at most {MAX_STORED_BYTES}")
        sealed = decode_sealed(stored)
        if self._sealer is None:
            raise CannotOpen("this node has no --cluster-secret")
        return self._sealer.open(key, sealed), self._sealer.is_newest(sealed)

    def _has_no_room(self, name: str) -> bool:
        """Return whether there are too many values for one more of this name."""
        count = len(self._values) + len(self._unopened)
        count -= sum(self.has(one) for one in self._always)
        return name not in self._always and not self.has(name) and count >= MAX_VALUES

    def _revision(self, name: str) -> int:
        if name in self._unopened:
            return self._unopened[name][0]
        return self._values[name].revision if name in self._values else 0

    async def joined(self) -> None:
        """See Follower. Seals again what was sealed with a former secret."""
        for name, value in list(self._values.items()):
            if not value.is_current:
                await self.put(name, value.value, value.revision)

    # Changing it.

    async def put(self, name: str, value: bytes, revision: int, also: Sequence[dict[str, Any]] = ()) -> bool:
        """Store a value, and return True; or False, if another node has stored one since, or one of the comparisons
        `also` does not hold.

        revision: of the value that this one replaces; 0: there is none. Raises BadValue for one that is too long, if
        there are too many, or if this node has no secret, and EtcdError.
        """
        if self._sealer is None:
            raise BadValue("a node needs a --cluster-secret to store secrets in the cluster")
        if len(value) > MAX_VALUE_BYTES:
            raise BadValue(f"secret {name}: it has {len(value)} bytes; expected at most {MAX_VALUE_BYTES}")
        if self._has_no_room(name):
            raise BadValue(f"secret {name}: the cluster has {MAX_VALUES} secrets already, which is the most")
        key = f"{self._prefix}{name}"
        stored = encode_sealed(self._sealer.seal(key, value))
        has_stored, at = await self._etcd.transact([is_unchanged(key, revision), *also], [put(key, stored)])
        if has_stored and at > self._heard:  # or else it is known already, and so is what came after it
            self._unopened.pop(name, None)
            self._values[name] = SealedValue(value, at)
        return has_stored

    async def delete(self, name: str, revision: int, also: Sequence[dict[str, Any]] = ()) -> bool:
        """Delete a value, and return True; or False, as `put`. revision: of that value. Raises EtcdError."""
        key = f"{self._prefix}{name}"
        is_deleted, at = await self._etcd.transact([is_unchanged(key, revision), *also], [delete(key)])
        if is_deleted and self._revision(name) == revision:
            self._values.pop(name, None)
            self._unopened.pop(name, None)
            if at > self._heard:
                self._deleted.add(name, at)
        return is_deleted


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
