"""A command that Twisted's reactor carries to the daemon: those over TLS, and --top, which reads keys meanwhile."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from ktcpvs.control.switch_base import SwitchBase
from ktcpvs.control.tcpvsadm.asking import Asking
from ktcpvs.control.tcpvsadm.invocation import Invocation
from ktcpvs.control.tcpvsadm.session_io import SessionIO, TimeIsUp
from ktcpvs.control.twisted_client import connect

reactor: Any = installed


def run(control: str | None, begin: Callable[[SessionIO], Coroutine[Any, Any, Any]]) -> Any:
    """Run the reactor until `begin(...)` is done, and return its result. control: as in `session.run_command`."""
    results: list[Any] = []

    def connect_again() -> Awaitable[SwitchBase]:
        return connect(reactor, control)

    io = SessionIO(
        connect=connect_again,
        sleep=lambda seconds: deferLater(reactor, seconds),
        within=_within,
        show_top=partial(_show_top, connect_again),
    )

    def start() -> None:
        session = Deferred.fromCoroutine(begin(io))
        session.addBoth(results.append).addBoth(lambda _: reactor.stop())

    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    reactor.callWhenRunning(start)
    reactor.run(installSignalHandlers=False)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    try:
        await Deferred.fromCoroutine(work).addTimeout(seconds, reactor)
    except TimeoutError:
        raise TimeIsUp from None


async def _show_top(connect_again: Callable[[], Awaitable[SwitchBase]], switch: SwitchBase, given: Invocation) -> None:
    from ktcpvs.control.tcpvsadm import addresses, colours, terminal

    show = addresses.with_numeric_host if "numeric" in given.values else addresses.with_port_name
    in_colour = colours.should_colour(sys.stdout, os.environ)
    all_nodes = "all-nodes" in given.values
    ident, ask = given.values.get("ident"), Asking(connect_again, switch)

    def read() -> Coroutine[Any, Any, dict[str, Any]]:
        return ask(lambda one: one.cluster_stats(ident) if all_nodes else one.stats(ident))

    interval = terminal.ALL_NODES_INTERVAL if all_nodes else terminal.UPDATE_INTERVAL
    try:
        await terminal.show_top(reactor, read, interval, show, in_colour)
    finally:
        ask.close()
