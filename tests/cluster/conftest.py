"""A real etcd, and a reactor in a thread, shared by the tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from e2e.harness import ControlThread
from etcd_server import EtcdServer

from ktcpvs.cluster.etcd import Etcd
from ktcpvs.cluster.etcd_address import EtcdAddress

_numbers = count()


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def thread() -> Iterator[ControlThread]:
    thread = ControlThread()
    yield thread
    thread.stop()


@pytest.fixture
def address(etcd_server: EtcdServer) -> EtcdAddress:
    """With a prefix of its own."""
    return EtcdAddress((etcd_server.url,), f"/test{next(_numbers)}/")


@pytest.fixture
def etcd(thread: ControlThread, address: EtcdAddress) -> Iterator[Etcd]:
    client = Etcd(thread.reactor, address)
    yield client
    thread.run(client.close)
