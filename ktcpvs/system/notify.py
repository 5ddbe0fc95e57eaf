"""What the service manager hears: datagrams to the socket that it names in NOTIFY_SOCKET (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """path: of the manager's socket, "@" for an abstract one; "": nobody wants to hear. watchdog: within how many
    microseconds the manager wants to hear that all is well; 0: it does not."""

    def __init__(self, path: str = "", watchdog: int = 0) -> None:
        self.path = path
        self.watchdog = watchdog

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> Notifier:
        """As the manager has said there; it is taken out, since it is not for processes that are started from here."""
        path = environment.pop(SOCKET, "")
        watchdog, pid = environment.pop(WATCHDOG, ""), environment.pop(WATCHDOG_PID, "")
        meant = watchdog.isascii() and watchdog.isdigit() and pid in ("", str(os.getpid()))
        return cls(path if path.startswith(("/", "@")) else "", int(watchdog) if meant else 0)

    def tell(self, *words: str) -> None:
        """Say it, each a NAME=VALUE. A manager that does not listen, or not now, is not waited for."""
        if not self.path:
            return
        where = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(word.replace("\n", " ") for word in words).encode("utf-8", "replace"), where)
