"""A decoded header section, with what it means as a request, as a response or as trailers."""

from __future__ import annotations

from ktcpvs.protocols.http2.errors import MalformedMessage
from ktcpvs.protocols.http2.fields import Field
from ktcpvs.protocols.http2.request import Request
from ktcpvs.protocols.http2.response import Response


class FieldSection:
    """The fields of one field block.

    fields: in their order; none if they are more than the limits allow (`is_too_large`). sensitive: names of the fields
    that must never be put into a table (RFC 7541, section 7.1.3).

    The decoder returns the same section for the same block again where the table allows, so its meaning is kept.
    """

    __slots__ = ("_request", "fields", "is_too_large", "sensitive")

    def __init__(self, fields: tuple[Field, ...], sensitive: frozenset[bytes], is_too_large: bool) -> None:
        self.fields = fields
        self.sensitive = sensitive
        self.is_too_large = is_too_large
        self._request: Request | MalformedMessage | None = None

    def request(self) -> Request:
        """Return the section as a request. Raises MalformedMessage."""
        request = self._request
        if request is None:
            try:
                request = Request(self.fields)
            except MalformedMessage as malformed:
                request = malformed
            self._request = request
        if isinstance(request, MalformedMessage):
            raise MalformedMessage(str(request))
        return request

    def response(self) -> Response:
        """Return the section as a response. Raises MalformedMessage."""
        return Response(self.fields)

    def __repr__(self) -> str:
        return f"<FieldSection {[(name, value) for name, value, *_ in self.fields]}>"
