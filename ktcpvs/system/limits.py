"""What the system lets this process have."""

from __future__ import annotations

import contextlib
import gc
import resource
from collections.abc import Iterator

COLLECT_AFTER = 50_000
"""How many more objects there are than when cycles were last sought, until they are sought again."""


def calm_collector() -> None:
    """Seek cycles seldom, and never among what is there now: connections leave none behind, and a search takes longer
    than many requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 100)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """What is imported within is not sought through for cycles, then or later: it stays, and the search would take a
    quarter of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def raise_descriptor_limit() -> None:
    """As many descriptors as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
