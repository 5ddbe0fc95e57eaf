"""The processes that listen on addresses, found in /proc as far as this user may read it."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from functools import partial

from attrs import frozen

from ktcpvs.errors import shorten
from ktcpvs.model.address import Address, Unix
from ktcpvs.system.threads import run_beside

OWN_NAME = "ktcpvs"
"""The name of all processes of a switch."""

MAX_FILES = 50_000
"""The most open files of processes that one search looks at."""

MAX_AGE = 1.0
"""Seconds for which the processes that one search has found answer further questions."""

_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""

_ACCEPTS = 1 << 16
"""The flag of a listening socket in /proc/net/unix (SO_ACCEPTCON)."""


@frozen
class ListeningProcess:
    """The process that listens on an address. name: of its program; ktcpvs for all processes of a switch. number: its
    process ID."""

    name: str
    number: int


def process_of(address: Address, proc: str = "/proc") -> ListeningProcess | None:
    """Return the process that listens on an address, of TCP on its port; None: it is not known, or there is none.

    proc: where the file system of processes is.
    """
    return _found(_listening_processes(proc), address)


class ListeningProcesses:
    """Says which processes listen, where there may be many questions: one search answers all of a second. A search
    takes 30 ms on a small machine, so 1,000 services whose ports another program has would take half a minute."""

    def __init__(self, seconds: Callable[[], float], proc: str = "/proc") -> None:
        """seconds: returns those of a clock that does not go back. proc: as for `process_of`."""
        self._seconds = seconds
        self._proc = proc
        self._known: Mapping[int | str | None, ListeningProcess] = {}
        self._searched = -MAX_AGE

    async def process_of(self, address: Address) -> ListeningProcess | None:
        """As the function `process_of`, beside the reactor."""
        if self._seconds() - self._searched >= MAX_AGE:
            self._known = await run_beside(partial(_listening_processes, self._proc))
            self._searched = self._seconds()
        return _found(self._known, address)


def _found(known: Mapping[int | str | None, ListeningProcess], address: Address) -> ListeningProcess | None:
    return known.get(address.path if isinstance(address, Unix) else address.port)


def _listening_processes(proc: str) -> Mapping[int | str | None, ListeningProcess]:
    """Return the process that listens on each port and at each path, the oldest one where there are several."""
    found: dict[int | str | None, ListeningProcess] = {}
    places = _listening_sockets(proc)
    for link, process in _holders(set(places), proc):
        found.setdefault(places[link], process)
    return found


def _listening_sockets(proc: str) -> Mapping[str, int | str]:
    """Return the port or the path of each listening socket, by the target of the links to it."""
    places: dict[str, int | str] = {}
    for table in ("tcp", "tcp6"):
        for parts in _rows(f"{proc}/net/{table}"):
            if len(parts) > 9 and parts[3] == _LISTEN:
                places[f"socket:[{parts[9]}]"] = int(parts[1].rpartition(":")[2], 16)
    for parts in _rows(f"{proc}/net/unix"):
        if len(parts) > 7 and int(parts[3], 16) & _ACCEPTS:
            places[f"socket:[{parts[6]}]"] = parts[7]
    return places


def _rows(path: str) -> Iterator[list[str]]:
    """Yield the words of each line behind the heading; nothing if the file cannot be read."""
    try:
        with open(path, errors="surrogateescape") as lines:  # any process can give a socket any name
            next(lines, None)
            yield from (line.split() for line in lines)
    except OSError:
        return


def _holders(links: Container[str], proc: str) -> Iterator[tuple[str, ListeningProcess]]:
    """Yield those of `links` that are open files of processes, each with its process, the oldest first."""
    left = MAX_FILES
    try:
        numbers = sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    except OSError:  # as in a sandbox without /proc
        return
    for number in numbers:
        folder = f"{proc}/{number}"
        try:
            names = os.listdir(f"{folder}/fd")[:left]
        except OSError:  # of another user, or gone
            continue
        process = None
        for name in names:
            link = _target_of(f"{folder}/fd/{name}")
            if link in links:
                with suppress(OSError):
                    process = process or ListeningProcess(_name_of(folder), number)
                    yield link, process
        left -= len(names)
        if not left:
            break


def _target_of(link: str) -> str:
    """Return what a link of an open file says; "" for a file that was closed meanwhile."""
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _name_of(folder: str) -> str:
    """Return the name of a process. Those of Python that run ktcpvs are named after it. Raises OSError."""
    with open(f"{folder}/cmdline", "rb") as file:
        words = file.read(4096).decode(errors="replace").split("\0")
    if any(os.path.basename(word).partition(".")[0] == OWN_NAME for word in words[:6]):
        return OWN_NAME
    with open(f"{folder}/comm", errors="replace") as file:
        return shorten(file.read().strip(), 40)
