"""Limits of this process: descriptors, and the garbage collector."""

from __future__ import annotations

import contextlib
import gc
import resource
from collections.abc import Iterator

COLLECTION_THRESHOLD = 10_000
"""The number of new objects after which the collector runs over these, which takes some 2 ms: a large table that is
loaded has 500,000, and clients wait meanwhile."""

COLLECTIONS_OF_NEW_OBJECTS = 100
"""The number of such collections before one over all objects that have been made since the last one of that kind, which
takes some 100 ms."""


def calm_collector() -> None:
    """Run the garbage collector seldom, and never over the objects that exist now: connections leave no cycles, and one
    collection takes longer than many requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTION_THRESHOLD, COLLECTIONS_OF_NEW_OBJECTS, 100)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Exclude objects that are made within from garbage collection: imported modules stay anyway, and collections would
    take a quarter of the start-up time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def collector_paused(is_first: bool = False) -> Iterator[None]:
    """Collect no garbage while a large table is made: nearly all of its objects stay, and collections over them would
    take a tenth of the time.

    is_first: exclude these objects from later collections too, the first of which would take as long: where this
    happens once in the life of a process, so that what an edit deletes later cannot pile up.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_first:
            gc.freeze()
        if was_enabled:
            gc.enable()


def raise_descriptor_limit() -> None:
    """Raise the limit of descriptors to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
