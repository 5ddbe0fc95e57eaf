"""The state machine of one real server's health: whether it may be chosen, since when, and why.

Active checks find servers that are down; errors of client connections eject servers. This module knows no sockets and
no clock: `ktcpvs.health` reports the events.
"""

from __future__ import annotations

from copy import copy

# States.
UP = "up"
DOWN = "down"  # checks have failed
EJECTED = "ejected"  # consecutive client connections or requests have failed; it comes back after a while

# What listings show instead of `up`.
DRAINING = "draining"  # it gets no new connections and requests, whatever its health
STANDBY = "standby"  # servers of earlier priorities suffice
IDLE = "idle"  # it is started with the next request
STARTING = "starting"  # it is being started, or stopped
UNRESOLVED = "unresolved"  # it stands for the targets of SRV records, which have not been found yet

# Events.
ROSE = "checks passed"
FELL = "checks failed"
ERRORS = "too many errors"
OVER = "time is over"

TABLE: dict[str, dict[str, str]] = {
    UP: {FELL: DOWN, ERRORS: EJECTED},
    DOWN: {ROSE: UP},
    EJECTED: {OVER: UP, FELL: DOWN},
}


class Health:
    """The health of one server.

    state: see TABLE. since: Unix time when the state began; 0: since the server is known. reason: the last one, in
    words; "" for none. response: the first line of the response to the last check; "": there was none. ejections: how
    many in a row, with short times between them.
    """

    __slots__ = ("_begun_by", "_has_passed", "_streak", "ejections", "reason", "response", "returned", "since", "state")

    def __init__(self) -> None:
        self.state = UP
        self.since = 0.0
        self.reason = self.response = ""
        self.ejections = 0
        self.returned = 0.0  # Unix time when the last ejection ended
        self._streak = 0  # consecutive checks that passed; negative: that failed
        self._has_passed = False  # a check has passed since the server is known
        self._begun_by = ""  # the reason with which the state began

    def checked(self, why: str | None, rise: int, fall: int) -> str | None:
        """Count a check. Return the event that it causes: ROSE, FELL, or None.

        why: the reason why it failed, or None if it passed. rise: how many consecutive checks must pass until a server
        that is down is up. fall: how many must fail until it is down; of a server that has never passed one suffices,
        since nothing says that it can serve.
        """
        if why is None:
            self._streak, self._has_passed = max(self._streak, 0) + 1, True
            if self.state != DOWN:
                self.reason = self._begun_by
            return ROSE if self.state == DOWN and self._streak >= rise else None
        self._streak = min(self._streak, 0) - 1
        if self.state == DOWN or not self._has_passed or -self._streak >= fall:
            self.reason = why
            return FELL if self.state != DOWN else None
        self.reason = f"{why}; {-self._streak} of {fall} failed checks"
        return None

    def of_checks(self) -> Health:
        """Return a copy that knows the results of checks alone: an ejected server is up."""
        own = copy(self)
        own.state = DOWN if self.state == DOWN else UP
        return own

    def happened(self, event: str, why: str, now: float) -> None:
        """Change the state. why: the reason, in words. now: Unix time. Raises KeyError if the event is not possible."""
        self.state = TABLE[self.state][event]
        self.since, self.reason, self._begun_by = now, why, why
        if event == ERRORS:
            self.ejections += 1
        elif event == OVER:
            self.returned = now

    def ejection_time(self, base: int, most: int, now: float) -> int:
        """Return the seconds of the next ejection: `base` for the first, and longer for each that follows soon, at most
        `most`. A server that was healthy for `most` seconds begins with `base` again."""
        if self.ejections and now - self.returned > most:
            self.ejections = 0
        return min(base * (self.ejections + 1), max(base, most))


def may_eject(servers: int, out: int, share: int) -> bool:
    """Whether one more server may be ejected.

    servers: how many the service has. out: how many of them are not up. share: percent of them that may be out. Of two
    or more servers one may always be ejected, unless the share is 0, and the last one never.
    """
    most = min(max(servers * share // 100, 1), servers - 1)
    return share > 0 and out < most
