"""The hosts of each TLS profile, so that requests for those of another profile can be told apart.

A client may send requests for several hosts on one connection (RFC 9113, section 9.1.1), and name any host in them.
Where services demand different things of their clients, for example certificates, a request must not reach on a
connection to one service what another service guards.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from attrs import frozen


@frozen
class ForeignHosts:
    """The hosts that certificates of other TLS profiles name and those of one's own do not.

    owners: host or wildcard (`*.example.com`), in lower case -> whether it belongs to another profile. A wildcard
    stands for exactly one label (RFC 9525, section 6.3), and a host's own name counts before it.
    """

    owners: Mapping[bytes, bool]

    def __contains__(self, host: bytes) -> bool:
        """Return whether a request for this host is misdirected. host: in lower case, without a port. A host that no
        certificate names is not: rules decide about it."""
        name = host.strip(b"[]")
        is_foreign = self.owners.get(name)
        if is_foreign is None:
            is_foreign = self.owners.get(b"*." + name.partition(b".")[2], False)
        return is_foreign


def foreign_hosts(names: Iterable[tuple[Hashable, Iterable[str]]]) -> dict[Hashable, ForeignHosts]:
    """Return the foreign hosts of each profile that has any.

    names: a profile, and the names of certificates that its services have, in lower case; a profile may come several
    times.
    """
    profiles: dict[Hashable, set[bytes]] = {}
    for profile, hosts in names:
        profiles.setdefault(profile, set()).update(host.encode() for host in hosts)
    if len(profiles) < 2:
        return {}
    everywhere = frozenset().union(*profiles.values())
    return {
        profile: ForeignHosts({name: name not in own for name in everywhere})
        for profile, own in profiles.items()
        if own != everywhere
    }
