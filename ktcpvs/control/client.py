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
import json
import os
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from inspect import Parameter, Signature
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import Factory
from twisted.protocols import amp

from ktcpvs.control import commands
from ktcpvs.control.client_protocol import NoAnswer, NotPermitted, NotTrusted, QuietAMP
from ktcpvs.control.command_table import COMMAND_OF_EDIT, Argument, ArgumentType, EditCommand, text_of
from ktcpvs.control.endpoints import ControlAddress, default_control, parse_control, require_tls
from ktcpvs.errors import Refusal, shorten
from ktcpvs.system.files import untrusted_socket
from ktcpvs.system.process import peer_user

__all__ = ["NoAnswer", "NotPermitted", "NotTrusted", "QuietAMP", "Switch", "connect"]


class _QuietFactory(Factory):
    noisy = False


async def connect(reactor: IReactorCore, control: str | None = None, timeout: float = 5.0) -> Switch:
    """Connect to the switch at `control`, an endpoint description; None: the default address.

    timeout: seconds for the connection, and again for its TLS handshake. Raises NoAnswer, with its kinds NotTrusted and
    NotPermitted; BadAddress for an invalid description; or NoTLS for certificate files that cannot be used.
    """
    address = parse_control(control) if control else default_control()
    if not control and (why := untrusted_socket(address.path or "")):
        raise NotTrusted(
            f"{why}, so a daemon there is not trusted: remove it, or give the daemon's address with --control"
        )
    try:
        if address.tls is not None:
            require_tls()
            from ktcpvs.control.tls_client import connect_tls  # importing OpenSSL takes long

            return Switch(await connect_tls(reactor, address, timeout), address)
        protocol = await address.client_endpoint(reactor, timeout).connect(_QuietFactory.forProtocol(QuietAMP))
    except (error.ConnectError, OSError) as failure:
        if getattr(failure, "osError", None) in (errno.EACCES, errno.EPERM):
            raise NotPermitted(f"permission denied at {address}: {_PERMISSION_HINT}") from None
        raise NoAnswer(f"no daemon answers at {address} ({_reason(failure)})") from None
    assert isinstance(protocol, amp.AMP)
    return Switch(protocol, address)


_PERMISSION_HINT = "run tcpvsadm as root or as the daemon's user, or as a member of the daemon's --control-group GROUP"


def _may_be_refused(transport: Any) -> bool:
    """True where a unix socket's daemon may close the connection because of this user (see control.permissions)."""
    sock = getattr(transport, "socket", None)
    return sock is not None and sock.family == socket.AF_UNIX and os.geteuid() not in (0, peer_user(sock))


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


class Switch:
    """A connection to a running switch. Methods are coroutines; addresses and options are text, as in tcpvsadm."""

    def __init__(self, protocol: amp.AMP, address: ControlAddress) -> None:
        self._protocol = protocol
        self._address = address
        self._may_be_refused = _may_be_refused(protocol.transport)

    async def call(self, command: type[amp.Command], **arguments: Any) -> dict[str, Any]:
        """Send one command of ktcpvs.control.commands and return its response. Arguments that are None are left out."""
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            response: dict[str, Any] = await self._protocol.callRemote(command, **given)
        except (error.ConnectionDone, error.ConnectionLost) as failure:
            if self._may_be_refused:
                raise NotPermitted(
                    f"the daemon at {self._address} closed the connection without an answer; its log says whether user "
                    f"{os.geteuid()} may not administer it: {_PERMISSION_HINT}"
                ) from None
            raise NoAnswer(f"the daemon at {self._address} closed the connection ({_reason(failure)})") from None
        except amp.AmpError as failure:
            if isinstance(failure, amp.TooLong) and failure.isLocal:
                raise Refusal("a value is longer than the 65,535 bytes that fit into a command") from None
            why = shorten(" ".join(str(failure).split()) or type(failure).__name__)
            raise NoAnswer(f"the program at {self._address} does not speak this version's protocol: {why}") from None
        self._may_be_refused = False
        return response

    async def edit(self, command: type[amp.Command], **arguments: Any) -> list[str]:
        """Send one command that edits. Returns the warnings about the edit, one per line."""
        response = await self.call(command, **arguments)
        return list(response.get("warnings", ()))

    async def submit(self, entry: EditCommand, arguments: Mapping[str, Any]) -> list[str]:
        """Send a command of the table. arguments: all of them by name, as the method of the command takes them."""
        if entry.uploaded is not None:
            await self._upload(arguments[entry.uploaded.name])
        sent = {argument.name: _encode(argument, arguments[argument.name]) for argument in entry.on_the_wire}
        return await self.edit(commands.OF_EDIT[entry.edit], **sent)

    async def _upload(self, text: str) -> None:
        for number, page in enumerate(commands.pages(text)):
            await self.call(commands.Upload, page=page, first=number == 0)

    def close(self) -> None:
        """Close the connection."""
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
    reload_certificates = _make_method("ReloadCertificates")

    # Views.

    async def read(self, view: str, ident: str | None = None) -> Any:
        """Return the named view, whole."""
        return await self._read_pages(await self.call(commands.Read, view=view, ident=ident))

    async def _read_pages(self, first: dict[str, Any]) -> Any:
        pages = [first["page"]]
        for number in range(1, first["pages"]):
            pages.append((await self.call(commands.ReadPage, number=number))["page"])
        return json.loads(b"".join(pages))

    async def table(self, ident: str | None = None) -> dict[str, Any]:
        """Return {"version": str, "services": [...], "settings": {name: value}}; a service as ktcpvs.model.describe
        describes it, and "running"."""
        return dict(await self.read("table", ident))

    async def stats(self, ident: str | None = None) -> dict[str, Any]:
        """Like `table`, with "stats" in each service and each of its servers; docs/tcpvsadm.md names the counters."""
        return dict(await self.read("stats", ident))

    async def connections(self, ident: str | None = None) -> list[dict[str, Any]]:
        """Return the client connections that are open."""
        return list(await self.read("connections", ident))

    async def schedulers(self) -> dict[str, Any]:
        """Return {"schedulers": [...], "broken": [...]}: the schedulers that were found, each with name, unit, module,
        summary and the number of services that use it; and the plugins that could not be loaded, with module and
        error."""
        return dict(await self.read("schedulers"))

    async def certificates(self, ident: str | None = None) -> list[dict[str, Any]]:
        """Return the certificates of running services; docs/tcpvsadm.md names the values."""
        return list(await self.read("certificates", ident))

    async def explain(
        self,
        ident: str,
        method: str | None = None,
        target: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        client: str = "127.0.0.1",
        port: int | None = None,
    ) -> dict[str, Any]:
        """Explain which server would handle a request; docs/tcpvsadm.md describes the result. No server is contacted.

        headers: (name, value) of header fields; a name may be repeated. client: the client's IP address. port: to which
        it connects; None: the first port of the service.
        """
        fields = [{"name": name, "value": value} for name, value in headers]
        first = await self.call(
            commands.Explain, ident=ident, method=method, target=target, headers=fields, client=client, port=port
        )
        return dict(await self._read_pages(first))

    async def settings(self) -> list[dict[str, Any]]:
        """Return all settings: name, value, default, lowest, highest, unit, meaning."""
        return list(await self.read("settings"))


def _encode(argument: Argument, value: Any) -> Any:
    """Return the value of an argument as AMP takes it."""
    if argument.type in (ArgumentType.SERVICE_OPTIONS, ArgumentType.SETTINGS):
        return [{"name": name, "value": text_of(text)} for name, text in value.items()]
    return value
