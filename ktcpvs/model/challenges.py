"""Challenges of ACME: what a certificate authority looks for at a name, to see that it belongs to this switch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import field, frozen

HTTP_01, TLS_ALPN_01 = KINDS = ("http-01", "tls-alpn-01")
"""The kinds of challenges that a switch can answer (RFC 8555 section 8.3, RFC 8737)."""


@frozen
class Challenge:
    """One challenge. kind: one of KINDS. name: the host name or address to be proved. token: as the CA has sent it.
    key_authorization: the token and the thumbprint of the account's key (RFC 8555 section 8.1)."""

    kind: str
    name: str
    token: str
    key_authorization: str = field(repr=False)


class ChallengePublisher(Protocol):
    """Has all that serve clients answer challenges: this process or its workers, and all nodes of a cluster."""

    async def publish(self, challenges: Sequence[Challenge]) -> None:
        """Answer these challenges from now on. Returns when each process of this node does, and, in a cluster, each
        node that is alive. Raises a Refusal with the reason if that cannot be."""

    async def withdraw(self, challenges: Sequence[Challenge]) -> None:
        """Answer these no longer. Never raises."""
