"""The reasons of schedulers that choose among the servers of a service or of a rule, in words."""

from __future__ import annotations

from ktcpvs.interfaces import ServiceView


def reason_among(service: ServiceView, how: str) -> str:
    """Return the reason of a choice, as "no rules, next in turn of 3 servers". how: the words in front of the number,
    which are left out if there is only one server."""
    count = len(service.destinations)
    return f"{service.why}the only server" if count == 1 else f"{service.why}{how} {count} servers"
