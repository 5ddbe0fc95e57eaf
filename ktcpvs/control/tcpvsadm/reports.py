"""Reports of commands that load or renew something: what was done, and with which files.

Edits of the table print nothing, as in ipvsadm. These commands read files of which the command line says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.output import escape

MAX_NAMES = 10
"""The most names in a line."""


async def read_report(switch: SwitchBase, command: str, arguments: Mapping[str, Any]) -> str:
    """Return what a command that was carried out prints. command: one of REPORTED. arguments: of its edit. It reads
    what is in force by now, which may be what another administrator has loaded since."""
    if command == "reload-schedulers":
        return format_scheduler_reload((await switch.schedulers()).get("reloaded"))
    if command == "reload-certificates":
        return format_certificate_reload(await switch.certificates())
    return f"renewal of {escape(arguments['host'])} has begun; --certificates shows what comes of it\n"


def format_scheduler_reload(reloaded: Mapping[str, Any] | None) -> str:
    """Format the outcome of a reload of schedulers, a line for each file. reloaded: as in the view `schedulers`; None:
    the daemon's version does not tell."""
    if reloaded is None:
        return ""
    of_file: dict[str, list[str]] = {}
    for one in reloaded["schedulers"]:
        of_file.setdefault(one["file"], []).append(one["name"])
    same = ", unchanged since it was loaded before" if reloaded["unchanged"] else ""
    lines = [f"{_names(names)}: loaded again from {escape(file)}{same}" for file, names in of_file.items()]
    lines.append(f"services bound anew: {_names(reloaded['services']) or 'none, since no running one uses it'}")
    return "".join(f"{line}\n" for line in lines)


def format_certificate_reload(certificates: Sequence[Mapping[str, Any]]) -> str:
    """Format how many certificates were read again, and which expires first. certificates: the view of that name."""
    if not certificates:
        return "no running service has certificates\n"
    count = f"{len(certificates)} certificate{'s' if len(certificates) > 1 else ''} read again"
    dated = [one for one in certificates if one["not_after"] is not None]
    if not dated:
        return f"{count}\n"
    first = min(dated, key=lambda one: float(one["not_after"]))
    names = _names(first["names"]) or escape(first["subject"]) or "-"
    expires = time.strftime("%Y-%m-%d %H:%M", time.gmtime(first["not_after"]))
    which = "it expires" if len(certificates) == 1 else "the first expires"
    return f"{count}; {which} at {expires}: {names} ({escape(first['file'])})\n"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(map(escape, names[:MAX_NAMES])) + more
