"""The limits of HTTP/2 connections, from the settings."""

from __future__ import annotations

from ktcpvs.model.settings import Settings
from ktcpvs.protocols.http2 import Limits


def http2_limits(settings: Settings, streams: int) -> Limits:
    """Return the limits of a connection to a client or to a server. streams: the most at once."""
    return Limits(
        max_concurrent_streams=streams,
        stream_window=settings.http2_stream_window << 10,
        connection_window=settings.http2_window << 10,
        max_glitches=settings.http2_glitches,
    )
