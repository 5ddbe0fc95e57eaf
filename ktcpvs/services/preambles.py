"""The clients of one service that are in the preamble of their connection: counted, and closed with the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define

from ktcpvs.dispatch.admission import Admission
from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.model.address import Address
from ktcpvs.model.clients import NOWHERE
from ktcpvs.runtime.context import Context
from ktcpvs.streams.accept import client_name
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.preamble import Preamble, Stage
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_stage import NAME as TLS
from ktcpvs.system import log as levels

DESCRIPTORS = 2
"""The number counted for a client in its preamble: its own, and one for the server connection that it will need."""

MAX_REASONS = 64
"""The most reasons that are counted separately; further ones are counted together."""

OTHER_REASONS = "other reasons"

FULL, RESUMED, REFUSED = "full", "resumed", "refused"
"""The outcomes of a TLS handshake."""


@define
class _Place:
    """Places of a client in its preamble. at: the listener where it takes room; None: nowhere. slot: that of its
    address, from `Admission.enter`; NOWHERE also while its address is not known, and when its connection counts there.
    """

    at: Address | None
    slot: int = NOWHERE


class Preambles:
    """Runs the preambles of one service's clients, and turns those that are complete into client connections.

    A client is admitted as soon as its address is known: before anything is read, or behind the header of a proxy. So a
    client that is denied costs no handshake, and handshakes count for the limits of their client.

    refusals: reason -> how many clients were refused with it, or left. handshakes: (version of TLS, outcome) -> their
    number; the version of refused ones is "". pauses: how often a listener has stopped accepting because as many of its
    clients were in their preamble as `max_handshakes` allows.
    """

    def __init__(
        self,
        context: Context,
        ident: str,
        clients: Any,
        admission: Admission,
        build: Callable[[SocketAddress, int, Stream], ClientConnection],
        left: Callable[[], object],
    ) -> None:
        """clients: counts the clients of the service. admission: of the service. build: returns the connection of a
        client that was admitted, by its address and its slot; it takes the stream over. left: called when a client
        counts no more."""
        self._context = context
        self._ident = ident
        self._clients = clients
        self._admission = admission
        self._build = build
        self._left = left
        self._running: dict[Preamble, _Place] = {}
        self._at: Counter[Address] = Counter()  # how many take room at each listener
        self.refusals: dict[str, int] = {}
        self.handshakes: Counter[tuple[str, str]] = Counter()
        self.pauses = 0

    def __len__(self) -> int:
        return len(self._running)

    def room(self, at: Address) -> int:
        """Return how many more clients of a listener may begin their preamble; for 0, note that it stops accepting."""
        room = self._context.settings.max_handshakes - self._at[at]
        if room > 0:
            return room
        self.pauses += 1
        return 0

    def begin(self, stages: Sequence[Stage], peer: SocketAddress, at: Address | None = None) -> Preamble | None:
        """Count a new client in; its stages begin once its stream is connected. Returns None for a client that is
        rejected, and must be reset. peer: as accept() tells it. at: the address of its listener; None: a Twisted
        endpoint has accepted it."""
        preamble = Preamble(stages, peer, self._context.wheel, self, self._context.settings)
        place = _Place(at)
        if preamble.knows_address and not self._admit(place, peer):
            return None
        self._running[preamble] = place
        if at is not None:
            self._at[at] += 1
        self._context.descriptors.take(DESCRIPTORS)
        self._clients.add(1)
        return preamble

    def _admit(self, place: _Place, peer: SocketAddress) -> bool:
        slot = self._admission.enter(peer)
        if slot is None:
            return False
        place.slot = slot
        return True

    def close(self) -> None:
        """Reset all of them."""
        for preamble in list(self._running):
            self._context.steps.run(f"service {self._ident}: close a client in its preamble", preamble.reject)

    # What a preamble tells.

    def admits(self, preamble: Preamble) -> bool:
        return self._admit(self._running[preamble], preamble.peer)

    def completed(self, preamble: Preamble, rest: bytes) -> None:
        stream = preamble.stream
        if stream.tls is not None:
            self.handshakes[stream.tls.version, RESUMED if stream.tls.is_resumed else FULL] += 1
        stream.called = preamble.called
        place = self._running[preamble]
        connection = self._build(preamble.peer, place.slot, stream)
        place.slot = NOWHERE
        self.gone(preamble)  # after its connection was counted in: there is no room for another client meanwhile
        connection.take_over(stream, rest)

    def finished(self, preamble: Preamble) -> None:
        tls = preamble.stream.tls
        if tls is not None:
            self.handshakes[tls.version, FULL] += 1
        if preamble in self._running:
            self._free_room(preamble)
            self._left()
        client, _ = client_name(preamble.peer)
        form = "{client} of {ident}: a challenge of ACME is answered"
        self._context.log.event(levels.CONNECTION, form, client=client, ident=self._ident)

    def refused(self, preamble: Preamble, reason: str) -> None:
        reason = self._count(preamble, reason)
        client, _ = client_name(preamble.peer)
        log = self._context.log
        log.fault("service {ident}: clients are refused, as {client}: {reason}", self._ident, reason, client=client)
        log.event(levels.CONNECTION, "{client} refused by {ident}: {why}", client=client, ident=self._ident, why=reason)

    def left(self, preamble: Preamble, reason: str) -> None:
        reason = self._count(preamble, reason)
        client, _ = client_name(preamble.peer)
        form = "{client} has left {ident}: {why}"
        self._context.log.event(levels.CONNECTION, form, client=client, ident=self._ident, why=reason)

    def _count(self, preamble: Preamble, reason: str) -> str:
        """Count a client that is not served, and count it out. Returns the reason under which it is counted."""
        if reason not in self.refusals and len(self.refusals) >= MAX_REASONS:
            reason = OTHER_REASONS
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        if preamble.stage_name == TLS:
            self.handshakes["", REFUSED] += 1
        if preamble in self._running:  # it may stay for a while, to read its last message
            self._free_room(preamble)
            self._left()
        return reason

    def stage_failed(self, stage: Stage | None) -> None:
        name = stage.name if stage is not None else "preamble"
        self._context.log.failure("service {ident}: {stage} failed", ident=self._ident, stage=name)

    def _free_room(self, preamble: Preamble) -> None:
        """Let another client of its listener begin; safe to call twice."""
        place = self._running.get(preamble)
        if place is not None and place.at is not None:
            at, place.at = place.at, None
            self._at[at] -= 1
            if not self._at[at]:
                del self._at[at]

    def gone(self, preamble: Preamble) -> None:
        """Count a client out; safe to call twice."""
        if preamble in self._running:
            self._free_room(preamble)
            place = self._running.pop(preamble)
            if place.slot != NOWHERE:
                self._admission.leave(place.slot, 0)
            self._clients.add(-1)
            self._context.descriptors.give(DESCRIPTORS)
            self._left()
