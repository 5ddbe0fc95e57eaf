"""ClientHelloReader: hellos of real clients and built ones, whole, byte by byte, and in any records."""

from __future__ import annotations

import shutil
import ssl
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from examples import examples
from hello_oracle import NEVER, seen_by_openssl
from hellos import (
    ALPN,
    ECH,
    GROUPS,
    RECORDED,
    SERVER_NAME,
    VERSIONS,
    alpn,
    body,
    extension,
    hello,
    message,
    named,
    names,
    record,
    records,
    vector,
    versions,
)
from hypothesis import given
from hypothesis import strategies as st
from record_hellos import CLIENTS

from ktcpvs.protocols.client_hello import (
    IS_COMPILED,
    MAX_HANDSHAKE_BYTES,
    TLS_1_0,
    TLS_1_1,
    TLS_1_2,
    TLS_1_3,
    Alert,
    BadHello,
    ClientHello,
    ClientHelloReader,
    NotTLS,
    alert_record,
    host_name,
    read_whole,
)

EXAMPLE = "www.example.com"
BOTH = (b"h2", b"http/1.1")
ALL = (TLS_1_3, TLS_1_2, TLS_1_1, TLS_1_0)
NEW = (TLS_1_3, TLS_1_2)

KNOWN: dict[str, tuple[str | None, tuple[bytes, ...], tuple[int, ...]]] = {
    "openssl-tls13": (EXAMPLE, BOTH, ALL),
    "openssl-tls12": (EXAMPLE, (), (TLS_1_2,)),
    "openssl-tls10": (EXAMPLE, (), (TLS_1_0,)),
    "openssl-no-name": (None, (), ALL),
    "openssl-upper-case": (EXAMPLE, (b"x" * 200, b"h2"), ALL),
    "openssl-pieces": (EXAMPLE, (b"x" * 250, b"y" * 250, b"h2"), ALL),
    "gnutls": (EXAMPLE, BOTH, ALL),
    "gnutls-tls12": (EXAMPLE, (), (TLS_1_2,)),
    "gnutls-no-name": (None, (), ALL),
    "gnutls-record-tls12": (EXAMPLE, (), ALL),
    "curl-h2": (EXAMPLE, BOTH, ALL),
    "curl-http11": (EXAMPLE, (b"http/1.1",), ALL),
    "curl-address": (None, BOTH, ALL),
    "node": (EXAMPLE, BOTH, NEW),
    "node-no-name": (None, (), NEW),
    "chromium": (EXAMPLE, BOTH, NEW),
    "go": (EXAMPLE, BOTH, NEW),
    "python": (EXAMPLE, (b"http/1.1",), NEW),
    "python-tls12": (EXAMPLE, (), (TLS_1_2,)),
    "python-address": (None, (), NEW),
}
"""The facts in the recorded hellos: server name, protocols, versions."""

each_recorded = pytest.mark.parametrize("name", KNOWN)


def recorded(name: str) -> bytes:
    return (RECORDED / f"{name}.bin").read_bytes()


def read(data: bytes) -> ClientHello | None:
    """By the reader; what the compiled function reads at once must be the same."""
    whole, found = read_whole(data), None
    try:
        found = ClientHelloReader().feed(data)
    finally:
        assert whole is None or whole == found
    return found


def complete(data: bytes) -> ClientHello:
    found = read(data)
    assert found is not None
    return found


def byte_by_byte(data: bytes) -> tuple[int, ClientHello | BadHello | NotTLS | None]:
    """The result of a reader, and how many bytes it needed."""
    reader = ClientHelloReader()
    for place in range(len(data)):
        try:
            found = reader.feed(data[place : place + 1])
        except (BadHello, NotTLS) as bad:
            return place + 1, bad
        if found is not None:
            assert reader.received == data[: place + 1]
            return place + 1, found
    return len(data), None


def test_the_compiled_form_is_tested_where_it_can_be_built() -> None:
    assert IS_COMPILED or shutil.which("cc") is None


# Real clients.


def test_every_recorded_hello_is_known_and_can_be_recorded_again() -> None:
    files = {path.stem for path in RECORDED.glob("*.bin")}
    assert files == KNOWN.keys() == CLIENTS.keys()


@each_recorded
def test_a_recorded_hello_is_read(name: str) -> None:
    data = recorded(name)
    assert complete(data) == ClientHello(*KNOWN[name], name == "chromium", len(data))


@pytest.mark.skipif(not IS_COMPILED, reason="the extension is not installed")
@each_recorded
def test_a_recorded_hello_in_one_record_is_read_at_once(name: str) -> None:
    data = recorded(name)
    is_in_one_record = len(data) == 5 + int.from_bytes(data[3:5], "big")
    assert is_in_one_record == (name != "openssl-pieces")
    assert read_whole(data) == (complete(data) if is_in_one_record else None)
    assert read_whole(data + b"more") == read_whole(data)


@each_recorded
def test_a_recorded_hello_is_cut_at_every_byte(name: str) -> None:
    data = recorded(name)
    whole = complete(data)
    assert all(read_whole(data[:place]) is None for place in range(len(data)))
    assert byte_by_byte(data) == (len(data), whole)
    for place in range(1, len(data)):
        reader = ClientHelloReader()
        assert reader.feed(data[:place]) is None
        assert reader.feed(data[place:]) == whole


@each_recorded
def test_a_recorded_hello_in_records_of_one_byte(name: str) -> None:
    data, content = recorded(name), b""
    while data:
        end = 5 + int.from_bytes(data[3:5], "big")
        content, data = content + data[5:end], data[end:]
    found = complete(records(content, [1] * len(content)))
    assert found == ClientHello(*KNOWN[name], name == "chromium", 6 * len(content))


@each_recorded
def test_openssl_reads_the_same_in_a_recorded_hello(name: str) -> None:
    data = recorded(name)
    server_name, protocols, _ = KNOWN[name]
    seen = seen_by_openssl(data)
    assert seen.name == server_name or (seen.name is not None and seen.name.lower() == server_name)
    assert seen_by_openssl(data[:-1]).name == NEVER
    for protocol in (b"h2", b"http/1.1", b"x" * 200, b"imap"):
        chosen = seen_by_openssl(data, protocol.decode()).protocol
        assert chosen == (protocol.decode() if protocol in protocols else None)


# Built hellos.


def test_a_hello_without_extensions() -> None:
    for data in (hello(), record(message(body(None)))):
        assert complete(data) == ClientHello(None, (), (TLS_1_2,), False, len(data))


@pytest.mark.parametrize(
    ("legacy", "highest"),
    [(0x0300, 0x0300), (0x0301, 0x0301), (0x0302, 0x0302), (0x0303, 0x0303), (0x0304, 0x0303), (0x0400, 0x0303)],
)
def test_the_version_of_a_client_that_does_not_list_them(legacy: int, highest: int) -> None:
    assert complete(hello(version=legacy)).versions == (highest,)
    assert complete(hello(versions(0x0304, 0x0303), version=legacy)).versions == NEW


@pytest.mark.parametrize("version", [0x0300, 0x0301, 0x0303, 0x0304, 0x03FF])
def test_any_minor_version_of_a_record(version: int) -> None:
    assert read(record(message(body()), version)) is not None


GREASE = [number << 8 | number for number in range(0x0A, 0x100, 0x10)]


def test_grease_is_left_out() -> None:
    for value in GREASE:
        two = value.to_bytes(2, "big")
        data = hello(
            extension(value, b""),
            named(b"a"),
            versions(value, 0x0304),
            alpn(two, b"h2"),
            extension(0xFAFA if value != 0xFAFA else 0x0A0A, b"\0"),
            ciphers=two + b"\x13\x01",
        )
        assert complete(data) == ClientHello("a", (b"h2",), (TLS_1_3,), False, len(data))
    data = hello(versions(0x0A1A, 0x1A0A, 0x0B0B), alpn(b"\x0a\x1a", b"\x0a", b"\x0a\x0a\x0a"))
    assert complete(data).versions == (0x0A1A, 0x1A0A, 0x0B0B)
    assert complete(data).protocols == (b"\x0a\x1a", b"\x0a", b"\x0a\x0a\x0a")


def test_only_an_outer_hello_is_one_of_encrypted_client_hello() -> None:
    assert complete(hello(named(b"outer"), extension(ECH, b"\0" + bytes(40)))).has_ech
    assert not complete(hello(named(b"inner"), extension(ECH, b"\1"))).has_ech


def test_names_of_unknown_types_are_passed_over() -> None:
    assert complete(hello(names((7, b""), (0, b"a"), (8, b"\0\xff")))).server_name == "a"
    assert complete(hello(names((7, b"b")))).server_name is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (b"example.com", "example.com"),
        (b"Example.COM.", "example.com"),
        (b"localhost", "localhost"),
        (b"a_b.c-d.1e", "a_b.c-d.1e"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (b".".join([b"a" * 63] * 3 + [b"b" * 61, b"c"]), ".".join(["a" * 63] * 3 + ["b" * 61, "c"])),
        (b"192.0.2.1", None),
        (b"192.0.2.1.", None),
        (b"0192.0.2.01", None),
        (b"3221225985", None),
        (b"2001:db8::1", None),
        (b"[2001:DB8::1]", None),
        (b"fe80::1%eth0", None),
        (b"::ffff:192.0.2.1", None),
    ],
)
def test_a_name(name: bytes, found: str | None) -> None:
    assert complete(hello(named(name))).server_name == found
    assert host_name(name) == found


@pytest.mark.parametrize(
    "name",
    [
        b".", b"..", b".a", b"a..b", b"a..", b"a\0", b"\0", b"a\0.example.com", b"a b", b"a/b", b"*.example.com",
        b"a:80", b"a\r\nb", b"b\xc3\xbccher.example", b"\xff", b"a" * 64, b"b.%b.c" % (b"a" * 64), b"[::1",
        b"::\0", b"1.2\0.3", b"[a]", b"http://a/",
    ],
)  # fmt: skip
def test_what_is_no_name(name: bytes) -> None:
    with pytest.raises(BadHello) as bad:
        read(hello(named(name)))
    assert bad.value.alert == Alert.UNRECOGNIZED_NAME


# What is refused: at this byte and not before it, however the bytes come.

Bad = tuple[bytes, bytes, Alert]
"""A message that may come, one that must not follow, and the alert."""


def inside(extensions: bytes, *, missing: int = 100) -> bytes:
    """The beginning of a hello, up to these extensions, after which `missing` bytes of extensions are announced."""
    whole = record(message(body(extensions + bytes(missing))))
    return whole[:-missing]


HEAD = b"\x16\x03\x01"
FIXED = b"\x03\x03" + bytes(32)


def begun(fields: bytes, size: int = 200) -> bytes:
    """The beginning of a hello of `size` bytes with these fields."""
    return HEAD + (size + 4).to_bytes(2, "big") + b"\1" + size.to_bytes(3, "big") + fields


BAD: dict[str, Bad] = {
    # Records.
    "an empty record": (HEAD + b"\0", b"\0", Alert.DECODE_ERROR),
    "a record that is too long": (HEAD + b"\x40", b"\1", Alert.RECORD_OVERFLOW),
    "an alert within the hello": (HEAD + b"\0\2\1\0", b"\x15", Alert.UNEXPECTED_MESSAGE),
    "application data within the hello": (HEAD + b"\0\2\1\0", b"\x17", Alert.UNEXPECTED_MESSAGE),
    "another major version later": (HEAD + b"\0\2\1\0\x16", b"\x02", Alert.PROTOCOL_VERSION),
    "an empty record later": (HEAD + b"\0\2\1\0\x16\3\3\0", b"\0", Alert.DECODE_ERROR),
    "more than the hello in its record": (HEAD + b"\1\0\1\0\0", b"\x80", Alert.UNEXPECTED_MESSAGE),
    "more than the hello in its last record": (
        HEAD + b"\0\4\1\0\0\x80" + HEAD + b"\0", b"\x81", Alert.UNEXPECTED_MESSAGE,
    ),
    # The message.
    "another message": (HEAD + b"\0\4", b"\2", Alert.UNEXPECTED_MESSAGE),
    "a message that is too short": (HEAD + b"\0\4\1\0\0", b"\x28", Alert.DECODE_ERROR),
    "a message that is too long": (HEAD + b"\0\4\1\0\x3f", b"\xfd", Alert.ILLEGAL_PARAMETER),
    "a message of 16 MiB": (HEAD + b"\0\4\1\xff\xff", b"\xff", Alert.ILLEGAL_PARAMETER),
    "SSL 2.0 in a message": (begun(b"\0"), b"\2", Alert.PROTOCOL_VERSION),
    "a session ID that is too long": (begun(FIXED), b"\x21", Alert.DECODE_ERROR),
    "a session ID beyond the end": (begun(FIXED, 41), b"\1", Alert.DECODE_ERROR),
    "no cipher": (begun(FIXED + b"\0\0"), b"\0", Alert.DECODE_ERROR),
    "half a cipher": (begun(FIXED + b"\0\0"), b"\3", Alert.DECODE_ERROR),
    "ciphers beyond the end": (begun(FIXED + b"\0\0", 41), b"\4", Alert.DECODE_ERROR),
    "no compression method": (begun(FIXED + b"\0\0\2\0\1"), b"\0", Alert.DECODE_ERROR),
    "compression methods beyond the end": (begun(FIXED + b"\0\0\2\0\1", 41), b"\2", Alert.DECODE_ERROR),
    "no null compression": (begun(FIXED + b"\0\0\2\0\1\1"), b"\1", Alert.ILLEGAL_PARAMETER),
    "one byte of extensions": (begun(FIXED + b"\0\0\2\0\1\1", 42), b"\0", Alert.DECODE_ERROR),
    "extensions that are too short": (begun(FIXED + b"\0\0\2\0\1\1\0\0"), b"\x9c", Alert.DECODE_ERROR),
    "extensions that are too long": (begun(FIXED + b"\0\0\2\0\1\1\0\0"), b"\x9e", Alert.DECODE_ERROR),
    # Extensions.
    "an extension that is cut off": (inside(extension(9, b""), missing=3)[:-1], b"\0", Alert.DECODE_ERROR),
    "an extension beyond the end": (inside(b"\0\x09\0"), b"\x64", Alert.DECODE_ERROR),
    "the same extension again": (inside(named(b"a") + b"\0\0\0"), b"\6", Alert.ILLEGAL_PARAMETER),
    "the same unknown extension again": (inside(extension(9, b"x") + b"\0\x09\0"), b"\1", Alert.ILLEGAL_PARAMETER),
    # server_name.
    "server_name without a list": (inside(b"\0\0\0"), b"\0", Alert.DECODE_ERROR),
    "server_name with an empty list": (inside(b"\0\0\0"), b"\2", Alert.DECODE_ERROR),
    "server_name with a list that is too long": (inside(b"\0\0\0\x06\0"), b"\5", Alert.DECODE_ERROR),
    "server_name with a list that is too short": (inside(b"\0\0\0\x06\0"), b"\3", Alert.DECODE_ERROR),
    "server_name with a name that is cut off": (inside(b"\0\0\0\x04\0"), b"\2", Alert.DECODE_ERROR),
    "an empty name": (inside(b"\0\0\0\x09\0\7\0\0"), b"\0", Alert.DECODE_ERROR),
    "a name that is too long for its list": (inside(b"\0\0\0\x09\0\7\0\0"), b"\5", Alert.DECODE_ERROR),
    "a name of 256 bytes": (inside(b"\0\0\1\5\1\3\0\1", missing=400), b"\0", Alert.UNRECOGNIZED_NAME),
    "a second name": (inside(b"\0\0\0\x0a\0\x08\0\0\1a\0\0"), b"\1", Alert.ILLEGAL_PARAMETER),
    "a name with NUL": (inside(b"\0\0\0\x07\0\5\0\0\2a"), b"\0", Alert.UNRECOGNIZED_NAME),
    # ALPN.
    "ALPN without a list": (inside(b"\0\x10\0"), b"\1", Alert.DECODE_ERROR),
    "ALPN with an empty list": (inside(b"\0\x10\0"), b"\2", Alert.DECODE_ERROR),
    "ALPN with a wrong length": (inside(b"\0\x10\0\5\0"), b"\4", Alert.DECODE_ERROR),
    "an empty protocol": (inside(b"\0\x10\0\5\0\3"), b"\0", Alert.DECODE_ERROR),
    "a protocol beyond the end": (inside(b"\0\x10\0\5\0\3"), b"\3", Alert.DECODE_ERROR),
    # supported_versions.
    "no versions": (inside(b"\0\x2b\0"), b"\1", Alert.DECODE_ERROR),
    "versions with a wrong length": (inside(b"\0\x2b\0\5"), b"\2", Alert.DECODE_ERROR),
    "half a version": (inside(b"\0\x2b\0\4"), b"\3", Alert.DECODE_ERROR),
    # Encrypted Client Hello.
    "an empty ECH": (inside(b"\xfe\x0d\0"), b"\0", Alert.DECODE_ERROR),
    "a hello of SSL 2.0": (b"\x80\x2e\1\3", b"\1", Alert.PROTOCOL_VERSION),
    "a hello of SSL 2.0 alone": (b"\x80\x2e\1\0", b"\2", Alert.PROTOCOL_VERSION),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_hello_is_refused_at_the_first_byte_that_spoils_it(name: str) -> None:
    before, spoils, alert = BAD[name]
    data = before + spoils
    size, bad = byte_by_byte(data + bytes(500))
    assert isinstance(bad, BadHello), bad
    assert (size, bad.alert) == (len(data), alert)
    for place in range(1, len(data)):
        reader = ClientHelloReader()
        assert reader.feed(data[:place]) is None
        with pytest.raises(BadHello) as again:
            reader.feed(data[place:])
        assert (again.value.alert, str(again.value)) == (alert, str(bad))
    with pytest.raises(BadHello, match=str(bad)):
        read(data + bytes(500))


@pytest.mark.parametrize(
    ("data", "after"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 1),
        (b"PROXY TCP4", 1),
        (b"\0", 1),
        (b"\x15\3\1\0\2", 1),
        (b"\x17\3\3\0\2", 1),
        (b"\x16\2", 2),
        (b"\x16GET", 2),
        (b"\x80\x2e\2", 3),
        (b"\x80\x2e\1\4", 4),
        (b"\x80\x2e\1\0\1", 5),
        (b"\xff\xff\xff", 3),
    ],
)
def test_other_protocols_are_not_tls(data: bytes, after: int) -> None:
    size, bad = byte_by_byte(data + b"x" * 9)
    assert isinstance(bad, NotTLS)
    assert size == after
    with pytest.raises(NotTLS):
        read(data)


def test_the_longest_hello() -> None:
    padding = MAX_HANDSHAKE_BYTES - len(message(body(extension(21, b""))))
    content = message(body(extension(21, bytes(padding))))
    assert len(content) == MAX_HANDSHAKE_BYTES
    assert read(record(content)) is not None
    assert byte_by_byte(records(content, [1] * len(content)))[0] == 6 * len(content)
    content = message(body(extension(21, bytes(padding + 1))))
    with pytest.raises(BadHello, match="longer than 16384 bytes"):
        read(records(content, [16384]))
    assert ClientHelloReader(45).feed(record(message(body(None)))) is not None
    with pytest.raises(BadHello, match="longer than 44 bytes"):
        ClientHelloReader(44).feed(record(message(body(None))))


def test_bytes_behind_the_hello_are_left() -> None:
    data = hello(named(b"a"))
    for behind in (b"x", b"\x17\3\3\0\1x", data):
        reader = ClientHelloReader()
        found = reader.feed(data + behind)
        assert found is not None
        assert found.size == len(data)
        assert reader.received == data + behind


def calls_of(run: Callable[[], object]) -> int:
    """Count the functions, in Python and in C, that are called."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("record_size", [1, 16384])
def test_twice_the_bytes_cost_twice_as_much(record_size: int) -> None:
    def cost(size: int) -> int:
        content = message(body(b"".join(extension(kind, b"x") for kind in range(100, 100 + size))))
        return calls_of(lambda: byte_by_byte(records(content, [record_size] * len(content))))

    one, two = cost(200), cost(400)
    assert two < 2.1 * one


# Properties.

letters = st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789-_")
labels = st.text(letters, min_size=1, max_size=12)
host_names = (
    st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.split(".")[-1].isdigit())
)
protocols = st.binary(min_size=1, max_size=20).filter(
    lambda one: len(one) != 2 or one[0] & 15 != 10 or one[0] != one[1]
)
others = st.integers(100, 200)
grease = st.sampled_from(GREASE)


@st.composite
def offers(draw: st.DrawFn) -> tuple[bytes, ClientHello]:
    """A handshake message, and what it offers."""
    name = draw(st.none() | host_names)
    protocol_list = draw(st.lists(protocols, max_size=4))
    version_list = draw(st.lists(st.sampled_from(ALL), max_size=4, unique=True))
    has_ech = draw(st.booleans())
    found = [extension(kind, draw(st.binary(max_size=30))) for kind in draw(st.sets(others | grease, max_size=5))]
    if name is not None:
        found.append(named(name.upper().encode() if draw(st.booleans()) else name.encode()))
    if protocol_list:
        found.append(alpn(*protocol_list))
    if version_list:
        found.append(versions(*version_list, *draw(st.lists(grease, max_size=1))))
    if has_ech:
        found.append(extension(ECH, b"\0" + draw(st.binary(max_size=20))))
    session = draw(st.binary(max_size=32))
    content = message(body(b"".join(draw(st.permutations(found))), session=session))
    return content, ClientHello(name, tuple(protocol_list), tuple(version_list) or (TLS_1_2,), has_ech, 0)


def fed(data: bytes, sizes: Iterable[int]) -> ClientHello | None:
    """The result of a reader that gets pieces of these sizes, and then the rest."""
    reader = ClientHelloReader()
    for size in sizes:
        if 0 < size < len(data):
            assert reader.feed(data[:size]) is None
            data = data[size:]
    return reader.feed(data)


sizes_of_pieces = st.lists(st.integers(1, 60), max_size=12)


@given(offers(), sizes_of_pieces, sizes_of_pieces)
def test_what_is_offered_is_read_in_any_records_and_pieces(
    offer: tuple[bytes, ClientHello], in_records: list[int], in_pieces: list[int]
) -> None:
    content, offered = offer
    data = records(content, in_records)
    found = fed(data, in_pieces)
    assert found is not None
    assert found.size == len(data)
    fields = ("server_name", "protocols", "versions", "has_ech")
    assert [getattr(found, field) for field in fields] == [getattr(offered, field) for field in fields]


def outcome(data: bytes, sizes: Iterable[int]) -> object:
    try:
        return fed(data, sizes)
    except BadHello as bad:
        return bad.alert, str(bad)
    except NotTLS:
        return NotTLS


@given(offers(), st.integers(0, 300), st.binary(min_size=1, max_size=3), sizes_of_pieces, sizes_of_pieces)
def test_a_changed_hello_is_refused_at_the_same_byte_in_every_split(
    offer: tuple[bytes, ClientHello], place: int, changed: bytes, in_records: list[int], in_pieces: list[int]
) -> None:
    data = records(offer[0], in_records)
    data = data[:place] + changed + data[place + len(changed) :]
    size, found = byte_by_byte(data)
    if isinstance(found, ClientHello) or found is None:
        assert outcome(data[:size], in_pieces) == found
        return
    exact = (found.alert, str(found)) if isinstance(found, BadHello) else NotTLS
    reader = ClientHelloReader()
    assert size == 1 or reader.feed(data[: size - 1]) is None
    for end in (size, len(data)):
        with pytest.raises((BadHello, NotTLS)) as bad:
            read(data[:end])
        assert ((bad.value.alert, str(bad.value)) if isinstance(bad.value, BadHello) else NotTLS) == exact


# OpenSSL as an oracle.


def of_openssl(name: str | None, offered: list[str], most: ssl.TLSVersion) -> bytes:
    """The hello of OpenSSL's own client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = most
    if offered:
        context.set_alpn_protocols(offered)
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


ascii_protocols = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30).filter(
    lambda one: int.from_bytes(one.encode(), "big") not in GREASE  # such as "jj"
)


@examples(50)
@given(
    st.none() | host_names.filter(lambda name: name.strip("-_.") == name and "xn--" not in name),
    st.lists(ascii_protocols, max_size=4, unique=True),
    st.sampled_from((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)),
)
def test_hellos_of_openssls_client(name: str | None, offered: list[str], most: ssl.TLSVersion) -> None:
    data = of_openssl(name, offered, most)
    found = complete(data)
    assert found.server_name == name
    assert [one.decode("ascii") for one in found.protocols] == offered
    assert max(found.versions) == most
    seen = seen_by_openssl(data, *offered)
    assert (seen.name, seen.protocol) == (name, offered[0] if offered else None)


GROUP = extension(GROUPS, vector(2, b"\0\x17")) + extension(13, vector(2, b"\4\3"))
"""The extensions without which OpenSSL does not answer a hello of TLS 1.2, with a cipher of ECDHE-ECDSA."""


def answerable(*extensions: bytes, **fields: Any) -> bytes:
    return hello(*extensions, GROUP, ciphers=b"\xc0\x2b", **fields)


@examples(100)
@given(host_names, st.lists(ascii_protocols, min_size=1, max_size=4, unique=True), sizes_of_pieces)
def test_built_hellos_for_openssls_server(name: str, offered: list[str], in_records: list[int]) -> None:
    data = answerable(named(name.encode()), alpn(*(one.encode() for one in offered)))
    data = records(data[5:], in_records)
    found, seen = complete(data), seen_by_openssl(data, *reversed(offered))
    assert seen.failure is None
    assert (seen.name, seen.protocol) == (found.server_name, found.protocols[-1].decode())


@pytest.mark.parametrize(
    "extensions",
    [
        names((0, b"a"), (0, b"b")),
        named(b"a\0b"),
        named(b"a" * 256),
        named(b"a") + named(b"a"),
        extension(SERVER_NAME, b""),
        extension(SERVER_NAME, b"\0\0"),
        extension(SERVER_NAME, b"\0\5\0\0\1ab"),
        extension(ALPN, b""),
        extension(ALPN, b"\0\1\0"),
        extension(ALPN, b"\0\5\2h2"),
        extension(VERSIONS, b"\3\3\3\3"),
        extension(VERSIONS, b"\0"),
        b"\0\0\0",
    ],
)
def test_openssl_refuses_the_same_extensions(extensions: bytes) -> None:
    assert seen_by_openssl(answerable(extensions), "h2").failure is not None
    with pytest.raises(BadHello):
        read(answerable(extensions))


@pytest.mark.parametrize(
    ("extensions", "refused_here"),
    [
        (names((7, b"x"), (0, b"a")), False),  # OpenSSL knows no other types of names; RFC 6066 does
        (named(b""), True),  # OpenSSL tells its callers the empty name; RFC 6066 has HostName<1..2^16-1>
        (extension(200, b"") * 2, True),  # OpenSSL counts the extensions that it knows; RFC 8446, 4.2: any
        (named(b"a b"), True),  # OpenSSL leaves the form of names to its callers
        (named(b"a" * 64), True),
        (extension(ECH, b""), True),  # OpenSSL 3.0 does not know Encrypted Client Hello
    ],
)
def test_where_openssl_differs(extensions: bytes, refused_here: bool) -> None:
    assert (seen_by_openssl(answerable(extensions)).failure is None) == refused_here
    assert isinstance(byte_by_byte(answerable(extensions))[1], BadHello) == refused_here


# Alerts.


@pytest.mark.parametrize("alert", Alert)
@pytest.mark.parametrize("version", [TLS_1_0, TLS_1_2])
def test_a_client_understands_the_alert(alert: Alert, version: int) -> None:
    incoming = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(alert_record(alert, version))
    with pytest.raises(ssl.SSLError) as told:
        client.do_handshake()
    assert alert.name.replace("_", " ") in str(told.value).upper().replace("_", " ")


def test_the_bytes_of_an_alert() -> None:
    assert alert_record(Alert.UNRECOGNIZED_NAME) == b"\x15\3\3\0\2\2\x70"
