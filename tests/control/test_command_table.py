"""The command table agrees with all that follows from it: edits, AMP commands, responders, client, tcpvsadm."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import fields
from edit_kinds import edit_kinds
from twisted.protocols import amp

from ktcpvs.control import commands
from ktcpvs.control.arguments import READERS, WRITERS
from ktcpvs.control.client import Switch
from ktcpvs.control.command_table import COMMAND_OF_EDIT, EDIT_COMMANDS, ArgumentType, EditCommand
from ktcpvs.control.server import Administrator
from ktcpvs.control.tcpvsadm.options import COMMANDS
from ktcpvs.model import edits

NOT_IN_TCPVSADM = {"unload"}
"""tcpvsadm asks for it with --set unload=1."""

NOT_FIELDS = {"Load": {"text", "source", "allow_empty"}}
"""Arguments that the edit is made of, and does not keep."""

EACH = pytest.mark.parametrize("entry", EDIT_COMMANDS, ids=lambda entry: entry.edit)


def test_every_edit_has_one_entry() -> None:
    assert sorted(entry.edit for entry in EDIT_COMMANDS) == sorted(
        kind.__name__ for kind in edit_kinds() if kind.__module__ == edits.__name__
    )
    for names in (
        [entry.name for entry in EDIT_COMMANDS],
        [entry.method for entry in EDIT_COMMANDS],
    ):
        assert len(set(names)) == len(names)


@EACH
def test_an_entry_and_its_edit(entry: EditCommand) -> None:
    edit: Any = getattr(edits, entry.edit)
    assert entry.name == edit.name
    arguments = {argument.name for argument in entry.arguments} - NOT_FIELDS.get(entry.edit, set())
    known = {attribute.name for attribute in fields(edit)} if hasattr(edit, "__attrs_attrs__") else set()
    assert arguments == known - ({"services", "settings", "place_of"} if entry.edit == "Load" else set())


@EACH
def test_an_entry_and_its_amp_command(entry: EditCommand) -> None:
    command = commands.OF_EDIT[entry.edit]
    assert command.commandName == entry.edit.encode()
    assert command.errors == commands.ERRORS
    assert [name.decode() for name, _ in command.arguments] == [argument.name for argument in entry.on_the_wire]
    assert [kind.optional for _, kind in command.arguments] == [argument.is_optional for argument in entry.on_the_wire]
    assert command.__doc__ == entry.help


def test_responders_are_those_of_the_table_and_ten_more() -> None:
    known = {name.decode(): command for name, (command, _) in Administrator._commandDispatch.items()}
    assert known.pop("StartTLS") is amp.StartTLS
    for command in (
        commands.Upload,
        commands.Scope,
        commands.Read,
        commands.ReadPage,
        commands.Explain,
        commands.CloseConnection,
        commands.Rebalance,
        commands.BeginTrace,
        commands.ReadTrace,
        commands.EndTrace,
    ):
        assert known.pop(command.__name__) is command
    assert known == commands.OF_EDIT


@EACH
def test_an_entry_and_the_method_of_the_client(entry: EditCommand) -> None:
    method = getattr(Switch, entry.method)
    assert method.__name__ == entry.method
    assert method.__doc__.lower().startswith(entry.help.lower())
    _, *parameters = inspect.signature(method).parameters.values()
    assert [parameter.name for parameter in parameters] == [argument.name for argument in entry.arguments]
    for parameter, argument in zip(parameters, entry.arguments, strict=True):
        if argument.type is ArgumentType.SERVICE_OPTIONS:
            assert parameter.kind is parameter.VAR_KEYWORD
        else:
            assert parameter.default == (parameter.empty if argument.is_required else argument.default)


def test_the_client_has_a_method_for_every_entry_and_no_other() -> None:
    found = {name: getattr(Switch, name, None) for name in dir(Switch)}
    made = {name for name, value in found.items() if getattr(value, "__signature__", None) is not None}
    assert made == {entry.method for entry in EDIT_COMMANDS}


@EACH
def test_an_argument_that_is_optional_for_the_client_is_sent_or_optional_on_the_wire(entry: EditCommand) -> None:
    for argument in entry.arguments:
        if argument.default is None:
            assert argument.is_optional
        assert argument.help or argument.is_required
    assert len([argument for argument in entry.arguments if argument.type.is_uploaded]) <= 1


def test_every_type_of_argument_is_read_and_written() -> None:
    assert set(READERS) == set(WRITERS) == set(ArgumentType)


def test_tcpvsadm_has_a_command_for_every_entry() -> None:
    assert {entry.name for entry in EDIT_COMMANDS} - set(COMMANDS) == NOT_IN_TCPVSADM


WRITTEN_AS_WORDS = {"add-rule": {"pattern"}, "del-rule": {"pattern"}}
"""Arguments that words of the command line may give instead of their option."""


@EACH
def test_an_entry_and_the_command_of_tcpvsadm(entry: EditCommand) -> None:
    if entry.name in NOT_IN_TCPVSADM:
        return
    command = COMMANDS[entry.name]
    assert command.meaning.startswith(entry.help)
    options = {argument.option for argument in entry.arguments if argument.option}
    assert options <= {*command.required, *command.optional}
    required = {argument.option for argument in entry.arguments if argument.option and argument.is_required}
    assert set(command.required) == required - WRITTEN_AS_WORDS.get(entry.name, set())


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [((), {}), (("web",), {}), (("web", "10.0.0.1:80", *range(20)), {}), (("web", "10.0.0.1:80"), {"colour": "red"})],
)
def test_a_call_with_the_wrong_arguments_is_a_type_error(
    arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> None:
    switch: Any = object.__new__(Switch)
    with pytest.raises(TypeError):
        switch.add_server(*arguments, **keywords)


def test_commands_are_found_by_their_edits() -> None:
    assert list(COMMAND_OF_EDIT) == list(commands.OF_EDIT)
