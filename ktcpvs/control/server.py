"""The daemon's end of the control connection: each AMP command becomes an edit, or a look.

Nothing that comes in is believed: text becomes values through the model's own readers, refusals go back as typed
errors, and whatever else goes wrong is logged here and told as one line, never as a traceback.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from ktcpvs.control import commands
from ktcpvs.control.arguments import service_options
from ktcpvs.control.guarded_amp import GuardedAMP
from ktcpvs.control.permissions import Permissions
from ktcpvs.errors import BadValue, NoConfiguration, Refusal, shorten
from ktcpvs.model import edits
from ktcpvs.model.address import Address, parse_address
from ktcpvs.model.language.parser import parse
from ktcpvs.model.network import Networks, parse_networks
from ktcpvs.system import log as levels
from ktcpvs.system.log import EventLog
from ktcpvs.system.names import service_port

MAX_CONNECTIONS = 64
"""Control connections at once."""

MAX_WARNINGS = 50
"""The most warnings in the answer to one edit, in lines."""

SOURCE_LENGTH = 255
"""The most characters of a configuration's name that its errors repeat."""

MAX_CONFIGURATION = 64 << 20
"""The longest configuration text, in bytes; of all connections together."""


class Switch(Protocol):
    """What the control service administers."""

    def submit(self, edit: edits.Edit) -> Deferred[Sequence[str]]:
        """Carry an edit out; fires with warnings about it, a line each; fails with a Refusal."""

    def view(self, name: str, ident: str | None) -> Any:
        """A look, as plain data, or a Deferred of it; raises a Refusal."""

    def explain(
        self, ident: str, method: str | None, target: str | None, headers: Sequence[tuple[str, str]], client: str
    ) -> Awaitable[Any]:
        """Who would serve a request, and why, as plain data; raises a Refusal."""


class Administrator(GuardedAMP):
    """One control connection."""

    def __init__(self, switch: Switch, log: EventLog) -> None:
        super().__init__(log)
        self._switch = switch
        self._upload = bytearray()
        self._uploaded = False
        self._pages: list[bytes] = []

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """No administrator has one to give."""
        os.close(descriptor)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self._upload, self._pages = bytearray(), []
        self.factory.connections.discard(self)

    # Edits.

    def _edit(self, make: Callable[[], edits.Edit]) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._answered(self._submit(make)))

    async def _submit(self, make: Callable[[], edits.Edit]) -> dict[str, Any]:
        edit = make()
        if self.who:
            self._log.event(levels.CONFIGURATION, "{who} asks for {name}", who=self.who, name=edit.name)
        warnings = await self._switch.submit(edit)
        return {"warnings": fitting(warnings)} if warnings else {}

    async def _answered(self, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        try:
            return await work
        except Refusal as refusal:
            whom = f" to {self.who}" if self.who else ""
            self._log.event(levels.CONFIGURATION, "refused{whom}: {why}", whom=whom, why=refusal)
            raise
        except Exception:
            self._log.failure("a control command failed")
            raise Refusal("the daemon met a fault of its own; its log tells more") from None

    @commands.AddService.responder
    def add_service(self, ident: str, options: list[dict[str, str]]) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.AddService(ident, service_options(options)))

    @commands.EditService.responder
    def edit_service(self, ident: str, options: list[dict[str, str]]) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.EditService(ident, service_options(options)))

    @commands.DeleteService.responder
    def delete_service(self, ident: str) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.DeleteService(ident))

    @commands.Flush.responder
    def flush(self) -> Deferred[dict[str, Any]]:
        return self._edit(edits.Flush)

    @commands.AddServer.responder
    def add_server(
        self, ident: str, address: str, weight: int | None = None, maxconn: int | None = None
    ) -> Deferred[dict[str, Any]]:
        new = 1 if weight is None else weight
        return self._edit(lambda: edits.AddServer(ident, _address(address), new, maxconn or 0))

    @commands.EditServer.responder
    def edit_server(
        self, ident: str, address: str, weight: int | None = None, maxconn: int | None = None
    ) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.EditServer(ident, _address(address), weight, maxconn))

    @commands.DeleteServer.responder
    def delete_server(self, ident: str, address: str) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.DeleteServer(ident, _address(address)))

    @commands.AddRule.responder
    def add_rule(self, ident: str, pattern: str, address: str, match: int | None = None) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.AddRule(ident, pattern, _address(address), match))

    @commands.DeleteRule.responder
    def delete_rule(self, ident: str, pattern: str, address: str) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.DeleteRule(ident, pattern, _address(address)))

    @commands.Allow.responder
    def allow(self, ident: str, only: bool) -> Deferred[dict[str, Any]]:
        data = self._take_upload()
        return self._edit(lambda: edits.Allow(ident, _networks(data), only))

    @commands.Deny.responder
    def deny(self, ident: str, only: bool) -> Deferred[dict[str, Any]]:
        data = self._take_upload()
        return self._edit(lambda: edits.Deny(ident, _networks(data), only))

    @commands.DeleteNetwork.responder
    def delete_network(self, ident: str) -> Deferred[dict[str, Any]]:
        data = self._take_upload()
        return self._edit(lambda: edits.DeleteNetwork(ident, _networks(data)))

    @commands.StartService.responder
    def start_service(self, ident: str | None = None) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.StartService(ident))

    @commands.StopService.responder
    def stop_service(self, ident: str | None = None) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: edits.StopService(ident))

    @commands.Set.responder
    def set(self, changes: list[dict[str, str]]) -> Deferred[dict[str, Any]]:
        return self._edit(lambda: _set(changes))

    @commands.Unload.responder
    def unload(self) -> Deferred[dict[str, Any]]:
        return self._edit(edits.Unload)

    # Texts, in pages.

    @commands.Upload.responder
    def upload(self, page: bytes, first: bool) -> dict[str, Any]:
        if first:
            self._upload = bytearray()
        self._uploaded = True
        self._upload += page
        if sum(len(one._upload) for one in getattr(self.factory, "connections", (self,))) > MAX_CONFIGURATION:
            self._upload, self._uploaded = bytearray(), False
            raise NoConfiguration(f"the configurations that are being sent are longer than {MAX_CONFIGURATION} bytes")
        return {}

    @commands.Load.responder
    def load(
        self, source: str, confirm: int | None = None, start: str | None = None, allow_empty: bool | None = None
    ) -> Deferred[dict[str, Any]]:
        data = self._take_upload()

        def make() -> edits.Edit:
            read = _load(data, shorten(source, SOURCE_LENGTH), bool(allow_empty))
            return evolve(read, confirm=confirm or 0, start=start or edits.START_NOTHING)

        return self._edit(make)

    @commands.Confirm.responder
    def confirm(self) -> Deferred[dict[str, Any]]:
        return self._edit(edits.Confirm)

    def _take_upload(self) -> bytearray | None:
        """What was uploaded, once; None: nothing was."""
        data = self._upload if self._uploaded else None
        self._upload, self._uploaded = bytearray(), False
        return data

    # Looks.

    @commands.Read.responder
    def read(self, view: str, ident: str | None = None) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self._answered(self._read(view, ident)))

    async def _read(self, view: str, ident: str | None) -> dict[str, Any]:
        found = self._switch.view(view, ident)
        return self._first_page(await found if isinstance(found, Deferred) else found)

    @commands.Explain.responder
    def explain(
        self,
        ident: str,
        headers: list[dict[str, str]],
        client: str,
        method: str | None = None,
        target: str | None = None,
    ) -> Deferred[dict[str, Any]]:
        lines = [(header["name"], header["value"]) for header in headers]
        return Deferred.fromCoroutine(self._answered(self._explain(ident, method, target, lines, client)))

    async def _explain(self, *asked: Any) -> dict[str, Any]:
        return self._first_page(await self._switch.explain(*asked))

    def _first_page(self, answer: Any) -> dict[str, Any]:
        """The first page of `answer`; the others are kept for ReadPage."""
        text = json.dumps(answer).encode("ascii")
        pages = [text[start : start + commands.PAGE] for start in range(0, len(text), commands.PAGE)]
        self._pages = pages if len(pages) > 1 else []
        return {"page": pages[0], "pages": len(pages)}

    @commands.ReadPage.responder
    def read_page(self, number: int) -> dict[str, Any]:
        if not 1 <= number < len(self._pages):
            raise BadValue(f"there is no page {number}")
        return {"page": self._pages[number]}


class ControlFactory(ServerFactory):
    """Makes an Administrator for each control connection, up to MAX_CONNECTIONS."""

    noisy = False

    def __init__(
        self,
        switch: Switch,
        log: EventLog,
        kind: type[Administrator] = Administrator,
        guard: Permissions | None = None,
    ) -> None:
        """kind: what is made. guard: who may come in; None: everybody who can."""
        self._guard = guard
        self._switch = switch
        self._log = log
        self._kind = kind
        self.connections: set[Administrator] = set()

    def buildProtocol(self, addr: IAddress | None) -> Administrator | None:
        if len(self.connections) >= MAX_CONNECTIONS:
            self._log.warn("control connection refused: there are {most} already", most=MAX_CONNECTIONS)
            return None
        administrator = self._kind(self._switch, self._log)
        administrator.factory = self
        administrator.guard = self._guard
        self.connections.add(administrator)
        return administrator

    def close_all(self) -> None:
        """End all control connections, when what was answered has gone out."""
        for administrator in list(self.connections):
            administrator.close()


def fitting(lines: Sequence[str]) -> list[str]:
    """The first of these lines, as many as fit into one answer; then a line that says how many are left out."""
    found: list[str] = []
    size = 0
    for line in lines[:MAX_WARNINGS]:
        size += len(line.encode()) + 2
        if size > commands.PAGE:
            break
        found.append(line)
    left = len(lines) - len(found)
    return [*found, f"{left} more warnings are left out; 'tcpvsadm --check FILE' prints all"] if left else found


def _address(text: str) -> Address:
    return parse_address(text, service_port)


def _set(changes: list[dict[str, str]]) -> edits.Edit:
    values = {change["name"]: change["value"] for change in changes}
    unload = values.pop("unload", None)
    if unload is None:
        return edits.Set(values)
    if unload not in ("0", "1") or (unload == "1" and values):
        raise BadValue("unload = 1 stands alone and ends the daemon; unload = 0 changes nothing")
    return edits.Unload() if unload == "1" else edits.Set(values)


def _load(data: bytearray | None, source: str, allow_empty: bool) -> edits.Load:
    if data is None:
        raise NoConfiguration("no configuration was sent")
    return parse(_text(data, source), source, service_port, allow_empty=allow_empty)


def _networks(data: bytearray | None) -> Networks:
    if data is None:
        raise NoConfiguration("no networks were sent")
    return parse_networks(_text(data, "networks"))


def _text(data: bytearray, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NoConfiguration(f"{source}: byte {error.start} is not UTF-8 text") from None
