"""The clients of one service that are in the preamble of their connection: counted, and closed with the service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.runtime.context import Context
from ktcpvs.streams.accept import client_name
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.preamble import Preamble, Stage
from ktcpvs.system import log as levels

DESCRIPTORS = 2
"""The number counted for a client in its preamble: its own, and one for the server connection that it will need."""

MAX_REASONS = 64
"""The most reasons that are counted separately; further ones are counted together."""

OTHER_REASONS = "other reasons"


class Preambles:
    """Runs the preambles of one service's clients, and turns those that are complete into client connections.

    refusals: reason -> how many clients were refused with it, or left.
    """

    def __init__(
        self,
        context: Context,
        ident: str,
        clients: Any,
        build: Callable[[Any], ClientConnection | None],
        left: Callable[[], object],
    ) -> None:
        """clients: counts the clients of the service. build: admits a client by its peer address and returns its
        connection; None: the client is to be reset. left: called when a client counts no more."""
        self._context = context
        self._ident = ident
        self._clients = clients
        self._build = build
        self._left = left
        self._running: set[Preamble] = set()
        self.refusals: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, stages: Sequence[Stage], peer: SocketAddress) -> Preamble:
        """Count a new client in; its stages begin once its stream is connected. peer: as accept() tells it."""
        preamble = Preamble(stages, peer, self._context.wheel, self)
        self._running.add(preamble)
        self._context.descriptors.take(DESCRIPTORS)
        self._clients.add(1)
        return preamble

    def close(self) -> None:
        """Reset all of them."""
        for preamble in list(self._running):
            self._context.steps.run(f"service {self._ident}: close a client in its preamble", preamble.reject)

    # What a preamble tells.

    def completed(self, preamble: Preamble, rest: bytes) -> None:
        connection = self._build(preamble.peer)
        if connection is None:
            preamble.reject()
            return
        self.gone(preamble)  # after its connection was counted in: there is no room for another client meanwhile
        connection.take_over(preamble.stream, rest)

    def refused(self, preamble: Preamble, reason: str) -> None:
        if reason not in self.refusals and len(self.refusals) >= MAX_REASONS:
            reason = OTHER_REASONS
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        client, _ = client_name(preamble.peer)
        log = self._context.log
        log.fault("service {ident}: clients are refused, as {client}: {reason}", self._ident, reason, client=client)
        log.event(levels.CONNECTION, "{client} refused by {ident}: {why}", client=client, ident=self._ident, why=reason)

    def stage_failed(self, stage: Stage | None) -> None:
        name = stage.name if stage is not None else "preamble"
        self._context.log.failure("service {ident}: {stage} failed", ident=self._ident, stage=name)

    def gone(self, preamble: Preamble) -> None:
        """Count a client out; safe to call twice."""
        if preamble in self._running:
            self._running.discard(preamble)
            self._clients.add(-1)
            self._context.descriptors.give(DESCRIPTORS)
            self._left()
