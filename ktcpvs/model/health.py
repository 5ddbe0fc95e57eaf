"""The health of one real server as a table: whether it may be chosen, since when, and why.

Checks say whether it answers when nobody depends on it; errors of real connections say how it fares with clients. This
file knows no sockets and no clock: `transport.health` tells what happened.
"""

from __future__ import annotations

# States.
UP = "up"
DOWN = "down"  # checks have failed
EJECTED = "ejected"  # clients' connections have failed, one after another; it comes back by itself

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
    """state: of the table. since: when it began, seconds since 1970; 0: as long as it has been known. reason: the last
    one in words; "" for none. ejections: how often it was ejected lately, in a row."""

    __slots__ = ("_streak", "ejections", "reason", "returned", "since", "state")

    def __init__(self) -> None:
        self.state = UP
        self.since = 0.0
        self.reason = ""
        self.ejections = 0
        self.returned = 0.0  # when the last ejection was over
        self._streak = 0  # checks passed in a row; negative: failed

    def checked(self, why: str | None, rise: int, fall: int) -> str | None:
        """A check has passed (why is None), or failed. What happened by it: ROSE, FELL, or None for nothing.

        rise: how many must pass until a server that is down is up. fall: how many must fail until it is down.
        """
        if why is None:
            self._streak = max(self._streak, 0) + 1
            return ROSE if self.state == DOWN and self._streak >= rise else None
        self._streak = min(self._streak, 0) - 1
        self.reason = why
        return FELL if self.state != DOWN and -self._streak >= fall else None

    def happened(self, event: str, why: str, now: float) -> None:
        """Change the state. why: the reason, in words. now: seconds since 1970. Raises KeyError for what cannot be."""
        self.state = TABLE[self.state][event]
        self.since, self.reason = now, why
        if event == ERRORS:
            self.ejections += 1
        elif event == OVER:
            self.returned = now

    def ejection_time(self, base: int, most: int, now: float) -> int:
        """How many seconds the next ejection lasts: `base` for the first, longer for each that follows soon, at most
        `most`. Whoever was well for `most` seconds begins anew."""
        if self.ejections and now - self.returned > most:
            self.ejections = 0
        return min(base * (self.ejections + 1), max(base, most))


def may_eject(servers: int, out: int, share: int) -> bool:
    """May one more be ejected? servers: of the service. out: how many of them are not up. share: percent of them that
    may be out; one may where there are two or more, but for a share of 0, and the last one never."""
    most = min(max(servers * share // 100, 1), servers - 1)
    return share > 0 and out < most
