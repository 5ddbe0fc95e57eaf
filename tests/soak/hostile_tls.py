"""Kinds of hostile clients that speak TLS, or something else where TLS is expected."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from peer import LOST, Peer

HELLO = (Path(__file__).parents[1] / "protocols" / "corpus" / "hellos" / "openssl-tls13.bin").read_bytes()
SSL_REQUEST = bytes.fromhex("0000000804d2162f")
STAY = 12.0
"""Seconds for which a client stays that does nothing more."""

BURST = 20
"""Handshakes that one client does at once."""

MAX_RECORDS = 2000


class Attacker(Protocol):
    """The part of a client that these kinds use."""

    chance: random.Random
    http: list[int]
    tls: list[int]
    counts: Counter[str]

    async def connect(self, ports: list[int], receive_buffer: int = 0) -> Peer:
        """Connect to one of these ports."""

    def any_request(self, is_quick: bool = False) -> bytes:
        """A whole request of some kind."""


class Secure:
    """TLS over a peer. It verifies nothing, and may resume a session of before."""

    def __init__(
        self,
        peer: Peer,
        version: ssl.TLSVersion,
        session: ssl.SSLSession | None = None,
        contexts: Mapping[ssl.TLSVersion, ssl.SSLContext] | None = None,
    ) -> None:
        """contexts: by version; None: those without ALPN."""
        self.peer = peer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = (contexts or CONTEXTS)[version]
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost", session=session)

    def flush(self) -> bytes:
        """Return the bytes to send."""
        return self._outgoing.read()

    async def handshake(self) -> None:
        """Complete the handshake. Raises what it raises, and EOFError."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                await self.peer.send(self.flush())
                return

    async def _exchange(self) -> None:
        if data := self.flush():
            await self.peer.send(data)
        received = await self.peer.read()
        if not received:
            raise EOFError
        self._incoming.write(received)

    async def write(self, data: bytes) -> None:
        self.tls.write(data)
        await self.peer.send(self.flush())

    async def read(self) -> bytes:
        """Read something; b"" at the end."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self._exchange()
            except ssl.SSLZeroReturnError:
                return b""


def _context(version: ssl.TLSVersion, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    return context


CONTEXTS = {version: _context(version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)}
HTTP2_CONTEXTS = {version: _context(version, "h2") for version in CONTEXTS}


async def _secure(attacker: Attacker, receive_buffer: int = 0) -> Secure:
    """A client whose handshake is complete."""
    peer = await attacker.connect(attacker.tls, receive_buffer)
    secure = Secure(peer, attacker.chance.choice(list(CONTEXTS)))
    await secure.handshake()
    attacker.counts["handshakes"] += 1
    return secure


async def stalls_in_hello(attacker: Attacker) -> None:
    """Send a ClientHello up to any byte, and no more."""
    peer = await attacker.connect(attacker.tls)
    await peer.send(HELLO[: attacker.chance.randrange(len(HELLO))])
    await asyncio.sleep(STAY)


async def drips_hello(attacker: Attacker) -> None:
    peer = await attacker.connect(attacker.tls)
    await peer.drip(HELLO, attacker.chance.choice((0, 0.001, 0.05)))
    await peer.wait_for_end()


async def sends_hello_in_tiny_records(attacker: Attacker) -> None:
    """Each byte of a hello in a record of its own; then records without an end."""
    peer = await attacker.connect(attacker.tls)
    message = HELLO[5:]
    await peer.send(b"".join(b"\x16\3\1\0\1" + message[at : at + 1] for at in range(len(message))))
    for _ in range(attacker.chance.randrange(MAX_RECORDS)):
        await peer.send(b"\x16\3\3\0\1\1")
    await peer.wait_for_end()


async def changes_a_hello(attacker: Attacker) -> None:
    peer = await attacker.connect(attacker.tls)
    data = bytearray(HELLO)
    for _ in range(attacker.chance.randint(1, 4)):
        data[attacker.chance.randrange(len(data))] = attacker.chance.randrange(256)
    await peer.send(bytes(data))
    await peer.wait_for_end()


async def says_hello_and_leaves(attacker: Attacker) -> None:
    """Let the server sign, and go: many times."""
    for _ in range(attacker.chance.randrange(BURST)):
        peer = await attacker.connect(attacker.tls)
        await peer.send(HELLO)
        if attacker.chance.random() < 0.5:
            await peer.read()
        peer.reset()


async def speaks_no_tls(attacker: Attacker) -> None:
    """HTTP, SSH, PostgreSQL or garbage where TLS is expected."""
    peer = await attacker.connect(attacker.tls)
    garbage = attacker.chance.randbytes(attacker.chance.choice((1, 5, 500, 20_000)))
    startup = bytes.fromhex("0000000c00030000") + b"a\0b\0"
    of_databases = SSL_REQUEST, SSL_REQUEST * 2, SSL_REQUEST + startup, startup
    kinds = attacker.any_request(), b"SSH-2.0-x\r\n", garbage, *of_databases
    await peer.send(attacker.chance.choice(kinds))
    await peer.wait_for_end()


async def speaks_tls_where_none_is(attacker: Attacker) -> None:
    """A ClientHello to services that read HTTP."""
    peer = await attacker.connect(attacker.http)
    await peer.send(HELLO * attacker.chance.choice((1, 50)))
    await peer.wait_for_end()


async def asks_for_tls_and_stalls(attacker: Attacker) -> None:
    """Begin as PostgreSQL does, and go on or not."""
    peer = await attacker.connect(attacker.tls)
    await peer.send(SSL_REQUEST)
    if await peer.read() == b"S" and attacker.chance.random() < 0.7:
        await peer.send(HELLO[: attacker.chance.choice((20, len(HELLO)))])
    await peer.wait_for_end()


async def shakes_hands_only(attacker: Attacker) -> None:
    """Complete handshakes and send nothing, or leave at once."""
    for _ in range(attacker.chance.randrange(BURST)):
        secure = await _secure(attacker)
        if attacker.chance.random() < 0.5:
            secure.peer.reset()
    await asyncio.sleep(STAY)


async def never_reads_by_tls(attacker: Attacker) -> None:
    """Pipeline requests for large responses, and read none."""
    secure = await _secure(attacker, 4096)
    for _ in range(20):
        await secure.write(attacker.any_request(is_quick=True) * 5)
    await asyncio.sleep(STAY)


async def breaks_a_record(attacker: Attacker) -> None:
    """After a handshake: a record with a wrong tag, a huge one, half of one, or an alert in the clear."""
    secure = await _secure(attacker)
    await secure.write(attacker.any_request(is_quick=True))
    secure.tls.write(attacker.any_request(is_quick=True))
    record = secure.flush()
    broken = (
        record[:-1] + bytes((record[-1] ^ 1,)),
        b"\x17\3\3" + struct.pack("!H", 0xFFFF) + bytes(1000),
        record[: attacker.chance.randrange(len(record))],
        b"\x15\3\3\0\2\2\x50",
        b"\x14\3\3\0\1\1" * 500,
        attacker.chance.randbytes(300),
    )
    await secure.peer.send(attacker.chance.choice(broken))
    with contextlib.suppress(*LOST):
        await secure.peer.wait_for_end()


async def ends_without_notice(attacker: Attacker) -> None:
    """A FIN without close_notify within a request, or a reset."""
    secure = await _secure(attacker)
    request = attacker.any_request()
    await secure.write(request[: attacker.chance.randrange(1, len(request))])
    if attacker.chance.random() < 0.5:
        secure.peer.half_close()
        await secure.peer.wait_for_end()
    else:
        secure.peer.reset()


async def resumes(attacker: Attacker) -> None:
    """Offer a session to services that did not give it, some of which demand a certificate."""
    version = attacker.chance.choice(list(CONTEXTS))
    session = None
    for _ in range(attacker.chance.randint(2, 6)):
        secure = Secure(await attacker.connect(attacker.tls), version, session)
        await secure.handshake()
        await secure.write(attacker.any_request(is_quick=True))
        await secure.read()
        session = secure.tls.session


async def reads_slowly_by_tls(attacker: Attacker) -> None:
    secure = await _secure(attacker, 4096)
    await secure.write(attacker.any_request(is_quick=True) * 3)
    while await secure.read():
        await asyncio.sleep(0.05)


TLS_KINDS = (
    stalls_in_hello, drips_hello, sends_hello_in_tiny_records, changes_a_hello, says_hello_and_leaves, speaks_no_tls,
    speaks_tls_where_none_is, asks_for_tls_and_stalls, shakes_hands_only, never_reads_by_tls, breaks_a_record,
    ends_without_notice, resumes, reads_slowly_by_tls,
)  # fmt: skip
"""Each is called with the client that does it. Errors of TLS are OSErrors, as those of sockets are."""
