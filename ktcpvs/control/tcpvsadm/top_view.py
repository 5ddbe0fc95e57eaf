"""The choices of a user of --top: the part that is shown, a filter, the order, a pause."""

from __future__ import annotations

import re

from attrs import define

UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "up", "down", "page up", "page down", "home", "end"
ESCAPE = "\x1b"

_SEQUENCES = {
    "[A": UP, "OA": UP, "k": UP,
    "[B": DOWN, "OB": DOWN, "j": DOWN,
    "[5~": PAGE_UP, "[6~": PAGE_DOWN,
    "[H": HOME, "OH": HOME, "[1~": HOME,
    "[F": END, "OF": END, "[4~": END,
}  # fmt: skip
"""The bytes that a terminal sends behind an escape, and letters as in less -> the key."""

_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])|.", re.DOTALL)
_QUITS_ALWAYS = ("\x03", "\x04")
"""Ctrl-C and Ctrl-D."""

_MAX_FILTER_LENGTH = 100

KEYS = (
    ("arrows, PgUp, PgDn", "scroll"),
    ("/", "show only services and servers with this text; Enter keeps it, Esc ends it"),
    ("s", "order: trouble first, or as in the table"),
    ("space", "pause"),
    ("h", "this help"),
    ("q", "quit"),
)
"""Keys and what they do, for the help."""


@define
class TopView:
    """The state of --top that keys change. offset: the number of lines above those that are shown. page: the lines of a
    page, which the screen sets. filter: "": everything is shown. is_typing: keys are text of the filter. is_paused: no
    new figures. has_trouble_first: or the order of the table. has_help: the help is shown instead. has_quit: the user
    has pressed a key to quit."""

    offset: int = 0
    page: int = 10
    filter: str = ""
    is_typing: bool = False
    is_paused: bool = False
    has_trouble_first: bool = True
    has_help: bool = False
    has_quit: bool = False

    def press(self, data: bytes) -> None:
        """Handle what the terminal has sent: one key or several."""
        for found in _KEY.finditer(data.decode("utf-8", "ignore")):
            key = found[0]
            if key in _QUITS_ALWAYS:
                self.has_quit = True
            elif self.is_typing:
                self._type(key)
            else:
                self._command(_SEQUENCES.get(key.removeprefix(ESCAPE), key))

    def _type(self, key: str) -> None:
        if key in ("\r", "\n"):
            self.is_typing = False
        elif key == ESCAPE:
            self.is_typing, self.filter = False, ""
        elif key in ("\x7f", "\x08"):
            self.filter = self.filter[:-1]
        elif key.isprintable() and len(self.filter) < _MAX_FILTER_LENGTH:
            self.filter += key
        self.offset = 0

    def _command(self, key: str) -> None:
        moves = {UP: -1, DOWN: 1, PAGE_UP: -self.page, PAGE_DOWN: self.page, HOME: -self.offset, END: 1_000_000_000}
        if key in moves:
            self.offset = max(self.offset + moves[key], 0)
        elif key == "/":
            self.is_typing, self.filter, self.offset = True, "", 0
        elif key == ESCAPE:
            self.filter, self.has_help = "", False
        elif key == " ":
            self.is_paused = not self.is_paused
        elif key in ("s", "S"):
            self.has_trouble_first, self.offset = not self.has_trouble_first, 0
        elif key in ("h", "?"):
            self.has_help = not self.has_help
        elif key in ("q", "Q"):
            self.has_quit = True

    @property
    def note(self) -> str:
        """Describe the choices for the title; "": nothing was chosen."""
        parts = [f"/{self.filter}_" if self.is_typing else f"/{self.filter}"] if self.filter or self.is_typing else []
        if self.is_paused:
            parts.append("paused")
        if not self.has_trouble_first:
            parts.append("order of the table")
        return f"[{', '.join(parts)}] " if parts else ""
