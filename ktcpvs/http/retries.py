"""Retries: which server connection gets a request whose own has died, or whose server is silent.

A request is sent again only while no part of a response has come, and only if its method is idempotent (RFC 9110,
section 9.2.2). `retry_budget` limits how many requests go to a second server.
"""

from __future__ import annotations

from typing import Protocol

from attrs import evolve

from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination
from ktcpvs.model.health import DOWN
from ktcpvs.model.outcome import RESET, STATUS, TIMEOUT
from ktcpvs.model.retry_on import RESET as ON_RESET
from ktcpvs.model.scheduling import Choice
from ktcpvs.model.why import RETRY, joined
from ktcpvs.system import log as levels

UNANSWERED = "the server closed the connection before it answered"


class FailedConnection(Protocol):
    """The part of a server connection that retries look at."""

    @property
    def destination(self) -> Destination: ...

    @property
    def is_used(self) -> bool:
        """Whether it has carried a request before."""


class RetriedExchange(Protocol):
    """The part of an exchange that its retries use.

    dispatcher: selects the server. server: the connection to it. may_be_repeated: the request can be sent again.
    last_activity: the tick at which bytes last came from the client or the server.
    """

    dispatcher: Dispatcher

    @property
    def server(self) -> FailedConnection | None: ...

    @property
    def may_be_repeated(self) -> bool: ...

    @property
    def last_activity(self) -> int: ...

    def transition(self, event: str) -> None:
        """Change the state of the client connection."""

    def connect(self, destination: Destination) -> None:
        """Send the request to this server, on a new connection."""

    def release_server(self, reset: bool) -> None:
        """Close the server connection, with a reset if `reset`."""

    def server_failed(self, reason: str, kind: str = RESET) -> None:
        """Count a failed request of the server. kind: one of the reasons of `model/outcome.py`."""

    def fail(self, status: int, reason: str, retry_after: int = 0, *, why: str = "") -> None:
        """Respond with an error of the switch itself."""


class Retries:
    """The retries of one service's requests."""

    __slots__ = ("_service",)

    def __init__(self, service: ServiceContext) -> None:
        self._service = service

    def explain(self, dead: FailedConnection, failure: str) -> str:
        """Return why a server connection has died before it answered, and log it if the configuration may be the
        reason. failure: of TLS; "": there was none."""
        destination = dead.destination
        reason = failure or UNANSWERED + self._service.connector(destination).hint
        if reason != UNANSWERED:
            self._service.note_server_fault(destination, reason)
        return reason

    def repeat(self, exchange: RetriedExchange, dead: FailedConnection, failure: str = "") -> None:
        """Send the request again after its server connection has died. failure: as for `explain`.

        If a kept connection has died, it may only have been idle for too long, so the same server is tried on a new
        connection. If a new connection has died, that is the server's fault, so another server gets the request.
        """
        dispatcher, destination = exchange.dispatcher, dead.destination
        exchange.transition(life.AGAIN)
        if dispatcher.entry is not None:
            dispatcher.entry.retried()
        destination.retries += 1
        was_first = destination not in dispatcher.failed_connections
        dispatcher.failed_connections = (*dispatcher.failed_connections, destination)
        if dead.is_used and was_first:
            exchange.connect(destination)
            return
        dispatcher.exclude(destination, self.explain(dead, failure))
        if dispatcher.lease is not None:
            dispatcher.lease.end(failed=True)
        if ON_RESET not in self._service.config.retry_on:
            exchange.fail(502, UNANSWERED)
        elif self._service.selector.may_retry():
            dispatcher.is_retry = True
            dispatcher.select()
        else:
            exchange.fail(502, f"{UNANSWERED}, and there are as many retries as retry_budget allows")

    def check_silence(self, exchange: RetriedExchange, seconds: int) -> None:
        """The server has sent nothing for `seconds`: retry elsewhere if its checks have failed, or after
        first_byte_timeout."""
        server, timeout = exchange.server, self._service.settings.first_byte_timeout
        if server is None:
            return
        if server.destination.health.state == DOWN:
            self._retry_elsewhere(exchange, f"no response within {seconds} seconds, and its checks fail")
        elif timeout and seconds >= timeout:
            self._retry_elsewhere(exchange, f"no response within {timeout} seconds")

    def response_timed_out(self, exchange: RetriedExchange) -> None:
        """The server has not begun its response within `response_timeout`."""
        seconds = self._service.settings.response_timeout
        if not self._retry_elsewhere(exchange, f"no response within {seconds} seconds"):
            exchange.server_failed(f"no response within {seconds} seconds", TIMEOUT)
            exchange.fail(504, f"the server did not answer within {seconds} seconds")

    def _retry_elsewhere(self, exchange: RetriedExchange, reason: str) -> bool:
        """Send the request to another server, if that is safe and this one responds to no other request either. Return
        False if the request stays where it is."""
        server, dispatcher, service = exchange.server, exchange.dispatcher, self._service
        if server is None or not exchange.may_be_repeated:
            return False
        silent = server.destination
        if silent.heard > exchange.last_activity or silent in dispatcher.request.tried:
            return False
        choice = service.selector.instead_of_silent(silent, dispatcher.request)
        if choice is None:
            return False
        form = "service {ident}: server {server} is silent: {why}"
        service.context.log.event(levels.NON_FATAL, form, ident=service.ident, server=silent.address, why=reason)
        exchange.transition(life.SILENT)
        self._move(exchange, silent, choice, reason, TIMEOUT)
        return True

    def retry_status(self, exchange: RetriedExchange, status: int) -> bool:
        """The server has responded with this status. Send the request to another server if `retry_on` names the status
        and that is safe. Return False if the client gets the response."""
        server, dispatcher, service = exchange.server, exchange.dispatcher, self._service
        if server is None or str(status) not in service.config.retry_on.split() or not exchange.may_be_repeated:
            return False
        destination = server.destination
        if destination in dispatcher.request.tried:
            return False
        choice = service.selector.instead_of_silent(destination, dispatcher.request)
        if choice is None:
            return False
        exchange.transition(life.RETRIED)
        self._move(exchange, destination, choice, f"status {status}", STATUS)
        return True

    def _move(self, exchange: RetriedExchange, silent: Destination, choice: Choice, reason: str, kind: str) -> None:
        """Send the request, which the first server has had, to the one of `choice`. reason, kind: why, in words, and as
        one of the reasons of `model/outcome.py`."""
        dispatcher = exchange.dispatcher
        silent.retries += 1
        if dispatcher.entry is not None:
            dispatcher.entry.retried()
        if dispatcher.lease is not None:
            dispatcher.lease.end(failed=True)
        exchange.release_server(reset=True)
        dispatcher.failed_connections = (*dispatcher.failed_connections, silent)
        dispatcher.is_retry = True
        dispatcher.exclude(silent, reason, kind)
        dispatcher.take(evolve(choice, why=joined(choice.why, RETRY)))
