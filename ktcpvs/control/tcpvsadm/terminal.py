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
from ktcpvs.control.tcpvsadm.top_view import TopView
from ktcpvs.model.language.writer import ShowAddress

UPDATE_INTERVAL = 1.0
"""Seconds between two updates."""

ALL_NODES_INTERVAL = 2.0
"""Seconds between two updates of the counters of all nodes, each of which costs some writes of etcd."""

_ENTER = "\x1b[?1049h\x1b[?25l"  # alternate screen, hidden cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"


@implementer(IReadDescriptor)
class Keyboard(FileDescriptor):
    """Reads keys. view: what they choose. has_quit: the user has pressed a key to quit, or the terminal is gone.
    on_change: called then, and after each key."""

    def __init__(self, reactor: Any, descriptor: int, view: TopView) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor
        self._view = view
        self.has_quit = False
        self.on_change: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        try:
            keys = os.read(self._descriptor, 64)
        except OSError:
            keys = b""
        self._view.press(keys)
        if not keys or self._view.has_quit:
            self.quit()
        else:
            self.on_change()

    def quit(self) -> None:
        """Stop reading, and call `on_change` once."""
        self.stopReading()  # type: ignore[no-untyped-call]
        if not self.has_quit:
            self.has_quit = True
            self.on_change()

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
    view = TopView()
    keyboard = Keyboard(reactor, stdin, view)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: reactor.callFromThread(keyboard.quit))
    signal.signal(signal.SIGWINCH, lambda *_: reactor.callFromThread(keyboard.on_change))
    try:
        termios.tcsetattr(stdin, termios.TCSADRAIN, raw)
        _write(stdout, _ENTER)
        keyboard.startReading()  # type: ignore[no-untyped-call]
        before, now, seconds, at = None, await read(), 0.0, time.monotonic()
        while not keyboard.has_quit:
            lines = layout_screen(before, now, seconds, os.get_terminal_size(stdout), show, in_colour, view)
            _write(stdout, _overwrite(lines))
            await _pause(
                reactor, keyboard, max(at + interval - time.monotonic(), 0) if not view.is_paused else interval
            )
            if not (keyboard.has_quit or view.is_paused or time.monotonic() < at + interval):
                before, now = now, await read()
                seconds, at = time.monotonic() - at, time.monotonic()
    finally:
        keyboard.stopReading()  # type: ignore[no-untyped-call]
        _write(stdout, _LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(stdin, termios.TCSADRAIN, saved)


def _overwrite(lines: Sequence[str]) -> str:
    """Return the output that writes each line over the one on the screen, so that nothing flickers."""
    return "\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J"


async def _pause(reactor: Any, keyboard: Keyboard, seconds: float) -> None:
    """Wait, at most until the user presses a key or the size of the terminal changes."""
    done: Deferred[None] = Deferred()
    call = reactor.callLater(seconds, done.callback, None)

    def wake() -> None:
        if call.active():
            call.cancel()
            done.callback(None)

    keyboard.on_change = wake
    await done


def _write(output: int, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # the terminal is gone; the keyboard notices it
        while data:
            data = data[os.write(output, data) :]
