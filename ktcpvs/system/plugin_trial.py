"""Loads scheduler plugins in a process of its own before a running daemon does: one that loops for ever, takes all
memory or ends the process is found out there.

The process gets as its arguments a file, to which it writes the digests of the sources that it has loaded, and the
names of the packages that are loaded from their sources.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from ktcpvs.errors import shorten
from ktcpvs.system.plugin_reload import NOT_TRIED, SourceFinder
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


@frozen
class Trial:
    """The result of a trial. why: it is not possible to load the plugins; None: it is. loaded: the sources of the
    packages that were loaded, each with the digest of its contents."""

    why: str | None = None
    loaded: Mapping[str, str] = NOT_TRIED


def try_plugins(reactor: Any, packages: Collection[str]) -> Deferred[Trial]:
    """Load all plugins in another process. packages: those that are loaded from their sources. Raises OSError."""
    said: list[str] = []
    tried: Deferred[Trial] = Deferred()
    digests = NamedTemporaryFile(prefix="ktcpvs-")  # noqa: SIM115

    def note(line: str) -> None:
        if line.startswith(_SAYS):
            said[:] = [line.removeprefix(_SAYS)]

    def ended(how: str) -> None:
        if timeout.active():
            timeout.cancel()
        with digests:  # the file goes
            loaded = _read_digests(digests.read()) if how == "status 0" else None
        if loaded is not None:
            tried.callback(Trial(loaded=loaded))
        else:
            tried.callback(Trial(said[0] if said else f"loading the plugins ends the process: {how}"))

    def late() -> None:
        said.append(f"the plugins are not loaded within {TRIAL_TIMEOUT:.0f} s")
        program.signal(signal.SIGKILL)

    environment = {**os.environ, "PYTHONPATH": ":".join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-P", "-m", __name__, digests.name, *sorted(packages)]
    try:
        program = Program(reactor, command, environment, note, ended)
    except OSError:
        digests.close()
        raise
    timeout = reactor.callLater(TRIAL_TIMEOUT + KILL_DELAY, late)
    return tried


def _read_digests(text: bytes) -> Mapping[str, str] | None:
    """Return what a trial has written at its end. None: a plugin has ended it before, with os._exit(0)."""
    try:
        found: Mapping[str, str] = json.loads(text)
    except ValueError:
        return None
    return found


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
    finder = SourceFinder(sys.argv[2:])
    sys.meta_path.insert(0, finder)
    sys.dont_write_bytecode = True
    for where, error in find_schedulers().broken:
        if error.startswith("MemoryError"):
            _end(f"{where}: {error or 'MemoryError'}: plugins may take {MAX_TRIAL_MEMORY >> 20} MiB")
    Path(sys.argv[1]).write_text(json.dumps(finder.loaded))
    os._exit(0)  # threads of plugins hold up nothing


if __name__ == "__main__":
    main()
