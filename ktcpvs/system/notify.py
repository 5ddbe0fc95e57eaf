"""Notifications to the service manager: datagrams to the socket in NOTIFY_SOCKET (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Notifier:
    """Sends notifications.

    path: of the manager's socket, "@" for an abstract one; "": there is no manager. watchdog: the interval in
    microseconds within which the manager expects a sign of life; 0: it expects none.
    """

    def __init__(self, path: str = "", watchdog: int = 0) -> None:
        self.path = path
        self.watchdog = watchdog

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str]) -> Notifier:
        """Read the manager's variables and remove them: child processes must not get them."""
        path = environment.pop(SOCKET, "")
        watchdog, pid = environment.pop(WATCHDOG, ""), environment.pop(WATCHDOG_PID, "")
        is_ours = watchdog.isascii() and watchdog.isdigit() and pid in ("", str(os.getpid()))
        return cls(path if path.startswith(("/", "@")) else "", int(watchdog) if is_ours else 0)

    def tell(self, *words: str) -> None:
        """Send assignments NAME=VALUE, without waiting; errors are ignored."""
        if not self.path:
            return
        where = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(word.replace("\n", " ") for word in words).encode("utf-8", "replace"), where)
