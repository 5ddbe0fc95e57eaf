"""An edit -> the AMP command that asks for it: what an administrator sends who has edits rather than words.

The way back is `control.server`: what it makes of the command is the same edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ktcpvs.control import commands
from ktcpvs.model import edits
from ktcpvs.model.describe import describe_service, describe_value
from ktcpvs.model.language.writer import write

Asked = tuple[type[Any], dict[str, Any]]
"""A command of `control.commands` and its arguments."""


def requests(edit: edits.Edit) -> list[Asked]:
    """The commands that make up `edit`, in their order: one, or for a Load the pages of its text before it."""
    if isinstance(edit, edits.Load):
        return _load(edit)
    if isinstance(edit, edits.Allow | edits.Deny):
        told: Asked = (getattr(commands, type(edit).__name__), {"ident": edit.ident, "only": edit.only})
        return [*_uploads(str(edit.networks)), told]
    if isinstance(edit, edits.DeleteNetwork):
        return [*_uploads(str(edit.networks)), (commands.DeleteNetwork, {"ident": edit.ident})]
    return [(getattr(commands, type(edit).__name__), _arguments(edit))]


def _arguments(edit: edits.Edit) -> dict[str, Any]:
    if isinstance(edit, edits.AddService | edits.EditService):
        return {"ident": edit.ident, "options": _options(edit.options)}
    if isinstance(edit, edits.Set):
        return {"changes": [{"name": name, "value": value} for name, value in edit.changes.items()]}
    values = {name: getattr(edit, name) for name in getattr(type(edit), "__match_args__", ())}
    return {name: describe_value(value) for name, value in values.items()}


def _options(options: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": name, "value": "" if value is None else str(value)} for name, value in options.items()]


def _load(edit: edits.Load) -> list[Asked]:
    text = write([describe_service(service) for service in edit.services.values()], edit.settings.described())
    trial = {"confirm": edit.confirm} if edit.confirm else {}
    asked = {"source": "the supervisor", "start": edit.start, "allow_empty": True, **trial}
    return [*_uploads(text), (commands.Load, asked)]


def _uploads(text: str) -> list[Asked]:
    """The commands that send `text`."""
    pages = enumerate(commands.pages(text))
    return [(commands.Upload, {"page": page, "first": number == 0}) for number, page in pages]
