"""An edit becomes commands, and the commands the same edit again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from twisted.internet.defer import succeed
from twisted.protocols import amp

from ktcpvs.control.edit_commands import commands_for
from ktcpvs.control.server import Administrator
from ktcpvs.errors import Refusal
from ktcpvs.model import edits
from ktcpvs.model.adopt import Adopt
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


@pytest.mark.parametrize("kind", sorted(EDITS.keys() - {Adopt}, key=lambda kind: kind.__name__))
def test_round_trip(kind: type[edits.Edit]) -> None:
    @settings(max_examples=40)
    @given(EDITS[kind])
    def check(edit: edits.Edit) -> None:
        if isinstance(edit, edits.AddService | edits.EditService):  # only valid edits are forwarded
            options = edit.options.items()
            good = {name: value for name, value in options if _is_good(edits.AddService("x", {name: value}))}
            edit = type(edit)(edit.ident, good)
        (found,) = received(edit)
        assert found == edit

    check()


def _is_good(edit: edits.Edit) -> bool:
    try:
        edit.apply(Table())
    except Refusal:
        return False
    return True
