"""Dry run: select the server for one request as a connection would, with a scheduler that was bound only for that.

Nothing is sent and nothing changes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from ktcpvs.dispatch.own_responses import CHALLENGE_ANSWERED, OwnResponses
from ktcpvs.dispatch.selection import QUEUE, Decision, Selector
from ktcpvs.dispatch.trusted_proxies import TrustedProxies
from ktcpvs.errors import BadValue, shorten
from ktcpvs.interfaces import CLIENT_HELLO, CONNECTION, EACH_REQUEST
from ktcpvs.model import why as words
from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.destination import Destination
from ktcpvs.model.filter import filter_of
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.scheduling import NONE, ClientSide, ModifiedChoice, OwnResponse, Request
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols import http1
from ktcpvs.protocols.client_hello import BadHello, ClientHello, host_name
from ktcpvs.protocols.http1 import NO_HTTP_1, BadRequest, HeadReader
from ktcpvs.protocols.http1.target import https_url
from ktcpvs.runtime.context import Context
from ktcpvs.services.prepared import Prepared
from ktcpvs.streams.tls_stage import NAME, ContextChoice
from ktcpvs.system.pending import cancel_pending

# The request.

_FRAMING = ("content-length", "transfer-encoding")
"""The header fields that tell of a body."""

_URL_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
"""The host of a target that is a URL, with its port."""


def parse_client(text: str) -> str:
    """Return a client's IP address in its usual form. Raises BadValue."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValue(f"client '{shorten(text, 40)}': expected an IP address") from None


def denial_reason(client: str, config: VirtualService) -> str:
    """Return why the allow and deny lists reject that client, in words; "" if they accept it."""
    judge = filter_of(config.allow, config.deny) if config.has_tcp_listener else None
    may, network = (True, None) if judge is None else judge.judge(ipaddress.ip_address(client).packed)
    if may:
        return ""
    return f"client denied by {network}" if network else "client denied: it is in no allowed network"


@frozen
class AssumedTLS:
    """The TLS of a client that is not there. sni: the server name that it has sent; None: none."""

    sni: str | None
    version: str = "TLSv1.3"
    certificate_subject: str = ""
    certificate_fingerprint: str = ""


@frozen
class AssumedConnection:
    """The connection of a client that is not there. local_address: the address that it has connected to, as
    getsockname() returns it. tls: None: it does not speak TLS with the switch."""

    local_address: Any
    tls: AssumedTLS | None


def _listener_at(config: VirtualService, port: int | None) -> ListenAddress:
    """Return where a client has connected to this port. port: None: the first address on which the service listens.
    Raises BadValue where it listens on no such port."""
    ports = {one.address.port: one for one in reversed(config.listen) if isinstance(one.address, Inet)}
    if port is not None and port not in ports:
        known = ", ".join(map(str, sorted(filter(None, ports)))) or "no port"
        raise BadValue(f"port {port}: service {config.ident} listens on {known}")
    return config.listen[0] if port is None else ports[port]


def _assume_connection(listener: ListenAddress, assumed: AssumedRequest) -> ClientSide:
    """Return the connection of a client that has connected there. The name of its Host is that of TLS too."""
    tls = AssumedTLS(_server_name(assumed)) if listener.is_tls else None
    return AssumedConnection(local_address(listener.address), tls)


def local_address(address: Address) -> Any:
    """Return the address of a listener as getsockname() returns it."""
    return address.path if isinstance(address, Unix) else (address.host, address.port)


def handshake_refusal(config: VirtualService, assumed: AssumedRequest, choice: ContextChoice | None) -> str:
    """Return why the listener refuses the client's TLS handshake, in words; "" if it does not, or speaks no TLS.
    choice: of the listeners with TLS; None: it is not known, and nothing is refused. Raises BadValue."""
    if choice is None or not _listener_at(config, assumed.port).is_tls:
        return ""
    try:
        choice.choose(ClientHello(_server_name(assumed), (), (), False, 0))
    except BadHello as bad:
        return f"{NAME}: {bad}: the handshake is refused"
    return ""


def names_host(assumed: AssumedRequest) -> bool:
    """Whether a request names its host, by Host or by a URL."""
    return bool(_host_given(assumed.target or "", assumed.headers))


def _host_given(target: str, headers: Sequence[tuple[str, str]]) -> str:
    """Return the value of Host, or the host of a target that is a URL; "": neither was given."""
    url = _URL_HOST.match(target)
    return next((value for name, value in headers if name.lower() == "host"), url[1] if url else "")


def _server_name(assumed: AssumedRequest) -> str | None:
    """Return the name of Host, without its port, as the server name of TLS. Raises BadValue."""
    host = _host_given(assumed.target or "", assumed.headers)
    name, colon, port = host.rpartition(":")
    try:
        return host_name((name if colon and port.isdigit() else host).encode("ascii", "replace")) if host else None
    except BadHello as bad:
        raise BadValue(f"Host '{shorten(host, 40)}', which stands for the server name: {bad}") from None


def read_request(
    request: Request,
    prepared: Prepared,
    context: Context,
    assumed: AssumedRequest,
    notes: list[str],
) -> None:
    """Fill in the fields of `request` that the scheduler may see of an assumed request. Raises BadValue, or BadRequest
    as for a client."""
    name, unit = prepared.config.scheduler_name, prepared.factory.unit
    listener = _listener_at(prepared.config, assumed.port)
    request.connection = _assume_connection(listener, assumed)
    method, target, headers, body = assumed.method, assumed.target, assumed.headers, assumed.body
    has_request = method is not None or bool(headers) or bool(body)
    is_given = method is not None and target is not None
    if method is None or target is None:
        method, target = "POST" if body else "GET", "/"
    if body and not any(field.lower() in _FRAMING for field, _ in headers):
        headers = (*headers, ("Content-Length", str(len(body))))
    head = _head(method, target, headers, listener.address)
    if unit == CONNECTION:
        if has_request:
            notes.append(f"scheduler {name} decides per connection: the request is ignored")
        return
    if unit == CLIENT_HELLO:
        request.server_name = _server_name(assumed)
        return
    if not is_given:
        notes.append(f"no request given: {method} / is assumed")
    settings = prepared.config.settings_from(context.settings)
    read = HeadReader(settings.head_size, settings.head_lines, settings.uri_size).feed(head)
    if read is None:
        raise BadRequest(400, "the request's head is incomplete")
    found = http1.REQUEST.match(head) if unit == EACH_REQUEST else None
    if unit == EACH_REQUEST and found is None:
        raise BadRequest(400, "the head has a form that HTTP/1.1 forbids")
    seen = read if found is None else http1.Request(found)
    request.method, request.target, request.path, request.lines = seen.method, seen.target, seen.path, seen.lines
    read_bytes = getattr(prepared.factory, "body_prefix", 0)
    request.body_prefix = body[:read_bytes]
    if body and not read_bytes:
        notes.append(f"scheduler {name} reads no bodies: the body is ignored")
    _identify(request, prepared, notes)


def _identify(request: Request, prepared: Prepared, notes: list[str]) -> None:
    """Find the client of a request that a trusted proxy has passed on. Raises BadRequest."""
    proxies = TrustedProxies()
    proxies.configure(prepared.config, prepared.factory.unit)
    peer, request.client = request.client, proxies.client_of(request.client, request.lines)
    if request.client != peer:
        notes.append(f"the trusted proxy {peer} tells the client: {request.client or 'an unknown one'}")
    admission = filter_of(prepared.config.allow, prepared.config.deny)
    if admission is not None and request.client not in (peer, ""):
        allowed, network = admission.judge(ipaddress.ip_address(request.client).packed)
        if network is not None and not allowed:
            raise BadRequest(403, f"client denied by {network}")


def _head(method: str, target: str, headers: Sequence[tuple[str, str]], listen: Address) -> bytes:
    """Return a request's head in HTTP/1.1, with a Host if none was given. Raises BadValue for text that would add a
    line."""
    for what, text in (("method", method), ("target", target)):
        if not text or any(character <= " " or character == "\x7f" for character in text):
            raise BadValue(f"{what} '{shorten(text, 40)}': expected printable characters without spaces")
    for name, value in headers:
        if any(character in "\r\n\0" for character in name + value):
            raise BadValue(f"header '{shorten(name, 40)}': contains a line end or NUL")
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    if not any(name.lower() == "host" for name, _ in headers):
        host = _host_given(target, headers) or (str(listen) if isinstance(listen, Inet) else "localhost")
        lines.insert(0, f"Host: {host}\r\n")
    return f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("utf-8", "replace")


# The outcome.


def make_outcome(outcome: str, address: Address | None, reason: str, why: str = "") -> dict[str, Any]:
    """Return the outcome of a dry run as plain data. why: the reason in words of `model/why.py`."""
    return {"outcome": outcome, "server": None if address is None else str(address), "reason": reason, "why": why}


def respond_outcome(own: OwnResponse, request: Request, config: VirtualService) -> dict[str, Any]:
    """Return the outcome of a rule that responds itself."""
    responses = OwnResponses()
    responses.configure(config, {})
    try:
        location = responses.location(own, request).decode("ascii")
    except BadRequest as bad:
        return refusal(bad)
    return {
        **make_outcome("respond", None, own.reason, own.why),
        "status": own.action.status,
        "location": location or None,
    }


def https_outcome(request: Request, prepared: Prepared) -> dict[str, Any] | None:
    """Return the outcome of a request that `https_only` redirects before rules see it; None: it redirects none such."""
    port = prepared.config.https_port
    connection = request.connection
    if port is None or prepared.factory.unit != EACH_REQUEST or (connection is not None and connection.tls is not None):
        return None
    if not request.host:
        why = "https_only, and the request names no host to which it could be redirected: the client gets status 400"
        return make_outcome("nobody", None, why, words.BAD_REQUEST)
    location = https_url(request.host, request.path or b"/", port)
    reason = "https_only: the listener has no TLS (to explain a request over TLS: -P PORT)"
    return {**make_outcome("respond", None, reason, words.HTTPS_ONLY), "status": 308, "location": location}


def challenge_outcome(request: Request, responses: Mapping[bytes, bytes] | None) -> dict[str, Any] | None:
    """Return the outcome of a request for a pending challenge of ACME; None: it is none. responses: by their paths."""
    if not responses or request.path not in responses or request.method not in (b"GET", b"HEAD"):
        return None
    return {**make_outcome("respond", None, CHALLENGE_ANSWERED, words.CHALLENGE), "status": 200, "location": None}


def refusal(bad: BadRequest) -> dict[str, Any]:
    """Return the outcome of a request that is refused."""
    return make_outcome("nobody", None, f"{bad}: the client gets status {bad.status}", words.of_status(bad.status))


def bad_request_outcome(bad: BadRequest, prepared: Prepared) -> dict[str, Any]:
    redirect = prepared.config.redirect
    if bad.status in NO_HTTP_1 and redirect is not None and prepared.factory.unit != EACH_REQUEST:
        return make_outcome("redirect", redirect, f"redirect, since {bad}", words.REDIRECT_SERVER)
    return refusal(bad)


class DryRun:
    """The selection of a server for one request, which is not sent."""

    def __init__(
        self,
        context: Context,
        prepared: Prepared,
        request: Request,
        notes: list[str],
        down: set[Destination] | None = None,
        resting: frozenset[Destination] = NONE,
    ) -> None:
        """notes: a line is appended for each unusual step. down: the servers that are out of service; None: there are
        none. resting: those that get nothing but their sessions. Sets the servers that the request does not get."""
        self._context = context
        self._prepared = prepared
        self._request = request
        self._notes = notes
        destinations = frozenset(prepared.destinations.values())
        self._selector = Selector(context, prepared.config, notes.append)
        self._selector.configure(prepared.config, prepared.scheduler, destinations, prepared.bind_fallback())
        self._selector.set_down(down or set(), resting)
        request.tried = self._selector.excluded
        self.decision: Decision | None = None  # once `select` has found it
        if self._selector.priorities is not None:
            notes.append(self._selector.priorities.describe(self._selector.unavailable))

    async def select(self) -> dict[str, Any]:
        """Return the outcome: {"outcome", "server", "reason"}, and "status" and "location" of a response of the switch
        itself."""
        decision = self.decision = await self._decide()
        return self._outcome_of(decision)

    async def _decide(self) -> Decision:
        decision = self._selector.select(self._request)
        while isinstance(decision, Deferred):
            decision = await self._await_choice(decision)
        return decision

    def _outcome_of(self, decision: Decision) -> dict[str, Any]:
        if decision.response is not None:
            return respond_outcome(decision.response, self._request, self._prepared.config)
        choice = decision.choice
        if decision.outcome == QUEUE and choice is not None:
            others = "" if choice.waits else ", and so are all other eligible servers"
            seconds = self._prepared.config.settings_from(self._context.settings).queue_timeout
            reason = f"{choice.reason}; it is full{others}: the client waits at most {seconds} seconds for room"
            if choice.destination.max_pending:
                pending, most = choice.destination.pending, choice.destination.max_pending
                self._notes.append(f"{pending} of at most {most} requests wait for {choice.destination.address}")
            at, why = choice.destination.address if choice.waits else None, words.joined(choice.why, words.QUEUE)
            return make_outcome("queue", at, reason, why)
        if choice is None:
            closes = self._prepared.factory.unit in (CONNECTION, CLIENT_HELLO)
            end = "the connection is closed" if closes else "the client gets status 503"
            return make_outcome("nobody", None, f"{decision.reason}: {end}", decision.why)
        if isinstance(choice, ModifiedChoice):
            self._notes.append(f"modifiers of the rule: {choice.modifiers}")
        if choice.answer_lines:
            lines = choice.answer_lines.decode("utf-8", "backslashreplace").split("\r\n")
            self._notes += [f"the response gets {line}" for line in lines if line]
        return make_outcome(decision.outcome, choice.destination.address, choice.reason, choice.why)

    async def _await_choice(self, pending: Deferred[Any]) -> Decision | Deferred[Any]:
        """Wait for an asynchronous scheduler, at most for `choose_timeout`, and return the decision."""
        selector, request, context = self._selector, self._request, self._context
        chosen: Deferred[Any] = Deferred(lambda _: cancel_pending(pending, context.log))
        pending.addBoth(lambda result: None if chosen.called else chosen.callback(result))
        try:
            answer = await chosen.addTimeout(context.settings.choose_timeout, context.reactor, _timed_out)
        except _TimedOut:
            return selector.scheduler_timed_out(request)
        except GeneratorExit:  # this coroutine is closed
            raise
        except BaseException:
            return selector.scheduler_failed(request)
        return selector.judge(request, answer)


class _TimedOut(Exception):
    """The scheduler took longer than `choose_timeout`."""


def _timed_out(result: object, seconds: float) -> None:
    raise _TimedOut
