"""Endpoints in one line: those of one configuration file share a switch."""

from __future__ import annotations

import os
from typing import Any

from ktcpvs.in_process.endpoint import ServiceEndpoint
from ktcpvs.in_process.switch import Switch

_switches: dict[tuple[Any, str], Switch] = {}


def endpoint(reactor: Any, name: str, *, config: str | os.PathLike[str]) -> ServiceEndpoint:
    """Return the endpoint of a service. name: of the service, perhaps with `vs:` in front. config: the path of the
    configuration file, which is read once.

    All endpoints of one file have the same switch, which starts with the first connection and ends with the reactor.
    Raises a Refusal if the file cannot be used, or has no such service.
    """
    key = reactor, os.path.abspath(config)
    switch = _switches.get(key)
    if switch is None or switch.is_stopped:
        switch = _switches[key] = Switch(reactor, config)
    return switch.endpoint(name)
