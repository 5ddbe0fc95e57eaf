"""The reactor plugin `uvloop`: Twisted's asyncio reactor on a uvloop event loop."""

from __future__ import annotations

import select
import signal
import socket
import threading
from asyncio import AbstractEventLoop, Protocol, sleep
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor
from twisted.internet.process import reapAllProcesses
from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger(namespace="ktcpvs")


class PersistentLoop(uvloop.Loop):
    """A uvloop whose readers stay registered after an error.

    When a socket is reset, libuv stops polling it and calls its reader once (uv_poll_start(3), UV_EBADF). If data was
    still waiting then, that call reads the data, and the reset would never be reported. So this loop checks the socket
    for errors after each call, and registers the reader again when there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._registered: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """As asyncio.loop.add_reader."""
        number = fd if isinstance(fd, int) else fd.fileno()
        if _listens(number):
            super().add_reader(number, callback, *args)
            return
        errors = select.poll()
        errors.register(number, 0)  # no events: poll always reports errors and hang-ups

        def ready() -> None:
            callback(*args)
            if self._registered.get(number) is ready and errors.poll(0):
                remove_reader(number)
                add_reader(number, ready)

        add_reader, remove_reader = super().add_reader, super().remove_reader
        self._registered[number] = ready
        add_reader(number, ready)

    def remove_reader(self, fd: Any) -> None:  # type: ignore[override]
        """As asyncio.loop.remove_reader."""
        number = fd if isinstance(fd, int) else fd.fileno()
        self._registered.pop(number, None)
        return super().remove_reader(number)


def _listens(number: int) -> bool:
    """True for the descriptor of a listening socket."""
    try:
        sock = socket.socket(fileno=number)
    except OSError:
        return False  # no socket at all
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


def _failed(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what uvloop caught, as Twisted's reactors log what they catch."""
    error = context.get("exception")
    if error is None:
        _log.error("{message}", message=context.get("message"))
    else:
        _log.failure("{message}", Failure(error), message=context.get("message") or "Unhandled error")


async def _first_stream(loop: uvloop.Loop) -> None:
    """Make libuv open the descriptor that it keeps from its first stream on, before descriptors are counted."""
    one, other = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(Protocol, one)
    transport.abort()  # type: ignore[attr-defined]
    other.close()
    await sleep(0)


class UVReactor(AsyncioSelectorReactor):
    """Twisted's asyncio reactor on uvloop. uv: the loop, for code that uses uvloop's own transports."""

    def __init__(self, loop: uvloop.Loop) -> None:
        self.uv = loop
        loop.set_exception_handler(_failed)
        loop.run_until_complete(_first_stream(loop))
        super().__init__(loop)
        self.callWhenRunning(self._watch_children)

    def _watch_children(self) -> None:
        """Reap child processes: Twisted would learn of them by Python's wake-up descriptor (signal.set_wakeup_fd),
        which uvloop uses for itself."""
        if threading.current_thread() is threading.main_thread():
            reap = partial(self.callFromThread, reapAllProcesses)
            signal.signal(signal.SIGCHLD, lambda *_: reap())


def install() -> None:
    """Install it as the reactor of this process; twistd calls this for `--reactor=uvloop`."""
    installReactor(UVReactor(PersistentLoop()))
