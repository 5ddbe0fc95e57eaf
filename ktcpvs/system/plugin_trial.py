"""Loads scheduler plugins in a process of its own before a running daemon does: one that loops for ever, takes all
memory or ends the process is found out there.

The process gets the names of the packages that are loaded from their sources as its arguments.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Collection
from typing import Any

from twisted.internet.defer import Deferred

from ktcpvs.errors import shorten
from ktcpvs.system.plugin_reload import SourceFinder
from ktcpvs.system.plugins import find_schedulers
from ktcpvs.system.program import Program
from ktcpvs.system.stall_watch import where_is

TRIAL_TIMEOUT = 10.0
"""The most seconds for loading all plugins."""

KILL_DELAY = 5.0
"""Seconds after that for the process to say where it is, or even to begin."""

MAX_TRIAL_MEMORY = 2 << 30
"""The most bytes of memory of the process (RLIMIT_DATA)."""

_SAYS = "trial: "


def try_plugins(reactor: Any, packages: Collection[str]) -> Deferred[str | None]:
    """Load all plugins in another process. packages: those that are loaded from their sources. Fires with why that is
    not possible, in words; None: it is. Raises OSError."""
    said: list[str] = []
    tried: Deferred[str | None] = Deferred()

    def note(line: str) -> None:
        if line.startswith(_SAYS):
            said[:] = [line.removeprefix(_SAYS)]

    def ended(how: str) -> None:
        if timeout.active():
            timeout.cancel()
        if how == "status 0":
            tried.callback(None)
        else:
            tried.callback(said[0] if said else f"loading the plugins ends the process: {how}")

    def late() -> None:
        said.append(f"the plugins are not loaded within {TRIAL_TIMEOUT:.0f} s")
        program.signal(signal.SIGKILL)

    environment = {**os.environ, "PYTHONPATH": ":".join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-P", "-m", __name__, *sorted(packages)]
    program = Program(reactor, command, environment, note, ended)
    timeout = reactor.callLater(TRIAL_TIMEOUT + KILL_DELAY, late)
    return tried


def _give_up() -> None:
    """Say where the plugins are, and end."""
    where = where_is(threading.main_thread().ident or 0)
    _end(f"the plugins are not loaded within {TRIAL_TIMEOUT:.0f} s: they are at {where}")


def _end(why: str) -> None:
    os.write(1, f"\n{_SAYS}{shorten(why, 800)}\n".encode())
    os._exit(1)


def main() -> None:
    """Load the plugins, and end with status 0 if that is possible; the daemon finds what else is wrong with them."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_TRIAL_MEMORY, MAX_TRIAL_MEMORY))
    timer = threading.Timer(TRIAL_TIMEOUT, _give_up)
    timer.daemon = True
    timer.start()
    sys.meta_path.insert(0, SourceFinder(sys.argv[1:]))
    sys.dont_write_bytecode = True
    for where, error in find_schedulers().broken:
        if error.startswith("MemoryError"):
            _end(f"{where}: {error or 'MemoryError'}: plugins may take {MAX_TRIAL_MEMORY >> 20} MiB")
    os._exit(0)  # threads of plugins hold up nothing


if __name__ == "__main__":
    main()
