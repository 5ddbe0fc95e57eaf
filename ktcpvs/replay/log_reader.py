"""Reads the requests of a log that can be replayed, and counts the outcomes that the log tells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ktcpvs.protocols.access_log_reader import LoggedRequest
from ktcpvs.replay.log_file import LogFile
from ktcpvs.replay.logged_arrival import Row
from ktcpvs.replay.outcomes import Outcomes
from ktcpvs.simulation.behaviour import FAILED

WITHOUT_REQUEST = "without a request"
"""The reason why a line is passed over by schedulers that choose by requests."""


class LogReader:
    """Reads a log once. log: its lines. began: the Unix time of the first request; None: there is none. happened: the
    outcomes of the requests. skipped: reason -> lines that are passed over."""

    def __init__(self, log: LogFile, only: str | None, reads_requests: bool) -> None:
        """only: the service whose lines are read; None: all are. reads_requests: whether the scheduler sees requests,
        and not whole connections."""
        self.log = log
        self.began: float | None = None
        self.happened = Outcomes()
        self.skipped: dict[str, int] = {}
        self._only = only
        self._reads_requests = reads_requests

    def rows(self) -> Iterator[Row]:
        """Yield the requests that can be replayed, in the order in which they began. Raises Refusal where the log
        cannot be read."""
        add, failed, began = self.happened.add, self.happened.failed, self.began
        for logged in self.log.requests():
            why = self._obstacle(logged)
            if why:
                self.skipped[why] = self.skipped.get(why, 0) + 1
                continue
            if began is None:
                began = self.began = logged.began
            status, server, failed_server = logged.status, logged.server, logged.failed_server
            is_error = status == 0 or status >= FAILED
            if logged.method is None:
                is_error = server is None or logged.connect is None
            add(logged.client, server, logged.total, is_error)
            if failed_server is not None and failed_server != server:
                failed(failed_server)
            at = logged.began - began
            yield (
                at if at > 0.0 else 0.0,
                logged.client,
                logged.method or b"",
                logged.target or b"",
                logged.lines,
                logged.is_tls,
                b"",
                own_seconds(logged),
                status,
                server,
                failed_server,
            )

    def _obstacle(self, logged: LoggedRequest) -> str:
        """Return why a line cannot be replayed; "" if it can."""
        if self._only is not None and logged.service is not None and logged.service != self._only:
            return "of other services"
        if self._reads_requests and (logged.method is None or logged.target is None):
            return WITHOUT_REQUEST
        if not logged.has_reason and 400 <= logged.status < FAILED:
            return "refused before a server was chosen"
        return ""

    @property
    def counts(self) -> Any:
        """The counts of the log so far, for `adopt` in another process."""
        log = self.log
        return self.began, self.happened, self.skipped, log.lines, log.malformed, log.first_malformed, log.late

    def adopt(self, counts: Any) -> None:
        """Take over what a reader of the same log in another process has counted."""
        log = self.log
        self.began, self.happened, self.skipped, log.lines, log.malformed, log.first_malformed, log.late = counts


def own_seconds(request: LoggedRequest) -> float | None:
    """Return the time that the server took for a request: without the time until it accepted; None: unknown."""
    if request.total is None:
        return None
    seconds = request.total - (request.connect or 0.0)
    return seconds if seconds > 0 else 0.0
