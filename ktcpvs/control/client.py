"""Administer a switch from a Python program: a method for each command of tcpvsadm, and results with types.

    from ktcpvs.control.client import connect_blocking

    with connect_blocking() as client:
        client.add_service("web", scheduler="http", listen="127.0.0.1:8080")
        client.add_server("web", "10.0.0.1:80", weight=2)
        client.start("web")
        for service in client.services():
            print(service.ident, [server.health.state for server in service.servers])

`connect_asyncio` does so in asyncio, `connect_twisted` in Twisted; there the methods are coroutines. `connect` returns
a Switch, whose views are plain data.

Refusals are raised as the classes of ktcpvs.errors. A refused call changes nothing. A method that changes something
returns the warnings about it, one per line: what has been configured and has no effect.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorCore

from ktcpvs.control import results
from ktcpvs.control.asyncio_client import connect_asyncio
from ktcpvs.control.client_errors import NoAnswer, NotPermitted, NotTrusted
from ktcpvs.control.client_protocol import QuietAMP
from ktcpvs.control.twisted_client import Switch, connect
from ktcpvs.control.typed_client import BlockingClient, Client, connect_blocking
from ktcpvs.errors import Refusal

__all__ = [
    "BlockingClient", "Client", "NoAnswer", "NotPermitted", "NotTrusted", "QuietAMP", "Refusal", "Switch", "connect",
    "connect_asyncio", "connect_blocking", "connect_twisted", "results",
]  # fmt: skip


async def connect_twisted(reactor: IReactorCore, control: str | None = None, timeout: float = 5.0) -> Client:
    """Connect as `connect` does, for results with types."""
    return Client(await connect(reactor, control, timeout))
