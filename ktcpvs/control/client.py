"""Administer a switch from a Python program: a method for each command of tcpvsadm.

    from twisted.internet import task
    from ktcpvs.control.client import connect

    async def main(reactor):
        switch = await connect(reactor)
        await switch.add_service("web", scheduler="http", listen="127.0.0.1:8080")
        await switch.add_server("web", "10.0.0.1:80", weight=2)
        await switch.start("web")
        print(await switch.stats())
        switch.close()

    task.react(main)

Refusals are raised as the classes of ktcpvs.errors. A refused call changes nothing. A method that changes something
returns the warnings about it, one per line: what has been configured and has no effect.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine, Mapping
from inspect import Parameter, Signature
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import Factory
from twisted.protocols import amp

from ktcpvs.control import client_errors, commands
from ktcpvs.control.client_errors import NoAnswer, NotPermitted, NotTrusted
from ktcpvs.control.client_protocol import QuietAMP, client_endpoint
from ktcpvs.control.command_table import COMMAND_OF_EDIT, Argument, ArgumentType, EditCommand
from ktcpvs.control.endpoints import ControlAddress, require_tls
from ktcpvs.control.switch_base import SwitchBase, find_address, may_be_refused

__all__ = ["NoAnswer", "NotPermitted", "NotTrusted", "QuietAMP", "Switch", "connect"]


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
        raise client_errors.no_daemon(address, _reason(failure)) from None
    assert isinstance(protocol, amp.AMP)
    return Switch(protocol, address)


def _reason(failure: Exception) -> str:
    number = getattr(failure, "osError", None)
    return os.strerror(number) if isinstance(number, int) else str(failure).rstrip(".")


EditMethod = Callable[..., Coroutine[Any, Any, list[str]]]

_ANNOTATIONS: dict[ArgumentType, Any] = {
    ArgumentType.TEXT: str,
    ArgumentType.INTEGER: int,
    ArgumentType.BOOLEAN: bool,
    ArgumentType.ADDRESS: str,
    ArgumentType.SERVICE_OPTIONS: str | int,
    ArgumentType.SERVER_OPTIONS: str,
    ArgumentType.USE: str,
    ArgumentType.SETTINGS: Mapping[str, str | int],
    ArgumentType.NETWORKS: str,
    ArgumentType.CONFIGURATION: str,
}


def _make_method(edit: str) -> EditMethod:
    """Make the client's method for one command of the table. edit: the name of the edit's class."""
    entry = COMMAND_OF_EDIT[edit]
    signature = _make_signature(entry)

    def method(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, list[str]]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        switch: Switch = bound.arguments.pop("self")
        return switch.submit(entry, bound.arguments)

    method.__name__ = entry.method
    method.__qualname__ = f"Switch.{entry.method}"
    method.__doc__ = _make_documentation(entry)
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def _make_signature(entry: EditCommand) -> Signature:
    has_options = any(argument.type is ArgumentType.SERVICE_OPTIONS for argument in entry.arguments)
    kind = Parameter.POSITIONAL_ONLY if has_options else Parameter.POSITIONAL_OR_KEYWORD  # options may have any name
    parameters = [Parameter("self", kind), *(_make_parameter(argument, kind) for argument in entry.arguments)]
    return Signature(parameters, return_annotation=list[str])


def _make_parameter(argument: Argument, kind: Any) -> Parameter:
    annotation = _ANNOTATIONS[argument.type]
    if argument.type is ArgumentType.SERVICE_OPTIONS:
        return Parameter(argument.name, Parameter.VAR_KEYWORD, annotation=annotation)
    if argument.is_required:
        return Parameter(argument.name, kind, annotation=annotation)
    if argument.default is None:
        annotation = annotation | None
    return Parameter(argument.name, kind, default=argument.default, annotation=annotation)


def _make_documentation(entry: EditCommand) -> str:
    lines = [f"{entry.help[0].upper()}{entry.help[1:]}."]
    lines += [f"{argument.name}: {argument.help}" for argument in entry.arguments if argument.help]
    return "\n\n".join([lines[0], " ".join(lines[1:])]) if lines[1:] else lines[0]


class Switch(SwitchBase):
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
            raise client_errors.connection_closed(self._address, _reason(failure), self._may_be_refused) from None
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

    # Edits, as the table of commands describes them.

    add_service = _make_method("AddService")
    edit_service = _make_method("EditService")
    delete_service = _make_method("DeleteService")
    flush = _make_method("Flush")
    add_listener = _make_method("AddListener")
    delete_listener = _make_method("DeleteListener")
    add_server = _make_method("AddServer")
    edit_server = _make_method("EditServer")
    delete_server = _make_method("DeleteServer")
    drain = _make_method("Drain")
    ready = _make_method("Ready")
    maintenance = _make_method("Maintenance")
    add_rule = _make_method("AddRule")
    edit_rule = _make_method("EditRule")
    move_rule = _make_method("MoveRule")
    delete_rule = _make_method("DeleteRule")
    allow = _make_method("Allow")
    deny = _make_method("Deny")
    delete_network = _make_method("DeleteNetwork")
    start = _make_method("StartService")
    stop = _make_method("StopService")
    set = _make_method("Set")
    unload = _make_method("Unload")
    load = _make_method("Load")
    confirm = _make_method("Confirm")
    end_local = _make_method("EndLocal")
    reload_certificates = _make_method("ReloadCertificates")
    renew_certificate = _make_method("RenewCertificate")
    drain_node = _make_method("DrainNode")
    undrain_node = _make_method("UndrainNode")
    forget_node = _make_method("ForgetNode")
