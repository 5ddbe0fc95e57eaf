"""The field X-Ktcpvs-Why of responses: trusted clients that ask for it learn why their request went where it went."""

from __future__ import annotations

import re

from ktcpvs.model.filter import Filter
from ktcpvs.model.network import Networks
from ktcpvs.model.request_values import header_values
from ktcpvs.model.scheduling import Request

FIELD_NAME = "X-Ktcpvs-Why"
"""Of the response, and of the request that asks for it, where its value is 1."""

_NAME = FIELD_NAME.lower().encode("ascii")
_WANTED = b"1"

_UNPRINTABLE = re.compile("[^ -~]")
"""Not in a string of a field (RFC 9651, section 3.3.3). A scheduler of another package can have put it there."""


class WhyField:
    """Makes the field for one service."""

    __slots__ = ("_trusted",)

    def __init__(self, networks: Networks) -> None:
        """networks: of the clients that are trusted; at least one."""
        self._trusted = Filter(networks, Networks())

    def line(self, request: Request, why: str, server: str | None) -> bytes:
        """Return the header line for a response; b"" for a client that is not trusted or has not asked.

        why: in words of `model/why.py`. server: its address; None: the switch responds itself.
        """
        if not any(value == _WANTED for _, value in header_values(request.lines, (_NAME,))):
            return b""
        if not request.client or not self._trusted.allows(request.client):
            return b""
        quoted = "" if server is None else server.replace("\\", "\\\\").replace('"', '\\"')
        text = why if server is None else f'{why}, server="{quoted}"'
        return b"%b: %b\r\n" % (FIELD_NAME.encode("ascii"), _UNPRINTABLE.sub("?", text).encode("ascii"))
