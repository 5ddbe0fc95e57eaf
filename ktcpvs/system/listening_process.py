"""The process that listens on an address, found in /proc as far as this user may read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from attrs import frozen

from ktcpvs.errors import shorten
from ktcpvs.model.address import Address, Unix

OWN_NAME = "ktcpvs"
"""The name of all processes of a switch."""

MAX_FILES = 50_000
"""The most open files of processes that one search looks at."""

_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


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
    if isinstance(address, Unix):
        inodes = [parts[6] for parts in _rows(f"{proc}/net/unix") if len(parts) > 7 and parts[7] == address.path]
    else:
        inodes = list(_inodes_of_port(address.port, proc))
    return _process_with({f"socket:[{inode}]" for inode in inodes}, proc)


def _inodes_of_port(port: int | None, proc: str) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for parts in _rows(f"{proc}/net/{table}"):
            if len(parts) > 9 and parts[3] == _LISTEN and int(parts[1].rpartition(":")[2], 16) == port:
                yield parts[9]


def _rows(path: str) -> Iterator[list[str]]:
    """Yield the words of each line behind the heading; nothing if the file cannot be read."""
    try:
        with open(path, errors="surrogateescape") as lines:  # any process can give a socket any name
            next(lines, None)
            yield from (line.split() for line in lines)
    except OSError:
        return


def _process_with(links: set[str], proc: str) -> ListeningProcess | None:
    """Return the oldest process with one of these open files."""
    left = MAX_FILES
    for process in sorted(int(name) for name in os.listdir(proc) if name.isdigit()) if links else ():
        folder = f"{proc}/{process}"
        try:
            names = os.listdir(f"{folder}/fd")[:left]
        except OSError:  # of another user, or gone
            continue
        for name in names:
            if _target_of(f"{folder}/fd/{name}") in links:
                with suppress(OSError):
                    return ListeningProcess(_name_of(folder), process)
        left -= len(names)
        if not left:
            break
    return None


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
