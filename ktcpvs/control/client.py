"""Administer a switch from a Python program: everything that tcpvsadm can say, as methods.

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

Refusals are raised as the classes of ktcpvs.errors. Nothing of a refused call is carried out. A method that changes
something returns the warnings about it, a line each: what has been configured and has no effect.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from twisted.internet import error
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import Factory
from twisted.protocols import amp
from twisted.python.failure import Failure

from ktcpvs.control import commands
from ktcpvs.control.endpoints import ControlAddress, default_control, need_tls, parse_control
from ktcpvs.errors import Refusal, shorten
from ktcpvs.system.files import untrusted_socket
from ktcpvs.system.process import peer_user


class QuietAMP(amp.AMP):
    """AMP itself would log every coming and going."""

    def makeConnection(self, transport: Any) -> None:
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        amp.BinaryBoxProtocol.connectionLost(self, reason)


class _Calls(Factory):
    noisy = False


class NoAnswer(Exception):
    """No daemon answers at the control address, or it went away; the text says where and why."""


class NotTrusted(NoAnswer):
    """Somebody answers there, and one of the two does not trust the other, or does not speak TLS."""


class NotPermitted(NoAnswer):
    """The control connection is there, and this user may not use it."""


async def connect(reactor: IReactorCore, control: str | None = None, timeout: float = 5.0) -> Switch:
    """Connect to the switch at `control`, an endpoint description; None: the default place.

    timeout: seconds to wait for the connection, and as many for its TLS. Raises NoAnswer, with its kinds NotTrusted and
    NotPermitted; BadAddress for a bad description; or NoTLS for files of certificates that cannot be used.
    """
    where = parse_control(control) if control else default_control()
    if not control and (why := untrusted_socket(where.path or "")):
        raise NotTrusted(f"{why}, so no daemon is trusted there: remove it, or name the daemon's place with --control")
    try:
        if where.tls is not None:
            need_tls()
            from ktcpvs.control.tls_client import call  # OpenSSL takes long to import

            return Switch(await call(reactor, where, timeout), where)
        protocol = await where.client_endpoint(reactor, timeout).connect(_Calls.forProtocol(QuietAMP))
    except (error.ConnectError, OSError) as failure:
        if getattr(failure, "osError", None) in (errno.EACCES, errno.EPERM):
            raise NotPermitted(f"permission denied at {where}: {_HOW_TO_BE_PERMITTED}") from None
        raise NoAnswer(f"no daemon answers at {where} ({_why(failure)})") from None
    assert isinstance(protocol, amp.AMP)
    return Switch(protocol, where)


_HOW_TO_BE_PERMITTED = (
    "run tcpvsadm as root or as the daemon's user, or as a member of the daemon's --control-group GROUP"
)


def _is_refused(transport: Any) -> bool:
    """True where a unix socket's daemon may have closed the connection because of this user (see control.guard)."""
    sock = getattr(transport, "socket", None)
    return sock is not None and sock.family == socket.AF_UNIX and os.geteuid() not in (0, peer_user(sock))


def _why(failure: Exception) -> str:
    number = getattr(failure, "osError", None)
    return os.strerror(number) if isinstance(number, int) else str(failure).rstrip(".")


class Switch:
    """A connection to a running switch. Methods are coroutines; addresses and options are text, as in tcpvsadm."""

    def __init__(self, protocol: amp.AMP, where: ControlAddress) -> None:
        self._protocol = protocol
        self._where = where
        self._may_be_refused = _is_refused(protocol.transport)

    async def call(self, command: type[amp.Command], **arguments: Any) -> dict[str, Any]:
        """The answer to one command of ktcpvs.control.commands; arguments that are None are left out."""
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            answer: dict[str, Any] = await self._protocol.callRemote(command, **given)
        except (error.ConnectionDone, error.ConnectionLost) as failure:
            if self._may_be_refused:
                raise NotPermitted(
                    f"the daemon at {self._where} closed the connection without an answer: perhaps user {os.geteuid()} "
                    f"may not administer it, which its log would say: {_HOW_TO_BE_PERMITTED}"
                ) from None
            raise NoAnswer(f"the daemon at {self._where} went away ({_why(failure)})") from None
        except amp.AmpError as failure:
            if isinstance(failure, amp.TooLong) and failure.isLocal:
                raise Refusal("a value is longer than the 65,535 bytes that fit into a command") from None
            why = shorten(" ".join(str(failure).split()) or type(failure).__name__)
            raise NoAnswer(f"what answers at {self._where} does not speak as this version does: {why}") from None
        self._may_be_refused = False
        return answer

    async def edit(self, command: type[amp.Command], **arguments: Any) -> list[str]:
        """Have one edit carried out. Returns the warnings about it, a line each."""
        answer = await self.call(command, **arguments)
        return list(answer.get("warnings", ()))

    def close(self) -> None:
        """End the connection."""
        if self._protocol.transport is not None:
            self._protocol.transport.loseConnection()

    async def add_service(self, ident: str, /, **options: str | int) -> list[str]:
        """options: listen, port, scheduler, maxclients, redirect, ...; see commands.AddService."""
        return await self.edit(commands.AddService, ident=ident, options=_options(options))

    async def edit_service(self, ident: str, /, **options: str | int) -> list[str]:
        """Change the options given and no others."""
        return await self.edit(commands.EditService, ident=ident, options=_options(options))

    async def delete_service(self, ident: str) -> list[str]:
        return await self.edit(commands.DeleteService, ident=ident)

    async def flush(self) -> list[str]:
        """Delete all services; refused while one runs."""
        return await self.edit(commands.Flush)

    async def add_server(
        self, ident: str, address: str, weight: int | None = None, maxconn: int | None = None
    ) -> list[str]:
        """weight: 0..65535; None: 1. maxconn: the most connections at once, 0 and None: no such limit."""
        return await self.edit(commands.AddServer, ident=ident, address=address, weight=weight, maxconn=maxconn)

    async def edit_server(
        self, ident: str, address: str, weight: int | None = None, maxconn: int | None = None
    ) -> list[str]:
        """Change what is given. weight: 0..65535. maxconn: the most connections at once, 0: no such limit. None: as it
        is."""
        return await self.edit(commands.EditServer, ident=ident, address=address, weight=weight, maxconn=maxconn)

    async def delete_server(self, ident: str, address: str) -> list[str]:
        return await self.edit(commands.DeleteServer, ident=ident, address=address)

    async def add_rule(self, ident: str, pattern: str, address: str, match: int | None = None) -> list[str]:
        """match: 0..10, the group that hashing schedulers hash; None: none."""
        return await self.edit(commands.AddRule, ident=ident, pattern=pattern, address=address, match=match)

    async def delete_rule(self, ident: str, pattern: str, address: str) -> list[str]:
        return await self.edit(commands.DeleteRule, ident=ident, pattern=pattern, address=address)

    async def allow(self, ident: str, networks: str, only: bool = False) -> list[str]:
        """networks: with white space between them; `#` begins a comment. only: in the place of those allowed before."""
        await self._upload(networks)
        return await self.edit(commands.Allow, ident=ident, only=only)

    async def deny(self, ident: str, networks: str, only: bool = False) -> list[str]:
        """The same for networks whose clients are turned away."""
        await self._upload(networks)
        return await self.edit(commands.Deny, ident=ident, only=only)

    async def delete_network(self, ident: str, networks: str) -> list[str]:
        """Networks that are neither allowed nor denied any more."""
        await self._upload(networks)
        return await self.edit(commands.DeleteNetwork, ident=ident)

    async def start(self, ident: str | None = None) -> list[str]:
        """ident: None means all services."""
        return await self.edit(commands.StartService, ident=ident)

    async def stop(self, ident: str | None = None) -> list[str]:
        """ident: None means all services. Their connections drain after the answer."""
        return await self.edit(commands.StopService, ident=ident)

    async def set(self, changes: Mapping[str, str | int]) -> list[str]:
        """changes: setting -> value."""
        return await self.edit(commands.Set, changes=_options(changes))

    async def unload(self) -> list[str]:
        """Stop all services, drain, end the daemon."""
        return await self.edit(commands.Unload)

    async def load(
        self,
        text: str,
        source: str = "<text>",
        confirm: int | None = None,
        start: str | None = None,
        allow_empty: bool = False,
    ) -> list[str]:
        """Put a configuration in the table's place; `source` names it in errors. confirm: it is undone after so many
        seconds unless `confirm` is called; None: it stays. start: "new" starts the services that were not in the table
        before, "all" all services of the text; None starts none. allow_empty: False refuses a text in which there is
        nothing but comments."""
        await self._upload(text)
        return await self.edit(commands.Load, source=source, confirm=confirm, start=start, allow_empty=allow_empty)

    async def confirm(self) -> list[str]:
        """What was loaded on trial stays."""
        return await self.edit(commands.Confirm)

    async def _upload(self, text: str) -> None:
        for number, page in enumerate(commands.pages(text)):
            await self.call(commands.Upload, page=page, first=number == 0)

    async def read(self, view: str, ident: str | None = None) -> Any:
        """The named view, whole."""
        return await self._all_pages(await self.call(commands.Read, view=view, ident=ident))

    async def _all_pages(self, first: dict[str, Any]) -> Any:
        pages = [first["page"]]
        for number in range(1, first["pages"]):
            pages.append((await self.call(commands.ReadPage, number=number))["page"])
        return json.loads(b"".join(pages))

    async def table(self, ident: str | None = None) -> dict[str, Any]:
        """{"version": str, "services": [...], "settings": {name: value}}; a service as ktcpvs.model.describe says it,
        with "running" besides."""
        return dict(await self.read("table", ident))

    async def stats(self, ident: str | None = None) -> dict[str, Any]:
        """Like `table`, with "stats" in each service and each of its servers; docs/tcpvsadm.md names the counters."""
        return dict(await self.read("stats", ident))

    async def connections(self, ident: str | None = None) -> list[dict[str, Any]]:
        """The client connections that live now."""
        return list(await self.read("connections", ident))

    async def schedulers(self) -> dict[str, Any]:
        """{"schedulers": [...], "broken": [...]}: those that were found, with name, unit, module, summary and the
        number of services that use each; and the plugins that could not be used, with module and error."""
        return dict(await self.read("schedulers"))

    async def explain(
        self,
        ident: str,
        method: str | None = None,
        target: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        client: str = "127.0.0.1",
    ) -> dict[str, Any]:
        """Who would serve this request, and why; docs/tcpvsadm.md names what the answer holds. Nothing is sent.

        headers: (name, value) of header lines, a name as often as wanted. client: the client's IP address.
        """
        lines = [{"name": name, "value": value} for name, value in headers]
        first = await self.call(
            commands.Explain, ident=ident, method=method, target=target, headers=lines, client=client
        )
        return dict(await self._all_pages(first))

    async def settings(self) -> list[dict[str, Any]]:
        """All settings: name, value, default, lowest, highest, unit, meaning."""
        return list(await self.read("settings"))


def _options(options: Mapping[str, str | int]) -> list[dict[str, str]]:
    return [{"name": name, "value": str(value)} for name, value in options.items()]
