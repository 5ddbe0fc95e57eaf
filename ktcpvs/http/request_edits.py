"""The edits of one request and of its response, with the values of their variables."""

from __future__ import annotations

from typing import Protocol

from ktcpvs.dispatch.request_notes import RequestNotes
from ktcpvs.dispatch.template_values import TemplateValues
from ktcpvs.dispatch.traced_request import TracedConnection, TracedRequest
from ktcpvs.dispatch.tracing import RequestTrace
from ktcpvs.dispatch.trusted_proxies import TrustedProxies, peer_of
from ktcpvs.http.head_cache import CachedResponse
from ktcpvs.http.message_edits import MessageEdits
from ktcpvs.http.why_field import WhyField
from ktcpvs.model.destination import Destination
from ktcpvs.model.scheduling import Choice, Request
from ktcpvs.protocols.http1.request_id import known_request_id
from ktcpvs.system.random_ids import request_ids


class EditedExchange(Protocol):
    """The part of a dispatcher that edits use: the request, the choice of its server, and that server while it has the
    request."""

    @property
    def request(self) -> Request: ...

    @property
    def choice(self) -> Choice | None: ...

    @property
    def destination(self) -> Destination | None: ...


class RequestEdits:
    """The edits of one request and of all responses to it. The request keeps its ID and its trace when a rule brings
    other edits.

    observed: makes the spans of the request, once it is known to be recorded; None: it is not.
    """

    __slots__ = (
        "_client_name", "_dispatcher", "_edits", "_groups", "_proxies", "_request_id", "_rule", "_trace", "_values",
        "observed",
    )  # fmt: skip

    def __init__(
        self,
        dispatcher: EditedExchange,
        client_name: str,
        proxies: TrustedProxies,
        edits: MessageEdits,
        rule: str = "",
        groups: tuple[bytes, ...] = (),
    ) -> None:
        """dispatcher: has the request. client_name: the address of the connection, with its port. edits, rule, groups:
        as for `use`."""
        self._dispatcher = dispatcher
        self._client_name = client_name
        self._proxies = proxies
        self._edits: MessageEdits | None = edits
        self._rule = rule
        self._groups = groups
        self._request_id = b""  # made when a template needs it
        self._trace: RequestTrace | None = None  # begun when it is needed
        self.observed: TracedRequest | None = None
        self._values: TemplateValues | None = None  # of the message that is being edited

    def use(self, edits: MessageEdits | None, rule: str = "", groups: tuple[bytes, ...] = ()) -> None:
        """Take other edits. rule: the label of the rule that has them; "": none. groups: those of its pattern."""
        self._edits, self._rule, self._groups = edits, rule, groups

    def of_request(self, path: bytes) -> tuple[bytes, frozenset[bytes], bytes | None]:
        """Return the lines that are added to the request, the canonical names of the fields that are dropped, and its
        path and query; None: they stay as they are. path: those of the request."""
        edits = self._edits
        if edits is None:
            return b"", frozenset(), None
        self._values = None
        request, value_of = edits.request, self._value_of
        lines = request.added(value_of) if request.constant is None else request.constant
        target = None if edits.keeps_path else edits.target(path, value_of)
        trace = self.trace
        if trace is None or trace.goes_on:
            return lines, request.removed, target
        return lines + trace.lines(), edits.traced, target

    def response_head(self, head: bytes, why: str | None = None) -> bytes:
        """Return the edited head of a response. head: without the empty line. why: the reason of the switch's own
        response, in words of `model/why.py`; None: a server has responded."""
        edits = self._edits
        if edits is None or not edits.response:
            return head
        self._values = None
        edited = edits.response.edited(head, self._value_of)
        return edited if edits.why is None else edited + self._why_line(edits.why, why)

    def _why_line(self, field: WhyField, why: str | None = None) -> bytes:
        request, choice = self._dispatcher.request, self._dispatcher.choice
        if why is not None or choice is None:
            return field.line(request, why or "", None)
        return field.line(request, choice.why, str(choice.destination.address))

    def cached_response_head(self, response: CachedResponse, added: bytes) -> bytes:
        """Return what `response_head` returns for the head of a cached response and further lines."""
        edits = self._edits
        if edits is None or not edits.response:
            return response.head + added
        lines = edits.response
        if response.edits is not edits:
            response.edits, response.kept = edits, lines.kept(response.head)
        if added:
            added = lines.kept(added)
        if edits.why is not None:
            added += self._why_line(edits.why)
        if lines.constant is not None:
            return response.kept + added + lines.constant
        self._values = None
        return response.kept + added + lines.added(self._value_of)

    def _value_of(self, name: str) -> bytes:
        """Return the value of a variable."""
        if name == "request_id":
            return self.request_id
        if name in ("trace_id", "span_id"):
            trace = self.trace
            return b"" if trace is None else trace.trace_id if name == "trace_id" else trace.span_id
        dispatcher = self._dispatcher
        if name == "client":
            return dispatcher.request.client.encode("ascii", "surrogateescape")
        if self._values is None:
            server = "" if dispatcher.destination is None else str(dispatcher.destination.address)
            self._values = TemplateValues(dispatcher.request, self._client_name, self._rule, self._groups, server)
        return self._values.of(name)

    @property
    def changes_request(self) -> bool:
        """Whether the server gets another head than without edits."""
        edits = self._edits
        if edits is None or edits.request or not edits.keeps_path or edits.tracing is None:
            return edits is not None
        trace = self.trace
        return trace is None or not trace.goes_on

    @property
    def trace(self) -> RequestTrace | None:
        """The trace of the request; None: the service has none."""
        if self._trace is None and self._edits is not None and self._edits.tracing is not None:
            is_trusted = self._proxies.is_used and self._proxies.trusts(peer_of(self._client_name))
            self._trace = self._edits.tracing.begin(self._dispatcher.request.lines, is_trusted)
        return self._trace

    @property
    def trace_ids(self) -> tuple[bytes, bytes] | None:
        """The IDs of the request's trace and of its span; None: it has none."""
        trace = self.trace
        return None if trace is None else (trace.trace_id, trace.span_id)

    def observe(self, age: float) -> TracedRequest | None:
        """Return what makes the spans of the request; None: it is not recorded. age: the seconds since its head was
        complete."""
        trace = self.trace
        if self.observed is None and trace is not None and trace.is_recorded:
            edits, request = self._edits, self._dispatcher.request
            if edits is not None and edits.tracing is not None:
                tls = request.connection.tls if request.connection is not None else None
                connection = TracedConnection(request.client, self._client_name, "http" if tls is None else "https")
                self.observed = edits.tracing.observe(trace, connection, age)
        return self.observed

    def noted(self, entry: RequestNotes | None, age: float) -> RequestNotes | None:
        """Return what notes the request for the access log and for its trace. entry: of the access log; None: it has
        none. age: as for `observe`."""
        trace, observed = self.trace_ids, self.observe(age)
        if trace is not None and entry is not None:
            entry.trace_begun(*trace)
        return entry if observed is None else observed.also(entry)

    @property
    def request_id(self) -> bytes:
        """The ID of the request: that which a trusted proxy has given it, or a random one."""
        if not self._request_id:
            proxies = self._proxies
            if proxies.is_used and proxies.trusts(peer_of(self._client_name)):
                self._request_id = known_request_id(self._dispatcher.request.lines)
            self._request_id = self._request_id or request_ids.make()
        return self._request_id
