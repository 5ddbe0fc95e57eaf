"""Hostile clients of HTTP/2 of one kind, several at once, for as long as somebody wants them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from peer import LOST, Peer

ATTACKERS = 4
"""Hostile clients at once."""

ATTEMPT = 2.0
"""Seconds after which a client that is not done begins anew."""


class Attacker:
    """A hostile client, as `hostile_http2` wants it. http, tls: ports without TLS, and with it."""

    def __init__(self, number: int, http: list[int], tls: list[int]) -> None:
        self.chance = random.Random(number)
        self.http = http
        self.tls = tls
        self.counts: Counter[str] = Counter()
        self._peers: list[Peer] = []

    async def connect(self, ports: list[int], receive_buffer: int = 0) -> Peer:
        peer = await Peer.connect(self.chance.choice(ports), receive_buffer)
        self._peers.append(peer)
        self.counts["connections"] += 1
        return peer

    async def run(self, kind: Kind) -> None:
        """Act until it is cancelled."""
        try:
            while True:
                with contextlib.suppress(*LOST):
                    async with asyncio.timeout(ATTEMPT):
                        await kind(self)
                self._leave()
        finally:
            self._leave()

    def _leave(self) -> None:
        for peer in self._peers:
            peer.reset()
        self._peers.clear()


Kind = Callable[[Attacker], Awaitable[None]]


async def attack(kind: Kind, http: list[int], tls: list[int], seconds: float) -> Counter[str]:
    """Let hostile clients act for so long. Return what they have counted."""
    attackers = [Attacker(number, http, tls) for number in range(ATTACKERS)]
    acting = [asyncio.ensure_future(one.run(kind)) for one in attackers]
    await asyncio.sleep(seconds)
    for task in acting:
        task.cancel()
    await asyncio.gather(*acting, return_exceptions=True)
    return sum((one.counts for one in attackers), Counter[str]())
