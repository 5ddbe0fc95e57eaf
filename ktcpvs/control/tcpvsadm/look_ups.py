"""A warning about a server that was added by a name that is not found."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.draining import complete_address
from ktcpvs.model.address import Unix, parse_address
from ktcpvs.system.names import service_port

LOOK_UP_SECONDS = 1.0
"""Seconds for which the first look-up of a name is waited for."""

POLL_INTERVAL = 0.05


async def warn_of_unresolved(
    sleep: Callable[[float], Awaitable[object]],
    switch: SwitchBase,
    ident: str,
    server: str,
    warn: Callable[[str], object],
) -> None:
    """Warn if the name of a server that was added to a service is not found, after its first look-up, or if that takes
    long. sleep: waits for that many seconds."""
    address = parse_address(server, service_port)
    if isinstance(address, Unix) or not address.is_name:
        return
    shown, deadline = await complete_address(switch, ident, server), time.monotonic() + LOOK_UP_SECONDS
    while True:
        (service,) = (await switch.table(ident))["services"]
        why = service.get("unresolved", {}).get(shown)
        if why is None:
            return
        if why or time.monotonic() > deadline:
            warn(f"server {shown} is unresolved: {why or 'the look-up of its name takes long; --list shows its end'}")
            return
        await sleep(POLL_INTERVAL)
