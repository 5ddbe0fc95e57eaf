"""The keywords of the configuration language."""

from __future__ import annotations

from ktcpvs.model.service import OPTIONS

TOP_KEYWORDS = ("Virtual", "global")
"""Those with which a block begins."""

TEST = "test"
"""Begins a test of a service. No `=` follows it."""

KEYWORDS = (*OPTIONS, "server", "rule", TEST)
"""Those in the block of a service."""
