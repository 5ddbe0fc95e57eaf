"""Exclude the collected tests from garbage collection.

There are thousands of them and they live to the end of the process. Searching them would slow down the collection of
tests, and each later gc.collect(), which many tests call.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.collect()
    gc.freeze()
    gc.enable()
