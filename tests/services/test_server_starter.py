"""Servers on demand at the end of the switch: real programs, a simulated clock, and servers that never accept."""

from __future__ import annotations

import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory import log_into
from servers import wait_for
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError
from twisted.internet.testing import MemoryReactorClock

from ktcpvs.model.address import parse_address
from ktcpvs.model.settings import Settings
from ktcpvs.runtime.context import Context
from ktcpvs.services.server_starter import ServerStarter

ADDRESS = parse_address("127.0.0.1:9")


class Started:
    """A server whose program runs, and which accepts no connections."""

    program = "web"
    settings = Settings()

    def probe(self) -> Deferred[object]:
        return fail(ConnectError())

    def active(self) -> int:
        return 0

    def changed(self) -> None:
        pass


@pytest.mark.parametrize("ending", ["exec sleep 1000", "exit 1"])
def test_a_stop_fails_who_waits_and_starts_nothing_again(tmp_path: Path, ending: str) -> None:
    """While the program runs, and between two of its starts."""
    program = tmp_path / "web"
    program.write_text(f"#!/bin/sh\n{ending}\n")
    program.chmod(0o755)
    reactor: Any = MemoryReactorClock()
    lines: list[str] = []
    starter = ServerStarter(Context(reactor, log_into(lines)), tmp_path)
    starter.begin()
    starter.follow([(ADDRESS, Started())])

    def turn_until(condition: Callable[[], object]) -> None:
        def turn() -> object:
            for reader in select.select(reactor.getReaders(), (), (), 0)[0]:
                if reader in reactor.getReaders():  # the end of a program removes two
                    reader.doRead()
            return condition()

        wait_for(turn, "\n".join(lines))

    failures: list[str] = []
    starter.want(ADDRESS).addErrback(lambda why: failures.append(why.getErrorMessage()))
    if ending == "exit 1":
        turn_until(lambda: "has ended: status 1" in "".join(lines))
    stopped: list[None] = []
    starter.stop().addCallback(stopped.append)
    assert failures == ["An error occurred while connecting: the switch stops."]
    turn_until(lambda: stopped)
    reactor.pump([0.1] * 100)
    assert not reactor.getReaders()
    assert "".join(lines).count("is started") == 1
