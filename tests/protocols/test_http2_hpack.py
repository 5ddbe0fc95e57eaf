"""Header compression: the examples of RFC 7541, malformed blocks, limits, and `hpack` as the oracle."""

from __future__ import annotations

import shutil
from typing import Any

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from http2_forms import DECODERS, ENCODERS, BothDecoders, BothEncoders
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.protocols.http2 import HeaderList, HPACKError, huffman, huffman_python
from ktcpvs.protocols.http2 import hpack as compression
from ktcpvs.protocols.http2.header_list import ALWAYS_SENSITIVE
from ktcpvs.protocols.http2.hpack_decoder import MAX_REMEMBERED, MAX_TABLE_UPDATES
from ktcpvs.protocols.http2.hpack_table import CODE_LENGTHS, STATIC_TABLE, huffman_codes

Pairs = list[tuple[bytes, bytes]]


def decoder(max_list_size: int = 65536, max_fields: int = 512) -> BothDecoders:
    return BothDecoders(max_list_size, max_fields)


def pairs(decoded: Any) -> Pairs:
    return [(field.name, field.value) for field in decoded.fields]


# Huffman coding.


def test_the_code_is_that_of_appendix_b() -> None:
    assert list(CODE_LENGTHS) == list(REQUEST_CODES_LENGTH)
    assert huffman_codes() == list(REQUEST_CODES)


def test_the_compiled_form_is_tested_where_it_can_be_built() -> None:
    assert (shutil.which("cc") is not None) == huffman.IS_COMPILED == compression.IS_COMPILED


@given(st.binary(max_size=300))
def test_any_string_is_coded_as_by_hpack_and_read_back(text: bytes) -> None:
    coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)
    assert huffman_python.encode(text) == huffman.encode(text) == coded
    assert huffman_python.decode(coded) == huffman.decode(coded) == text


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_as_by_hpack(coded: bytes) -> None:
    try:
        theirs: bytes | None = decode_huffman(coded)
    except hpack.HPACKDecodingError:
        theirs = None
    assert huffman_python.decode(coded) == huffman.decode(coded)
    assert huffman.decode(coded) == theirs


@pytest.mark.parametrize(
    "coded",
    [b"\xff", b"\xff\xff\xff\xff", b"\x18", b"\x1f\xff", b"\xff\xff\xff\xfc", b"\x1e"],
    ids=["8 bits of padding", "EOS", "padding of 0", "too much padding", "EOS and more", "padding with a 0"],
)
def test_malformed_codes_are_refused(coded: bytes) -> None:
    assert huffman.decode(coded) is None
    assert huffman_python.decode(coded) is None


@pytest.mark.parametrize(
    ("text", "coded"),
    [
        (b"www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
        (b"no-cache", "a8eb10649cbf"),
        (b"302", "6402"),
        (b"private", "aec3771a4b"),
        (b"", ""),
    ],
)
def test_the_examples_of_rfc_7541_c_4_and_c_6(text: bytes, coded: str) -> None:
    assert huffman.encode(text) == huffman_python.encode(text) == bytes.fromhex(coded)
    assert huffman.decode(bytes.fromhex(coded)) == huffman_python.decode(bytes.fromhex(coded)) == text


# Blocks.

REQUESTS = (
    [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")],
    [
        (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com"),
        (b"cache-control", b"no-cache"),
    ],
    [
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
)  # fmt: skip


@pytest.mark.parametrize(
    "blocks",
    [
        (
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
    ],
    ids=["C.3", "C.4"],
)
def test_the_examples_of_requests(blocks: tuple[str, ...]) -> None:
    one = decoder()
    for text, expected in zip(blocks, REQUESTS, strict=True):
        assert pairs(one.decode(bytes.fromhex(text))) == expected


def test_the_examples_of_responses_evict_entries() -> None:
    """RFC 7541, C.5: a table of 256 bytes."""
    one = BothDecoders(65536, 512, 256)
    first = (
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e17687474"
        "70733a2f2f7777772e6578616d706c652e636f6d"
    )
    common = [(b"cache-control", b"private"), (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")]
    place = (b"location", b"https://www.example.com")
    assert pairs(one.decode(bytes.fromhex(first))) == [(b":status", b"302"), *common, place]
    assert pairs(one.decode(bytes.fromhex("4803333037c1c0bf"))) == [(b":status", b"307"), *common, place]
    third = (
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a"
        "4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"
    )
    assert pairs(one.decode(bytes.fromhex(third))) == [
        (b":status", b"200"),
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
        place,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header")),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path")),
        ("100870617373776f726406736563726574", (b"password", b"secret")),
        ("82", (b":method", b"GET")),
    ],
)
def test_the_examples_of_representations(text: str, expected: tuple[bytes, bytes]) -> None:
    """RFC 7541, C.2."""
    section = decoder().decode(bytes.fromhex(text))
    assert pairs(section) == [expected]
    assert section.sensitive == ({b"password"} if expected[0] == b"password" else set())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("80", "index 0"),
        ("be", "an index behind the static table"),
        ("ff", "an integer without its end"),
        ("ff80", "an integer without its end"),
        ("ffffffffffff7f", "an integer of many bytes"),
        ("ff8080808080808000", "an integer with leading zeros"),
        ("7fff01", "the name has an index that is in no table"),
        ("40", "a literal without a name"),
        ("4005616263", "a name that is cut off"),
        ("40016105", "a value that is cut off"),
        ("4001617fff", "a length that is cut off"),
        ("4001618161", "a Huffman code with wrong padding"),
        ("400161 84ffffffff", "EOS"),
        ("3fe21f82", "a table of more than 4096 bytes"),
        ("823fe11f", "a change of the size behind a field"),
        ("8220", "a change to 0 behind a field"),
        ("20" * (MAX_TABLE_UPDATES + 1) + "82", "nine changes of the size"),
        ("3f", "a change of the size that is cut off"),
    ],
)
def test_malformed_blocks_are_refused(text: str, what: str) -> None:
    with pytest.raises(HPACKError):
        decoder().decode(bytes.fromhex(text))


def test_the_table_may_shrink_and_grow_again() -> None:
    one = decoder()
    one.decode(bytes.fromhex("4001610162"))
    assert pairs(one.decode(b"\xbe")) == [(b"a", b"b")]
    assert pairs(one.decode(bytes.fromhex("203fe11f82"))) == [(b":method", b"GET")]
    with pytest.raises(HPACKError):
        one.decode(b"\xbe")
    one.decode(bytes.fromhex("4001610162"))
    assert pairs(one.decode(b"\xbe")) == [(b"a", b"b")]


def test_an_entry_that_is_larger_than_the_table_empties_it() -> None:
    one = decoder()
    one.decode(bytes.fromhex("4001610162"))
    one.decode(b"\x40\x01c\x7f\xe1\x1f" + b"x" * (127 + 0x61 + (0x1F << 7)))
    with pytest.raises(HPACKError):
        one.decode(b"\xbe")


def test_a_name_is_taken_from_an_entry_that_its_own_field_evicts() -> None:
    """RFC 7541, section 4.4."""
    one = BothDecoders(65536, 512, 40)
    one.decode(bytes.fromhex("4001610162"))
    assert pairs(one.decode(b"\x7e\x03xyz")) == [(b"a", b"xyz")]
    assert pairs(one.decode(b"\xbe")) == [(b"a", b"xyz")]


def test_each_field_counts_for_32_bytes_more() -> None:
    """A list of many short fields is refused by its size, and leaves the table as the peer has it (CVE-2026-49975)."""
    one = decoder(max_list_size=3400, max_fields=1000)
    bomb = bytes.fromhex("4001610162") + b"\xbe" * 99
    assert len(one.decode(bomb).fields) == 100
    too_large = one.decode(bomb + b"\xbe")
    assert too_large.is_too_large
    assert too_large.fields == ()
    assert pairs(one.decode(b"\xbf")) == [(b"a", b"b")]


def test_fields_are_counted() -> None:
    one = decoder(max_fields=10)
    assert len(one.decode(b"\x82" * 10).fields) == 10
    assert one.decode(b"\x82" * 11).is_too_large
    assert one.decode(b"\x82" * 30).is_too_large


@pytest.mark.parametrize("make", DECODERS)
def test_a_block_is_remembered_until_the_table_changes(make: Any) -> None:
    one = make(65536, 512)
    one.decode(bytes.fromhex("4001610162"))
    section = one.decode(b"\x82\xbe")
    assert one.decode(b"\x82\xbe") is section
    assert one.decode(b"\x83") is not section
    assert one.decode(b"\x82\xbe") is section
    one.decode(bytes.fromhex("4001610163"))
    assert pairs(one.decode(b"\x82\xbe")) == [(b":method", b"GET"), (b"a", b"c")]
    one.decode(b"\x20")
    with pytest.raises(HPACKError):
        one.decode(b"\x82\xbe")


@pytest.mark.parametrize("make", DECODERS)
def test_few_blocks_are_remembered(make: Any) -> None:
    one = make(65536, 512)
    sections = [one.decode(bytes((0x82,)) * number) for number in range(1, 3 * MAX_REMEMBERED)]
    assert one.decode(b"\x82") is not sections[0]
    assert one.decode(b"\x82" * (3 * MAX_REMEMBERED - 1)) is sections[-1]


@pytest.mark.parametrize("make", DECODERS)
def test_a_short_block_that_means_a_long_list_is_not_remembered(make: Any) -> None:
    one = make(1 << 20, 512)
    one.decode(b"\x40\x01a\x7f\xc0\x0e" + b"b" * 1983)  # 127 + 1856 bytes, and 32 + 1 of the table
    pair = one.decode(b"\xbe\xbe")
    assert one.decode(b"\xbe\xbe") is pair
    three = one.decode(b"\xbe\xbe\xbe")
    again = one.decode(b"\xbe\xbe\xbe")
    assert again is not three
    assert again.fields == three.fields


# The oracle.

NAMES = st.sampled_from([b"a", b"b-c", b"cookie", b"accept", b"x" * 40, b":path", b":status", b"authorization"])
VALUES = st.sampled_from([b"", b"1", b"/", b"200", b"gzip, deflate", b"y" * 100, b"z" * 1000]) | st.binary(max_size=20)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
STEPS = st.lists(LISTS | st.sampled_from([0, 40, 100, 4096]), max_size=12)


@given(STEPS, st.booleans())
def test_any_lists_of_hpack_are_decoded(steps: list[Any], use_huffman: bool) -> None:
    theirs, one = hpack.Encoder(), decoder()
    changes = 0  # since the last block; hpack sends each of them
    for step in steps:
        if isinstance(step, int):
            # hpack forgets to tell of a size that is set twice in a row.
            if changes < MAX_TABLE_UPDATES and step != theirs.header_table_size:
                theirs.header_table_size = step
                changes += 1
            continue
        changes = 0
        fields = [hpack.NeverIndexedHeaderTuple(*pair) if pair[0] == b"a" else pair for pair in step]
        section = one.decode(theirs.encode(fields, huffman=use_huffman))
        assert pairs(section) == step
        assert section.sensitive == {name for name, _ in step if name == b"a"}


@given(STEPS)
def test_any_lists_are_encoded_for_hpack(steps: list[Any]) -> None:
    one, theirs, ours = BothEncoders(), hpack.Decoder(), decoder()
    known: list[HeaderList] = []
    for step in steps:
        if isinstance(step, int):
            one.set_table_size(step)
            theirs.max_allowed_table_size = step
            continue
        headers = HeaderList(tuple(step))
        known.append(headers)
        for again in (headers, headers, *known):
            block = one.encode(again)
            read = list(theirs.decode(block, raw=True))
            assert [tuple(pair) for pair in read] == list(again.pairs)
            assert [pair[0] for pair in read if isinstance(pair, hpack.NeverIndexedHeaderTuple)] == [
                name for name, value in again.pairs if name == b"authorization"
            ]
            assert pairs(ours.decode(block)) == list(again.pairs)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_blocks_are_decoded_as_by_hpack(blocks: list[bytes]) -> None:
    one, theirs = decoder(), hpack.Decoder()
    for block in blocks:
        try:
            expected: Pairs | None = [tuple(pair) for pair in theirs.decode(block, raw=True)]  # type: ignore[misc]
        except hpack.HPACKError:
            expected = None
        try:
            found: Pairs | None = pairs(one.decode(block))
        except HPACKError:
            found = None
        if found is None or expected is None:
            # Only we refuse many changes of the size, and only hpack takes integers of more than 28 bits.
            assert found is None
            return
        assert found == expected


@pytest.mark.parametrize("make", ENCODERS)
def test_a_field_that_is_sent_again_becomes_an_index(make: Any) -> None:
    one = make()
    headers = HeaderList(((b":status", b"200"), (b"x-a", b"b")))
    sizes = [len(one.encode(headers)) for _ in range(4)]
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3] == 2
    assert one.encode(headers) is one.encode(headers)


def test_values_that_never_come_again_do_not_fill_the_table() -> None:
    one = BothEncoders()
    headers = HeaderList(((b"x-a", b"b"),))
    one.encode(headers)
    one.encode(headers)
    for number in range(1000):
        one.encode(HeaderList(((b"x-b", b"%d" % number),)))
    assert one.encode(headers) == b"\xbe"


def test_sensitive_fields_never_enter_the_table() -> None:
    one = BothEncoders()
    headers = HeaderList(((b"authorization", b"Basic x"), (b"x-token", b"t")), ALWAYS_SENSITIVE | {b"x-token"})
    theirs = hpack.Decoder()
    for _ in range(4):
        read = list(theirs.decode(one.encode(headers), raw=True))
        assert all(isinstance(pair, hpack.NeverIndexedHeaderTuple) for pair in read)
        assert not theirs.header_table.dynamic_entries


def test_the_smallest_and_the_last_size_of_the_table_are_told() -> None:
    one = BothEncoders()
    one.set_table_size(100)
    one.set_table_size(0)
    one.set_table_size(50)
    assert one.encode(HeaderList(((b":method", b"GET"),))) == b"\x20\x3f\x13\x82"
    one.set_table_size(1 << 20)
    assert one.encode(HeaderList(((b":method", b"GET"),))) == b"\x3f\xe1\x1f\x82"


def test_the_static_table_has_61_entries() -> None:
    assert len(STATIC_TABLE) == 61
    assert pairs(decoder().decode(bytes(range(0x81, 0x81 + 61)))) == list(STATIC_TABLE)
