"""Long work beside the reactor: in a thread, which takes turns with it every few milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from twisted.internet.threads import deferToThread

T = TypeVar("T")


async def run_beside(work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises; it must touch nothing that changes meanwhile.

    While the reactor does not run, as at the start, nobody waits for it: then the work is done at once.
    """
    from twisted.internet import reactor  # installed by now

    if not cast(Any, reactor).running:
        return work()
    result: T = await deferToThread(work)
    return result
