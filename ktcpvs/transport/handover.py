"""How a connection that is relayed by copying gets an engine, in the middle of its life and with nothing lost.

An engine can take over when everything that was read has been written. Where it has not, neither side is read for a
moment; who does not take it even then goes on as it was, and another attempt follows later.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ktcpvs.model import connection, exchange
from ktcpvs.model.service import AUTO, COPY, KERNEL, SPLICE
from ktcpvs.system import log as levels
from ktcpvs.transport.relay.copy import CopyRelay
from ktcpvs.transport.relay.detach import can_detach, flushed

if TYPE_CHECKING:
    from ktcpvs.transport.served import Served

LOOKS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Seconds that neither side is read, one after another; then the attempt is given up."""

ATTEMPTS = 5
"""So often it is tried."""

BULK = 16 << 20
"""Bytes a second; what is left of a connection that moves more is spliced where `relay = auto` would give it to the
kernel relay."""

EARLY = 0.0625
"""Seconds after a lot came at once; what has moved as much in them as `BULK` is for that time need not wait longer."""

JOINED = (connection.RELAYING, exchange.SWITCHED)

BEGINNING = "it is just beginning"
"""What `can_detach` says of a connection that can leave its transport in the next turn."""


class Handover:
    """One for each connection that waits for an engine, dropped when it has it or will never have it."""

    __slots__ = ("_attempts", "_bulk", "_call", "_copy", "_early", "_finished", "_looks", "_served")

    def __init__(self, served: Served, copy: CopyRelay, finished: Callable[[], object], after: int) -> None:
        """copy: what relays now. finished: to be called when both directions have ended. after: seconds; 0: as soon as
        possible."""
        self._served = served
        self._copy = copy
        self._finished = finished
        self._attempts = 0
        self._looks = 0  # in this attempt; while there are some, neither side is read
        self._call: Any = None  # the one thing that is waited for: it can be cancelled
        self._bulk = False  # it was found to be bulk early
        self._early: Any = None  # a look whether it is bulk, before its time has come
        if after:
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
        if self._early is None and self._call is not None and not self._attempts + self._looks and self._may_splice():
            self._early = self._served.context.reactor.callLater(EARLY, self._look_early, self._moved())

    def _look_early(self, before: int) -> None:
        self._early = None
        if self._call is not None and not self._attempts + self._looks and self._moved() - before > BULK * EARLY:
            self._bulk = True
            self._call.cancel()
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
        obstacle = self._obstacle() or can_detach(client) or can_detach(server)
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
        if served.service.engine == COPY:
            return "its service copies by now"
        return None

    def _move(self) -> None:
        served, copy = self._served, self._copy
        client, server = copy.inward.source, copy.outward.source
        context, engine = served.context, served.service.engine
        if engine == KERNEL and self._may_splice() and self._is_bulk():
            engine = SPLICE
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
            joined = served.service.joined
            joined[COPY] -= 1
            joined[engine] += 1

    def _may_splice(self) -> bool:
        """Bulk is spliced where the service takes the best there is."""
        service = self._served.service
        wants = service.engine == KERNEL and service.config.relay == AUTO
        return wants and service.context.relays.refusal(SPLICE) is None

    def _is_bulk(self) -> bool:
        """So much went through already that its reader may not keep up; then the kernel relay would copy."""
        seconds = max(self._served.context.wheel.now - self._served.began, 1)
        return self._bulk or self._moved() > BULK * seconds

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
