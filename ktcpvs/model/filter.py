"""Which client addresses may come: the networks of a service's lists, made ready for looking an address up.

The most specific network that holds an address decides. One that none holds is denied where there is a list of those
allowed, and else allowed. All networks together are cut into ranges, in order; a look-up is one bisection.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from ktcpvs.model.network import Network, Networks


class _Ranges:
    """The addresses of one family: where each range begins, as packed bytes, and the network that holds it."""

    def __init__(self, bits: int, networks: Iterable[Network]) -> None:
        self._size = bits // 8
        end = 1 << bits
        found: dict[int, Network | None] = {0: None}
        around: list[Network] = []  # those that hold where we are, the most specific last

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
    """Knows who may come."""

    def __init__(self, allow: Networks, deny: Networks) -> None:
        both = (*allow.entries, *deny.entries)
        self._families = {bits // 8: _Ranges(bits, [one for one in both if one.bits == bits]) for bits in (32, 128)}
        self._denied = deny.known
        self._others = not allow

    def judge(self, packed: bytes) -> tuple[bool, Network | None]:
        """(may it come, the network that decides; None: no network holds it). packed: 4 or 16 bytes."""
        network = self._families[len(packed)].holder(packed)
        return (self._others if network is None else network not in self._denied), network


def filter_of(allow: Networks, deny: Networks) -> Filter | None:
    """None: everybody may come."""
    return Filter(allow, deny) if allow or deny else None
