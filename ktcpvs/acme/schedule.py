"""The times at which a certificate is renewed, and at which an order that has failed is tried again.

All times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

RENEWAL_SHARE = 1 / 3
"""A certificate is renewed when this share of its lifetime is left, unless the CA suggests another time."""

RENEWAL_JITTER = 1 / 30
"""Up to this share of the lifetime earlier, by chance: certificates that were issued together are not renewed
together."""

MAX_RETRY_DELAY = 6 * 3600.0
"""The longest time between two attempts that fail, unless the CA asks for a longer one."""

MAX_CA_RETRY_DELAY = 3600.0
"""The same for a CA that does not respond: that costs none of what it counts."""

RETRY_JITTER = 0.1
"""Attempts are put off by up to this share of the delay, by chance."""

MAX_RETRY_AFTER = 7 * 86400.0
"""The longest delay that a CA may ask for: its limits are by the week."""

RENEWAL_INFO_INTERVAL = 6 * 3600.0
"""Seconds between two questions when to renew, unless the CA says (RFC 9773 section 4.3.2)."""

MIN_RENEWAL_INFO_INTERVAL, MAX_RENEWAL_INFO_INTERVAL = 60.0, 86400.0
"""The bounds of what the CA may say."""

MIN_AGE_RETRIES = 12
"""A certificate serves for this many times the setting `acme_retry` before the CA may have it renewed: a CA whose
suggestions are always in the past would otherwise get one order after the other."""

Random = Callable[[], float]
"""Returns a random number from 0 up to 1."""


@frozen
class Window:
    """The time in which the CA suggests to renew a certificate (RFC 9773 section 4.2)."""

    start: float
    end: float

    def choose(self, random: Random) -> float:
        """Return a time within."""
        return self.start + max(self.end - self.start, 0.0) * random()


def renewal_time(not_before: float, not_after: float, random: Random) -> float:
    """Return when to renew a certificate with this validity, where the CA suggests no time."""
    lifetime = max(not_after - not_before, 0.0)
    return not_after - lifetime * (RENEWAL_SHARE + RENEWAL_JITTER * random())


def retry_delay(failures: int, first: float, most: float, random: Random, retry_after: float | None = None) -> float:
    """Return the seconds until the next attempt. failures: how many have failed one after another, 1 or more. first:
    the delay after one. most: the longest. retry_after: as the CA has asked for; None: it has not."""
    delay = min(first * 2.0 ** min(failures - 1, 30), max(most, first))
    asked = min(max(retry_after or 0.0, 0.0), MAX_RETRY_AFTER)
    delay = max(delay, asked)
    return delay + delay * RETRY_JITTER * random()


def renewal_info_delay(retry_after: float | None) -> float:
    """Return the seconds until the CA is asked again when to renew. retry_after: as it has said; None: it has not."""
    if retry_after is None:
        return RENEWAL_INFO_INTERVAL
    return min(max(retry_after, MIN_RENEWAL_INFO_INTERVAL), MAX_RENEWAL_INFO_INTERVAL)
