"""A worker accepts commands to all workers at any time, even before its Begin."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tls_peers import authority
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.errors import Busy
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model.challenges import HTTP_01
from ktcpvs.model.edits import AddService
from ktcpvs.model.language.parser import parse
from ktcpvs.model.tls_files import CERTIFICATE, TLSFile
from ktcpvs.system.log import EventLog
from ktcpvs.system.shared import SharedTable
from ktcpvs.system.tls_files import OwnAccess, encode
from ktcpvs.version import __version__
from ktcpvs.workers.worker import SupervisorLink, Worker

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


def test_a_worker_uses_new_versions_of_certificates(worker: Worker) -> None:
    """The supervisor passes the files, so the worker needs no right to read them."""
    worker.begin(KEY, SharedTable(2), 0, True)
    link = SupervisorLink(worker, EventLog())
    file = TLSFile(CERTIFICATE, "/nowhere/site.pem")

    def passes(*hosts: str) -> None:
        contents = OwnAccess().read(TLSFile(CERTIFICATE, str(authority().daemon("passed", *hosts))))
        data = json.dumps(encode(contents)).encode()
        link.pass_file(file.use, file.path, data[:500], True, False)
        link.pass_file(file.use, file.path, data[500:], False, True)

    passes("a.example")
    link.use_tickets(b"1" * 32, b"")
    load = parse("Virtual s {\nlisten = 127.0.0.1:1 tls\ncertificate = /nowhere/site.pem\n}")
    tls = worker.profiles.choice(load.services["s"], EACH_REQUEST)
    assert tls.store.certificates[0].names == ("a.example",)
    passes("b.example")
    assert tls.store.certificates[0].names == ("b.example",)
    before = tls.tickets.current
    link.use_tickets(b"2" * 32, b"1" * 32)
    assert tls.tickets.find(before.name) == before
    assert tls.tickets.current != before
    link.drop_file(file.use, file.path)
    passes("c.example")
    assert tls.store.certificates[0].names == ("b.example",), "the file is a new one, for other services"


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_worker_accepts_when_it_was_told_before_it_begins(worker: Worker, comes_first: bool) -> None:
    if comes_first:
        worker.start_accepting()
    worker.begin(KEY, SharedTable(2), 0, False)
    assert worker.director.context.is_accepting is comes_first
    worker.start_accepting()
    assert worker.director.context.is_accepting


def test_a_worker_answers_the_challenges_of_all_pages(worker: Worker) -> None:
    worker.begin(KEY, SharedTable(2), 0, True)
    link = SupervisorLink(worker, EventLog())
    one, two = ({"kind": HTTP_01, "name": "a", "token": token, "key_authorization": f"{token}.k"} for token in "12")

    def answered() -> list[str]:
        return [challenge.token for challenge in worker.director.context.challenges.challenges]

    link.use_challenges([one], True, False)
    assert answered() == []
    link.use_challenges([two], False, True)
    assert answered() == ["1", "2"]
    link.use_challenges([two], True, True)
    assert answered() == ["2"]
    worker.hand_over([])
    link.use_challenges([one], True, True).addErrback(pytest.fail)
    assert answered() == ["2"]


def test_a_worker_of_another_version_says_what_to_do() -> None:
    """Its program is on the disk, and may be newer than the supervisor that runs."""
    ours, its = socket.socketpair()
    command = [sys.executable, "-P", "-m", "ktcpvs.workers", "default", "0.0"]
    with ours, its:
        begin = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"
        words = [sys.executable, "-c", begin, str(its.fileno()), *command]
        path = ":".join(part or os.getcwd() for part in sys.path)
        worker = subprocess.Popen(
            words, pass_fds=[its.fileno()], stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, text=True
        )
        its.close()
        ours.close()  # so it ends
        said = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0
    assert f"this worker is of ktcpvs {__version__}, and its daemon of 0.0: upgrade in place, by kill -USR2 " in said
    assert said.count("this worker is of") == 1
    assert str(os.getpid()) in said
