"""tcpvsadm --replay: reads the configuration and the log, and returns the report."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from twisted.logger import globalLogBeginner

from ktcpvs.control.tcpvsadm.offline_commands import ReplayOptions, Warn
from ktcpvs.control.tcpvsadm.output import format_json
from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.replay.log_file import LogFile
from ktcpvs.replay.reader_process import is_worthwhile
from ktcpvs.replay.replay import Replay, choose_service, unresolved_names
from ktcpvs.replay.report import as_json, format_text
from ktcpvs.system.names import service_port

COLLECTED_AFTER = 50_000
"""The new objects after which the garbage collector runs during a replay."""


def replay(options: ReplayOptions, warn: Warn) -> str:
    """Replay a log, and return the report. Raises a Refusal."""
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    table = parse(options.text, options.source, service_port).apply(Table())
    service = choose_service(table, options.ident, options.scheduler, options.balance)
    for name in unresolved_names(service):
        warn(f"server {name} is one server here, at no address of the log: names are not looked up")
    log = LogFile(options.log, _show_progress if options.shows_progress else lambda lines, part: None)
    replay = Replay(
        table,
        service,
        log,
        only=options.ident,
        headers=_lines(options.headers),
        default_seconds=options.seconds,
        reads_aside=is_worthwhile(options.log),
    )
    thresholds = gc.get_threshold()
    gc.set_threshold(COLLECTED_AFTER)  # the requests of a replay form no cycles: collections take a tenth of its time
    try:
        replayed = replay.run()
    finally:
        gc.set_threshold(*thresholds)
        if options.shows_progress:
            _write_progress("")
    return format_json(as_json(replayed)) if options.is_json else format_text(replayed, options.width)


def _lines(headers: Sequence[tuple[str, str]]) -> bytes:
    """Return header lines. Raises BadValue for text that would add another one."""
    for name, value in headers:
        if any(character in "\r\n\0" for character in name + value):
            raise BadValue(f"header '{shorten(name, 40)}': contains a line end or NUL")
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("utf-8", "replace")


def _show_progress(lines: int, part: float | None) -> None:
    share = "" if part is None else f", {part:.0%} of the file"
    _write_progress(f"{lines} lines{share}")


def _write_progress(text: str) -> None:
    """Replace the line of the terminal."""
    with suppress(OSError):  # the terminal is gone
        os.write(sys.stderr.fileno(), f"\r\x1b[K{text}".encode())
