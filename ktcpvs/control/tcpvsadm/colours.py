"""States in colour, on a terminal alone. NO_COLOR (no-color.org) in the environment, or TERM=dumb: none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_COLOURS = {"running": 32, "up": 32, "stopped": 31, "down": 31, "ejected": 33, "draining": 36}
"""State -> its code by ECMA-48, SGR."""

_PLACES = re.compile(
    r"^(    # |     |(?! )\S+ +)(running|stopped|(?:up|down|ejected|draining)(?= since ))(?=$| )", re.MULTILINE
)
"""Where --list says a state: in a comment, in a row of --stats, below a server."""


def wanted(output: Any, environment: Mapping[str, str]) -> bool:
    """May `output`, a file or None, be told colours?"""
    plain = environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb"
    return output is not None and not plain and bool(output.isatty())


def painted(state: str, text: str | None = None) -> str:
    """`text`, the state itself if None, in the colour of that state."""
    colour = _COLOURS.get(state)
    text = state if text is None else text
    return text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"


def coloured(listed: str) -> str:
    """What --list prints, with its states in colour."""
    return _PLACES.sub(lambda found: found[1] + painted(found[2]), listed)
