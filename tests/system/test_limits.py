"""Limits of the process: descriptors, and the garbage collector."""

from __future__ import annotations

import gc

import pytest

from ktcpvs.system.limits import uncollected


def test_nothing_is_sought_within_and_everything_afterwards() -> None:
    with uncollected():
        assert not gc.isenabled()
        many = [[] for _ in range(1000)]  # type: ignore[var-annotated]
    assert gc.isenabled()
    assert not any(one is many for one in gc.get_objects())


def test_an_import_that_fails_leaves_the_search_as_it_was() -> None:
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
