"""A node of a cluster tells its workers, by commands, what it adopts and which services it withdraws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ktcpvs.control import commands as control_commands
from ktcpvs.control.edit_commands import CommandCall
from ktcpvs.control.pages import split_pages
from ktcpvs.model.adopt import Adopt
from ktcpvs.model.describe import describe_service
from ktcpvs.model.language.parser import parse
from ktcpvs.model.language.writer import write_service, write_settings
from ktcpvs.model.withdrawal import Withdrawal
from ktcpvs.workers import commands


def adopt_commands(edit: Adopt) -> Sequence[CommandCall]:
    """Return the commands that ask a worker for `edit`."""
    changed = [service for service in edit.services.values() if service is not None]
    data = {
        "services": "".join(write_service(describe_service(service)) for service in changed),
        "deleted": [ident for ident, service in edit.services.items() if service is None],
        "running": sorted(edit.running),
        "settings": None if edit.settings is None else write_settings(edit.settings.described()),
        "order": list(edit.order),
    }
    return [*_uploads(data), (commands.Adopt, {})]


def withdraw_commands(withdrawal: Withdrawal) -> Sequence[CommandCall]:
    """Return the commands that ask a worker to withdraw services."""
    data = {"is_whole": withdrawal.is_whole, "idents": sorted(withdrawal.idents)}
    return [*_uploads(data), (commands.Withdraw, {})]


def _uploads(data: dict[str, Any]) -> Sequence[CommandCall]:
    pages = enumerate(split_pages(json.dumps(data)))
    return [(control_commands.Upload, {"page": page, "first": number == 0}) for number, page in pages]


def read_withdrawal(data: bytes) -> Withdrawal:
    """Return the withdrawal that was uploaded."""
    given = json.loads(data)
    return Withdrawal(given["is_whole"], frozenset(given["idents"]))


def read_adopt(data: bytes) -> Adopt:
    """Return the edit that was uploaded."""
    given = json.loads(data)
    services = parse(given["services"], "the supervisor", allow_empty=True).services
    settings = given["settings"]
    return Adopt(
        {**services, **dict.fromkeys(given["deleted"])},
        frozenset(given["running"]),
        None if settings is None else parse(settings, "the supervisor", allow_empty=True).settings,
        tuple(given["order"]),
    )
