"""An error that ends a benchmark: figures are worth nothing when something was wrong, so nothing is passed over."""

from __future__ import annotations


class Failure(Exception):
    """A peer is missing, an answer is wrong, or a program ended. The text says which, and what can be done."""
