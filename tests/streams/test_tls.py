"""TLS over streams: what the stream contract does not say. Record boundaries, ends, sessions, facts."""

from __future__ import annotations

import contextlib
import functools
import gc
import shutil
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from tls_peers import authority, tls_contexts
from twisted.internet.task import Clock

from ktcpvs.streams import tls_handshake, tls_operations, tls_transport
from ktcpvs.streams.memory import join_in_memory
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_buffers import TLSBuffers
from ktcpvs.streams.tls_handshake import Handshake, HandshakeFailed, distinguished_name
from ktcpvs.streams.tls_transport import TLSTransport

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(params=["compiled", "plain"], scope="module", autouse=True)
def form_of_operations(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both forms of the operations."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            for operation in tls_operations.IN_PYTHON:
                for module in (tls_handshake, tls_transport):
                    if hasattr(module, operation.__name__):
                        patch.setattr(module, operation.__name__, operation)
        elif not tls_operations.IS_COMPILED:
            pytest.skip("the extension is not installed")
        yield


def test_the_compiled_form_is_tested_where_it_can_be_built() -> None:
    assert tls_operations.IS_COMPILED or shutil.which("cc") is None


class Connection:
    """A TLS stream of a server in memory. Its client is OpenSSL, whose records the test cuts as it likes.

    written: what the server has written to the stream below, each time.
    """

    def __init__(
        self,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        buffers: TLSBuffers | None = None,
        has_tickets: bool = False,
    ) -> None:
        self.clock = Clock()
        self.below, self.wire = Stream(), Stream()
        self.stream = Stream()
        self.received = b""
        self.has_heard_notify = False
        self.told: list[str] = []
        self.sent = bytearray()  # by the server, encrypted
        ours, theirs = tls_contexts(version)
        if has_tickets:
            ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ours.load_cert_chain(authority().daemon())
            ours.num_tickets = 1
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = theirs.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.wire.dataReceived = self.sent.extend
        self.wire.ended = lambda: self.told.append("fin")
        join_in_memory(self.below, self.wire, lambda call: self.clock.callLater(0, call))
        self.written: list[bytes] = []
        self._write_below = self.below.write
        self.below.write = self._written
        self.handshake = Handshake(self.below, buffers or TLSBuffers(self.call_soon), ours, server_side=True)
        self.below.dataReceived = self._feed
        self.stream.dataReceived = self._data
        self.stream.ended = lambda: self.told.append("ended")
        self.stream.lost = lambda clean: self.told.append("lost" if clean else "broken")

    def call_soon(self, call: Any) -> None:
        self.clock.callLater(0, call)

    def _written(self, data: bytes) -> None:
        self.written.append(data)
        self._write_below(data)

    def _feed(self, data: bytes) -> None:
        rest = self.handshake.feed(data)
        if rest is not None:
            self.handshake.open(self.stream, rest)

    def _data(self, data: bytes) -> None:
        self.received += data

    def settle(self) -> None:
        while self.clock.getDelayedCalls():
            self.clock.advance(0)

    def shake_hands(self, size: int = 1 << 20) -> None:
        """size: bytes that the server gets at once."""
        for _ in range(5):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.says(self.records(), size)
            self._incoming.write(self.sent)
            self.sent.clear()
        assert self.stream.is_open

    def records(self, data: bytes = b"") -> bytes:
        """Return the bytes that the client sends for `data`, and whatever else it has to send."""
        if data:
            self.client.write(data)
        return self._outgoing.read()

    def says(self, wire: bytes, size: int = 1 << 20) -> None:
        for start in range(0, len(wire), size):
            self.wire.write(wire[start : start + size])
            self.settle()

    def hears_handshake(self) -> bool:
        """Let the client read what belongs to the handshake. True: it is complete."""
        self._incoming.write(self.sent)
        self.sent.clear()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.do_handshake()
            return True
        return False

    def hears(self) -> bytes:
        """Return the bytes that the client reads."""
        self._incoming.write(self.sent)
        self.sent.clear()
        read = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.client.read(1 << 20):
                read += data
            self.has_heard_notify = True
        return read

    def notify(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.client.unwrap()
        self.says(self.records())


@pytest.fixture(params=VERSIONS, ids=["TLS1.2", "TLS1.3"])
def connection(request: pytest.FixtureRequest) -> Connection:
    made = Connection(request.param)
    made.shake_hands()
    return made


@pytest.mark.parametrize("version", VERSIONS)
def test_byte_by_byte(version: ssl.TLSVersion) -> None:
    connection = Connection(version)
    connection.shake_hands(1)
    connection.says(connection.records(b"hello") + connection.records(b" world"), 1)
    assert connection.received == b"hello world"
    connection.stream.write(b"answer")
    connection.settle()
    assert connection.hears() == b"answer"


@given(
    st.lists(st.integers(1, 40_000), max_size=5),
    st.lists(st.integers(1, 20_000), min_size=1, max_size=20),
    st.sets(st.integers(0, 15)),
    st.booleans(),
    st.sampled_from(VERSIONS),
)
@examples(60)
def test_any_boundaries(
    sizes: list[int], cuts: list[int], pauses: set[int], asks: bool, version: ssl.TLSVersion
) -> None:
    """However records are cut, and whenever the owner pauses and asks, the bytes come in order and before the end."""
    connection = Connection(version)
    connection.shake_hands()
    data = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    wire = b"".join(connection.records(piece) for piece in data)
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.unwrap()
    wire += connection.records()
    number = at = 0
    while at < len(wire):
        cut = cuts[number % len(cuts)]
        if number in pauses:
            connection.stream.pause()
        before = connection.received
        connection.wire.write(wire[at : at + cut])
        connection.settle()
        if asks:
            connection.stream.has_input(), connection.stream.has_ended()
        connection.settle()
        if number in pauses:
            assert connection.received == before
            connection.stream.resume()
            connection.settle()
        at += cut
        number += 1
    assert connection.received == b"".join(data)
    assert connection.told == ["ended"]
    assert connection.stream.has_ended()


def test_the_handshake_and_data_in_one_piece() -> None:
    connection = Connection()
    for _ in range(2):
        try:
            connection.client.do_handshake()
        except ssl.SSLWantReadError:
            connection.says(connection.records())
            connection._incoming.write(connection.sent)
            connection.sent.clear()
    wire = connection.records(b"request")
    connection.stream.made = connection.stream.pause
    connection.says(wire)
    assert (connection.stream.is_open, connection.received) == (True, b"")
    assert connection.stream.has_input()
    connection.stream.resume()
    connection.settle()
    assert connection.received == b"request"


# What is sent together.


def test_a_ticket_goes_with_the_response() -> None:
    connection = Connection(has_tickets=True)
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.do_handshake()
    connection.says(connection.records())
    assert connection.hears_handshake()
    connection.written.clear()
    connection.says(connection.records(b"request"))
    assert (connection.received, connection.written) == (b"request", [])
    assert connection.stream.unsent() > 100
    connection.stream.write(b"response")
    assert len(connection.written) == 1
    connection.settle()
    assert connection.hears() == b"response"
    assert connection.client.session is not None
    assert connection.client.session.has_ticket


def test_a_ticket_without_a_request_is_sent_at_once() -> None:
    connection = Connection(has_tickets=True)
    connection.shake_hands()
    assert len(connection.written) == 2
    connection.hears()
    assert connection.client.session is not None
    assert connection.client.session.has_ticket


@pytest.mark.parametrize("how", ["close", "half_close"])
def test_the_last_response_and_close_notify_go_together(connection: Connection, how: str) -> None:
    connection.written.clear()
    connection.stream.resting = True
    connection.stream.write(b"last")
    assert connection.stream.unsent() > len(b"last")
    getattr(connection.stream, how)()
    assert len(connection.written) == 1
    connection.settle()
    assert connection.hears() == b"last"
    assert connection.has_heard_notify
    assert "fin" in connection.told


def test_what_a_resting_owner_writes_is_sent_in_the_next_turn(connection: Connection) -> None:
    connection.written.clear()
    connection.stream.resting = True
    connection.stream.write(b"one ")
    assert connection.written == []
    connection.settle()
    assert len(connection.written) == 1
    assert connection.hears() == b"one "
    for data in b"two ", b"three ", b"four ", b"x" * 100_000, b"five":
        connection.stream.write(data)
    assert len(connection.written) > 1, "little waits"
    connection.settle()
    assert connection.hears() == b"two three four " + b"x" * 100_000 + b"five"


@pytest.mark.parametrize(("end", "count"), [("close_with_reset", 1), ("abort", 0)])
def test_what_waits_is_sent_before_a_reset_and_dropped_by_an_abort(
    connection: Connection, end: str, count: int
) -> None:
    connection.written.clear()
    connection.stream.resting = True
    connection.stream.write(b"a part")
    getattr(connection.stream, end)()
    connection.settle()
    assert len(connection.written) == count


@given(st.lists(st.tuples(st.integers(1, 40_000), st.booleans(), st.booleans()), max_size=8), st.sampled_from(VERSIONS))
@examples(40)
def test_what_is_written_comes_in_order(writes: list[tuple[int, bool, bool]], version: ssl.TLSVersion) -> None:
    """Whenever the owner rests, and whenever a turn ends."""
    connection = Connection(version)
    connection.shake_hands()
    expected = heard = b""
    for number, (size, rests, settles) in enumerate(writes):
        data = bytes([number]) * size
        expected += data
        connection.stream.resting = rests
        connection.stream.write(data)
        if settles:
            connection.settle()
            heard += connection.hears()
            assert heard == expected
    connection.stream.close()
    connection.settle()
    assert heard + connection.hears() == expected
    assert connection.has_heard_notify


def test_two_connections_with_the_same_buffers() -> None:
    """One in the middle of a record while the other one reads and writes."""
    buffers = TLSBuffers(lambda call: call())
    one, other = Connection(buffers=buffers), Connection(buffers=buffers)
    one.shake_hands(7)
    other.shake_hands(11)
    wire = one.records(b"a" * 20_000)
    one.says(wire[:9000])
    other.says(other.records(b"b" * 30_000))
    other.stream.write(b"c" * 100_000)
    one.stream.write(b"d")
    one.says(wire[9000:])
    other.settle()
    one.settle()
    assert (one.received, other.received) == (b"a" * 20_000, b"b" * 30_000)
    assert (one.hears(), other.hears()) == (b"d", b"c" * 100_000)


def test_close_notify_ends_in_order(connection: Connection) -> None:
    connection.says(connection.records(b"last"))
    connection.notify()
    assert (connection.received, connection.told) == (b"last", ["ended"])
    connection.stream.write(b"an answer")
    connection.stream.close()
    connection.settle()
    assert sorted(connection.told) == ["ended", "fin", "lost"]


def test_a_fin_without_close_notify_is_a_broken_connection(connection: Connection) -> None:
    connection.says(connection.records(b"a part"))
    connection.wire.half_close()
    connection.settle()
    assert (connection.received, connection.told) == (b"a part", ["broken"])


def test_a_fin_within_a_record(connection: Connection) -> None:
    connection.wire.write(connection.records(b"a part")[:-1])
    connection.wire.half_close()
    connection.settle()
    assert (connection.received, connection.told) == (b"", ["broken"])


@pytest.mark.parametrize("how", ["pause", "ask"])
def test_a_truncated_end_while_paused(connection: Connection, how: str) -> None:
    connection.stream.pause()
    connection.wire.write(connection.records(b"a part"))
    connection.wire.half_close()
    connection.settle()
    if how == "ask":
        assert connection.stream.has_input()
        assert connection.stream.has_ended()
        connection.settle()
    assert (connection.received, connection.told) == (b"", [])
    connection.stream.resume()
    connection.settle()
    assert (connection.received, connection.told) == (b"a part", ["broken"])


def test_a_changed_record(connection: Connection) -> None:
    wire = bytearray(connection.records(b"good") + connection.records(b"bad"))
    wire[-1] ^= 1
    connection.says(bytes(wire))
    assert connection.received == b"good"
    assert "broken" in connection.told
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        connection.hears()


def test_records_without_data_are_no_input() -> None:
    """A ticket is a record like any other; nobody is to take it for a response."""
    clock_of = Connection()
    clock_of.shake_hands()
    stream = clock_of.stream
    stream.pause()
    assert not stream.has_input()
    clock_of.notify()
    assert stream.has_input()
    assert stream.has_ended()
    assert clock_of.told == []
    stream.resume()
    clock_of.settle()
    assert clock_of.told == ["ended"]


def test_what_is_held_is_bounded(connection: Connection) -> None:
    connection.stream.pause()
    connection.wire.write(connection.records(b"x" * 60_000))
    connection.settle()
    for _ in range(10):
        assert connection.stream.has_input()
        connection.stream.has_ended()
        connection.settle()
    transport: Any = connection.stream.transport
    assert len(transport._held.plain) == 16384
    assert len(transport._held.cipher) < 16384 + 3000
    connection.stream.resume()
    connection.settle()
    assert connection.received == b"x" * 60_000


def transports() -> int:
    return sum(type(one) is TLSTransport for one in gc.get_objects())


@pytest.mark.parametrize("how", ["close", "abort", "broken"])
def test_it_leaves_no_garbage(how: str) -> None:
    """An end frees the memory of OpenSSL at once, and not when the cycle collector looks."""
    connection = Connection()
    connection.shake_hands()
    gc.collect()
    count = transports()
    gc.disable()
    try:
        if how == "broken":
            connection.wire.abort()
        else:
            getattr(connection.stream, how)()
        connection.settle()
        assert not connection.stream.is_open
        assert transports() == count - 1
    finally:
        gc.enable()


def test_the_facts(connection: Connection) -> None:
    facts = connection.stream.tls
    assert facts is not None
    assert facts.version in ("TLSv1.2", "TLSv1.3")
    assert (facts.sni, facts.alpn, facts.is_resumed, facts.certificate) == (None, None, False, None)
    assert "GCM" in facts.cipher or "CHACHA20" in facts.cipher
    assert facts.certificate_fingerprint == facts.certificate_subject == ""


def test_compiled_operations_take_objects_of_ssl_only() -> None:
    if not tls_operations.IS_COMPILED:
        pytest.skip("the extension is not installed")
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    bio = ssl.MemoryBIO()
    connection = context._wrap_bio(bio, bio, True)
    operations: Any = tls_operations
    for arguments in (object(), bio, b""), (connection, object(), b""), (connection, bio, "text"), (connection, bio):
        for operation in operations.shake_hands, operations.decrypt, operations.encrypt:
            with pytest.raises(TypeError):
                operation(*arguments)
    with pytest.raises(TypeError):
        operations.close_notify(bio, bio)
    with pytest.raises(ssl.SSLError):
        operations.encrypt(connection, bio, b"x")  # before the handshake


def test_distinguished_names() -> None:
    subject = ((("countryName", "DE"),), (("organizationName", "A, B"),), (("commonName", " x#\r\n"), ("userId", "1")))
    assert distinguished_name(subject) == "CN=\\ x#\\0D\\0A+UID=1,O=A\\, B,C=DE"
    assert distinguished_name(()) == ""


@pytest.mark.parametrize(
    ("data", "alert"),
    [(b"GET / HTTP/1.1\r\n\r\n", b""), (bytes(100), b""), (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"\x15")],
    ids=["HTTP", "zeros", "a short hello"],
)
def test_no_handshake(data: bytes, alert: bytes) -> None:
    connection = Connection()
    with pytest.raises(HandshakeFailed) as caught:
        connection.handshake.feed(data)
    assert caught.value.alert[:1] == alert
    other = Connection()
    other.shake_hands()


def test_a_name_is_needed_to_verify_one() -> None:
    context = ssl.create_default_context(cafile=authority().pem)
    make = functools.partial(Handshake, Stream(), TLSBuffers(lambda call: None), context, server_side=False)
    with pytest.raises(ValueError, match="name"):
        make()
    make(server_name="localhost")
