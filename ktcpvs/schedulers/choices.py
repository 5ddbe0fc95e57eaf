"""The choices of a scheduler, one for each server, and those of them that can be used for a request."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from ktcpvs.interfaces import Choice, Destination, ServiceView
from ktcpvs.model.why import BALANCE


def choices_of(service: ServiceView, reason: str, why: str = BALANCE) -> tuple[Choice, ...]:
    """Return a choice for each server of a service, or of a rule. reason, why: of all of them; why: a word of
    `model/why.py`."""
    why = service.why_of(why)
    return tuple([Choice(destination, reason, why=why) for destination in service.destinations])


def is_usable(destination: Destination, tried: Container[Destination]) -> bool:
    """Return whether a server has a weight and has not been tried."""
    return destination.weight > 0 and destination not in tried


def usable(choices: Iterable[Choice], tried: Container[Destination]) -> Iterator[Choice]:
    """Yield the choices whose servers can be used."""
    for choice in choices:
        destination = choice.destination
        if destination.weight > 0 and destination not in tried:  # `is_usable`, without a call for each server
            yield choice
