"""The terminal of --top: a screen of its own, keys one by one, and all as it was before at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from ktcpvs.control.client import Switch
from ktcpvs.control.tcpvsadm.top import screen
from ktcpvs.model.language.writer import ShowAddress

EVERY = 1.0
"""Seconds between two looks."""

_KEYS_OF_END = (b"q", b"Q", b"\x03", b"\x04")
"""q, Ctrl-C, Ctrl-D."""

_ENTER = "\x1b[?1049h\x1b[?25l"  # another screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"


@implementer(IReadDescriptor)
class Keys(FileDescriptor):
    """is_over: the user wants to end. told: called then."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor
        self.is_over = False
        self.told: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> None:
        try:
            keys = os.read(self._descriptor, 64)
        except OSError:
            keys = b""
        if not keys or any(key in keys for key in _KEYS_OF_END):
            self.end()

    def end(self) -> None:
        """It is over."""
        self.stopReading()  # type: ignore[no-untyped-call]
        if not self.is_over:
            self.is_over = True
            self.told()

    def connectionLost(self, reason: Any) -> None:
        self.end()


async def watch(reactor: Any, switch: Switch, ident: str | None, show: ShowAddress, in_colour: bool) -> None:
    """Show the counters, every EVERY seconds anew, until the user wants to end."""
    keyboard, output = sys.stdin.fileno(), sys.stdout.fileno()
    saved = termios.tcgetattr(keyboard)
    raw = termios.tcgetattr(keyboard)
    raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    keys = Keys(reactor, keyboard)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: reactor.callFromThread(keys.end))
    try:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, raw)
        _write(output, _ENTER)
        keys.startReading()  # type: ignore[no-untyped-call]
        before, began = None, 0.0
        while not keys.is_over:
            now, at = await switch.stats(ident), time.monotonic()
            columns, rows = os.get_terminal_size(output)
            lines = screen(before, now, at - began, (columns, rows), show, in_colour)
            _write(output, _drawn(lines))
            before, began = now, at
            await _pause(reactor, keys)
    finally:
        keys.stopReading()  # type: ignore[no-untyped-call]
        _write(output, _LEAVE)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(keyboard, termios.TCSADRAIN, saved)


def _drawn(lines: Sequence[str]) -> str:
    """Each line over the one before, so that nothing flickers."""
    return "\x1b[H" + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J"


async def _pause(reactor: Any, keys: Keys) -> None:
    """EVERY seconds, or until the user wants to end."""
    over: Deferred[None] = Deferred()
    call = reactor.callLater(EVERY, over.callback, None)

    def wake() -> None:
        if call.active():
            call.cancel()
            over.callback(None)

    keys.told = wake
    await over


def _write(output: int, text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # the terminal is gone; its end is told by the keys
        while data:
            data = data[os.write(output, data) :]
