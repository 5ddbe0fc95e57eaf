"""A control connection in Twisted, by its AMP.

`client` has it for programs; the daemon uses it too, for its workers and for the daemon that has taken over.
"""

from __future__ import annotations

import errno
from collections.abc import Coroutine, Mapping
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import Factory
from twisted.protocols import amp

from ktcpvs.control import client_errors, commands
from ktcpvs.control.client_protocol import QuietAMP, client_endpoint
from ktcpvs.control.edit_methods import EditMethods
from ktcpvs.control.endpoints import ControlAddress, require_tls
from ktcpvs.control.switch_base import SwitchBase, find_address, may_be_refused
from ktcpvs.system.network_errors import network_reason


class _QuietFactory(Factory):
    noisy = False


async def connect(reactor: IReactorCore, control: str | None = None, timeout: float = 5.0) -> Switch:
    """Connect to the switch at `control`, an endpoint description; None: the default address.

    timeout: seconds for the connection, and again for its TLS handshake. Raises NoAnswer, with its kinds NotTrusted and
    NotPermitted; BadAddress for an invalid description; or NoTLS for certificate files that cannot be used.
    """
    address = find_address(control)
    try:
        if address.tls is not None:
            require_tls()
            from ktcpvs.control.tls_client import connect_tls  # importing OpenSSL takes long

            return Switch(await connect_tls(reactor, address, timeout), address)
        endpoint = client_endpoint(address, reactor, timeout)
        protocol = await endpoint.connect(_QuietFactory.forProtocol(QuietAMP))
    except (error.ConnectError, OSError) as failure:
        if getattr(failure, "osError", None) in (errno.EACCES, errno.EPERM):
            raise client_errors.permission_denied(address) from None
        raise client_errors.no_daemon(address, network_reason(failure)) from None
    assert isinstance(protocol, amp.AMP)
    return Switch(protocol, address)


class Switch(SwitchBase, EditMethods[Coroutine[Any, Any, list[str]]]):
    """A connection to a running switch over Twisted's AMP."""

    def __init__(self, protocol: amp.AMP, address: ControlAddress) -> None:
        self._protocol = protocol
        self._address = address
        self._may_be_refused = may_be_refused(getattr(protocol.transport, "socket", None))

    async def call(self, command: type[amp.Command], **arguments: Any) -> dict[str, Any]:
        """Send one command of ktcpvs.control.commands and return its response. Arguments that are None are left out."""
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            response: dict[str, Any] = await self._protocol.callRemote(command, **given)
        except (error.ConnectionDone, error.ConnectionLost) as failure:
            raise client_errors.connection_closed(
                self._address, network_reason(failure), self._may_be_refused
            ) from None
        except amp.AmpError as failure:
            if isinstance(failure, amp.TooLong) and failure.isLocal:
                raise client_errors.value_too_long() from None
            raise client_errors.wrong_protocol(self._address, str(failure) or type(failure).__name__) from None
        self._may_be_refused = False
        return response

    async def send(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return await self.call(commands.BY_NAME[command], **arguments)

    async def edit(self, command: type[amp.Command], **arguments: Any) -> list[str]:
        """Send one command that edits. Returns the warnings about the edit, one per line."""
        response = await self.call(command, **arguments)
        return list(response.get("warnings", ()))

    def close(self) -> None:
        if self._protocol.transport is not None:
            self._protocol.transport.loseConnection()
