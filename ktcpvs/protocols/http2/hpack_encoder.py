"""Encodes header lists (RFC 7541), and remembers the blocks of lists that are sent again."""

from __future__ import annotations

from collections import deque

from ktcpvs.protocols.http2.constants import DEFAULT_TABLE_SIZE
from ktcpvs.protocols.http2.header_list import HeaderList
from ktcpvs.protocols.http2.hpack_table import ENTRY_OVERHEAD, FIRST_DYNAMIC, STATIC_TABLE
from ktcpvs.protocols.http2.huffman import IS_COMPILED
from ktcpvs.protocols.http2.huffman import encode as encode_huffman

MAX_SEEN = 128
"""The most fields that are remembered because they were sent once."""

MAX_REMEMBERED = 16
"""The most lists whose blocks are remembered for one connection."""

_STATIC_PAIRS = {pair: index for index, pair in reversed(list(enumerate(STATIC_TABLE, 1))) if pair[1]}
_STATIC_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(STATIC_TABLE, 1)))}


def _integer(number: int, prefix: int, first: int) -> bytes:
    """An integer (RFC 7541, section 5.1). prefix: the mask of its first byte. first: the other bits of that byte."""
    if number < prefix:
        return bytes((first | number,))
    out = bytearray((first | prefix,))
    number -= prefix
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_INDEXED = [_integer(index, 0x7F, 0x80) for index in range(256)]
"""The block of an indexed field, by its index."""

_LENGTHS = [_integer(length, 0x7F, 0) for length in range(256)]
_CODED_LENGTHS = [_integer(length, 0x7F, 0x80) for length in range(256)]


def _string(text: bytes) -> bytes:
    """A string, in the shorter form. Coding takes long where it is not compiled, so there strings are sent as they
    are."""
    length = len(text)
    if IS_COMPILED:
        coded = encode_huffman(text)
        if len(coded) < length:
            length = len(coded)
            return (_CODED_LENGTHS[length] if length < 256 else _integer(length, 0x7F, 0x80)) + coded
    return (_LENGTHS[length] if length < 256 else _integer(length, 0x7F, 0)) + text


class Encoder:
    """The encoding context of one connection.

    A field enters the table when it is sent for the second time, so fields whose values never come again do not push
    out those that do. A list whose block does not change the table is remembered until another one changes it.
    """

    __slots__ = ("_added", "_entries", "_known", "_max_size", "_numbers", "_seen", "_size", "_updates")

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, bytes]] = deque()  # oldest first
        self._numbers: dict[tuple[bytes, bytes], int] = {}  # pair -> how many entries were added before it
        self._added = 0
        self._size = 0
        self._max_size = DEFAULT_TABLE_SIZE
        self._updates: list[int] = []  # changes of the size that the peer must be told
        self._seen: set[int] = set()  # hashes of pairs
        self._known: dict[HeaderList, bytes] = {}

    def set_table_size(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE is `size` from now on. More than the default is not used."""
        size = min(size, DEFAULT_TABLE_SIZE)
        if size == self._max_size:
            return
        # If it changes twice before a block, the smaller one must be told too (RFC 7541, section 4.2).
        self._updates = [size] if not self._updates or size <= min(self._updates) else [min(self._updates), size]
        self._max_size = size
        self._evict(size)
        self._known.clear()

    def encode(self, headers: HeaderList) -> bytes:
        """Return the block of a list."""
        known = self._known.get(headers)
        if known is not None:
            return known
        added, updates = self._added, self._updates
        out = [_integer(size, 0x1F, 0x20) for size in updates]
        self._updates = []
        numbers, sensitive = self._numbers, headers.sensitive
        is_settled = not updates  # the next block of this list will be the same
        for pair in headers.pairs:
            index = _STATIC_PAIRS.get(pair)
            if index is None:
                number = numbers.get(pair)
                if number is None:
                    is_sensitive = pair[0] in sensitive
                    is_settled = is_settled and is_sensitive
                    out.append(self._literal(pair, is_sensitive))
                    continue
                index = FIRST_DYNAMIC + self._added - number - 1
            out.append(_INDEXED[index])
        block = b"".join(out)
        if added != self._added:
            self._known.clear()
        elif is_settled:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[headers] = block
        return block

    def _literal(self, pair: tuple[bytes, bytes], is_sensitive: bool) -> bytes:
        name, value = pair
        index = _STATIC_NAMES.get(name, 0)
        if is_sensitive:
            first, prefix = 0x10, 0x0F
        elif (seen := hash(pair)) in self._seen and len(name) + len(value) + ENTRY_OVERHEAD <= self._max_size:
            first, prefix = 0x40, 0x3F
            self._add(pair)
        else:
            first, prefix = 0, 0x0F
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
            self._seen.add(seen)
        start = _integer(index, prefix, first)
        return start + _string(value) if index else start + _string(name) + _string(value)

    def _add(self, pair: tuple[bytes, bytes]) -> None:
        size = len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD
        self._evict(self._max_size - size)
        self._entries.append(pair)
        self._numbers[pair] = self._added
        self._added += 1
        self._size += size

    def _evict(self, most: int) -> None:
        """Remove the oldest entries until those left have at most this size."""
        while self._size > most:
            pair = self._entries.popleft()
            del self._numbers[pair]
            self._size -= len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD
