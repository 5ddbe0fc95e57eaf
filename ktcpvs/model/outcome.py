"""The outcome of a request or a connection at the server that a scheduler has chosen for it."""

from __future__ import annotations

from attrs import frozen

from ktcpvs.model.destination import Destination

OK = "ok"
"""The response was passed on as a whole, whatever its status; or both sides of the connection have ended it."""

REFUSED = "refused"
"""There was no connection: the server refused it, cannot be reached, or its TLS failed."""

TIMEOUT = "timeout"
"""The server did not accept the connection, begin its response or go on with it in time."""

RESET = "reset"
"""The server closed the connection before or in the middle of its response."""

BAD_RESPONSE = "bad_response"
"""The server sent what is no response."""

STATUS = "status"
"""The response had a status that `retry_on` names, and the request was sent to another server."""

CLIENT_GONE = "client_gone"
"""The client has left before the end."""

ABORTED = "aborted"
"""The switch has ended it for another reason: the body of the request was malformed or too large, an administrator has
closed the connection, or the service was stopped."""

REASONS = (OK, REFUSED, TIMEOUT, RESET, BAD_RESPONSE, STATUS, CLIENT_GONE, ABORTED)

FAILURES = frozenset((REFUSED, TIMEOUT, RESET, BAD_RESPONSE, STATUS))
"""The reasons that are the server's fault."""


@frozen(eq=False, weakref_slot=False)  # the fast path uses one again that nobody has kept
class Outcome:
    """The outcome of one request, or of one connection that is relayed as a whole, at one server.

    A request that is sent to several servers one after the other has an outcome at each of them.

    destination: the server. status: of its response; None: it has not begun one, or a whole connection was relayed.
    first_byte: seconds from the choice of the server to the first byte of its response; None: none came. total: seconds
    from the choice to the end. bytes_in, bytes_out: from the client to the server, and back. retries: how often the
    request had been sent before it was sent to this server the last time. reason: one of L{REASONS}. client: the
    address of the client, as in `Request`.
    """

    destination: Destination
    status: int | None
    first_byte: float | None
    total: float
    bytes_in: int
    bytes_out: int
    retries: int
    reason: str
    client: str

    @property
    def has_failed(self) -> bool:
        """Whether the server has failed: `reason` is a fault of the server, or the status is 500 or more."""
        return self.reason in FAILURES or (self.status is not None and self.status >= 500)
