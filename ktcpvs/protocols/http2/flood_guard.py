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
    ("max_resets", "resets of unfinished streams", 0, 0),
    ("max_stream_errors", "stream errors", 0, 0),
    ("max_settings", "SETTINGS frames", 0, 2),
    ("max_pings", "PING frames", 1, 0),
    ("max_priorities", "priority frames", 2, 0),
    ("max_window_updates", "WINDOW_UPDATE frames", 2, 1),
    ("max_empty_frames", "empty frames", 0, 0),
    ("max_small_windows", "pieces of bodies through tiny windows", 0, 0),
    ("max_unknown_frames", "frames of unknown types", 0, 0),
)
"""For each kind: its limit, its name, how many more each useful frame allows, and how many of a connection are no
glitches, since each peer sends them: its SETTINGS and the ACK of ours (RFC 9113, section 6.5), and the WINDOW_UPDATE by
which curl and browsers enlarge the window of the connection at its beginning."""

_EXPECTED = bytes(kind[3] for kind in _KINDS)

_MAX_CARRIED = 10
"""The most useful frames of an interval that allow frames in the next one: a peer that reads a body sends WINDOW_UPDATE
for pieces that were sent before the interval began."""


class FloodGuard:
    """The counts of one connection in the current interval.

    useful: streams that the peer has opened and pieces of bodies that we have sent to it, in this interval. glitches:
    frames since the connection began that asked for nothing, and that neither a useful one allowed nor each peer sends,
    for metrics.
    """

    __slots__ = ("_began", "_counts", "_expected", "_limits", "_recent", "glitches", "useful")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._began = 0
        self._counts: list[int] | None = None  # None: nothing was counted yet
        self._expected: bytearray | None = None  # how many of each kind are still expected; None: all
        self._recent = 0  # glitches in this interval
        self.useful = 0
        self.glitches = 0

    def count(self, kind: int, now: int) -> None:
        """Count one frame. now: seconds of any clock that does not go back. Raises HTTP2ConnectionError."""
        counts = self._counts
        if counts is None or now - self._began >= self._limits.interval:
            self._counts = counts = [0] * len(_KINDS)
            self._began = now
            self._recent = 0
            self.useful = min(self.useful, _MAX_CARRIED)
        counts[kind] += 1
        option, name, bonus, _ = _KINDS[kind]
        most: int = getattr(self._limits, option)
        excess = counts[kind] - bonus * self.useful
        if excess <= 0:
            return
        limits = self._limits
        if excess <= most and self._is_expected(kind):
            return
        self.glitches += 1
        self._recent += 1
        if excess > most:
            raise HTTP2ConnectionError(ENHANCE_YOUR_CALM, f"more than {most} {name} in {limits.interval} seconds")
        if self._recent > limits.max_glitches:
            why = f"more than {limits.max_glitches} frames that ask for nothing in {limits.interval} seconds"
            raise HTTP2ConnectionError(ENHANCE_YOUR_CALM, why)

    def _is_expected(self, kind: int) -> bool:
        """Whether each peer sends a frame of this kind, and this one has sent no more of them so far."""
        if not _EXPECTED[kind]:
            return False
        if self._expected is None:
            self._expected = bytearray(_EXPECTED)
        if not self._expected[kind]:
            return False
        self._expected[kind] -= 1
        return True
