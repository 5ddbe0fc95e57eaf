"""The memory of relayed connections, a part of K."""

from __future__ import annotations

import contextlib

from bench import peers, rounds
from bench.configurations import Site
from bench.results import Case, Figures
from bench.scenario_memory import look
from bench.workshop import KEPT_DESCRIPTORS, Workshop, servers

COUNT = 1000
METRICS = ["proportional", "resident", "base"]
LABEL = f"memory of {COUNT:,} connections"


def run(shop: Workshop, ways: list[str], count: int) -> Case:
    """New processes in each round. ways: the relays of the switch. count: of the rounds."""
    figures: Figures = {}
    for number in range(1, count + 1):
        with servers(shop) as behind, contextlib.ExitStack() as stack:
            # One server only: the one that `look` wants to be answered by.
            site = Site(0, behind.addresses[1:2], clients=COUNT + KEPT_DESCRIPTORS)
            starts = [peers.ours(shop, "wlc", way) for way in ways]
            for peer in peers.start_all(stack, [*starts, *peers.whose(shop, peers.haproxy_splice)], site):
                before, after = look(peer, (COUNT,))[COUNT]
                measured: rounds.Measured = {
                    "proportional": (after.proportional - before.proportional) / 1024 / COUNT,
                    "resident": (after.resident - before.resident) / 1024 / COUNT,
                    "base": before.resident / (1 << 20),
                }
                for key, value in measured.items():
                    figures.setdefault(peer.name, {}).setdefault(key, []).append(value)
                told = f"{measured['proportional']:.2f} KiB each"
                shop.say(f"K, {LABEL}: round {number} of {count}, {peer.name}: {told}")
    return Case(LABEL, figures)
