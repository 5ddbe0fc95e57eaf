"""The daemon's end of the control connection: AMP commands become edits of the switch, or views of it.

The server trusts no input: the model's own readers turn text into values, refusals go back as typed errors, and any
other failure is logged here and answered in one line, never as a traceback.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from attrs import asdict
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure

from ktcpvs.control import commands
from ktcpvs.control.command_table import EDIT_COMMANDS, EditCommand
from ktcpvs.control.edit_commands import FORCED, SCOPES, command_line_of, edit_for
from ktcpvs.control.guarded_amp import INTERNAL_ERROR, GuardedAMP
from ktcpvs.control.pages import PAGE_SIZE
from ktcpvs.control.permissions import Permissions
from ktcpvs.control.trace_session import TraceSession
from ktcpvs.errors import BadValue, Busy, NoConfiguration, Refusal, unknown
from ktcpvs.model import edits
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.live_trace import TraceQuery
from ktcpvs.model.local_edits import Local
from ktcpvs.system import log as levels
from ktcpvs.system.log import EventLog
from ktcpvs.system.threads import run_beside

T = TypeVar("T")

MAX_CONNECTIONS = 64
"""The most control connections at once."""

MAX_WARNINGS = 50
"""The most warnings in the response to one edit, in lines."""

MAX_UPLOAD_BYTES = 64 << 20
"""The most bytes of uploads, of all connections together."""


class Switch(Protocol):
    """The switch that the control connection administers."""

    def submit(self, edit: edits.Edit) -> Deferred[Sequence[str]]:
        """Carry an edit out; fires with warnings about it, one per line; fails with a Refusal."""

    def view(self, name: str, ident: str | None) -> Any:
        """Return a view as plain data, or a Deferred of it. Raises a Refusal."""

    def close_connection(self, wanted: str) -> Any:
        """Close the client connection with this ID. Return its description, or a Deferred of it. Raises a Refusal."""

    def rebalance(self, ident: str, percent: int, resets: bool, all_nodes: bool) -> Any:
        """Let connections of a service move off servers with more than their share. Return what moves, as plain data,
        or a Deferred of it. Raises a Refusal."""

    def explain(self, ident: str, request: AssumedRequest) -> Awaitable[Any]:
        """Explain which server would handle a request, as plain data. Raises a Refusal."""

    def trace(self, query: TraceQuery) -> TraceSession | Deferred[TraceSession]:
        """Begin a live trace. Raises a Refusal."""


MAX_TRACES = 16
"""The most live traces of one connection that have not been read to their end: what they have seen waits for that."""

MAX_READ_AT_ONCE = 16384
"""The most bytes of a configuration that are read on the reactor's thread: more take too long beside clients."""

Responder = Callable[..., Deferred[dict[str, Any]]]


def _edit_responder(entry: EditCommand) -> Responder:
    """Make the method that responds to one command of the table."""

    def respond(self: Administrator, **arguments: Any) -> Deferred[dict[str, Any]]:
        upload = self.take_upload() if entry.uploaded is not None else None
        return self.submit(lambda: edit_for(entry, arguments, upload), len(upload or b""))

    return respond


class Administrator(GuardedAMP):
    """The server side of one control connection."""

    def __init__(self, switch: Switch, log: EventLog) -> None:
        super().__init__(log)
        self._switch = switch
        self._upload = bytearray()
        self._has_upload = False
        self._scope = ""
        self._pages: list[bytes] = []
        self._traces: dict[int, TraceSession] = {}
        self._waiting_traces = 0
        self._last_trace = 0
        self._is_over = False
        self._order = DeferredLock()  # of commands, while one of them reads its upload

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """Close it: no administrator has a reason to pass one."""
        os.close(descriptor)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        super().connectionLost(reason)
        self._upload, self._pages = bytearray(), []
        self._is_over = True
        traces, self._traces = self._traces, {}
        for trace in traces.values():
            trace.close()
        self.factory.connections.discard(self)

    # Edits.

    for _entry in EDIT_COMMANDS:
        commands.OF_EDIT[_entry.edit].responder(_edit_responder(_entry))
    del _entry

    def submit(self, make: Callable[[], edits.Edit], size: int = 0) -> Deferred[dict[str, Any]]:
        """Make an edit and carry it out; fires with the response. Fails with a Refusal. size: of its upload in bytes;
        the edit of a long one is made in a thread."""
        scope, self._scope = self._scope, ""
        return self.respond(self._submit(make, scope, size))

    async def _submit(self, make: Callable[[], edits.Edit], scope: str, size: int) -> dict[str, Any]:
        async def begin() -> Deferred[Sequence[str]]:
            edit = await run_beside(make) if size > MAX_READ_AT_ONCE else make()
            if scope:
                edit = Local(edit, is_forced=scope == FORCED)
            if self.peer_name:
                self._log.event(levels.CONFIGURATION, "{peer} asks for {name}", peer=self.peer_name, name=edit.name)
            return self._switch.submit(edit).addCallback(self._log_edit, edit)

        warnings = await (await self.in_order(begin))
        return {"warnings": limit_warnings(warnings)} if warnings else {}

    def _log_edit(self, warnings: Sequence[str], edit: edits.Edit) -> Sequence[str]:
        """Log who has changed what, at every level. A supervisor's workers do not: it has logged the edit itself."""
        if self.peer_name and isinstance(edit, edits.Load):  # the director has logged each of its changes
            self._log.event(levels.ANNOUNCE, "{peer} has loaded a configuration", peer=self.peer_name)
        elif self.peer_name:
            form = "{peer}: {edit}"
            self._log.event(levels.ANNOUNCE, form, peer=self.peer_name, edit=command_line_of(edit))
        return warnings

    async def in_order(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Return what `begin` returns, which is called once the edits of earlier commands have been submitted."""
        await self._order.acquire()
        try:
            return await begin()
        finally:
            self._order.release()

    def respond(self, work: Awaitable[dict[str, Any]]) -> Deferred[dict[str, Any]]:
        """Return the response of `work`. Logs refusals, and logs other failures and raises a Refusal instead."""
        return Deferred.fromCoroutine(self._respond(work))

    async def _respond(self, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        try:
            return await work
        except Refusal as refusal:
            to = f" to {self.peer_name}" if self.peer_name else ""
            self._log.event(levels.CONFIGURATION, "refused{to}: {why}", to=to, why=refusal)
            raise
        except Exception:
            self._log.failure("a control command failed")
            raise Refusal(INTERNAL_ERROR) from None

    @commands.Scope.responder
    def set_scope(self, scope: str) -> dict[str, Any]:
        if scope not in SCOPES:
            raise BadValue(f"no scope {unknown(scope, SCOPES, 40)}")
        self._scope = scope
        return {}

    # Uploads.

    @property
    def uploaded_bytes(self) -> int:
        """The size of the upload that no command has taken yet."""
        return len(self._upload)

    @commands.Upload.responder
    def upload(self, page: bytes, first: bool) -> dict[str, Any]:
        if first:
            self._upload = bytearray()
        self._has_upload = True
        self._upload += page
        connections: set[Administrator] = getattr(self.factory, "connections", {self})
        if sum(connection.uploaded_bytes for connection in connections) > MAX_UPLOAD_BYTES:
            self.take_upload()
            raise NoConfiguration(
                f"the uploads of all control connections together are longer than {MAX_UPLOAD_BYTES} bytes"
            )
        return {}

    def take_upload(self) -> bytearray | None:
        """Return the upload and forget it; None: there was none."""
        data = self._upload if self._has_upload else None
        self._upload, self._has_upload = bytearray(), False
        return data

    # Views.

    @commands.Read.responder
    def read(self, view: str, ident: str | None = None) -> Deferred[dict[str, Any]]:
        return self.respond(self._read(view, ident))

    async def _read(self, view: str, ident: str | None) -> dict[str, Any]:
        data = self._switch.view(view, ident)
        return self._first_page(await data if isinstance(data, Deferred) else data)

    @commands.CloseConnection.responder
    def close_connection(self, connection: str) -> Deferred[dict[str, Any]]:
        return self.respond(self._close_connection(connection))

    async def _close_connection(self, wanted: str) -> dict[str, Any]:
        closed = self._switch.close_connection(wanted)
        described = await closed if isinstance(closed, Deferred) else closed
        if self.peer_name:  # a supervisor has logged it before it asks its worker
            self._log.event(
                levels.ANNOUNCE,
                "{peer} has closed connection {id} of service {service}: client {client}, server {server}",
                peer=self.peer_name,
                **{name: described[name] or "-" for name in ("id", "service", "client", "server")},
            )
        return self._first_page(described)

    @commands.Rebalance.responder
    def rebalance(self, ident: str, percent: int, resets: bool, all_nodes: bool) -> Deferred[dict[str, Any]]:
        return self.respond(self._rebalance(ident, percent, resets, all_nodes))

    async def _rebalance(self, ident: str, percent: int, resets: bool, all_nodes: bool) -> dict[str, Any]:
        begun = self._switch.rebalance(ident, percent, resets, all_nodes)
        moves = await begun if isinstance(begun, Deferred) else begun
        if self.peer_name:
            count = sum(row["moving"] for row in moves["servers"])
            moving = "1 connection moves" if count == 1 else f"{count} connections move"
            form = "{peer} rebalances service {service} by {percent}%: {moving}"
            self._log.event(levels.ANNOUNCE, form, peer=self.peer_name, service=ident, percent=percent, moving=moving)
        return self._first_page(moves)

    @commands.Explain.responder
    def explain(
        self,
        ident: str,
        headers: list[dict[str, str]],
        client: str,
        method: str | None = None,
        target: str | None = None,
        port: int | None = None,
        has_body: bool | None = None,
    ) -> Deferred[dict[str, Any]]:
        fields = [(header["name"], header["value"]) for header in headers]
        body = bytes(self.take_upload() or b"") if has_body else b""
        return self.respond(self._explain(ident, AssumedRequest(method, target, fields, client, port, body)))

    async def _explain(self, ident: str, request: AssumedRequest) -> dict[str, Any]:
        return self._first_page(await self._switch.explain(ident, request))

    # Live traces.

    @commands.BeginTrace.responder
    def begin_trace(
        self, conditions: str, count: int, seconds: int, ident: str | None = None
    ) -> Deferred[dict[str, Any]]:
        return self.respond(self._begin_trace(conditions, ident, count, seconds))

    async def _begin_trace(self, conditions: str, ident: str | None, count: int, seconds: int) -> dict[str, Any]:
        if len(self._traces) >= MAX_TRACES:
            raise Busy(f"{MAX_TRACES} traces of this connection have not been read to their end: read or end one first")
        begun = self._switch.trace(TraceQuery(conditions, ident, count, seconds))
        trace = await begun if isinstance(begun, Deferred) else begun
        if self._is_over:
            trace.close()
        number = self._last_trace = self._last_trace + 1
        self._traces[number] = trace
        if self.peer_name:
            form = "{peer} traces requests of {service}: {conditions}"
            names = {"service": ident or "all services", "conditions": conditions or "all"}
            self._log.event(levels.ANNOUNCE, form, peer=self.peer_name, **names)
        return {"number": number}

    @commands.ReadTrace.responder
    def read_trace(self, number: int) -> Deferred[dict[str, Any]]:
        return self.respond(self._read_trace(number))

    async def _read_trace(self, number: int) -> dict[str, Any]:
        if number not in self._traces:
            raise BadValue(f"there is no trace {number}")
        self._waiting_traces += 1
        try:
            batch = await self._traces[number].read()
        finally:
            self._waiting_traces -= 1
        if batch.ended:
            self.end_trace(number)
        return asdict(batch)

    @property
    def unanswered_commands(self) -> int:
        """The number of commands that will have a response, but for those that wait for what a trace will see."""
        return self.running_commands - self._waiting_traces

    @commands.EndTrace.responder
    def end_trace(self, number: int) -> dict[str, Any]:
        trace = self._traces.pop(number, None)
        if trace is not None:
            trace.close()
        return {}

    def _first_page(self, data: Any) -> dict[str, Any]:
        """Return the first page of `data` as JSON, and keep the others for ReadPage."""
        text = json.dumps(data).encode("ascii")
        pages = [text[start : start + PAGE_SIZE] for start in range(0, len(text), PAGE_SIZE)]
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
        protocol_class: type[Administrator] = Administrator,
        permissions: Permissions | None = None,
    ) -> None:
        """permissions: None lets every peer in."""
        self._permissions = permissions
        self._switch = switch
        self._log = log
        self._protocol_class = protocol_class
        self.connections: set[Administrator] = set()

    def buildProtocol(self, addr: IAddress | None) -> Administrator | None:
        if len(self.connections) >= MAX_CONNECTIONS:
            self._log.warn("control connection refused: {most} connections are open already", most=MAX_CONNECTIONS)
            return None
        administrator = self._protocol_class(self._switch, self._log)
        administrator.factory = self
        administrator.permissions = self._permissions
        self.connections.add(administrator)
        return administrator

    @property
    def unanswered_commands(self) -> int:
        """See Administrator; of all connections."""
        return sum(administrator.unanswered_commands for administrator in self.connections)

    def close_all(self) -> None:
        """Close all control connections, after the responses that are ready have been sent."""
        for administrator in list(self.connections):
            administrator.close()


def limit_warnings(lines: Sequence[str]) -> list[str]:
    """Return as many of the first lines as fit into one response, and a line that counts the others."""
    kept: list[str] = []
    size = 0
    for line in lines[:MAX_WARNINGS]:
        size += len(line.encode()) + 2
        if size > PAGE_SIZE:
            break
        kept.append(line)
    left_out = len(lines) - len(kept)
    if left_out:
        kept.append(f"{left_out} more warnings are left out; 'tcpvsadm --check FILE' prints all")
    return kept
