"""Decodes field blocks (RFC 7541), within limits, and remembers blocks that the dynamic table lets it remember."""

from __future__ import annotations

from ktcpvs.protocols.http2.constants import DEFAULT_TABLE_SIZE
from ktcpvs.protocols.http2.errors import HPACKError
from ktcpvs.protocols.http2.fields import STATIC_FIELDS, Field, make_field
from ktcpvs.protocols.http2.hpack_table import FIRST_DYNAMIC
from ktcpvs.protocols.http2.huffman import decode as decode_huffman
from ktcpvs.protocols.http2.section import FieldSection

MAX_INTEGER_BYTES = 4
"""The most bytes of an integer behind its prefix: 28 bits, more than any size that is accepted."""

MAX_TABLE_UPDATES = 8
"""The most changes of the table's size at the beginning of a block. Two would do (RFC 7541, section 4.2), but hpack
sends each of them."""

MAX_REMEMBERED = 16
"""The most blocks that are remembered for one connection."""

MAX_REMEMBERED_BYTES = 512
"""The longest block that is remembered."""


MAX_REMEMBERED_LIST = 4096
"""The longest list whose block is remembered, in bytes as for `max_list_size`: a short block can mean a long list."""


class Decoder:
    """The decoding context of one connection.

    table_size: bytes that the peer's dynamic table may have, as SETTINGS_HEADER_TABLE_SIZE. max_list_size: bytes of a
    header list, 32 added for each field. max_fields: of a list.

    A block that does not change the table means the same until another one changes it. Clients that send the same
    fields again, or only another path, send such blocks.
    """

    __slots__ = ("_fields", "_known", "_limit", "_max_fields", "_max_list_size", "_max_size", "_size")

    def __init__(self, max_list_size: int, max_fields: int, table_size: int = DEFAULT_TABLE_SIZE) -> None:
        self._fields = list(STATIC_FIELDS)  # by index: the static table, then the dynamic one
        self._size = 0  # of the dynamic table
        self._max_size = self._limit = table_size
        self._max_list_size = max_list_size
        self._max_fields = max_fields
        self._known: dict[bytes, FieldSection] = {}

    def decode(self, block: bytes) -> FieldSection:
        """Return the fields of a block. Raises HPACKError.

        If there are more than the limits allow, the section is `is_too_large` and has none; the table is in step with
        the peer's nevertheless.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            section, size, is_changed = self._decode(block)
        except IndexError:
            raise HPACKError("a field block is cut off, or has an index that is in no table") from None
        if is_changed:
            self._known.clear()
        elif len(block) <= MAX_REMEMBERED_BYTES and size <= MAX_REMEMBERED_LIST and not section.is_too_large:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[block] = section
        return section

    def _decode(self, block: bytes) -> tuple[FieldSection, int, bool]:
        """Return the section, the size of the list, and whether the table has changed. Raises HPACKError, and
        IndexError at the end."""
        position = self._update_size(block)
        is_changed = position > 0
        table, end = self._fields, len(block)
        fields: list[Field] = []
        sensitive: list[bytes] = []
        append = fields.append
        size = 0
        is_too_large = False
        while position < end:
            byte = block[position]
            if byte > 0x80:
                if byte == 0xFF:
                    index, position = _integer(block, position, 0x7F)
                else:
                    index = byte & 0x7F
                    position += 1
                field = table[index]
            elif byte & 0xE0 == 0x20 or byte == 0x80:
                raise HPACKError("a change of the table's size behind a field, or index 0")
            else:
                field, position = self._literal(block, position)
                if byte >= 0x40:
                    is_changed = True
                    self._add(field)
                elif byte >= 0x10:
                    sensitive.append(field.name)
            size += field.size
            append(field)
            if size > self._max_list_size or len(fields) > self._max_fields:
                is_too_large = True
                fields.clear()  # and read on, to keep the table in step
                sensitive.clear()
        if is_too_large:
            fields.clear()
        return FieldSection(tuple(fields), frozenset(sensitive), is_too_large), size, is_changed

    def _update_size(self, block: bytes) -> int:
        """Read changes of the table's size at the beginning of a block; return where they end."""
        position = changes = 0
        while block[position : position + 1] and block[position] & 0xE0 == 0x20:
            size, position = _integer(block, position, 0x1F)
            changes += 1
            if size > self._limit or changes > MAX_TABLE_UPDATES:
                raise HPACKError(f"the table's size is changed too often, or to more than {self._limit} bytes")
            self._max_size = size
            self._evict(size)
        return position

    def _literal(self, block: bytes, position: int) -> tuple[Field, int]:
        """Read a literal field at `position`; return it, and where it ends."""
        byte = block[position]
        prefix = 0x3F if byte >= 0x40 else 0x0F
        index = byte & prefix
        if index == prefix:
            index, position = _integer(block, position, prefix)
        else:
            position += 1
        if index:
            name = self._fields[index].name
        else:
            name, position = _string(block, position)
        value, position = _string(block, position)
        return make_field(name, value), position

    def _add(self, field: Field) -> None:
        """Add a field to the table (RFC 7541, section 4.4): one that is too large empties it."""
        size = field.size
        self._evict(self._max_size - size)
        if size <= self._max_size:
            self._fields.insert(FIRST_DYNAMIC, field)
            self._size += size

    def _evict(self, most: int) -> None:
        """Remove the oldest fields until those left have at most this size."""
        while self._size > most and self._size:
            self._size -= self._fields.pop().size


def _integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """Read an integer (RFC 7541, section 5.1); return it, and where it ends. prefix: the mask of its first byte."""
    number = block[position] & prefix
    position += 1
    if number < prefix:
        return number, position
    for shift in range(0, 7 * MAX_INTEGER_BYTES, 7):
        byte = block[position]
        position += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise HPACKError(f"an integer has more than {MAX_INTEGER_BYTES} bytes")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """Read a string (RFC 7541, section 5.2); return it, and where it ends."""
    byte = block[position]
    length = byte & 0x7F
    if length == 0x7F:
        length, position = _integer(block, position, 0x7F)
    else:
        position += 1
    end = position + length
    if end > len(block):
        raise HPACKError("a string is longer than the rest of its field block")
    text = block[position:end]
    if byte < 0x80:
        return text, end
    decoded = decode_huffman(text)
    if decoded is None:
        raise HPACKError("a string has a malformed Huffman code")
    return decoded, end
