"""Counts frames that cause work without asking for anything, and ends connections that send too many of them."""

from __future__ import annotations

from ktcpvs.protocols.http2.constants import ENHANCE_YOUR_CALM
from ktcpvs.protocols.http2.errors import HTTP2ConnectionError
from ktcpvs.protocols.http2.limits import Limits

(
    RESETS, STREAM_ERRORS, SETTINGS_FRAMES, PINGS, PRIORITIES, WINDOW_UPDATES, EMPTY_FRAMES, SMALL_WINDOWS,
    UNKNOWN_FRAMES,
) = range(9)  # fmt: skip

_KINDS = (
    ("max_resets", "resets of unfinished streams", 0),
    ("max_stream_errors", "stream errors", 0),
    ("max_settings", "SETTINGS frames", 0),
    ("max_pings", "PING frames", 1),
    ("max_priorities", "priority frames", 2),
    ("max_window_updates", "WINDOW_UPDATE frames", 2),
    ("max_empty_frames", "empty frames", 0),
    ("max_small_windows", "pieces of bodies through tiny windows", 0),
    ("max_unknown_frames", "frames of unknown types", 0),
)
"""For each kind: its limit, its name, and how many more each useful frame allows."""


class FloodGuard:
    """The counts of one connection in the current interval.

    useful: streams that the peer has opened and pieces of bodies that we have sent to it, in this interval. glitches:
    frames since the connection began that asked for nothing and that no useful one allowed, for metrics.
    """

    __slots__ = ("_began", "_counts", "_limits", "_recent", "glitches", "useful")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._began = 0
        self._counts: list[int] | None = None  # None: nothing was counted in this interval
        self._recent = 0  # glitches in this interval
        self.useful = 0
        self.glitches = 0

    def count(self, kind: int, now: int) -> None:
        """Count one frame. now: seconds of any clock that does not go back. Raises HTTP2ConnectionError."""
        counts = self._counts
        if counts is None or now - self._began >= self._limits.interval:
            self._counts = counts = [0] * len(_KINDS)
            self._began = now
            self.useful = self._recent = 0
        counts[kind] += 1
        option, name, bonus = _KINDS[kind]
        most: int = getattr(self._limits, option)
        excess = counts[kind] - bonus * self.useful
        if excess <= 0:
            return
        self.glitches += 1
        self._recent += 1
        limits = self._limits
        if excess > most:
            raise HTTP2ConnectionError(ENHANCE_YOUR_CALM, f"more than {most} {name} in {limits.interval} seconds")
        if self._recent > limits.max_glitches:
            why = f"more than {limits.max_glitches} frames that ask for nothing in {limits.interval} seconds"
            raise HTTP2ConnectionError(ENHANCE_YOUR_CALM, why)
