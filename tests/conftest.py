"""What holds in every test process: the thousands of collected tests stay to its end, so nobody looks for garbage in
them, neither while they are collected nor in each later collection, of which many tests ask for some.
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
