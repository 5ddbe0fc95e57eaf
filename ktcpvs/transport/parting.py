"""How a client that was served request by request is parted with: it gets its last answer, and time to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.model import exchange as life
from ktcpvs.protocols.framing import Frame
from ktcpvs.transport.served import Served
from ktcpvs.transport.stream import nothing

if TYPE_CHECKING:
    from ktcpvs.transport.live import LiveService


class Parting(Served):
    """What a connection has that must end well."""

    __slots__ = ("_body", "_held", "_no_more", "_pending", "_unsent")

    def __init__(self, service: LiveService, client_name: str, client_host: str, state: str) -> None:
        super().__init__(service, client_name, client_host, state)
        self._body: Frame | None = None  # of the request, while some of it is still to come
        self._held = 0  # reasons not to read the client: 1 the server is full, 2 enough is pending, 4 being called
        self._no_more = False  # the client has sent its FIN
        self._pending = b""  # of later requests
        self._unsent = 0  # what the closing client had still to get when one last looked

    def _note_answer(self, status: int, answer: bytes) -> None:
        """The switch's own answer, for the access log."""
        if self.service.journal is not None:
            if self.entry is None:  # what came was no request
                self.entry = self.service.journal.begin(self)
            self.entry.refused(status, answer)

    def _linger(self) -> None:
        """Nothing more is served; the client is read a little longer, so that no reset eats what it was sent."""
        self._body = None
        self._pending = b""
        self.client.end()
        self._held = 0
        if self._no_more:
            self._linger_over()
            return
        self.client.dataReceived = nothing
        self.client.resume()
        self._set_timer(self.context.settings.linger_timeout, self._linger_over)

    def _linger_over(self) -> None:
        if self.state == life.REFUSING:
            if self._is_taking():
                self._set_timer(self.context.settings.linger_timeout, self._linger_over)
                return
            self._happened(life.FINISHED)
        self._part()

    def _part(self) -> None:
        """Close, once the client has what it was sent."""
        if not self.client.close():
            self._set_timer(self.context.settings.linger_timeout, self._not_gone)

    def _not_gone(self) -> None:
        if self._is_taking():
            self._set_timer(self.context.settings.linger_timeout, self._not_gone)
        else:
            self.client.reset()

    def _is_taking(self) -> bool:
        """True while the client has something to get still, and has taken some of it not too long ago."""
        unsent = self.client.unsent()
        now, read_timeout = self.context.wheel.now, self.context.settings.read_timeout
        if unsent != self._unsent:
            self._unsent, self._since = unsent, now
        return unsent > 0 and (read_timeout == 0 or now - self._since < read_timeout)
