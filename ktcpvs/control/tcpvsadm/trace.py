"""--trace: prints requests as they end, until there are enough of them, the time is over, or the user interrupts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from typing import Any

from ktcpvs.control.client_errors import NoAnswer
from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm import exit_status
from ktcpvs.control.tcpvsadm.invocation import Invocation
from ktcpvs.control.tcpvsadm.output import escape
from ktcpvs.model.live_trace import (
    COUNT_REACHED,
    DEFAULT_COUNT,
    DEFAULT_SECONDS,
    TIME_OVER,
    TraceBatch,
    TraceQuery,
)

_ENDINGS = {COUNT_REACHED: "as many as --count allows", TIME_OVER: "the time of --for is over"}


def query_of(given: Invocation) -> TraceQuery:
    """Return what the command line asks for. Raises BadValue."""
    count, seconds = given.values.get("count", DEFAULT_COUNT), given.values.get("for", DEFAULT_SECONDS)
    return TraceQuery(given.words[0].strip(), given.values.get("ident"), int(count), int(seconds))


async def show_trace(switch: SwitchBase, given: Invocation) -> None:
    """Print the requests, and at the end on standard error how many there were. Raises a Refusal and NoAnswer."""
    number = await switch.begin_trace(query_of(given))
    last = TraceBatch()
    before = signal.signal(signal.SIGINT, lambda *_: _interrupted(last))
    try:
        while not last.ended:
            last = await switch.read_trace(number)
            if last.entries:
                _print(last.entries.decode("utf-8") if "json" in given.values else _lines_of(last.entries))
    except NoAnswer:
        _print_summary(last, "the daemon has ended the connection")
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    _print_summary(last, _ENDINGS.get(last.ended, "the trace was stopped"))


def _lines_of(entries: bytes) -> str:
    return "".join(format_entry(json.loads(entry)) for entry in entries.splitlines())


def _print(text: str) -> None:
    """Write to standard output. A program that reads no more ends this one."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        os._exit(exit_status.CLOSED_PIPE)


def _interrupted(last: TraceBatch) -> None:
    _print_summary(last, "interrupted")
    os._exit(exit_status.INTERRUPTED)


def _print_summary(last: TraceBatch, why: str) -> None:
    plural = "" if last.matched == 1 else "s"
    text = f"{last.matched} request{plural} matched, {last.dropped} dropped: {why}\n"
    with contextlib.suppress(OSError):  # standard error is closed
        os.write(2, text.encode())


def format_entry(entry: dict[str, Any]) -> str:
    """Return the line of one request, or of one connection that was relayed as a whole."""
    if entry["method"] is None:
        asked = "-"
    else:
        target = entry["target"] or ""
        is_path = target.startswith("/")
        asked = f"{entry['method']} {entry['host'] or '' if is_path else ''}{target}"
    times = [("queue", entry["queue"]), *((name, entry[name]) for name in ("connect", "first", "total"))]
    spent = ", ".join(f"{name} {seconds * 1000:.1f}" for name, seconds in times if seconds is not None)
    failed = [f"{one['server']}: {one['failure']}" for one in entry["attempts"] if one["failure"] is not None]
    refusal = f"{entry['status']}: "
    is_refused = entry["ending"].startswith(refusal)
    why = entry["ending"].removeprefix(refusal) if is_refused else entry["reason"] or entry["ending"]
    parts = [
        f"{entry['time'][11:23]} {entry['service']} {entry['client'] or '-'} {asked} -> {entry['server'] or '-'}",
        str(entry["status"] or "-"),
        why or "-",
        f"[{entry['why'] or '-'}]",
        f"{spent} ms",
        f"{entry['bytes_in']} in, {entry['bytes_out']} out",
        *([f"failed: {'; '.join(failed)}"] if failed else []),
    ]
    return escape("  ".join(parts)) + "\n"
