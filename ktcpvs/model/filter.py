"""Allow and deny lists of client networks, prepared for fast look-ups.

The most specific network that contains an address decides. An address that no network contains is denied if the service
has an allow list, and allowed if it has none. All networks are cut into sorted ranges; a look-up is one bisection.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable

from ktcpvs.model.network import Network, Networks


class _Ranges:
    """The ranges of one address family: the first address of each, as packed bytes, and the network that decides."""

    def __init__(self, bits: int, networks: Iterable[Network]) -> None:
        self._size = bits // 8
        end = 1 << bits
        found: dict[int, Network | None] = {0: None}
        around: list[Network] = []  # the networks that contain the current position, the most specific last

        def leave(before: int) -> None:
            while around and around[-1].last < before:
                after = around.pop().last + 1
                if after < end:
                    found[after] = around[-1] if around else None

        for network in sorted(networks):
            leave(network.first)
            found[network.first] = network
            around.append(network)
        leave(end)
        begins = sorted(found)
        self._begins = [begin.to_bytes(self._size, "big") for begin in begins]
        self._holders = [found[begin] for begin in begins]

    def holder(self, packed: bytes) -> Network | None:
        return self._holders[bisect_right(self._begins, packed) - 1]


class Filter:
    """The allow and deny lists of one service."""

    def __init__(self, allow: Networks, deny: Networks) -> None:
        both = (*allow.entries, *deny.entries)
        self._families = {bits // 8: _Ranges(bits, [one for one in both if one.bits == bits]) for bits in (32, 128)}
        self._denied = deny.known
        self._others = not allow

    def judge(self, packed: bytes) -> tuple[bool, Network | None]:
        """Return (is the address allowed, the network that decides, or None). packed: the address, 4 or 16 bytes."""
        network = self._families[len(packed)].holder(packed)
        return (self._others if network is None else network not in self._denied), network

    def allows(self, address: str) -> bool:
        """Return whether an address is allowed. address: as text; an IPv4 address that is mapped into IPv6 counts as
        itself."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return self.judge(ip.packed)[0]


def filter_of(allow: Networks, deny: Networks) -> Filter | None:
    """Return the filter of these lists, or None if they allow every client."""
    return Filter(allow, deny) if allow or deny else None
