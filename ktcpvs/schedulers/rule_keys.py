"""The keys of conditions and of requests: a condition holds for a request if they have one in common."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Generator, Hashable, Iterable, Iterator
from hashlib import blake2b

from ktcpvs.errors import shorten
from ktcpvs.model import conditions as kinds
from ktcpvs.model.conditions import SHARE_UNIT, Condition
from ktcpvs.model.network import parse_network
from ktcpvs.model.request_values import arguments, cookies, header_values
from ktcpvs.model.scheduling import Request
from ktcpvs.schedulers.rule_index import Keys, PatternSet

NAMES_PER_STEP = 1000
"""The most names whose patterns are compiled in one step of a binding."""

MAX_HOST_BYTES = 253
"""The longest host name (RFC 1035, section 2.3.4)."""

MAX_NAMES_SHOWN = 8
"""The most names that an explanation lists as missing in the request."""

BUCKETS = 100 * SHARE_UNIT
"""The number of groups into which `share` divides clients."""


def host_keys(name: str | None) -> list[Hashable]:
    """Return the hosts that conditions may name for a host: its own name, and `*.` with each of its parents."""
    if name is None or len(name) > MAX_HOST_BYTES:
        return []
    keys: list[Hashable] = [name]
    dot = name.find(".")
    while dot >= 0:
        keys.append("*" + name[dot:])
        dot = name.find(".", dot + 1)
    return keys


class Paths:
    """The conditions `path`: their keys, and how many bytes of a path they can tell apart."""

    __slots__ = ("_longest",)

    def __init__(self) -> None:
        self._longest = 0

    def keys_of(self, condition: Condition) -> Keys:
        """Return the keys under which a condition is found: those of prefixes end with a slash."""
        keys = [value.encode() for value in condition.values]
        self._longest = max(self._longest, *map(len, keys))
        return keys

    def keys(self, request: Request) -> list[Hashable]:
        path = request.normalized_path
        if not path.startswith(b"/"):
            return []
        keys: list[Hashable] = [path]
        if not path.endswith(b"/"):
            keys.append(path + b"/")
        slash = path.find(b"/", 0, self._longest)
        while slash >= 0:
            if slash + 1 < len(path):
                keys.append(path[: slash + 1])
            slash = path.find(b"/", slash + 1, self._longest)
        return keys


class Clients:
    """The conditions `from` and `share`: tables of prefixes, and of thresholds."""

    __slots__ = ("_ipv6_bits", "_lengths", "_thresholds")

    def __init__(self, ipv6_bits: int) -> None:
        self._ipv6_bits = ipv6_bits
        self._lengths: dict[int, set[int]] = {32: set(), 128: set()}
        self._thresholds: list[int] = []

    def networks_of(self, condition: Condition) -> Keys:
        networks = [parse_network(value) for value in condition.values]
        for network in networks:
            self._lengths[network.bits].add(network.length)
        return [(one.bits, one.length, one.first) for one in networks]

    def network_keys(self, request: Request) -> list[Hashable]:
        packed = packed_address(request.client)
        if packed is None:
            return []
        bits, number = len(packed) * 8, int.from_bytes(packed, "big")
        return [(bits, length, number >> (bits - length) << (bits - length)) for length in self._lengths[bits]]

    def shares_of(self, condition: Condition) -> Keys:
        if condition.share not in self._thresholds:
            self._thresholds = sorted({*self._thresholds, condition.share})
        return [condition.share]

    def bucket(self, request: Request) -> int:
        """Return the group of the client, from 0 to BUCKETS - 1."""
        return client_bucket(request.client, self._ipv6_bits)

    def share_keys(self, request: Request) -> list[Hashable]:
        """Return the shares that the client belongs to."""
        bucket = self.bucket(request)
        return list(self._thresholds[bisect_right(self._thresholds, bucket) :])


class NamedValues:
    """The conditions `header`, `cookie` or `query`. patterns: name -> those of its values."""

    __slots__ = ("_read", "patterns")

    def __init__(self, kind: str) -> None:
        self._read = {kinds.HEADER: self._headers, kinds.COOKIE: _cookies, kinds.QUERY: _arguments}[kind]
        self.patterns: dict[bytes, PatternSet] = {}

    @staticmethod
    def name_of(condition: Condition) -> bytes:
        """Return the name as a request would have it; those of headers in lower case."""
        name = condition.name.encode()
        return name.lower() if condition.kind == kinds.HEADER else name

    def keys_of(self, condition: Condition) -> Keys:
        name = self.name_of(condition)
        patterns = self.patterns.setdefault(name, PatternSet())
        if not condition.values:
            return [name]
        return [(name, patterns.number(value)) for value in condition.values]

    def compile(self, previous: NamedValues | None) -> Generator[None, None, None]:
        before = previous.patterns if previous is not None else {}
        for number, (name, patterns) in enumerate(self.patterns.items(), 1):
            yield from patterns.compile(before.get(name))
            if number % NAMES_PER_STEP == 0:
                yield

    def _headers(self, request: Request) -> Iterable[tuple[bytes, bytes]]:
        return header_values(request.lines, self.patterns)

    def keys(self, request: Request) -> list[Hashable]:
        keys: dict[Hashable, None] = {}
        for name, value in self._read(request):
            patterns = self.patterns.get(name)
            if patterns is not None:
                keys[name] = None
                for number in patterns.matching(value):
                    keys[name, number] = None
        return list(keys)

    def seen(self, kind: str, request: Request) -> Iterator[str]:
        """Say which values of these names the request has."""
        found = [(name, value) for name, value in self._read(request) if name in self.patterns]
        yield from (f"{kind} {shown(name)} is '{shown(value)}'" for name, value in found)
        missing = self.patterns.keys() - {name for name, _ in found}
        yield from (f"no {kind} {shown(name)}" for name in sorted(missing)[:MAX_NAMES_SHOWN])


def shown(data: bytes) -> str:
    return shorten(data.decode("utf-8", "backslashreplace"), 60)


def _cookies(request: Request) -> Iterable[tuple[bytes, bytes]]:
    return cookies(request.lines)


def _arguments(request: Request) -> Iterable[tuple[bytes, bytes]]:
    return arguments(request.path or b"")


def client_bucket(client: str, ipv6_bits: int) -> int:
    """Return the group (0..9999) of a client. client: its IP address, "" without one. ipv6_bits: the leading bits of an
    IPv6 address that identify a client."""
    packed = packed_address(client)
    if packed is not None and len(packed) == 16:
        number = int.from_bytes(packed, "big") >> (128 - ipv6_bits)
        packed = number.to_bytes(16, "big")
    return int.from_bytes(blake2b(packed or b"", digest_size=8).digest(), "big") * BUCKETS >> 64


def packed_address(client: str) -> bytes | None:
    """Return an IP address as 4 or 16 bytes, one of IPv4 that is mapped into IPv6 as 4; None: the client has none."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed
