"""Hooks and settings for all tests: no deadlines, no collection of the collected tests, and long ones begin first."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from examples import register_profiles

register_profiles()

pytest_plugins = ["short_reports"]


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exclude the collected tests from garbage collection.

    There are thousands of them and they live to the end of the process. Searching them would slow down the collection
    of tests, and each later gc.collect(), which many tests call.
    """
    gc.disable()
    yield
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process of pytest-xdist begin with some of the tests that are marked `long`, and with whole modules of
    those that are marked `together`.

    A long test that began last would keep one core busy while the others have nothing left to do. `--dist worksteal`
    gives each process a consecutive part of the tests, of the same size.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes == 1:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    begin = [long[number::processes] for number in range(processes)]
    together: dict[str, list[pytest.Item]] = {}
    for item in others:
        if item.get_closest_marker("together"):
            together.setdefault(str(item.path), []).append(item)
    others = [item for item in others if not item.get_closest_marker("together")]
    for number, module in enumerate(together.values()):
        begin[number % processes] += module
    ordered: list[pytest.Item] = []
    for number in range(processes):
        size = (len(items) - len(ordered)) // (processes - number)
        first = begin[number]
        rest = max(size - len(first), 0)
        ordered += [*first, *others[:rest]]
        del others[:rest]
    items[:] = [*ordered, *others]
