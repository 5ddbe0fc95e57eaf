"""Checking a configuration without a daemon (tcpvsadm --check)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table
from ktcpvs.runtime.context import Context
from ktcpvs.services.director import Director
from ktcpvs.services.running import RunningService
from ktcpvs.system.log import EventLog
from ktcpvs.system.names import service_port


def check_configuration(text: str, source: str, allow_empty: bool) -> Sequence[str]:
    """Read a configuration, bind the schedulers of each service, and run its tests.

    source: the name of the text in messages. allow_empty: as for `parse`. Returns warnings about settings without
    effect, one per line. Runs the reactor, so it can be called once in a process. Raises a Refusal, as a
    daemon would.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    results: list[Any] = []

    async def check() -> Sequence[str]:
        edit = parse(text, source, service_port, allow_empty=allow_empty)
        table = edit.apply(Table())
        context = Context(reactor, EventLog())
        director = Director(context)
        for service in table:
            await director.bind(RunningService(context, service), service, table.settings, is_dry_run=True)
            await director.run_tests(service, table.settings)
        return director.warnings(edit, table)

    def begin() -> None:
        Deferred.fromCoroutine(check()).addBoth(results.append).addBoth(lambda _: reactor.stop())

    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    warnings: Sequence[str] = result
    return warnings
