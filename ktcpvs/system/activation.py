"""Listening sockets that a service manager has opened and hands in (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket

from twisted.python.systemd import ListenFDs

from ktcpvs.errors import CannotListen

NAMES = "LISTEN_FDNAMES"


def _environment_at_the_beginning() -> dict[str, str]:
    """As this program got it (proc(5)); twistd has taken a part of it out, for endpoints that nobody asks for. Without
    /proc: what is left of it."""
    try:
        with open("/proc/self/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return dict(os.environ)
    return dict(os.fsdecode(word).split("=", 1) for word in words if b"=" in word)


def handed_in() -> list[tuple[str, socket.socket]]:
    """(name, socket) of each. What the environment says of them is taken out of it. Raises CannotListen.

    One that is no listening stream socket is refused, since whoever configured it means something else.
    """
    found = []
    began = _environment_at_the_beginning()
    names = began.get(NAMES, "").split(":")
    listed = ListenFDs.fromEnvironment(began)
    for name in ("LISTEN_PID", "LISTEN_FDS", NAMES):
        os.environ.pop(name, None)
    for place, descriptor in enumerate(listed.inheritedDescriptors()):
        name = names[place] if place < len(names) else ""
        os.set_inheritable(descriptor, False)
        try:
            sock = socket.socket(fileno=descriptor)
            listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = 0
        if not listens:
            raise CannotListen(f"descriptor {descriptor} ({name}), which was handed in, is no listening stream socket")
        sock.setblocking(False)
        found.append((name, sock))
    return found
