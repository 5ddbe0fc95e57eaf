"""The AMP wire, byte by byte: the boxes that the client sends for every command, and the edits that the server makes.

Daemons and clients of different versions talk to each other, so these bytes must not change. The boxes are written here
by the rules of AMP alone, without the command classes.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import StringTransport
from twisted.protocols import amp

from ktcpvs.control.blocking_client import BlockingSwitch, run
from ktcpvs.control.client import Switch
from ktcpvs.control.command_table import EDIT_COMMANDS
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.server import Administrator
from ktcpvs.control.trace_session import TraceSession
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.listen import ListenAddress
from ktcpvs.model.live_trace import TraceBatch, TraceQuery
from ktcpvs.model.local_edits import Local
from ktcpvs.model.network import parse_networks
from ktcpvs.model.table import Table
from ktcpvs.model.tls import ServerTLS
from ktcpvs.system.log import EventLog

Pairs = list[tuple[bytes, bytes]]


def box(*pairs: tuple[bytes, bytes]) -> bytes:
    """Encode keys and values with their lengths before them, sorted by key; an empty key ends the box."""
    written = b"".join(bytes([0, len(key)]) + key + len(value).to_bytes(2, "big") + value for key, value in pairs)
    assert [key for key, _ in pairs] == sorted(key for key, _ in pairs)
    return written + b"\0\0"


def request_box(command: bytes, tag: bytes = b"1", **arguments: bytes) -> bytes:
    return box(
        (b"_ask", tag), (b"_command", command), *((name.encode(), arguments[name]) for name in sorted(arguments))
    )


def named_values(*pairs: tuple[bytes, bytes]) -> bytes:
    """Encode names with their values, as service options and settings are."""
    return b"".join(box((b"name", name), (b"value", value)) for name, value in pairs)


WEB = parse_address("10.0.0.1:80")
NETWORKS = "10.0.0.0/8\n::1"
CONFIGURATION = "Virtual web { }"
OPTIONS = named_values((b"scheduler", b"wlc"), (b"maxclients", b"5"), (b"redirect", b""))

Call = Callable[[Switch], Awaitable[Any]]

EDITS: dict[str, tuple[Call, list[bytes], edits.Edit]] = {
    "AddService": (
        lambda switch: switch.add_service("web", scheduler="wlc", maxclients=5, redirect=""),
        [request_box(b"AddService", ident=b"web", options=OPTIONS)],
        edits.AddService("web", {"scheduler": "wlc", "maxclients": 5, "redirect": None}),
    ),
    "EditService": (
        lambda switch: switch.edit_service("web", scheduler="wlc", maxclients=5, redirect=""),
        [request_box(b"EditService", ident=b"web", options=OPTIONS)],
        edits.EditService("web", {"scheduler": "wlc", "maxclients": 5, "redirect": None}),
    ),
    "DeleteService": (
        lambda switch: switch.delete_service("wéb"),
        [request_box(b"DeleteService", ident="wéb".encode())],
        edits.DeleteService("wéb"),
    ),
    "Flush": (lambda switch: switch.flush(), [request_box(b"Flush")], edits.Flush()),
    "AddService, several listeners": (
        lambda switch: switch.add_service("web", listen=["10.0.0.1:http", "unix:/a b", "[::]:443 tls"]),
        [
            request_box(
                b"AddService",
                ident=b"web",
                options=named_values((b"listen", b"10.0.0.1:http\nunix:/a b\n[::]:443 tls")),
            )
        ],
        edits.AddService(
            "web", {"listen": (WEB, parse_address("unix:/a b"), ListenAddress(parse_address("[::]:443"), True))}
        ),
    ),
    "AddListener": (
        lambda switch: switch.add_listener("web", "10.0.0.1:http", tls=True),
        [request_box(b"AddListener", ident=b"web", address=b"10.0.0.1:http", tls=b"True")],
        edits.AddListener("web", WEB, True),
    ),
    "AddListener, on nodes": (
        lambda switch: switch.add_listener("web", "10.0.0.1:http", on="a, label:b"),
        [request_box(b"AddListener", ident=b"web", address=b"10.0.0.1:http", tls=b"False", on=b"a, label:b")],
        edits.AddListener("web", WEB, False, "a, label:b"),
    ),
    "AddListener, optional arguments left out": (
        lambda switch: switch.add_listener("web", "10.0.0.1:80"),
        [request_box(b"AddListener", ident=b"web", address=b"10.0.0.1:80", tls=b"False")],
        edits.AddListener("web", WEB),
    ),
    "DeleteListener": (
        lambda switch: switch.delete_listener("web", "10.0.0.1:80"),
        [request_box(b"DeleteListener", ident=b"web", address=b"10.0.0.1:80")],
        edits.DeleteListener("web", WEB),
    ),
    "AddServer": (
        lambda switch: switch.add_server("web", "10.0.0.1:http", 7, 9),
        [request_box(b"AddServer", ident=b"web", address=b"10.0.0.1:http", weight=b"7", maxconn=b"9")],
        edits.AddServer("web", WEB, 7, 9),
    ),
    "AddServer, optional arguments left out": (
        lambda switch: switch.add_server("web", "10.0.0.1:80"),
        [request_box(b"AddServer", ident=b"web", address=b"10.0.0.1:80")],
        edits.AddServer("web", WEB, 1, 0),
    ),
    "AddServer, with words": (
        lambda switch: switch.add_server("web", "10.0.0.1:80", options='tls ca "/a b" name H proxy v2'),
        [request_box(b"AddServer", ident=b"web", address=b"10.0.0.1:80", options=b'tls ca "/a b" name H proxy v2')],
        edits.AddServer("web", WEB, 1, 0, {"tls": ServerTLS("/a b", name="h"), "proxy": "v2"}),
    ),
    "EditServer, with words": (
        lambda switch: switch.edit_server("web", "10.0.0.1:80", options="tls off proxy off"),
        [request_box(b"EditServer", ident=b"web", address=b"10.0.0.1:80", options=b"tls off proxy off")],
        edits.EditServer("web", WEB, None, None, {"tls": None, "proxy": "off"}),
    ),
    "Drain": (
        lambda switch: switch.drain("10.0.0.1:80"),
        [request_box(b"Drain", address=b"10.0.0.1:80")],
        edits.Drain(WEB),
    ),
    "Ready": (
        lambda switch: switch.ready("10.0.0.1:80", "web"),
        [request_box(b"Ready", address=b"10.0.0.1:80", ident=b"web")],
        edits.Ready(WEB, "web"),
    ),
    "Maintenance": (
        lambda switch: switch.maintenance("10.0.0.1:80", ident="web"),
        [request_box(b"Maintenance", address=b"10.0.0.1:80", ident=b"web")],
        edits.Maintenance(WEB, "web"),
    ),
    "AddServer, by name": (
        lambda switch: switch.add_server(ident="web", address="10.0.0.1:80", maxconn=0, weight=0),
        [request_box(b"AddServer", ident=b"web", address=b"10.0.0.1:80", weight=b"0", maxconn=b"0")],
        edits.AddServer("web", WEB, 0, 0),
    ),
    "EditServer": (
        lambda switch: switch.edit_server("web", "10.0.0.1:80", 0, 9),
        [request_box(b"EditServer", ident=b"web", address=b"10.0.0.1:80", weight=b"0", maxconn=b"9")],
        edits.EditServer("web", WEB, 0, 9),
    ),
    "EditServer, optional arguments left out": (
        lambda switch: switch.edit_server("web", "10.0.0.1:80", maxconn=0),
        [request_box(b"EditServer", ident=b"web", address=b"10.0.0.1:80", maxconn=b"0")],
        edits.EditServer("web", WEB, None, 0),
    ),
    "DeleteServer": (
        lambda switch: switch.delete_server("web", "10.0.0.1:80"),
        [request_box(b"DeleteServer", ident=b"web", address=b"10.0.0.1:80")],
        edits.DeleteServer("web", WEB),
    ),
    "AddRule": (
        lambda switch: switch.add_rule("web", "/a", "10.0.0.1:80", 1),
        [request_box(b"AddRule", ident=b"web", pattern=b"/a", address=b"10.0.0.1:80", match=b"1")],
        edits.AddRule("web", "/a", WEB, 1),
    ),
    "AddRule, optional arguments left out": (
        lambda switch: switch.add_rule("web", "/a", "10.0.0.1:80"),
        [request_box(b"AddRule", ident=b"web", pattern=b"/a", address=b"10.0.0.1:80")],
        edits.AddRule("web", "/a", WEB),
    ),
    "AddRule, with a name": (
        lambda switch: switch.add_rule("web", "host a path /x", "10.0.0.1:80", rule_name="n", before="2"),
        [
            request_box(
                b"AddRule", ident=b"web", pattern=b"host a path /x", address=b"10.0.0.1:80", rule_name=b"n", before=b"2"
            )
        ],
        edits.AddRule("web", "host a path /x", WEB, None, "n", "2"),
    ),
    "AddRule, with an action": (
        lambda switch: switch.add_rule("web", "/a", action="respond 403"),
        [request_box(b"AddRule", ident=b"web", pattern=b"/a", action=b"respond 403")],
        edits.AddRule("web", "/a", action="respond 403"),
    ),
    "EditRule, with an action": (
        lambda switch: switch.edit_rule("web", "n", action="redirect https"),
        [request_box(b"EditRule", ident=b"web", rule=b"n", action=b"redirect https")],
        edits.EditRule("web", "n", action="redirect https"),
    ),
    "DeleteRule, with an action": (
        lambda switch: switch.delete_rule("web", "n"),
        [request_box(b"DeleteRule", ident=b"web", pattern=b"n")],
        edits.DeleteRule("web", "n"),
    ),
    "EditRule": (
        lambda switch: switch.edit_rule("web", "n", "host b", 1, ""),
        [request_box(b"EditRule", ident=b"web", rule=b"n", pattern=b"host b", match=b"1", new_name=b"")],
        edits.EditRule("web", "n", "host b", 1, ""),
    ),
    "MoveRule": (
        lambda switch: switch.move_rule("web", "n"),
        [request_box(b"MoveRule", ident=b"web", rule=b"n")],
        edits.MoveRule("web", "n"),
    ),
    "DeleteRule": (
        lambda switch: switch.delete_rule("web", "/a", "10.0.0.1:80"),
        [request_box(b"DeleteRule", ident=b"web", pattern=b"/a", address=b"10.0.0.1:80")],
        edits.DeleteRule("web", "/a", WEB),
    ),
    "Allow": (
        lambda switch: switch.allow("web", NETWORKS, True),
        [
            request_box(b"Upload", page=NETWORKS.encode(), first=b"True"),
            request_box(b"Allow", b"2", ident=b"web", only=b"True"),
        ],
        edits.Allow("web", parse_networks(NETWORKS), True),
    ),
    "Deny": (
        lambda switch: switch.deny("web", NETWORKS),
        [
            request_box(b"Upload", page=NETWORKS.encode(), first=b"True"),
            request_box(b"Deny", b"2", ident=b"web", only=b"False"),
        ],
        edits.Deny("web", parse_networks(NETWORKS), False),
    ),
    "DeleteNetwork": (
        lambda switch: switch.delete_network("web", NETWORKS),
        [
            request_box(b"Upload", page=NETWORKS.encode(), first=b"True"),
            request_box(b"DeleteNetwork", b"2", ident=b"web"),
        ],
        edits.DeleteNetwork("web", parse_networks(NETWORKS)),
    ),
    "EndLocal": (
        lambda switch: switch.end_local("web"),
        [request_box(b"EndLocal", ident=b"web")],
        edits.EndLocal("web"),
    ),
    "StartService": (
        lambda switch: switch.start("web"),
        [request_box(b"StartService", ident=b"web")],
        edits.StartService("web"),
    ),
    "EndLocal, all": (lambda switch: switch.end_local(), [request_box(b"EndLocal")], edits.EndLocal()),
    "StartService, all": (lambda switch: switch.start(), [request_box(b"StartService")], edits.StartService(None)),
    "StopService": (
        lambda switch: switch.stop("web"),
        [request_box(b"StopService", ident=b"web")],
        edits.StopService("web"),
    ),
    "StopService, all": (lambda switch: switch.stop(), [request_box(b"StopService")], edits.StopService(None)),
    "Set": (
        lambda switch: switch.set({"read_timeout": 7, "debug_level": "1"}),
        [request_box(b"Set", changes=named_values((b"read_timeout", b"7"), (b"debug_level", b"1")))],
        edits.Set({"read_timeout": "7", "debug_level": "1"}),
    ),
    "Set, unload": (
        lambda switch: switch.set({"unload": 1}),
        [request_box(b"Set", changes=named_values((b"unload", b"1")))],
        edits.Unload(),
    ),
    "Unload": (lambda switch: switch.unload(), [request_box(b"Unload")], edits.Unload()),
    "Load": (
        lambda switch: switch.load(CONFIGURATION, "site.conf", 60, "new", True),
        [
            request_box(b"Upload", page=CONFIGURATION.encode(), first=b"True"),
            request_box(b"Load", b"2", source=b"site.conf", confirm=b"60", start=b"new", allow_empty=b"True"),
        ],
        edits.Load(edits.AddService("web").apply(Table()).services, confirm=60, start="new"),
    ),
    "Load, optional arguments left out": (
        lambda switch: switch.load(CONFIGURATION),
        [
            request_box(b"Upload", page=CONFIGURATION.encode(), first=b"True"),
            request_box(b"Load", b"2", source=b"<text>", allow_empty=b"False"),
        ],
        edits.Load(edits.AddService("web").apply(Table()).services),
    ),
    "Confirm": (lambda switch: switch.confirm(), [request_box(b"Confirm")], edits.Confirm()),
    "ReloadCertificates": (
        lambda switch: switch.reload_certificates(),
        [request_box(b"ReloadCertificates")],
        edits.ReloadCertificates(),
    ),
    "ReloadSchedulers": (
        lambda switch: switch.reload_schedulers("mine"),
        [request_box(b"ReloadSchedulers", scheduler=b"mine")],
        edits.ReloadSchedulers("mine"),
    ),
    "RenewCertificate": (
        lambda switch: switch.renew_certificate("a.example"),
        [request_box(b"RenewCertificate", host=b"a.example")],
        edits.RenewCertificate("a.example"),
    ),
    "DrainNode": (
        lambda switch: switch.drain_node("a", 30),
        [request_box(b"DrainNode", delay=b"30", node=b"a")],
        edits.DrainNode("a", 30),
    ),
    "UndrainNode": (
        lambda switch: switch.undrain_node("a"),
        [request_box(b"UndrainNode", node=b"a")],
        edits.UndrainNode("a"),
    ),
    "ForgetNode": (
        lambda switch: switch.forget_node("a"),
        [request_box(b"ForgetNode", node=b"a")],
        edits.ForgetNode("a"),
    ),
}
"""A call of the client, the boxes that it sends, and the edit that the daemon carries out."""

READS: dict[str, tuple[Call, list[bytes]]] = {
    "Read": (
        lambda switch: switch.table("web"),
        [request_box(b"Read", view=b"table", ident=b"web"), request_box(b"ReadPage", b"2", number=b"1")],
    ),
    "Read, all": (
        lambda switch: switch.stats(),
        [request_box(b"Read", view=b"stats"), request_box(b"ReadPage", b"2", number=b"1")],
    ),
    "Explain": (
        lambda switch: switch.explain("web", "GET", "/", [("Accept", "x"), ("Accept", "y")], "::1"),
        [
            request_box(
                b"Explain",
                ident=b"web",
                method=b"GET",
                target=b"/",
                headers=named_values((b"Accept", b"x"), (b"Accept", b"y")),
                client=b"::1",
            ),
            request_box(b"ReadPage", b"2", number=b"1"),
        ],
    ),
    "Explain, a connection": (
        lambda switch: switch.explain("web"),
        [
            request_box(b"Explain", ident=b"web", headers=b"", client=b"127.0.0.1"),
            request_box(b"ReadPage", b"2", number=b"1"),
        ],
    ),
    "Explain, with a body": (
        lambda switch: switch.explain("web", "POST", "/", body=b"\xff" * 60001),
        [
            request_box(b"Upload", page=b"\xff" * 60000, first=b"True"),
            request_box(b"Upload", b"2", page=b"\xff", first=b"False"),
            request_box(
                b"Explain",
                b"3",
                ident=b"web",
                method=b"POST",
                target=b"/",
                headers=b"",
                client=b"127.0.0.1",
                has_body=b"True",
            ),
            request_box(b"ReadPage", b"4", number=b"1"),
        ],
    ),
    "CloseConnection": (
        lambda switch: switch.close_connection("2-5f3a9c01"),
        [
            request_box(b"CloseConnection", connection=b"2-5f3a9c01"),
            request_box(b"ReadPage", b"2", number=b"1"),
        ],
    ),
    "Rebalance": (
        lambda switch: switch.rebalance("web", 20, True),
        [
            request_box(b"Rebalance", ident=b"web", percent=b"20", resets=b"True", all_nodes=b"False"),
            request_box(b"ReadPage", b"2", number=b"1"),
        ],
    ),
}
"""A call of the client that fetches an answer of two pages, and the boxes that it sends."""


RunClient = Callable[[Call, dict[bytes, Pairs]], tuple[list[bytes], Any]]


def run_client(call: Call, replies: dict[bytes, Pairs]) -> tuple[list[bytes], Any]:
    """Return the boxes that the client sends for `call`, and its result. replies: command -> content of its answer."""
    protocol, transport = amp.AMP(), StringTransport()
    protocol.makeConnection(transport)
    results: list[Any] = []
    Deferred.fromCoroutine(_awaited(call(Switch(protocol, ControlAddress(path="/memory"))))).addBoth(results.append)
    boxes = []
    while transport.value():
        boxes.append(transport.value())
        (request,) = amp.parseString(transport.value())
        transport.clear()
        reply = replies.get(request[amp.COMMAND], [])
        protocol.dataReceived(box((b"_answer", request[amp.ASK]), *reply))
    (result,) = results
    return boxes, result


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


METHODS = {entry.method: getattr(Switch, entry.method) for entry in EDIT_COMMANDS}
BlockingSwitchWithMethods: Any = type("BlockingSwitchWithMethods", (BlockingSwitch,), METHODS)
"""The client of tcpvsadm, which sends edits by `submit` alone, with the methods of the other client."""


def run_blocking_client(call: Call, replies: dict[bytes, Pairs]) -> tuple[list[bytes], Any]:
    """As `run_client`, for the client of tcpvsadm."""
    boxes: list[bytes] = []
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, theirs.makefile("rb") as file:
            while received := read_one_box(file):
                boxes.append(received)
                (request,) = amp.parseString(received)
                reply = replies.get(request[amp.COMMAND], [])
                theirs.sendall(box((b"_answer", request[amp.ASK]), *reply))

    server = threading.Thread(target=serve)
    server.start()
    with ours:
        switch = BlockingSwitchWithMethods(ours, ControlAddress(path="/memory"))
        try:
            result = run(_awaited(call(switch)))
        finally:
            switch.close()
            server.join(30)
    return boxes, result


def read_one_box(file: BinaryIO) -> bytes:
    """Return the next box as it came; empty: the connection has ended."""
    received = file.read(2)
    while received and received[-2:] != b"\0\0":
        key = file.read(int.from_bytes(received[-2:], "big"))
        size = file.read(2)
        received += key + size + file.read(int.from_bytes(size, "big")) + file.read(2)
    return received


BOTH_CLIENTS = pytest.mark.parametrize("run_client", [run_client, run_blocking_client])


@BOTH_CLIENTS
@pytest.mark.parametrize(("call", "boxes"), [case[:2] for case in EDITS.values()], ids=EDITS)
def test_the_client_sends_an_edit(run_client: RunClient, call: Call, boxes: list[bytes]) -> None:
    assert run_client(call, {}) == (boxes, [])


@BOTH_CLIENTS
@pytest.mark.parametrize("name", ["AddService", "Load"])
def test_the_client_reads_warnings(run_client: RunClient, name: str) -> None:
    call, boxes, _ = EDITS[name]
    warnings = [(b"warnings", b"\x00\x01a\x00\x02b\n")]
    assert run_client(call, {name.encode(): warnings}) == (boxes, ["a", "b\n"])


@BOTH_CLIENTS
@pytest.mark.parametrize(("call", "boxes"), READS.values(), ids=READS)
def test_the_client_reads_pages(run_client: RunClient, call: Call, boxes: list[bytes]) -> None:
    first = [(b"page", b'{"a": '), (b"pages", b"2")]
    replies = {
        b"Read": first,
        b"Explain": first,
        b"CloseConnection": first,
        b"Rebalance": first,
        b"Upload": [],
        b"ReadPage": [(b"page", b"1}")],
    }
    assert run_client(call, replies) == (boxes, {"a": 1})


TRACES: dict[str, tuple[Call, list[bytes]]] = {
    "BeginTrace": (
        lambda switch: switch.begin_trace(TraceQuery("path /a", "web", 5, 60)),
        [request_box(b"BeginTrace", conditions=b"path /a", ident=b"web", count=b"5", seconds=b"60")],
    ),
    "BeginTrace, all": (
        lambda switch: switch.begin_trace(TraceQuery()),
        [request_box(b"BeginTrace", conditions=b"", count=b"100", seconds=b"60")],
    ),
    "ReadTrace": (lambda switch: switch.read_trace(1), [request_box(b"ReadTrace", number=b"1")]),
    "EndTrace": (lambda switch: switch.end_trace(1), [request_box(b"EndTrace", number=b"1")]),
}
BATCH = [(b"dropped", b"1"), (b"ended", b"count"), (b"entries", b'{"a": 1}\n'), (b"matched", b"2")]


@BOTH_CLIENTS
@pytest.mark.parametrize(("call", "boxes"), TRACES.values(), ids=TRACES)
def test_the_client_reads_a_trace(run_client: RunClient, call: Call, boxes: list[bytes]) -> None:
    replies = {b"BeginTrace": [(b"number", b"1")], b"ReadTrace": BATCH, b"EndTrace": []}
    said, found = run_client(call, replies)
    assert said == boxes
    assert found in (1, TraceBatch(b'{"a": 1}\n', 2, 1, "count"), None)


class _Trace:
    def read(self) -> Deferred[TraceBatch]:
        return succeed(TraceBatch(b'{"a": 1}\n', 2, 1, "count"))

    def close(self) -> None:
        pass


class Recorder:
    """A switch that records the calls of the server."""

    def __init__(self, warnings: list[str]) -> None:
        self.calls: list[Any] = []
        self._warnings = warnings

    def submit(self, edit: edits.Edit) -> Any:
        self.calls.append(edit)
        return succeed(self._warnings)

    def view(self, name: str, ident: str | None) -> Any:
        self.calls.append((name, ident))
        return [{"ident": "é"}]

    def trace(self, query: TraceQuery) -> TraceSession:
        self.calls.append(query)
        return _Trace()

    def close_connection(self, wanted: str) -> Any:
        self.calls.append(wanted)
        return {"id": wanted}

    def rebalance(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return {"servers": []}

    async def explain(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return "x" * 70000


def run_server(boxes: list[bytes], warnings: list[str]) -> tuple[list[Any], list[bytes]]:
    """Return the calls that the server makes for these boxes, and the boxes that it answers with."""
    recorder: Any = Recorder(warnings)
    administrator, transport = Administrator(recorder, EventLog()), StringTransport()
    administrator.makeConnection(transport)
    answers = []
    for one in boxes:
        administrator.dataReceived(one)
        answers.append(transport.value())
        transport.clear()
    return recorder.calls, answers


@pytest.mark.parametrize(("boxes", "edit"), [case[1:] for case in EDITS.values()], ids=EDITS)
def test_the_server_makes_an_edit(boxes: list[bytes], edit: edits.Edit) -> None:
    done = [box((b"_answer", b"%d" % tag)) for tag in range(1, len(boxes) + 1)]
    assert run_server(boxes, []) == ([edit], done)
    done[-1] = box((b"_answer", b"%d" % len(boxes)), (b"warnings", b"\x00\x01a\x00\x02b\n"))
    assert run_server(boxes, ["a", "b\n"]) == ([edit], done)


def test_the_server_answers_a_read() -> None:
    boxes = [READS["Read"][1][0], READS["Read, all"][1][0]]
    answer = box((b"_answer", b"1"), (b"page", rb'[{"ident": "\u00e9"}]'), (b"pages", b"1"))
    assert run_server(boxes, []) == ([("table", "web"), ("stats", None)], [answer, answer])


def test_the_server_answers_an_explanation_in_pages() -> None:
    boxes = READS["Explain"][1]
    pages = [
        box((b"_answer", b"1"), (b"page", b'"' + b"x" * 59999), (b"pages", b"2")),
        box((b"_answer", b"2"), (b"page", b"x" * 10001 + b'"')),
    ]
    asked_for = ("web", AssumedRequest("GET", "/", [("Accept", "x"), ("Accept", "y")], "::1"))
    assert run_server(boxes, []) == ([asked_for], pages)
    connection = ("web", AssumedRequest(client="127.0.0.1"))
    assert run_server(READS["Explain, a connection"][1][:1], [])[0] == [connection]
    body = ("web", AssumedRequest("POST", "/", client="127.0.0.1", body=b"\xff" * 60001))
    assert run_server(READS["Explain, with a body"][1][:3], [])[0] == [body]


def test_the_server_closes_a_connection() -> None:
    boxes = READS["CloseConnection"][1][:1]
    closed = box((b"_answer", b"1"), (b"page", b'{"id": "2-5f3a9c01"}'), (b"pages", b"1"))
    assert run_server(boxes, []) == (["2-5f3a9c01"], [closed])


def test_the_server_rebalances() -> None:
    boxes = READS["Rebalance"][1][:1]
    begun = box((b"_answer", b"1"), (b"page", b'{"servers": []}'), (b"pages", b"1"))
    assert run_server(boxes, []) == ([("web", 20, True, False)], [begun])


def test_the_server_reads_a_trace_that_then_is_over() -> None:
    reads = [request_box(b"ReadTrace", tag, number=b"1") for tag in (b"2", b"3")]
    asked_for, answers = run_server([TRACES["BeginTrace"][1][0], *reads], [])
    assert asked_for == [TraceQuery("path /a", "web", 5, 60)]
    assert answers[0] == box((b"_answer", b"1"), (b"number", b"1"))
    assert answers[1] == box((b"_answer", b"2"), *BATCH)
    assert b"there is no trace 1" in answers[2]


@pytest.mark.parametrize("scope", ["local", "force-local"])
def test_a_client_says_first_that_an_edit_is_local(scope: str) -> None:
    async def stop(switch: Switch) -> None:
        switch.scope = scope
        await switch.stop("web")

    said = [request_box(b"Scope", scope=scope.encode()), request_box(b"StopService", b"2", ident=b"web")]
    assert run_client(stop, {})[0] == said


def test_the_server_makes_one_edit_local() -> None:
    stop = [request_box(b"StopService", tag, ident=b"web") for tag in (b"2", b"4")]
    boxes = [request_box(b"Scope", scope=b"local"), stop[0], request_box(b"Scope", b"3", scope=b"all"), stop[1]]
    edits_made, answers = run_server(boxes, [])
    assert edits_made == [Local(edits.StopService("web")), edits.StopService("web")]
    assert b"no scope 'all'; there are: local, force-local" in answers[2]


def test_every_command_is_pinned() -> None:
    pinned = {name.partition(",")[0] for name in (*EDITS, *READS, *TRACES)} | {"Upload", "Scope", "ReadPage"}
    assert {name.decode() for name in Administrator._commandDispatch} - {"StartTLS"} == pinned
