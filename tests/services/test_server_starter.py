"""Servers on demand at the end of the switch: real programs, a simulated clock, and servers that never accept."""

from __future__ import annotations

import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from memory import log_into
from servers import wait_for
from twisted.internet.defer import Deferred, fail, succeed
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


def turn_until(reactor: Any, condition: Callable[[], object], lines: list[str]) -> None:
    """Let the reactor read what comes until that is so. lines: of the log, for the error."""

    def turn() -> object:
        for reader in select.select(reactor.getReaders(), (), (), 0)[0]:
            if reader in reactor.getReaders():  # the end of a program removes two
                reader.doRead()
        return condition()

    wait_for(turn, lambda: "\n".join(lines))


def write_program(folder: Path, text: str) -> None:
    program = folder / "web"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("ending", ["exec sleep 1000", "exit 1"])
def test_a_stop_fails_who_waits_and_starts_nothing_again(tmp_path: Path, ending: str) -> None:
    """While the program runs, and between two of its starts."""
    write_program(tmp_path, ending)
    reactor: Any = MemoryReactorClock()
    lines: list[str] = []
    starter = ServerStarter(Context(reactor, log_into(lines)), tmp_path)
    starter.begin()
    starter.follow([(ADDRESS, Started())])

    failures: list[str] = []
    starter.want(ADDRESS).addErrback(lambda why: failures.append(why.getErrorMessage()))
    if ending == "exit 1":
        turn_until(reactor, lambda: "has ended: status 1" in "".join(lines), lines)
    stopped: list[None] = []
    starter.stop().addCallback(stopped.append)
    assert failures == ["An error occurred while connecting: the switch stops."]
    turn_until(reactor, lambda: stopped, lines)
    reactor.pump([0.1] * 100)
    assert not reactor.getReaders()
    assert "".join(lines).count("is started") == 1


def test_each_start_that_fails_has_its_own_reason(tmp_path: Path) -> None:
    """The reason was made longer with each of them."""
    write_program(tmp_path, "exec sleep 1000")
    reactor: Any = MemoryReactorClock()
    lines: list[str] = []
    starter = ServerStarter(Context(reactor, log_into(lines)), tmp_path)
    starter.begin()
    starter.follow([(ADDRESS, Started())])
    failures: list[str] = []
    for count in range(1, 4):
        starter.want(ADDRESS).addErrback(lambda why: failures.append(why.getErrorMessage()))
        reactor.pump([0.1] * 310)
        turn_until(reactor, lambda: "".join(lines).count("has ended") == count, lines)  # noqa: B023
        reactor.advance(60)
    assert len(set(failures)) == 1, failures
    starter.stop()


def test_a_server_that_ran_before_is_forgotten_when_it_leaves_the_table(tmp_path: Path) -> None:
    """As those that a daemon has started from which this one has taken over."""
    reactor: Any = MemoryReactorClock()
    context = Context(reactor, log_into([]))
    context.start()
    starter = ServerStarter(context, tmp_path)
    starter.begin()
    started = Started()
    started.probe = lambda: succeed(None)  # type: ignore[method-assign]
    starter.follow([(ADDRESS, started)])
    wanted: list[None] = []
    starter.want(ADDRESS).addCallback(wanted.append)
    assert wanted == [None]
    starter.follow([])
    reactor.pump([1.0] * 3)
    failures: list[str] = []
    starter.want(ADDRESS).addErrback(lambda why: failures.append(why.getErrorMessage()))
    assert failures == ["An error occurred while connecting: it is not started any more."]
