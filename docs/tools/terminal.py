"""A recorder of terminals: runs commands in bash behind a pseudo-terminal, and draws the screen as an SVG.

A still picture is the screen at the end. A moving one shows the commands being typed; it is animated with CSS, and
stands still where the reader prefers less motion. Times in it are made up, so the same screens give the same picture.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping
from xml.sax.saxutils import escape

import pyte
from attrs import define, field, frozen

TYPING_STEP = 3
"""Characters of a command that appear at once in a moving picture."""
TYPING_TIME = 0.12
"""Seconds between such steps in a moving picture."""
OUTPUT_TIME = 0.35
"""Seconds between a command and its output in a moving picture."""
TIMEOUT = 60
"""Seconds within which a command must end."""

_PROMPT = b"\x1b]133;A\x07"
"""An escape sequence that terminals do not show: the prompt begins."""

CELL_WIDTH, CELL_HEIGHT, FONT_SIZE = 8.4, 20, 14
MARGIN, TITLE_HEIGHT = 16, 34
BUTTONS = ("#ff5f56", "#ffbd2e", "#27c93f")
"""Colours of the three dots above the screen."""

COLOURS = {"green": "#3fb950", "red": "#ff7b72", "brown": "#d29922", "blue": "#58a6ff", "cyan": "#39c5cf"}
"""Colours of the terminal -> of the picture; text of other colours is drawn in white."""


class CommandFailed(Exception):
    """A command of a recording failed or did not end."""


@frozen
class Run:
    """Neighbouring cells of one row with the same look."""

    column: int
    text: str
    colour: str
    bold: bool


Row = tuple[Run, ...]


@define
class Recording:
    """The screens of a recording: (seconds since the beginning, rows)."""

    columns: int
    rows: int
    frames: list[tuple[float, tuple[Row, ...]]] = field(factory=list)
    end: float = 0.0

    def add(self, screen: tuple[Row, ...], duration: float) -> None:
        """Show this screen for so many seconds."""
        self.frames.append((self.end, screen))
        self.end += duration


class Terminal:
    """bash in a pseudo-terminal of that size.

    environment: variables of bash. shown: text on the screen -> text of the same length in the picture.
    """

    def __init__(self, columns: int, rows: int, environment: Mapping[str, str], shown: Mapping[str, str]) -> None:
        self.recording = Recording(columns, rows)
        self._shown = dict(shown)
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._pid, self._pty = pty.fork()
        if self._pid == 0:
            prompt = r"\[\e]133;A\a\e[32m\]$\[\e[0;1m\] "
            variables = {**environment, "PS1": prompt, "PS0": r"\e[0m", "TERM": "xterm-256color", "HISTFILE": ""}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "+m"], variables)
        fcntl.ioctl(self._pty, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._read_until_prompt()
        self._type("bind 'set enable-bracketed-paste off'; PS2='> '; clear")

    def run(self, command: str, pause: float = 1.0, fails: bool = False) -> None:
        """Type a command and wait for the next prompt.

        pause: seconds for which a moving picture shows the output. fails: it may fail. Raises CommandFailed.
        """
        for begin in range(0, len(command), TYPING_STEP):
            end = begin + TYPING_STEP
            self._write(command[begin:end])
            self._read_until_shown(f"$ {command[:end]}")
            self.recording.add(self._rows(), TYPING_TIME if end < len(command) else OUTPUT_TIME)
        self._type("")
        self.recording.add(self._rows(), pause)
        if not fails and "bash: " in "".join(self._screen.display):
            raise CommandFailed("\n".join(self._screen.display))

    def close(self) -> None:
        """End bash."""
        os.kill(self._pid, signal.SIGHUP)
        os.close(self._pty)
        os.waitpid(self._pid, 0)

    def _type(self, text: str) -> None:
        self._write(f"{text}\n")
        self._read_until_prompt()

    def _write(self, text: str) -> None:
        os.write(self._pty, text.encode())

    def _read(self, timeout: float) -> bytes:
        ready, _, _ = select.select([self._pty], [], [], timeout)
        data = os.read(self._pty, 65536) if ready else b""
        self._stream.feed(data)
        return data

    def _read_until_shown(self, text: str) -> None:
        """Read until the screen ends with this text, apart from blanks."""
        end = time.monotonic() + TIMEOUT
        while not "".join(self._screen.display).rstrip().endswith(text.rstrip()):
            self._read(0.2)
            if time.monotonic() > end:
                raise CommandFailed("\n".join(self._screen.display))

    def _read_until_prompt(self) -> None:
        end, data = time.monotonic() + TIMEOUT, b""
        while _PROMPT not in data:
            data += self._read(0.2)
            if time.monotonic() > end:
                raise CommandFailed("\n".join(self._screen.display))
        self._read_until_shown("$")

    def _rows(self) -> tuple[Row, ...]:
        return tuple(self._row(number) for number in range(self._screen.lines))

    def _row(self, number: int) -> Row:
        cells = [self._screen.buffer[number][column] for column in range(self._screen.columns)]
        text = self._translated("".join(cell.data for cell in cells))
        runs: list[Run] = []
        for column, cell in enumerate(cells):
            if runs and (runs[-1].colour, runs[-1].bold) == (cell.fg, cell.bold):
                run = runs.pop()
                runs.append(Run(run.column, run.text + text[column], cell.fg, cell.bold))
            else:
                runs.append(Run(column, text[column], cell.fg, cell.bold))
        runs = [Run(run.column, run.text.rstrip(), run.colour, run.bold) for run in runs]
        return tuple(run for run in runs if run.text)

    def _translated(self, text: str) -> str:
        """A row as it is shown, also where a text is typed only in part."""
        for real, shown in self._shown.items():
            text = text.replace(real, shown)
            for size in range(len(real) - 1, 0, -1):
                text = re.sub(rf"(:){real[:size]}(?= *$)", rf"\g<1>{shown[:size]}", text)
        return text


# Drawing.

_FONT = f"{FONT_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def _run(run: Run, row: int) -> str:
    text = run.text.lstrip()
    x = MARGIN + (run.column + len(run.text) - len(text)) * CELL_WIDTH
    y = TITLE_HEIGHT + (row + 0.75) * CELL_HEIGHT
    look = " ".join([*([run.colour] if run.colour in COLOURS else []), *(["bold"] if run.bold else [])])
    look = f' class="{look}"' if look else ""
    return f'<text x="{x:.1f}" y="{y:.0f}" textLength="{len(text) * CELL_WIDTH:.1f}"{look}>{escape(text)}</text>'


def _row(row: Row, number: int) -> str:
    return "".join(_run(run, number) for run in row if run.text.strip())


def _picture(title: str, columns: int, rows: int, style: list[str], body: list[str]) -> str:
    width, height = columns * CELL_WIDTH + 2 * MARGIN, TITLE_HEIGHT + rows * CELL_HEIGHT + MARGIN
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
            f"<title>{escape(title)}</title>",
            "<style>",
            f"text {{ font: {_FONT}; fill: #e6edf3; white-space: pre; }}",
            ".bold { font-weight: 600; }",
            *(f".{name} {{ fill: {colour}; }}" for name, colour in COLOURS.items()),
            *style,
            "</style>",
            f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#0d1117"/>',
            *(f'<circle cx="{22 + 20 * n}" cy="17" r="6" fill="{c}"/>' for n, c in enumerate(BUTTONS)),
            *body,
            "</svg>",
            "",
        ]
    )


def _is_empty(row: Row) -> bool:
    return "".join(run.text for run in row).strip() in ("", "$")


def still(title: str, recording: Recording) -> str:
    """The last screen as an SVG, without what is empty at its end."""
    rows = list(recording.frames[-1][1])
    while rows and _is_empty(rows[-1]):
        rows.pop()
    return _picture(title, recording.columns, len(rows), [], [_row(row, number) for number, row in enumerate(rows)])


def moving(title: str, recording: Recording) -> str:
    """All screens as an animated SVG, which begins again at its end."""
    style = [f"g {{ opacity: 0; animation: {recording.end:.2f}s step-end infinite; }}"]
    body: list[str] = []
    for number in range(recording.rows):
        begun = 0.0
        shown: Row = ()
        steps = [(moment, screen[number]) for moment, screen in recording.frames]
        for moment, row in [*steps, (recording.end, ())]:
            if row == shown and moment < recording.end:
                continue
            if shown:
                name, begin, end = f"s{len(body)}", begun / recording.end, moment / recording.end
                first = "1" if begin == 0 else "0"
                keys = f"0% {{ opacity: {first}; }} {begin:.3%} {{ opacity: 1; }}"
                if moment < recording.end:
                    keys += f" {end:.3%} {{ opacity: 0; }}"
                style.append(f"@keyframes {name} {{ {keys} }}")
                last = ' class="last"' if moment == recording.end else ""
                body.append(f'<g{last} style="animation-name: {name}">{_row(shown, number)}</g>')
            begun, shown = moment, row
    style += ["@media (prefers-reduced-motion) { g { animation: none; } .last { opacity: 1; } }"]
    return _picture(title, recording.columns, recording.rows, style, body)
