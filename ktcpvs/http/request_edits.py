"""The edits of one request and of its response, with the values of their variables."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex

from ktcpvs.dispatch.dispatcher import Dispatcher
from ktcpvs.dispatch.template_values import TemplateValues
from ktcpvs.dispatch.trusted_proxies import TrustedProxies, peer_of
from ktcpvs.http.message_edits import MessageEdits
from ktcpvs.protocols.http1.request_id import known_request_id

REQUEST_ID_BYTES = 16
"""The random bytes of a request's ID, which are written as hexadecimal digits."""


class RequestEdits:
    """The edits of one request and of all responses to it. The request keeps its ID when a rule brings other edits."""

    __slots__ = ("_client_name", "_dispatcher", "_edits", "_groups", "_proxies", "_request_id", "_rule")

    def __init__(self, dispatcher: Dispatcher, client_name: str, proxies: TrustedProxies) -> None:
        """dispatcher: has the request. client_name: the address of the connection, with its port."""
        self._dispatcher = dispatcher
        self._client_name = client_name
        self._proxies = proxies
        self._edits: MessageEdits | None = None
        self._rule = ""
        self._groups: tuple[bytes, ...] = ()
        self._request_id = b""  # made when a template needs it

    def use(self, edits: MessageEdits | None, rule: str = "", groups: tuple[bytes, ...] = ()) -> None:
        """Take other edits. rule: the label of the rule that has them; "": none. groups: those of its pattern."""
        self._edits, self._rule, self._groups = edits, rule, groups

    def of_request(self, path: bytes) -> tuple[bytes, frozenset[bytes], bytes | None]:
        """Return the lines that are added to the request, the canonical names of the fields that are dropped, and its
        path and query; None: they stay as they are. path: those of the request."""
        edits = self._edits
        if edits is None:
            return b"", frozenset(), None
        value_of = self._values()
        return edits.request.added(value_of), edits.request.removed, edits.target(path, value_of)

    def response_head(self, head: bytes) -> bytes:
        """Return the edited head of a response. head: without the empty line."""
        edits = self._edits
        return head if edits is None or not edits.response else edits.response.edited(head, self._values())

    def _values(self) -> Callable[[str], bytes]:
        """Return the function that gives the values of variables."""
        dispatcher = self._dispatcher
        server = "" if dispatcher.destination is None else str(dispatcher.destination.address)
        values = TemplateValues(dispatcher.request, self._client_name, self._rule, self._groups, server)
        return lambda name: self.request_id if name == "request_id" else values.of(name)

    @property
    def request_id(self) -> bytes:
        """The ID of the request: that which a trusted proxy has given it, or a random one."""
        if not self._request_id:
            proxies = self._proxies
            if proxies.is_used and proxies.trusts(peer_of(self._client_name)):
                self._request_id = known_request_id(self._dispatcher.request.lines)
            self._request_id = self._request_id or token_hex(REQUEST_ID_BYTES).encode("ascii")
        return self._request_id
