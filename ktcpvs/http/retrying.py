"""A request that its first server does not answer goes to another one, where that is safe, and never else.

A kept connection may just have been old; a new one that dies, or one on which nothing comes for long, is its server's
fault.
"""

from __future__ import annotations

from abc import abstractmethod

from twisted.python.failure import Failure

from ktcpvs.http.pool import ServerStream
from ktcpvs.http.upgrading import Upgrading
from ktcpvs.model import exchange as life
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.health import DOWN
from ktcpvs.system import log as levels

UNANSWERED = "the server closed the connection before it answered"


class Retrying(Upgrading):
    """One client connection whose current request may be sent again."""

    __slots__ = ()

    @abstractmethod
    def _call(self, destination: Destination) -> None:
        """A new connection to that server, for the current request."""

    def _repeat(self, dead: ServerStream) -> None:
        """The same request again.

        A kept connection may just have been old, so its server is called anew; that a new one dies is its server's
        fault, so the next best serves.
        """
        self._transition(life.AGAIN)
        if self.entry is not None:
            self.entry.retried()
        destination = dead.destination
        destination.retries += 1
        if dead.used and destination not in self._again:
            self._again = (*self._again, destination)
            self._call(destination)
            return
        self._again = (*self._again, destination)
        self._has_failed(destination, UNANSWERED)
        if self.lease is not None:
            self.lease.end(failed=True)
        if self.service.may_retry():
            self._retries = True
            self._choose()
        else:
            self._fail(502, f"{UNANSWERED}, and there are as many retries as retry_budget allows")

    def _tries_all_again(self) -> bool:
        """A request that was at a server which died has taken time: a server that refused it before may be back."""
        request, refused = self.request, self._refused
        if not self._again or not refused:
            return False
        self._refused = None  # once; and a server that took the request and died does not get it again
        request.failed -= refused
        request.tried = self.service.down | request.failed
        return True

    def _not_connected(self, why: Failure) -> None:
        if self.lease is not None and self._refused is not None:
            self._refused |= {self.lease.destination}
        super()._not_connected(why)

    def _lease(self, destination: Destination) -> Lease:
        if self._retries:
            self._retries = False
            return self.service.retries.lease(destination)
        return destination.lease()

    def _is_silent(self, waited: int) -> None:
        """Nothing has come for so many seconds: time alone tells little, but a check that has failed meanwhile does."""
        server, timeout = self.server, self.service.first_byte_timeout
        if server is None:
            return
        if server.destination.health.state == DOWN:
            self._go_elsewhere(f"no response within {waited} seconds, and its checks fail")
        elif timeout and waited >= timeout:
            self._go_elsewhere(f"no response within {timeout} seconds")

    def _is_unanswered(self) -> None:
        seconds = self.context.settings.response_timeout
        if not self._go_elsewhere(f"no response within {seconds} seconds"):
            self._server_failed(f"no response within {seconds} seconds")
            self._fail(504, f"the server did not answer within {seconds} seconds")

    def _go_elsewhere(self, why: str) -> bool:
        """Another server serves, if that is safe and this one answers nobody else either. False: none does."""
        server = self.server
        if not self._may_repeat or self._received or server is None:
            return False
        silent = server.destination
        if silent.heard > self._since or silent in self.request.tried:
            return False
        choice = self.service.instead_of_silent(silent, self.request)
        if choice is None:
            return False
        form = "service {ident}: server {server} is silent: {why}"
        self.context.log.event(levels.NON_FATAL, form, ident=self.service.ident, server=silent.address, why=why)
        self._transition(life.SILENT)
        silent.retries += 1
        if self.entry is not None:
            self.entry.retried()
        if self.lease is not None:
            self.lease.end(failed=True)
        self._release_server(reset=True)
        self._again = (*self._again, silent)
        self._retries = True
        self._has_failed(silent, why)
        self._chosen(choice)
        self._serve(choice)
        return True
