"""Socket activation: listening sockets that a service manager has opened (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket

from ktcpvs.errors import CannotListen, shorten

PROCESS, COUNT, NAMES = "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"

FIRST_DESCRIPTOR = 3
"""The first descriptor; the others follow it (SD_LISTEN_FDS_START)."""


def _environment_at_the_beginning() -> dict[str, str]:
    """Return the environment with which this program was started (proc(5)): twistd has removed a part of os.environ for
    endpoints that are not used here. Without /proc: os.environ."""
    try:
        with open("/proc/self/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return dict(os.environ)
    return dict(os.fsdecode(word).split("=", 1) for word in words if b"=" in word)


def handed_in() -> list[tuple[str, socket.socket]]:
    """Return (name, socket) of each, and remove their variables from the environment. Raises CannotListen.

    A name is "" if LISTEN_FDNAMES has none, as with systemd-socket-activate(1). A descriptor that is not a listening
    stream socket is refused, since its configuration must be wrong.
    """
    found = []
    began = _environment_at_the_beginning()
    for name in (PROCESS, COUNT, NAMES):
        os.environ.pop(name, None)
    names = began.get(NAMES, "").split(":")
    for place in range(_count(began)):
        descriptor, name = FIRST_DESCRIPTOR + place, names[place] if place < len(names) else ""
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = 0
        if not listens:
            called = f" ({name})" if name else ""
            raise CannotListen(f"descriptor {descriptor}{called} of the service manager is no listening stream socket")
        sock.setblocking(False)
        found.append((name, sock))
    return found


def _count(environment: dict[str, str]) -> int:
    """Return the number of sockets for this process. Raises CannotListen."""
    if environment.get(PROCESS) != str(os.getpid()):
        return 0
    count = environment.get(COUNT, "0")
    if not (count.isascii() and count.isdigit() and len(count) <= 9):
        raise CannotListen(f"{COUNT}={shorten(count)} in the environment: expected a number (example: 1)")
    return int(count)
