"""The beginning of connections of PostgreSQL: recognised in whatever pieces it comes, and refused."""

from __future__ import annotations

import pytest

from ktcpvs.protocols.postgresql import (
    GSSENC_REQUEST,
    SSL_REQUEST,
    BadBeginning,
    Beginning,
    BeginningReader,
    error_response,
    is_startup,
)

STARTUP = bytes.fromhex("0000000c00030000") + b"a\0b\0"
CANCEL = bytes.fromhex("0000001004d2162e") + bytes(8)


@pytest.mark.parametrize(
    ("data", "wanted"), [(SSL_REQUEST, Beginning.SSL), (GSSENC_REQUEST, Beginning.GSS)], ids=["SSL", "GSS"]
)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_request_is_known_in_pieces_of_any_size(data: bytes, wanted: Beginning, size: int) -> None:
    reader = BeginningReader()
    found = [reader.feed(data[start : start + size]) for start in range(0, len(data), size)]
    assert found == [None] * (len(found) - 1) + [wanted]


@pytest.mark.parametrize("data", [b"\x16", b"\x16\3\1", STARTUP, CANCEL, b"GET / HTTP/1.1", b"\0\0\0\x08\0\0\0\0"])
def test_anything_else_is_kept_as_it_came(data: bytes) -> None:
    reader = BeginningReader()
    assert reader.feed(data) is Beginning.NEITHER
    assert reader.received == data


def test_anything_else_is_known_at_the_first_byte_that_differs() -> None:
    reader = BeginningReader()
    assert [reader.feed(bytes((byte,))) for byte in STARTUP[:4]] == [None] * 3 + [Beginning.NEITHER]


@pytest.mark.parametrize(("data", "name"), [(SSL_REQUEST, "SSLRequest"), (GSSENC_REQUEST, "GSSENCRequest")])
@pytest.mark.parametrize("more", [b"\x16", SSL_REQUEST])
def test_what_follows_a_request_before_its_answer_is_refused(data: bytes, name: str, more: bytes) -> None:
    with pytest.raises(BadBeginning, match=f"^something follows the {name} before its answer$"):
        BeginningReader().feed(data + more)


def test_a_startup_message_is_told_from_other_packets() -> None:
    assert is_startup(STARTUP)
    for data in (CANCEL, SSL_REQUEST, b"\x16\3\1\0\3\0", b"", STARTUP[:5]):
        assert not is_startup(data)


def test_an_error_response_has_its_fields_and_its_length() -> None:
    made = error_response("no")
    assert made[:1] == b"E"
    assert int.from_bytes(made[1:5], "big") == len(made) - 1
    assert made[5:].split(b"\0") == [b"SFATAL", b"VFATAL", b"C28000", b"Mno", b"", b""]
