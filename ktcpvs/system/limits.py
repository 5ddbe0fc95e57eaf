"""What the system lets this process have."""

from __future__ import annotations

import contextlib
import gc
import resource

COLLECT_AFTER = 50_000
"""How many more objects there are than when cycles were last sought, until they are sought again."""


def calm_collector() -> None:
    """Seek cycles seldom, and never among what is there now: connections leave none behind, and a search takes longer
    than many requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 100)


def raise_descriptor_limit() -> None:
    """As many descriptors as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
