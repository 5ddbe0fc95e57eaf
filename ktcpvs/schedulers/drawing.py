"""Two servers drawn at random, of which a scheduler takes the better one."""

from __future__ import annotations

from collections.abc import Callable, Container

from ktcpvs.interfaces import Choice, Destination
from ktcpvs.schedulers.choices import usable

MAX_DRAWS = 4
"""The most draws of quiesced or tried servers; after these, two are drawn from a list of the usable ones."""

Random = Callable[[], float]
"""Returns a random number from 0 to 1, without 1."""


def draw_two(choices: tuple[Choice, ...], tried: Container[Destination], random: Random) -> tuple[Choice, ...]:
    """Return two different choices whose servers have a weight and have not been tried, each pair and each order of it
    as likely as any: schedulers take the first one of two that are equal. Returns all of them if there are fewer.
    `schedulers/_balance.c` does the same."""
    for _ in range(MAX_DRAWS):
        if len(choices) < 2:
            break
        two = _two_of(choices, random)
        if len(tuple(usable(two, tried))) == 2:
            return two
    left = tuple(usable(choices, tried))
    return left if len(left) < 2 else _two_of(left, random)


def _two_of(choices: tuple[Choice, ...], random: Random) -> tuple[Choice, Choice]:
    others = len(choices) - 1
    first, second = divmod(int(random() * (len(choices) * others)), others)  # one random number for both
    return choices[first], choices[second + (second >= first)]
