"""How a connection that is relayed by copying gets an engine, in the middle of its life and with nothing lost.

With `relay = auto` only bulk does: for small messages copying is at least as fast as every engine, and on busy cores
faster.

An engine can take over when everything that was read has been written. Where it has not, neither side is read for a
moment; who does not take it even then goes on as it was, and another attempt follows later.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ktcpvs.model import connection, exchange
from ktcpvs.model.service import COPY, KERNEL
from ktcpvs.relay.copy import CopyRelay
from ktcpvs.relay.detach import can_detach, flushed
from ktcpvs.streams.uv_transport import UVTransport
from ktcpvs.system import log as levels

if TYPE_CHECKING:
    from ktcpvs.dispatch.client_connection import ClientConnection

LOOKS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Seconds that neither side is read, one after another; then the attempt is given up."""

ATTEMPTS = 5
"""So often it is tried."""

EARLY = 0.0625
"""Seconds after a lot came at once; what has moved more in them than `relay_rate` is for that time need not wait
longer."""

JOINED = (connection.RELAYING, exchange.SWITCHED)

BEGINNING = "it is just beginning"
"""What `can_detach` says of a connection that can leave its transport in the next turn."""


class Handover:
    """One for each connection that waits for an engine, dropped when it has it or will never have it."""

    __slots__ = (
        "_after",
        "_attempts",
        "_bulk",
        "_call",
        "_copy",
        "_early",
        "_finished",
        "_looked",
        "_looks",
        "_served",
        "_told",
    )

    def __init__(self, served: ClientConnection, copy: CopyRelay, finished: Callable[[], object], after: int) -> None:
        """copy: what relays now. finished: to be called when both directions have ended. after: seconds until it is
        looked whether the connection moves enough, and between such looks; 0: it is handed over at once, whatever it
        moves."""
        self._served = served
        self._copy = copy
        self._finished = finished
        self._attempts = 0
        self._looks = 0  # in this attempt; while there are some, neither side is read
        self._call: Any = None  # the one thing that is waited for: it can be cancelled
        self._after = after
        self._bulk = not after  # it is worth it
        self._looked = (0, 0)  # bytes that had moved, and the tick, when it was looked whether it is bulk
        self._early: Any = None  # a look whether it is bulk, before its time has come
        self._told = not isinstance(copy.inward.source.transport, UVTransport)  # a lot came at once; only uvloop tells
        if after:
            self._looked = (self._moved(), served.context.wheel.now)
            self._call = served.context.wheel.after(after, self._look)
            copy.inward.source.much = copy.outward.source.much = self._much
        else:
            self._soon(0)

    def cancel(self) -> None:
        """The connection is over."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._forget_early()

    def _forget_early(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            early.cancel()

    def _much(self) -> None:
        """A lot has come at once: it may be bulk."""
        self._told = True
        if self._rate() and self._early is None and not self._bulk and self._served.handover is self:
            self._early = self._served.context.reactor.callLater(EARLY, self._look_early, self._moved())

    def _look_early(self, before: int) -> None:
        self._early = None
        if self._bulk:
            return
        if self._moved() - before > self._rate() * EARLY:
            self._bulk = True
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._look()

    def _moved(self) -> int:
        return self._copy.inward.bytes + self._copy.outward.bytes

    def _soon(self, seconds: float) -> None:
        self._call = self._served.context.reactor.callLater(seconds, self._look)

    def _look(self) -> None:
        """Now?"""
        self._call = None
        self._forget_early()
        copy = self._copy
        client, server = copy.inward.source, copy.outward.source
        obstacle = self._obstacle()
        if obstacle is None:
            if not self._bulk and not self._is_bulk():
                self._wait()
                return
            obstacle = can_detach(client) or can_detach(server)
        if obstacle == BEGINNING:
            self._soon(0)
        elif obstacle is not None:
            self._part()
        elif flushed(client) and flushed(server):
            self._move()
        elif self._looks < len(LOOKS):
            if not self._looks:
                self._hold()
            self._soon(LOOKS[self._looks])
            self._looks += 1
        else:
            self._try_again()

    def _obstacle(self) -> str | None:
        """None, or why it stays as it is for ever."""
        served, copy = self._served, self._copy
        if served.state not in JOINED or copy.inward.ended or copy.outward.ended:
            return "it is ending"
        if served.service.relay.engine == COPY:
            return "its service copies by now"
        return None

    def _move(self) -> None:
        served, copy = self._served, self._copy
        client, server = copy.inward.source, copy.outward.source
        context, engine = served.context, served.service.relay.engine
        families = [stream.transport.getHandle().family for stream in (client, server)]
        if engine == KERNEL and socket.AF_UNIX in families:
            self._part()
            return
        try:
            relay = context.relays.make(engine, client, server, context.wheel, self._finished)
            relay.count_on(copy)
            served.relay = relay
            relay.start()
        except OSError as error:
            served.relay = copy
            form = "service {ident}: {client} is not relayed by {engine}: {why}"
            values = {"ident": served.service.ident, "client": served.client_name, "engine": engine}
            context.log.event(levels.NON_FATAL, form, why=error.strerror or str(error), **values)
            self._part()
        else:
            served.handover = None
            joined = served.service.relay.joined
            joined[COPY] -= 1
            joined[engine] += 1

    def _rate(self) -> int:
        """Bytes a second from which on a connection is bulk."""
        return self._served.context.settings.relay_rate << 10

    def _is_bulk(self) -> bool:
        """True when enough has moved since the last look."""
        moved, now = self._moved(), self._served.context.wheel.now
        (before, since), self._looked = self._looked, (moved, now)
        self._bulk = moved - before >= self._rate() * max(now - since, 1)
        return self._bulk

    def _wait(self) -> None:
        """It is copied on. Who has never sent a lot at once needs no timer: `_much` will tell."""
        if self._told:
            self._call = self._served.context.wheel.after(self._after, self._look)

    def _try_again(self) -> None:
        self._go_on()
        self._attempts += 1
        if self._attempts < ATTEMPTS:
            context = self._served.context
            self._call = context.wheel.after(context.settings.relay_after, self._look)
        else:
            self._part()

    def _part(self) -> None:
        """It copies to its end."""
        self._go_on()
        self._served.handover = None

    # Reading.

    def _hold(self) -> None:
        """Read neither side any more. Who was held back by the other side would be read again when that takes more."""
        for way in self._copy.inward, self._copy.outward:
            way.target.transport.unregisterProducer()
            way.source.pause()

    def _go_on(self) -> None:
        """Undo that. Read first: a transport that is full holds back who is registered."""
        if not self._looks:
            return
        self._looks = 0
        for way in self._copy.inward, self._copy.outward:
            way.source.resume()
            if way.target.is_open:
                way.target.transport.registerProducer(way.source.transport, True)
