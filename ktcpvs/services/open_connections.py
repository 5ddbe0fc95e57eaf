"""The open client connections of one service: counted in and out, with their bytes, their descriptors and their log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ktcpvs.dispatch.client_connection import ClientConnection
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.http2_stream_connection import HTTP2StreamConnection
from ktcpvs.runtime.counters import ClientCounter
from ktcpvs.system import log as levels


class OpenConnections:
    """Counts the client connections of one service, and those of HTTP/2 streams. all: those that are open."""

    def __init__(self, service: ServiceContext, clients: ClientCounter, left: Callable[[], object]) -> None:
        """clients: the number of its clients in all processes. left: called when connections have been counted out."""
        self.all: set[ClientConnection] = set()
        self._service = service
        self._context = service.context
        self._clients = clients
        self._left = left
        self._on_end = self.count_out  # one bound method for all connections

    def count_in(self, connection: ClientConnection) -> None:
        """Count a new connection in."""
        connection.on_end = self._on_end
        self._context.descriptors.take(connection.descriptors, connection.reserved)
        self.all.add(connection)
        if connection.is_client:
            self._clients.add(1)
            self._service.counters.total += 1
        log = self._context.log
        if log.level >= levels.CONNECTION:
            ident = self._service.ident
            log.event(levels.CONNECTION, "{client} connected to {ident}", client=connection.client_name, ident=ident)

    def count_out(self, connection: ClientConnection) -> None:
        """Count a connection out; safe to call twice."""
        if connection not in self.all:
            return
        self.all.discard(connection)
        if connection.is_client:
            self._clients.add(-1)
        if connection.limits is not None:
            connection.limits.release()
        counters = self._service.counters
        bytes_in, bytes_out = connection.moved()
        counters.ended_in += bytes_in
        counters.ended_out += bytes_out
        if self._context.log.level >= levels.CONNECTION:
            self._log_end(connection, bytes_in, bytes_out)
        if connection.descriptors:
            self._context.descriptors.give(connection.descriptors, connection.reserved)
        self._left()

    def count_out_streams(self, streams: Sequence[HTTP2StreamConnection]) -> None:
        """Count the connections of streams of HTTP/2 out, which may serve other streams later. All have ended in the
        same turn, and counted as nothing else than connections."""
        connections, log = self.all, self._context.log
        bytes_in = bytes_out = 0
        for stream in streams:
            connections.discard(stream)
            exchange = stream.exchange
            bytes_in += exchange.bytes_in
            bytes_out += exchange.bytes_out
            if log.level >= levels.CONNECTION:
                self._log_end(stream, exchange.bytes_in, exchange.bytes_out)
        counters = self._service.counters
        counters.ended_in += bytes_in
        counters.ended_out += bytes_out
        self._left()

    def _log_end(self, connection: ClientConnection, bytes_in: int, bytes_out: int) -> None:
        choice = connection.dispatcher.choice
        self._context.log.event(
            levels.CONNECTION,
            "{client} ended after {seconds} s: {why}; {server}, {bytes_in} in, {bytes_out} out",
            client=connection.client_name,
            seconds=self._context.wheel.now - connection.began,
            why=connection.ending,
            server=choice.destination.address if choice else "no server",
            bytes_in=bytes_in,
            bytes_out=bytes_out,
        )
