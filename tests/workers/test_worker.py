"""A worker accepts commands to all workers at any time, even before its Begin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.errors import Busy
from ktcpvs.model.edits import AddService
from ktcpvs.system.log import EventLog
from ktcpvs.system.shared import SharedTable
from ktcpvs.workers.worker import Worker

KEY = b"k" * 32


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(MemoryReactorClock(), EventLog())  # type: ignore[arg-type]
    yield worker
    worker.director.end()
    worker.director.stop()


def test_a_worker_that_is_handed_over_before_it_begins_takes_no_edits(worker: Worker) -> None:
    worker.hand_over(["s"])
    worker.reopen_logs()
    worker.begin(KEY, SharedTable(2), 0, False)
    failures: list[BaseException] = []
    worker.submit(AddService("s", {})).addErrback(lambda why: failures.append(why.value))
    assert [type(failure) for failure in failures] == [Busy]


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_worker_accepts_when_it_was_told_before_it_begins(worker: Worker, comes_first: bool) -> None:
    if comes_first:
        worker.start_accepting()
    worker.begin(KEY, SharedTable(2), 0, False)
    assert worker.director.context.is_accepting is comes_first
    worker.start_accepting()
    assert worker.director.context.is_accepting
