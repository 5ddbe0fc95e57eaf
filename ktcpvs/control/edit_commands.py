"""An edit as AMP commands, and AMP commands as an edit, by `command_table`.

A supervisor sends its edits to its workers in this way, and a daemon that was taken over forwards them to the new one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

from attrs import evolve

from ktcpvs.control import commands
from ktcpvs.control.arguments import READERS, WRITERS, decode
from ktcpvs.control.command_table import COMMAND_OF_EDIT, Argument, ArgumentType, EditCommand
from ktcpvs.control.pages import split_pages
from ktcpvs.errors import BadValue, shorten
from ktcpvs.model import edits
from ktcpvs.model.conditions import written_text
from ktcpvs.model.describe import describe_service
from ktcpvs.model.language.lexer import quoted
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write
from ktcpvs.model.local_edits import Local, LocalEdit
from ktcpvs.model.settings import SECRETS
from ktcpvs.system.names import service_port

SOURCE_LENGTH = 255
"""The most characters of a configuration's name that its errors repeat."""

EDIT_LENGTH = 200
"""The most characters of an edit's text."""

LOCAL, FORCED = SCOPES = ("local", "force-local")
"""Scopes of edits that do not hold in the whole cluster: on this node only; or that, and only until etcd responds."""

CommandCall = tuple[type[Any], dict[str, Any]]
"""A class of `control.commands`, and the arguments to call it with."""


def commands_for(edit: edits.Edit) -> list[CommandCall]:
    """Return the commands that ask for `edit`, in their order: uploads first, where it needs some, then its own."""
    if isinstance(edit, Local):
        return [(commands.Scope, {"scope": FORCED if edit.is_forced else LOCAL}), *commands_for(edit.edit)]
    entry = COMMAND_OF_EDIT[type(edit).__name__]
    values = _load_values(edit) if isinstance(edit, edits.Load) else _values(edit, entry)
    written = {argument.name: WRITERS[argument.type](values[argument.name]) for argument in entry.arguments}
    uploads = _uploads(written.pop(entry.uploaded.name)) if entry.uploaded is not None else []
    return [*uploads, (commands.OF_EDIT[entry.edit], written)]


def edit_for(entry: EditCommand, arguments: dict[str, Any], upload: bytearray | None) -> edits.Edit:
    """Return the edit that a command asks for. arguments: as AMP has parsed them; None where one was left out. upload:
    the bytes that were uploaded before the command; None: there were none. Raises a Refusal."""
    values = {}
    for argument in entry.arguments:
        value = upload if argument.type.is_uploaded else arguments[argument.name]
        if value is not None or argument.type.is_uploaded:
            values[argument.name] = READERS[argument.type](value)
    make: Any = _MAKERS.get(entry.edit) or getattr(edits, entry.edit)
    edit: edits.Edit = make(**values)
    return edit


def encode_edit(edit: edits.Edit) -> dict[str, Any]:
    """Return an edit as plain data for JSON, which `decode_edit` reads."""
    entry = COMMAND_OF_EDIT[type(edit).__name__]
    (*_, (_, arguments)), upload = commands_for(edit), None
    if entry.uploaded is not None:
        values = _load_values(edit) if isinstance(edit, edits.Load) else _values(edit, entry)
        upload = WRITERS[entry.uploaded.type](values[entry.uploaded.name])
    return {"command": entry.edit, "arguments": arguments, "upload": upload}


def decode_edit(data: Any) -> edits.Edit:
    """Return the edit that `encode_edit` has written. Raises a Refusal, or KeyError, TypeError or ValueError for data
    that it has not written."""
    entry = COMMAND_OF_EDIT[data["command"]]
    arguments = {argument.name: data["arguments"].get(argument.name) for argument in entry.on_the_wire}
    upload = data.get("upload")
    return edit_for(entry, arguments, None if upload is None else bytearray(str(upload), "utf-8"))


def encode_local(local: Iterable[LocalEdit]) -> list[dict[str, Any]]:
    """Return local edits as plain data for JSON, which `decode_local` reads."""
    return [{**encode_edit(one.edit), "forced": one.is_forced} for one in local]


def decode_local(data: Any) -> tuple[LocalEdit, ...]:
    """Return the local edits that `encode_local` has written. Raises a Refusal."""
    try:
        return tuple(LocalEdit(decode_edit(one), bool(one.get("forced"))) for one in data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadValue(f"an edit cannot be read: {error!r}") from None


def text_of_edit(edit: edits.Edit) -> str:
    """Return an edit in the words of tcpvsadm, in one line, without secrets and values of header fields."""
    entry = COMMAND_OF_EDIT[type(edit).__name__]
    if isinstance(edit, edits.Load):
        return f"{entry.name}: {len(edit.services)} services"
    if isinstance(edit, edits.Unload):
        return "set unload=1"
    words = [entry.name]
    for argument in entry.arguments:
        value = WRITERS[argument.type](getattr(edit, argument.name))
        if value is None:
            continue
        if isinstance(edit, edits.DeleteRule) and argument.name == "pattern":  # or the rule's name, or its number
            argument = evolve(argument, name="rule", option="rule")
        words += _words_of(argument, value)
    return shorten(" ".join(words), EDIT_LENGTH)


def command_line_of(edit: edits.Edit) -> str:
    """Return the command line of tcpvsadm that asks for an edit, as `text_of_edit`."""
    if isinstance(edit, Local):
        return f"{command_line_of(edit.edit)} --{FORCED if edit.is_forced else LOCAL}"
    return f"tcpvsadm --{text_of_edit(edit)}"


def _words_of(argument: Argument, value: Any) -> list[str]:
    """Return the words of one argument of a command. value: as it is written for AMP, and not None."""
    option = [f"--{argument.option}"] if argument.option else []
    if argument.type in (ArgumentType.SERVICE_OPTIONS, ArgumentType.SETTINGS):
        return [f"{one['name']}={shlex.quote(_without_secret(one['name'], str(one['value'])))}" for one in value]
    if argument.type is ArgumentType.BOOLEAN:
        return (option or [argument.name]) if value else []
    if argument.type is ArgumentType.USE:
        return ["use", str(value)]
    if argument.name == "pattern":
        return [written_text(value)] if value else []
    if argument.name == "on":
        return ["on", str(value)]
    if argument.option in ("rule", "before") and " " in str(value):
        return [*option, quoted(str(value))]
    return [*option, _FIELD_VALUE.sub(r"\1 ...", str(value))]


_FIELD_VALUE = re.compile(r'(\b(?:request_|response_)header \S+) (?:"(?:[^"\\]|\\.)*"|\S+)')
"""A modifier of a rule, with the name and the value of a header field."""

_CHECK_FIELD = re.compile(r'(\bheader) "?([^\s":]+:)(?:[^"\\]|\\.)*"?')
"""A header field of a check: header "NAME: VALUE"."""


def _without_secret(name: str, value: str) -> str:
    """Return the value of a setting or an option, without what may be a secret in it."""
    if name in SECRETS:
        return "..."
    if name in ("request_header", "response_header"):
        return ", ".join(f"{line.partition(' ')[0]} ..." for line in value.splitlines())
    return _CHECK_FIELD.sub(r"\1 \2 ...", value) if name == "check" else value


def _values(edit: edits.Edit, entry: EditCommand) -> dict[str, Any]:
    return {argument.name: getattr(edit, argument.name) for argument in entry.arguments}


def _load_values(edit: edits.Load) -> dict[str, Any]:
    return {
        "text": write([describe_service(service) for service in edit.services.values()], edit.settings.described()),
        "source": "the supervisor",
        "confirm": edit.confirm or None,
        "start": edit.start,
        "allow_empty": True,
    }


def _uploads(text: str) -> list[CommandCall]:
    """The commands that upload `text`."""
    pages = enumerate(split_pages(text))
    return [(commands.Upload, {"page": page, "first": number == 0}) for number, page in pages]


def _make_set(changes: dict[str, str]) -> edits.Edit:
    """`unload` is written like a setting, and is an edit of its own."""
    unload = changes.pop("unload", None)
    if unload is None:
        return edits.Set(changes)
    if unload not in ("0", "1") or (unload == "1" and changes):
        raise BadValue("unload = 1 must be the only change, and ends the daemon; unload = 0 changes nothing")
    return edits.Unload() if unload == "1" else edits.Set(changes)


def _make_load(
    text: bytearray, source: str, confirm: int = 0, start: str = "", allow_empty: bool = False
) -> edits.Edit:
    name = shorten(source, SOURCE_LENGTH)
    load = parse(decode(text, name), name, service_port, allow_empty=allow_empty)
    return evolve(load, confirm=confirm, start=start or edits.START_NOTHING)


_MAKERS = {"Set": _make_set, "Load": _make_load}
"""Edits whose constructors do not take the arguments of their commands."""
