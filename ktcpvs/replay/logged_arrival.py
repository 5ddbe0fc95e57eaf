"""A request of an access log, as it arrives in a replay."""

from __future__ import annotations

from attrs import define

from ktcpvs.simulation.arrivals import Arrival

Row = tuple[float, str, bytes, bytes, bytes, bool, bytes, float | None, int, str | None, str | None]
"""The arguments of a LoggedArrival, as one process passes them to another."""


@define(eq=False)
class LoggedArrival(Arrival):
    """A request of a log. seconds: that its server took, without the time until it accepted; None: unknown. status: of
    the response; 0: there was none. server: its address; None: unknown, or none. failed_server: the last one that
    failed the request; None: none did, or it is unknown."""

    seconds: float | None = None
    status: int = 0
    server: str | None = None
    failed_server: str | None = None
