"""Two servers drawn at random, of which a scheduler takes the better one."""

from __future__ import annotations

from collections.abc import Container
from random import Random
from sys import byteorder

from ktcpvs.interfaces import Choice, Destination
from ktcpvs.schedulers.choices import usable
from ktcpvs.schedulers.hashing import mixed

MAX_DRAWS = 4
"""The most draws of quiesced or tried servers; after these, two are drawn from a list of the usable ones."""

GAMMA = 0x9E3779B97F4A7C15
"""The number that splitmix64 adds to its state at each draw."""


def new_state(draw: Random) -> bytearray:
    """Return a state for L{draw_two}: 8 bytes, from a source of randomness. It is changed in place, so that a choice
    makes no number for it."""
    return bytearray(draw.getrandbits(64).to_bytes(8, byteorder))


def draw_two(choices: tuple[Choice, ...], tried: Container[Destination], state: bytearray) -> tuple[Choice, ...]:
    """Return two different choices whose servers have a weight and have not been tried, each pair and each order of it
    as likely as any: schedulers take the first one of two that are equal. Returns all of them if there are fewer.
    state: from `new_state`. `schedulers/_balance.c` does the same."""
    for _ in range(MAX_DRAWS):
        if len(choices) < 2:
            break
        two = _two_of(choices, state)
        if len(tuple(usable(two, tried))) == 2:
            return two
    left = tuple(usable(choices, tried))
    return left if len(left) < 2 else _two_of(left, state)


def _two_of(choices: tuple[Choice, ...], state: bytearray) -> tuple[Choice, Choice]:
    others = len(choices) - 1
    first, second = divmod(_next_number(state) * len(choices) * others >> 64, others)  # one random number for both
    return choices[first], choices[second + (second >= first)]


def _next_number(state: bytearray) -> int:
    """Return the next 64 random bits, of splitmix64."""
    number = (int.from_bytes(state, byteorder) + GAMMA) & (1 << 64) - 1
    state[:] = number.to_bytes(8, byteorder)
    return mixed(number)
