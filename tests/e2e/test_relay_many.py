"""Hundreds of connections at once through each relay, with random sizes, pieces, pauses and ends.

`make soak-relays` does the same with many more of them.
"""

from __future__ import annotations

import pytest
from servers import LOOPBACK, free_port
from storm import Storm

from .harness import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.load]

SEED = 20261123


@pytest.mark.parametrize(
    ("relay", "after", "count", "lives"),
    [("copy", 0, 400, 0), ("splice", 0, 400, 0), ("kernel", 0, 400, 0), ("auto", 0, 400, 0), ("auto", 1, 300, 2.5)],
)
def test_every_byte_arrives_and_is_counted(daemon: Daemon, relay: str, after: int, count: int, lives: float) -> None:
    port, serve_at = free_port(), free_port()
    daemon.set(relay_after=after, relay_rate=0)
    daemon.service("s", port, f"{LOOPBACK}:{serve_at}", relay=relay)
    storm = Storm(port, serve_at, count, SEED, at_once=count if lives else 100, lives=lives)
    storm.run()
    assert storm.failures == []
    daemon.wait_until_empty()
    stats = daemon.stats("s")["stats"]
    assert (stats["total"], stats["bytes_in"], stats["bytes_out"]) == (count, storm.bytes_in, storm.bytes_out)
    joined = stats["relay"]["joined"]
    assert sum(joined.values()) > count * 0.9  # some are over before they are joined
    if relay != "copy" and stats["relay"]["in_use"] != "copy":
        assert joined[stats["relay"]["in_use"]] > count / 10, joined
