"""The nodes of a cluster share this of ACME: which node orders certificates, and the account and certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import field, frozen


class Leadership(Protocol):
    """Says whether this node may order certificates. At most one node of a cluster may at a time.

    A switch that is in no cluster has none, and may always order.
    """

    @property
    def is_leader(self) -> bool:
        """Whether this node may order now. An order in progress must look again before each of its steps, and stop once
        this is False: another node begins then. False while etcd does not respond."""

    @property
    def leader(self) -> str:
        """The name of the node that may order; "": none may now."""

    def observe(self, changed: Callable[[], object]) -> None:
        """Call `changed` each time that `is_leader` has changed."""

    async def resign(self) -> None:
        """Let another node order, since this one cannot reach the CA. Does nothing where no other node is alive. Never
        raises."""


@frozen
class SharedValue:
    """A value that the nodes share. revision: at which it was stored."""

    value: bytes = field(repr=False)
    revision: int


class SharedValues(Protocol):
    """Named values that all nodes of a cluster have, encrypted in etcd. A node that joins has them at once.

    is_complete: this node has joined the cluster, so that a value which it does not know does not exist.
    """

    is_complete: bool

    def names(self) -> Sequence[str]:
        """Return the names of all values."""

    def get(self, name: str) -> SharedValue | None:
        """Return a value; None: there is none, or this node cannot open it."""

    async def put(self, name: str, value: bytes, revision: int) -> bool:
        """Store a value for all nodes, and return True; or False, and store nothing, if another node has stored one
        since, or this node is not the leader any more.

        name: letters, digits and `.-_*:`. revision: of the value that this one replaces; 0: there is none. Raises a
        Refusal if the value or the number of values exceeds its limit, or etcd does not respond.
        """

    async def delete(self, name: str, revision: int) -> bool:
        """Delete a value for all nodes, and return True; or False, as `put`. revision: of that value. Raises a Refusal
        if etcd does not respond."""

    def observe(self, changed: Callable[[], object]) -> None:
        """Call `changed` each time that values have changed, on whatever node, and when this node has joined."""
