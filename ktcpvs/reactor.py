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
    still waiting then, that call reads the data, and nobody would ever hear of the reset. So after each call the socket
    is asked for errors, and a reader whose socket has one is registered anew.
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
        errors.register(number, 0)  # no events: errors and hang-ups are always told

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
    """libuv opens a descriptor that it keeps with its first stream: better now than when descriptors are counted."""
    one, other = socket.socketpair()
    transport, _ = await loop.connect_accepted_socket(Protocol, one)
    transport.abort()  # type: ignore[attr-defined]
    other.close()
    await sleep(0)


class UVReactor(AsyncioSelectorReactor):
    """uv: the loop, for those who want uvloop's own transports."""

    def __init__(self, loop: uvloop.Loop) -> None:
        self.uv = loop
        loop.set_exception_handler(_failed)
        loop.run_until_complete(_first_stream(loop))
        super().__init__(loop)
        self.callWhenRunning(self._hear_of_children)

    def _hear_of_children(self) -> None:
        """Twisted hears of a process' end by Python's wake-up descriptor (signal.set_wakeup_fd), which uvloop takes."""
        if threading.current_thread() is threading.main_thread():
            reap = partial(self.callFromThread, reapAllProcesses)
            signal.signal(signal.SIGCHLD, lambda *_: reap())


def install() -> None:
    """Make it this process' reactor; twistd calls this for `--reactor=uvloop`."""
    installReactor(UVReactor(PersistentLoop()))
