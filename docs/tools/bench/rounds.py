"""Measures everybody in turn, round by round, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench import counters
from bench.load import Report, wrk
from bench.peers import Peer
from bench.results import METRICS, Figures
from bench.workshop import Workshop

Measured = dict[str, float]
"""Metric's key -> value, of one round."""


def alternate(
    shop: Workshop, what: str, peers: list[Peer], one: Callable[[Peer], Measured], rounds: int = 0
) -> Figures:
    """Call `one` for each peer, then for each again, until all rounds are done. rounds: 0 for the workshop's."""
    rounds = rounds or shop.rounds
    figures: Figures = {}
    for number in range(1, rounds + 1):
        for peer in peers:
            measured = one(peer)
            peer.running.check()
            for key, value in measured.items():
                figures.setdefault(peer.name, {}).setdefault(key, []).append(value)
            told = ", ".join(
                f"{METRICS[key].text(value)} {METRICS[key].unit}".strip() for key, value in measured.items()
            )
            shop.say(f"{what}: round {number} of {rounds}, {peer.name}: {told}")
    return figures


def per_request(before: counters.Spent, after: counters.Spent, report: Report) -> Measured:
    """The cost of one request."""
    spent = after.since(before)
    return {
        "cpu": spent.program / report.requests * 1e6,
        "core": spent.cores / report.requests * 1e6,
        "rate": report.requests / report.seconds,
        "p99": report.slowest * 1e3,
    }


def requests(
    shop: Workshop,
    what: str,
    peers: list[Peer],
    path: str,
    *,
    close: bool = False,
    script: str | Mapping[str, str] = "",
) -> Figures:
    """The cost of a request for this path, or for those of a script of wrk's. close: a new connection for each. script:
    the same for everybody, or a peer's name -> its own."""

    def one(peer: Peer) -> Measured:
        chosen = script if isinstance(script, str) else script[peer.name]
        before = counters.spent(peer.running.pid, shop.proxy)
        report = wrk(peer.port, path, shop.seconds, shop.load, close=close, script=chosen, is_tls=peer.is_tls)
        return per_request(before, counters.spent(peer.running.pid, shop.proxy), report)

    warm_up(shop, peers, path, close=close)
    return alternate(shop, what, peers, one)


def warm_up(shop: Workshop, peers: list[Peer], path: str, *, close: bool = False) -> None:
    """A second for everybody that is not counted. A quick run goes without."""
    if not shop.quick:
        for peer in peers:
            wrk(peer.port, path, 1, shop.load, close=close, is_tls=peer.is_tls)
