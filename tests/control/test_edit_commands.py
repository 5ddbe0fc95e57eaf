"""An edit becomes commands, and the commands the same edit again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from examples import examples
from hypothesis import given
from twisted.internet.defer import succeed
from twisted.protocols import amp

from ktcpvs.control.edit_commands import (
    EDIT_LENGTH,
    command_line_of,
    commands_for,
    decode_local,
    encode_local,
    text_of_edit,
)
from ktcpvs.control.server import Administrator
from ktcpvs.errors import Refusal
from ktcpvs.model import edits
from ktcpvs.model.address import parse_address
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.local_edits import Local, LocalEdit
from ktcpvs.model.table import Table
from ktcpvs.system.log import EventLog
from tests.model.strategies import EDITS


class Recorder:
    """A switch that records edits."""

    def __init__(self) -> None:
        self.edits: list[edits.Edit] = []

    def submit(self, edit: edits.Edit) -> Any:
        self.edits.append(edit)
        return succeed(None)

    def view(self, name: str, ident: str | None) -> Any:
        raise AssertionError("no view is read")


def received(edit: edits.Edit) -> list[edits.Edit]:
    """The edits that the server makes of the commands, through AMP's own boxes."""
    recorder: Any = Recorder()
    administrator = Administrator(recorder, EventLog())
    failures: list[Any] = []
    for command, arguments in commands_for(edit):
        box = command.makeArguments(arguments, amp.AMP())
        box[amp.COMMAND] = command.commandName
        assert all(len(value) <= 0xFFFF for value in box.values())
        administrator.dispatchCommand(box).addErrback(failures.append)
    assert not failures, failures
    return recorder.edits


@pytest.mark.examples
@pytest.mark.parametrize("kind", sorted(EDITS.keys() - {Adopt, Local}, key=lambda kind: kind.__name__))
def test_round_trip(kind: type[edits.Edit]) -> None:
    @examples(40)
    @given(EDITS[kind])
    def check(edit: edits.Edit) -> None:
        if isinstance(edit, edits.AddService | edits.EditService):  # only valid edits are forwarded
            options = edit.options.items()
            good = {name: value for name, value in options if _is_good(edits.AddService("x", {name: value}))}
            edit = type(edit)(edit.ident, good)
        (found,) = received(edit)
        assert found == edit
        for local in (Local(edit), Local(edit, is_forced=True)):
            assert received(local) == [local]
            kept = LocalEdit(edit, local.is_forced)
            assert decode_local(json.loads(json.dumps(encode_local([kept])))) == (kept,)
        assert len(text_of_edit(edit).splitlines()) == 1

    check()


def _is_good(edit: edits.Edit) -> bool:
    try:
        edit.apply(Table())
    except Refusal:
        return False
    return True


@pytest.mark.parametrize("data", [None, 7, [7], [{}], [{"command": "x"}], [{"command": "Drain", "arguments": {}}]])
def test_local_edits_that_cannot_be_read(data: object) -> None:
    with pytest.raises(Refusal):
        decode_local(data)


def test_the_text_of_an_edit() -> None:
    address = parse_address("10.0.0.1:80")
    assert (
        text_of_edit(edits.EditServer("web", address, 0))
        == "edit-server --ident web --real-server 10.0.0.1:80 --weight 0"
    )
    assert text_of_edit(edits.Set({"cookie_key": "0123456789"})) == "set cookie_key=..."
    assert text_of_edit(edits.Load({})) == "load-configfile: 0 services"


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (edits.Drain(parse_address("10.0.0.1:80"), "web"), "tcpvsadm --drain --real-server 10.0.0.1:80 --ident web"),
        (edits.Drain(parse_address("10.0.0.1"), None), "tcpvsadm --drain --real-server 10.0.0.1"),
        (
            edits.AddRule("web", "path /a/ share 5%", parse_address("10.0.0.1:80"), rule_name="canary"),
            "tcpvsadm --add-rule --ident web path /a/ share 5% --real-server 10.0.0.1:80 --name canary",
        ),
        (
            edits.DeleteRule("web", "path /old"),
            'tcpvsadm --del-rule --ident web --rule "path /old"',
        ),
        (
            edits.DeleteRule("web", "canary", parse_address("10.0.0.1:80")),
            "tcpvsadm --del-rule --ident web --rule canary --real-server 10.0.0.1:80",
        ),
        (
            edits.EditRule("web", "canary", action="respond 403", modifiers='request_header X-Key "hidden words"'),
            "tcpvsadm --edit-rule --ident web --rule canary use respond 403 request_header X-Key ...",
        ),
        (
            edits.EditService("web", {"scheduler": "rr", "request_header": 'X-Key "hidden"\n+X-B "hidden"'}),
            "tcpvsadm --edit-service --ident web scheduler=rr request_header='X-Key ..., +X-B ...'",
        ),
        (
            edits.EditService("web", {"check": 'http /x header "X-Key: hidden words" expect 200'}),
            "tcpvsadm --edit-service --ident web check='http /x header X-Key: ... expect 200'",
        ),
        (edits.Set({"cookie_key": "hidden"}), "tcpvsadm --set cookie_key=..."),
        (edits.Unload(), "tcpvsadm --set unload=1"),
        (Local(edits.StartService("web"), is_forced=True), "tcpvsadm --start --ident web --force-local"),
    ],
)
def test_the_command_line_of_an_edit_has_no_secrets(edit: edits.Edit, line: str) -> None:
    assert command_line_of(edit) == line
    long = edits.EditRule("web", "x" * 1000, pattern="path /y")
    assert len(command_line_of(long)) < EDIT_LENGTH + 20
