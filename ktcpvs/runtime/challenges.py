"""The challenges of ACME that a process answers: by the path of a request, and by the name in a ClientHello."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from contextlib import suppress

from attrs import Factory, frozen

from ktcpvs.model.challenges import HTTP_01, TLS_ALPN_01, Challenge

CHALLENGE_PATH = b"/.well-known/acme-challenge/"
"""The path of a challenge without its token (RFC 8555, section 8.3)."""


@frozen
class PendingChallenges:
    """The challenges of ACME that are pending in this process. challenges: all of them. responses: path of a request ->
    key authorization; None: there are none. names: server name in a ClientHello -> its challenge."""

    challenges: tuple[Challenge, ...] = ()
    responses: Mapping[bytes, bytes] | None = None
    names: Mapping[str, Challenge] = Factory(dict)

    @classmethod
    def of(cls, challenges: Iterable[Challenge]) -> PendingChallenges:
        """Return these challenges, of which the last one for a name counts."""
        found = tuple(challenges)
        responses = {
            CHALLENGE_PATH + one.token.encode(): one.key_authorization.encode() for one in found if one.kind == HTTP_01
        }
        names = {server_name(one.name): one for one in found if one.kind == TLS_ALPN_01}
        return cls(found, responses or None, names)


def server_name(name: str) -> str:
    """Return the server name by which a CA asks for a host name or an address (RFC 8738, section 6)."""
    with suppress(ValueError):
        return ipaddress.ip_address(name).reverse_pointer
    return name.lower().removesuffix(".")


NO_CHALLENGES = PendingChallenges()
