"""The terminal of --top: alternate screen, unbuffered keys, and the former state restored at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from ktcpvs.control.tcpvsadm.top import layout_screen
from ktcpvs.model.language.writer import ShowAddress

UPDATE_INTERVAL = 1.0
"""Seconds between two updates."""

ALL_NODES_INTERVAL = 2.0
"""Seconds between two updates of the counters of all nodes, each of which costs some writes of etcd."""

_QUIT_KEYS = (b"q", b"Q", b"\x03", b"\x04")
"""q, Ctrl-C, Ctrl-D."""

_ENTER = "\x1b[?1049h\x1b[?25l"  # alternate screen, hidden cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"


@implementer(IReadDescriptor)
class Keyboard(FileDescriptor):
    """Reads keys. has_quit: the user has pressed a key to quit, or the terminal is gone. on_quit: called then."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor
        self.has_quit = False
        self.on_quit: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        try:
            keys = os.read(self._descriptor, 64)
        except OSError:
            keys = b""
        if not keys or any(key in keys for key in _QUIT_KEYS):
            self.quit()

    def quit(self) -> None:
        """Stop reading, and call `on_quit` once."""
        self.stopReading()  # type: ignore[no-untyped-call]
        if not self.has_quit:
            self.has_quit = True
            self.on_quit()

    def connectionLost(self, reason: Any) -> None:
        self.quit()


async def show_top(
    reactor: Any,
    read: Callable[[], Awaitable[dict[str, Any]]],
    interval: float,
    show: ShowAddress,
    in_colour: bool,
) -> None:
    """Show the counters until the user quits. read: returns them. interval: seconds between two updates."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    saved = termios.tcgetattr(stdin)
    raw = termios.tcgetattr(stdin)
    raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    keyboard = Keyboard(reactor, stdin)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: reactor.callFromThread(keyboard.quit))
    try:
        termios.tcsetattr(stdin, termios.TCSADRAIN, raw)
        _write(stdout, _ENTER)
        keyboard.startReading()  # type: ignore[no-untyped-call]
        before, began = None, 0.0
        while not keyboard.has_quit:
            now, at = await read(), time.monotonic()
            columns, rows = os.get_terminal_size(stdout)
            lines = layout_screen(before, now, at - began, (columns, rows), show, in_colour)
            _write(stdout, _overwrite(lines))
            before, began = now, at
            await _pause(reactor, keyboard, interval)
    finally:
        keyboard.stopReading()  # type: ignore[no-untyped-call]
        _write(stdout, _LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)


def _overwrite(lines: Sequence[str]) -> str:
    """Return the output that writes each line over the one on the screen, so that nothing flickers."""
    return "\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J"


async def _pause(reactor: Any, keyboard: Keyboard, seconds: float) -> None:
    """Wait, at most until the user quits."""
    done: Deferred[None] = Deferred()
    call = reactor.callLater(seconds, done.callback, None)

    def wake() -> None:
        if call.active():
            call.cancel()
            done.callback(None)

    keyboard.on_quit = wake
    await done


def _write(output: int, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # the terminal is gone; the keyboard notices it
        while data:
            data = data[os.write(output, data) :]
