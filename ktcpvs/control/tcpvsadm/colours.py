"""States in colour, on terminals only, unless NO_COLOR (no-color.org) or TERM=dumb is in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_COLOURS = {
    "running": 32, "up": 32, "stopped": 31, "down": 31, "no server": 31, "ejected": 33,
    "draining": 36, "standby": 36, "maintenance": 36, "unresolved": 36, "idle": 36, "starting": 36,
}  # fmt: skip
"""State -> its SGR code (ECMA-48)."""

_STATES = re.compile(
    r"^(    # |     |(?! )\S+ +)"
    r"(running|stopped|(?:up|down|ejected|draining|standby|maintenance|unresolved|idle|starting)(?= since ))(?=$| )",
    re.MULTILINE,
)
"""The states in the output of --list: in a comment, in a row of --stats, below a server."""


def should_colour(output: Any, environment: Mapping[str, str]) -> bool:
    """True where `output`, a file or None, is a terminal that may show colours."""
    plain = environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb"
    return output is not None and not plain and bool(output.isatty())


def paint(state: str, text: str | None = None) -> str:
    """Return `text` in the colour of a state; None: the name of the state."""
    colour = _COLOURS.get(state)
    text = state if text is None else text
    return text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"


def colour_states(listed: str) -> str:
    """Return the output of --list with its states in colour."""
    return _STATES.sub(lambda found: found[1] + paint(found[2]), listed)
