"""The AMP wire, byte by byte: the boxes that the client sends for every command, and the edits that the server makes.

Daemons and clients of different versions talk to each other, so these bytes must not change. The boxes are written here
by the rules of AMP alone, without the command classes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import StringTransport
from twisted.protocols import amp

from ktcpvs.control.client import Switch
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.server import Administrator
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.network import parse_networks
from ktcpvs.model.table import Table
from ktcpvs.system.log import EventLog

Pairs = list[tuple[bytes, bytes]]


def box(*pairs: tuple[bytes, bytes]) -> bytes:
    """Keys and values with their lengths before them, sorted by key; an empty key ends the box."""
    written = b"".join(bytes([0, len(key)]) + key + len(value).to_bytes(2, "big") + value for key, value in pairs)
    assert [key for key, _ in pairs] == sorted(key for key, _ in pairs)
    return written + b"\0\0"


def asked(command: bytes, tag: bytes = b"1", **arguments: bytes) -> bytes:
    return box(
        (b"_ask", tag), (b"_command", command), *((name.encode(), arguments[name]) for name in sorted(arguments))
    )


def names(*pairs: tuple[bytes, bytes]) -> bytes:
    """A list of names with their values, as service options and settings go."""
    return b"".join(box((b"name", name), (b"value", value)) for name, value in pairs)


WEB = parse_address("10.0.0.1:80")
NETWORKS = "10.0.0.0/8\n::1"
CONFIGURATION = "Virtual web { }"
OPTIONS = names((b"scheduler", b"wlc"), (b"maxclients", b"5"), (b"redirect", b""))

Call = Callable[[Switch], Awaitable[Any]]

EDITS: dict[str, tuple[Call, list[bytes], edits.Edit]] = {
    "AddService": (
        lambda switch: switch.add_service("web", scheduler="wlc", maxclients=5, redirect=""),
        [asked(b"AddService", ident=b"web", options=OPTIONS)],
        edits.AddService("web", {"scheduler": "wlc", "maxclients": 5, "redirect": None}),
    ),
    "EditService": (
        lambda switch: switch.edit_service("web", scheduler="wlc", maxclients=5, redirect=""),
        [asked(b"EditService", ident=b"web", options=OPTIONS)],
        edits.EditService("web", {"scheduler": "wlc", "maxclients": 5, "redirect": None}),
    ),
    "DeleteService": (
        lambda switch: switch.delete_service("wéb"),
        [asked(b"DeleteService", ident="wéb".encode())],
        edits.DeleteService("wéb"),
    ),
    "Flush": (lambda switch: switch.flush(), [asked(b"Flush")], edits.Flush()),
    "AddServer": (
        lambda switch: switch.add_server("web", "10.0.0.1:http", 7, 9),
        [asked(b"AddServer", ident=b"web", address=b"10.0.0.1:http", weight=b"7", maxconn=b"9")],
        edits.AddServer("web", WEB, 7, 9),
    ),
    "AddServer, optional arguments left out": (
        lambda switch: switch.add_server("web", "10.0.0.1:80"),
        [asked(b"AddServer", ident=b"web", address=b"10.0.0.1:80")],
        edits.AddServer("web", WEB, 1, 0),
    ),
    "AddServer, by name": (
        lambda switch: switch.add_server(ident="web", address="10.0.0.1:80", maxconn=0, weight=0),
        [asked(b"AddServer", ident=b"web", address=b"10.0.0.1:80", weight=b"0", maxconn=b"0")],
        edits.AddServer("web", WEB, 0, 0),
    ),
    "EditServer": (
        lambda switch: switch.edit_server("web", "10.0.0.1:80", 0, 9),
        [asked(b"EditServer", ident=b"web", address=b"10.0.0.1:80", weight=b"0", maxconn=b"9")],
        edits.EditServer("web", WEB, 0, 9),
    ),
    "EditServer, optional arguments left out": (
        lambda switch: switch.edit_server("web", "10.0.0.1:80", maxconn=0),
        [asked(b"EditServer", ident=b"web", address=b"10.0.0.1:80", maxconn=b"0")],
        edits.EditServer("web", WEB, None, 0),
    ),
    "DeleteServer": (
        lambda switch: switch.delete_server("web", "10.0.0.1:80"),
        [asked(b"DeleteServer", ident=b"web", address=b"10.0.0.1:80")],
        edits.DeleteServer("web", WEB),
    ),
    "AddRule": (
        lambda switch: switch.add_rule("web", "/a", "10.0.0.1:80", 1),
        [asked(b"AddRule", ident=b"web", pattern=b"/a", address=b"10.0.0.1:80", match=b"1")],
        edits.AddRule("web", "/a", WEB, 1),
    ),
    "AddRule, optional arguments left out": (
        lambda switch: switch.add_rule("web", "/a", "10.0.0.1:80"),
        [asked(b"AddRule", ident=b"web", pattern=b"/a", address=b"10.0.0.1:80")],
        edits.AddRule("web", "/a", WEB),
    ),
    "DeleteRule": (
        lambda switch: switch.delete_rule("web", "/a", "10.0.0.1:80"),
        [asked(b"DeleteRule", ident=b"web", pattern=b"/a", address=b"10.0.0.1:80")],
        edits.DeleteRule("web", "/a", WEB),
    ),
    "Allow": (
        lambda switch: switch.allow("web", NETWORKS, True),
        [asked(b"Upload", page=NETWORKS.encode(), first=b"True"), asked(b"Allow", b"2", ident=b"web", only=b"True")],
        edits.Allow("web", parse_networks(NETWORKS), True),
    ),
    "Deny": (
        lambda switch: switch.deny("web", NETWORKS),
        [asked(b"Upload", page=NETWORKS.encode(), first=b"True"), asked(b"Deny", b"2", ident=b"web", only=b"False")],
        edits.Deny("web", parse_networks(NETWORKS), False),
    ),
    "DeleteNetwork": (
        lambda switch: switch.delete_network("web", NETWORKS),
        [asked(b"Upload", page=NETWORKS.encode(), first=b"True"), asked(b"DeleteNetwork", b"2", ident=b"web")],
        edits.DeleteNetwork("web", parse_networks(NETWORKS)),
    ),
    "StartService": (
        lambda switch: switch.start("web"),
        [asked(b"StartService", ident=b"web")],
        edits.StartService("web"),
    ),
    "StartService, all": (lambda switch: switch.start(), [asked(b"StartService")], edits.StartService(None)),
    "StopService": (lambda switch: switch.stop("web"), [asked(b"StopService", ident=b"web")], edits.StopService("web")),
    "StopService, all": (lambda switch: switch.stop(), [asked(b"StopService")], edits.StopService(None)),
    "Set": (
        lambda switch: switch.set({"read_timeout": 7, "debug_level": "1"}),
        [asked(b"Set", changes=names((b"read_timeout", b"7"), (b"debug_level", b"1")))],
        edits.Set({"read_timeout": "7", "debug_level": "1"}),
    ),
    "Set, unload": (
        lambda switch: switch.set({"unload": 1}),
        [asked(b"Set", changes=names((b"unload", b"1")))],
        edits.Unload(),
    ),
    "Unload": (lambda switch: switch.unload(), [asked(b"Unload")], edits.Unload()),
    "Load": (
        lambda switch: switch.load(CONFIGURATION, "site.conf", 60, "new", True),
        [
            asked(b"Upload", page=CONFIGURATION.encode(), first=b"True"),
            asked(b"Load", b"2", source=b"site.conf", confirm=b"60", start=b"new", allow_empty=b"True"),
        ],
        edits.Load(edits.AddService("web").apply(Table()).services, confirm=60, start="new"),
    ),
    "Load, optional arguments left out": (
        lambda switch: switch.load(CONFIGURATION),
        [
            asked(b"Upload", page=CONFIGURATION.encode(), first=b"True"),
            asked(b"Load", b"2", source=b"<text>", allow_empty=b"False"),
        ],
        edits.Load(edits.AddService("web").apply(Table()).services),
    ),
    "Confirm": (lambda switch: switch.confirm(), [asked(b"Confirm")], edits.Confirm()),
}
"""A call of the client, the boxes that it sends, and the edit that the daemon carries out."""

READS: dict[str, tuple[Call, list[bytes]]] = {
    "Read": (
        lambda switch: switch.table("web"),
        [asked(b"Read", view=b"table", ident=b"web"), asked(b"ReadPage", b"2", number=b"1")],
    ),
    "Read, all": (
        lambda switch: switch.stats(),
        [asked(b"Read", view=b"stats"), asked(b"ReadPage", b"2", number=b"1")],
    ),
    "Explain": (
        lambda switch: switch.explain("web", "GET", "/", [("Accept", "x"), ("Accept", "y")], "::1"),
        [
            asked(
                b"Explain",
                ident=b"web",
                method=b"GET",
                target=b"/",
                headers=names((b"Accept", b"x"), (b"Accept", b"y")),
                client=b"::1",
            ),
            asked(b"ReadPage", b"2", number=b"1"),
        ],
    ),
    "Explain, a connection": (
        lambda switch: switch.explain("web"),
        [asked(b"Explain", ident=b"web", headers=b"", client=b"127.0.0.1"), asked(b"ReadPage", b"2", number=b"1")],
    ),
}
"""A call of the client that fetches an answer of two pages, and the boxes that it sends."""


def sent(call: Call, replies: dict[bytes, Pairs]) -> tuple[list[bytes], Any]:
    """The boxes that the client sends for `call`, and its result. replies: command -> what a box of it is answered."""
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


@pytest.mark.parametrize(("call", "boxes"), [case[:2] for case in EDITS.values()], ids=EDITS)
def test_the_client_sends_an_edit(call: Call, boxes: list[bytes]) -> None:
    assert sent(call, {}) == (boxes, [])


@pytest.mark.parametrize("name", ["AddService", "Load"])
def test_the_client_reads_warnings(name: str) -> None:
    call, boxes, _ = EDITS[name]
    warnings = [(b"warnings", b"\x00\x01a\x00\x02b\n")]
    assert sent(call, {name.encode(): warnings}) == (boxes, ["a", "b\n"])


@pytest.mark.parametrize(("call", "boxes"), READS.values(), ids=READS)
def test_the_client_reads_pages(call: Call, boxes: list[bytes]) -> None:
    first = [(b"page", b'{"a": '), (b"pages", b"2")]
    replies = {b"Read": first, b"Explain": first, b"ReadPage": [(b"page", b"1}")]}
    assert sent(call, replies) == (boxes, {"a": 1})


class Recorder:
    """A switch that takes down what is asked of it."""

    def __init__(self, warnings: list[str]) -> None:
        self.asked: list[Any] = []
        self._warnings = warnings

    def submit(self, edit: edits.Edit) -> Any:
        self.asked.append(edit)
        return succeed(self._warnings)

    def view(self, name: str, ident: str | None) -> Any:
        self.asked.append((name, ident))
        return [{"ident": "é"}]

    async def explain(self, *asked: Any) -> Any:
        self.asked.append(asked)
        return "x" * 70000


def answered(boxes: list[bytes], warnings: list[str]) -> tuple[list[Any], list[bytes]]:
    """What the server asks of its switch, and the boxes that it answers with."""
    recorder: Any = Recorder(warnings)
    administrator, transport = Administrator(recorder, EventLog()), StringTransport()
    administrator.makeConnection(transport)
    answers = []
    for one in boxes:
        administrator.dataReceived(one)
        answers.append(transport.value())
        transport.clear()
    return recorder.asked, answers


@pytest.mark.parametrize(("boxes", "edit"), [case[1:] for case in EDITS.values()], ids=EDITS)
def test_the_server_makes_an_edit(boxes: list[bytes], edit: edits.Edit) -> None:
    done = [box((b"_answer", b"%d" % tag)) for tag in range(1, len(boxes) + 1)]
    assert answered(boxes, []) == ([edit], done)
    done[-1] = box((b"_answer", b"%d" % len(boxes)), (b"warnings", b"\x00\x01a\x00\x02b\n"))
    assert answered(boxes, ["a", "b\n"]) == ([edit], done)


def test_the_server_answers_a_read() -> None:
    boxes = [READS["Read"][1][0], READS["Read, all"][1][0]]
    answer = box((b"_answer", b"1"), (b"page", rb'[{"ident": "\u00e9"}]'), (b"pages", b"1"))
    assert answered(boxes, []) == ([("table", "web"), ("stats", None)], [answer, answer])


def test_the_server_answers_an_explanation_in_pages() -> None:
    boxes = READS["Explain"][1]
    pages = [
        box((b"_answer", b"1"), (b"page", b'"' + b"x" * 59999), (b"pages", b"2")),
        box((b"_answer", b"2"), (b"page", b"x" * 10001 + b'"')),
    ]
    asked_for = ("web", "GET", "/", [("Accept", "x"), ("Accept", "y")], "::1")
    assert answered(boxes, []) == ([asked_for], pages)
    connection = ("web", None, None, [], "127.0.0.1")
    assert answered(READS["Explain, a connection"][1][:1], [])[0] == [connection]


def test_every_command_is_pinned() -> None:
    pinned = {name.partition(",")[0] for name in (*EDITS, *READS)} | {"Upload", "ReadPage"}
    assert {name.decode() for name in Administrator._commandDispatch} - {"StartTLS"} == pinned
