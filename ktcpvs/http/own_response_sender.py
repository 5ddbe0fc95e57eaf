"""Sends the responses of the switch itself: errors, redirects, and those of rules with an action."""

from __future__ import annotations

from typing import Protocol

from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.own_responses import CHALLENGE_ANSWERED, challenge_response
from ktcpvs.dispatch.service_context import ServiceContext
from ktcpvs.http.exchange_owner import CONNECTING, ExchangeOwner
from ktcpvs.http.message_edits import MessageEdits, ServiceEdits
from ktcpvs.http.retries import UNANSWERED
from ktcpvs.model import exchange as life
from ktcpvs.model.scheduling import OwnResponse
from ktcpvs.model.why import CHALLENGE, of_status
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadRequest, OwnMessage


class RefusedExchange(Protocol):
    """The part of an exchange that a response of the switch itself uses. L{ktcpvs.http.exchange.Exchange} describes the
    attributes."""

    owner: ExchangeOwner
    dispatcher: Dispatcher
    message: http1.Request | None

    def use_edits(self, edits: MessageEdits | None, rule: str = "", groups: tuple[bytes, ...] = ()) -> None:
        """Edit the messages of the current request in this way."""

    def edited(self, data: bytes, why: str) -> bytes:
        """Return a response of the switch itself with the edits for the current request."""

    def discard(self) -> None:
        """Give up the server connection, and what is held of the request and of the server's response."""

    def end_with_own_response(self, status: int, response: bytes, why: str, received: int, ending: str = "") -> None:
        """Count a response of the switch itself, and end the current request with it."""


class OwnResponseSender:
    """Sends the responses that one service gives itself."""

    __slots__ = ("_edits", "_service")

    def __init__(self, service: ServiceContext, edits: ServiceEdits) -> None:
        self._service = service
        self._edits = edits

    def fail(
        self,
        exchange: RefusedExchange,
        status: int,
        reason: str,
        why: str = "",
        retry_after: int = 0,
        location: str = "",
    ) -> None:
        """Respond with an error, or with a redirect. why: the reason as words of `model/why.py`; "": that of the
        status. retry_after: seconds; 0: no such field. location: the URL to which a redirect leads; "": it is none."""
        owner, dispatcher, service = exchange.owner, exchange.dispatcher, self._service
        if status == 503 and dispatcher.failed_connections:
            status, reason, why = 502, UNANSWERED, ""  # there was a server
        later = owner.retry_after(status, retry_after)
        if location:
            service.note_redirect(owner.client_name, status, reason)
        else:
            service.note_refusal(owner.client_name, status, reason)
        closes = status == 400 or (bool(owner.pending) and _ends_pipeline(dispatcher, status))
        lines = exchange.message.lines if exchange.message is not None else b""
        response = service.own_responses.error(status, reason, later, location, lines)
        _send(exchange, response, reason, why or of_status(status), closes)

    def respond(self, exchange: RefusedExchange, own: OwnResponse) -> None:
        """Respond as a rule says, without a server."""
        responses = self._service.own_responses
        try:
            response = responses.message(own, exchange.dispatcher.request, exchange.owner.client_name)
        except BadRequest as bad:
            self.fail(exchange, bad.status, str(bad))
            return
        responses.count(own.rule, response.status)
        exchange.use_edits(self._edits.of(own.modifiers), own.rule, own.groups)
        _send(exchange, response, own.reason, own.why)

    def respond_to_challenge(self, exchange: RefusedExchange, key_authorization: bytes) -> None:
        """Respond to a challenge of ACME."""
        _send(exchange, challenge_response(key_authorization), CHALLENGE_ANSWERED, CHALLENGE)


def _send(exchange: RefusedExchange, response: OwnMessage, reason: str, why: str, closes: bool = False) -> None:
    """Send a response of the switch itself. why: the reason as words. closes: the connection ends with it."""
    owner, message = exchange.owner, exchange.message
    exchange.discard()
    owner.hold(CONNECTING, False)
    ends = closes or owner.is_last or (owner.has_ended and not owner.pending)
    if owner.body is not None or ends or message is None:
        owner.transition(life.LAST)
        owner.send_last(response, reason, why)
        return
    data = exchange.edited(response.encoded(message.method, keep_alive=True, minor=message.minor), why)
    exchange.end_with_own_response(response.status, data, why, owner.request_size, f"{response.status}: {reason}")
    owner.client.write(data)
    exchange.message = None
    owner.transition(life.REFUSED)
    owner.refused()


def _ends_pipeline(dispatcher: Dispatcher, status: int) -> bool:
    """Return whether an error is the last response although more requests wait: servers could not be reached, or
    failed. Each of these requests would be tried at all servers, and a client can send 40,000 in one MiB."""
    return status in (502, 504) or bool(dispatcher.request.failed)
