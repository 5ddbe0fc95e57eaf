"""The scheduler of tcpvsadm --new-scheduler chooses as wlc does, as docs/schedulers.md says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.interfaces import Request
from ktcpvs.new_scheduler import new_scheduler
from ktcpvs.schedulers.wlc import WLC
from ktcpvs.testing import check_scheduler, service_of


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module of a package that it has written."""
    folder = tmp_path_factory.mktemp("new-scheduler") / "package"
    new_scheduler("plain", str(folder))
    return loaded(folder / "ktcpvs_plain" / "__init__.py")


def loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ktcpvs_plain", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_keeps_the_contract(written: ModuleType) -> None:
    check_scheduler(written.PlainScheduler())


@examples(200)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.lists(st.tuples(st.sets(st.integers(0, 5)), st.integers(0, 5), st.integers(0, 2), st.booleans()), max_size=30),
)
def test_it_chooses_as_wlc_does(
    written: ModuleType, weights: list[int], turns: list[tuple[set[int], int, int, bool]]
) -> None:
    """Turn by turn: servers that were tried, a server and the connections that it has now, and whether an edit binds
    both schedulers again."""
    service = service_of([f"10.0.0.{number}:80 {weight}" for number, weight in enumerate(weights, 1)])
    servers = service.destinations
    factory, wlc = written.PlainScheduler(), WLC()
    own, others = factory.bind(service, None), wlc.bind(service, None)
    for tried, place, connections, is_edited in turns:
        servers[place % len(servers)].active = connections
        request = Request(tried={server for number, server in enumerate(servers) if number in tried})
        choice, expected = own.choose(request), others.choose(request)
        if expected is None:
            assert choice is None
        else:
            assert choice.destination is expected.destination
        if is_edited:
            own, others = factory.bind(service, own), wlc.bind(service, others)
