"""A command carried to the daemon, and its answer brought back.

The only room of tcpvsadm that imports Twisted; it is entered only when a daemon is to be called. Most of a command's
time goes into imports, so what only some commands need is imported by these.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from ktcpvs.control.client import NoAnswer, NotPermitted, NotTrusted, Switch, connect
from ktcpvs.control.tcpvsadm.options import Invocation
from ktcpvs.control.tcpvsadm.outcome import Misuse, NoDaemon
from ktcpvs.errors import BadAddress, NoSuchSetting, unknown

RATE_SECONDS = 1.0
"""Between the two looks of --rate."""

Warn = Callable[[str], object]

reactor: Any = installed


def carry_out(
    given: Invocation, control: str | None, text: str = "", source: str = "", warn: Warn = lambda line: None
) -> Any:
    """Have the daemon at `control` do what is said; None: at its default place.

    text, source: the configuration to load and its name, or networks. warn: is given each warning about an edit. The
    answer is what the daemon told, None where it had only to do something. Runs the reactor, so it can be called once
    in a process. Raises Refusal, NoDaemon, or Misuse for a `control` that is no address.
    """
    outcome: list[Any] = []

    def begin() -> None:
        talk = Deferred.fromCoroutine(_session(given, control, text, source, warn))
        talk.addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    reactor.callWhenRunning(begin)
    gc.enable()
    reactor.run(installSignalHandlers=False)
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result


async def _session(given: Invocation, control: str | None, text: str, source: str, warn: Warn) -> Any:
    try:
        switch = await connect(reactor, control)
    except BadAddress as error:
        raise Misuse(str(error)) from None
    except (NotPermitted, NotTrusted) as failure:
        raise NoDaemon(str(failure)) from None
    except NoAnswer as failure:
        raise NoDaemon(f"{failure}: start it with 'ktcpvs', or name its place with --control") from None
    name = given.command.name
    try:
        if name in _EDITS:
            drained = await _draining(switch, given) if "wait" in given.values else None
            for line in await _EDITS[name](switch, given, text, source):
                warn(line)
            return await drained() if drained is not None else None
        if name == "diff":
            return await _differences(switch, text, source)
        if name == "top":
            return await _watch(switch, given)
        return await _look(switch, given)
    except NoAnswer as failure:
        raise NoDaemon(str(failure)) from None
    finally:
        switch.close()


def _options(given: Invocation) -> dict[str, str | int]:
    """The options of a service, as the daemon names them, by letters and by words; an empty redirect is none."""
    names = ("scheduler", "balance", "listen", "port", "redirect", "maxclients")
    options: dict[str, str | int] = {name: given.values[name] for name in names if name in given.values}
    options |= given.named()
    if options.get("redirect") == "none":
        options["redirect"] = ""
    return options


def _number(given: Invocation, name: str) -> int | None:
    return int(given.values[name]) if name in given.values else None


def _numbers(given: Invocation) -> tuple[int | None, int | None]:
    return _number(given, "weight"), _number(given, "maxconn")


def _server(given: Invocation) -> tuple[str, str]:
    return given.values["ident"], given.values["real-server"]


def _loading(given: Invocation) -> dict[str, Any]:
    """How a configuration is loaded."""
    return {
        "confirm": _number(given, "confirm"),
        "start": "new" if "start" in given.values else None,
        "allow_empty": "allow-empty" in given.values,
    }


def _rule(given: Invocation) -> tuple[str, str, str]:
    return given.values["ident"], given.values["pattern"], given.values["real-server"]


Edit = Callable[[Switch, Invocation, str, str], Coroutine[Any, Any, list[str]]]
"""(switch, command line, text, source) -> the warnings about the edit. text, source: as for `carry_out`."""

_EDITS: dict[str, Edit] = {
    "add-service": lambda switch, given, *_: switch.add_service(given.values["ident"], **_options(given)),
    "edit-service": lambda switch, given, *_: switch.edit_service(given.values["ident"], **_options(given)),
    "delete-service": lambda switch, given, *_: switch.delete_service(given.values["ident"]),
    "flush": lambda switch, *_: switch.flush(),
    "add-server": lambda switch, given, *_: switch.add_server(*_server(given), *_numbers(given)),
    "edit-server": lambda switch, given, *_: switch.edit_server(*_server(given), *_numbers(given)),
    "delete-server": lambda switch, given, *_: switch.delete_server(*_server(given)),
    "add-rule": lambda switch, given, *_: switch.add_rule(*_rule(given), _number(given, "match")),
    "del-rule": lambda switch, given, *_: switch.delete_rule(*_rule(given)),
    "allow": lambda switch, given, text, _: switch.allow(given.values["ident"], text, "only" in given.values),
    "deny": lambda switch, given, text, _: switch.deny(given.values["ident"], text, "only" in given.values),
    "del-network": lambda switch, given, text, _: switch.delete_network(given.values["ident"], text),
    "load-configfile": lambda switch, given, text, source: switch.load(text, source, **_loading(given)),
    "restore": lambda switch, given, text, source: switch.load(text, source, **_loading(given)),
    "confirm": lambda switch, *_: switch.confirm(),
    "start": lambda switch, given, *_: switch.start(given.values.get("ident")),
    "stop": lambda switch, given, *_: switch.stop(given.values.get("ident")),
    "set": lambda switch, given, *_: switch.set(given.named()),
}


async def _differences(switch: Switch, text: str, source: str) -> list[str]:
    """What the configuration would change. Raises BadConfiguration."""
    from ktcpvs.model.describe import configuration
    from ktcpvs.model.difference import differences
    from ktcpvs.model.language.parser import parse
    from ktcpvs.model.table import Table
    from ktcpvs.system.names import service_port

    after = configuration(parse(text, source, service_port).apply(Table()))
    table = await switch.table()
    return differences(table["services"], table["settings"], *after)


async def _draining(switch: Switch, given: Invocation) -> Callable[[], Coroutine[Any, Any, None]]:
    """Prepare to wait until nobody uses the server that the edit names; call it before the edit."""
    from ktcpvs.control.tcpvsadm.waiting import wait_until_drained, whole_address

    ident, text = _server(given)
    address = await whole_address(switch, ident, text)
    return lambda: wait_until_drained(reactor, switch, ident, address)


async def _look(switch: Switch, given: Invocation) -> Any:
    """What the daemon answers to a command that prints something."""
    name, ident = given.command.name, given.values.get("ident")
    if name == "schedulers":
        return await switch.schedulers()
    if name == "explain":
        method, target = given.request() or (None, None)
        client = given.values.get("from", "127.0.0.1")
        return await switch.explain(given.values["ident"], method, target, given.headers, client)
    if name == "get":
        return _wanted(await switch.settings(), given.words)
    if "connections" in given.values:
        return await switch.connections(ident)
    if "stats" in given.values:
        return await switch.stats(ident)
    if "rate" in given.values:
        return await _rates(switch, ident)
    return await switch.table(ident)


async def _watch(switch: Switch, given: Invocation) -> None:
    from ktcpvs.control.tcpvsadm import colours, names, terminal

    address = names.numeric if "numeric" in given.values else names.named
    in_colour = colours.wanted(sys.stdout, os.environ)
    await terminal.watch(reactor, switch, given.values.get("ident"), address, in_colour)


async def _rates(switch: Switch, ident: str | None) -> dict[str, Any]:
    from ktcpvs.control.tcpvsadm.show import rates

    before, began = await switch.stats(ident), time.monotonic()
    await deferLater(reactor, RATE_SECONDS)
    after = await switch.stats(ident)
    return rates(before, after, time.monotonic() - began)


def _wanted(settings: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """All settings, or the one named. Raises NoSuchSetting."""
    if not names:
        return settings
    found = [setting for setting in settings if setting["name"] == names[0]]
    if not found:
        raise NoSuchSetting(f"no setting {unknown(names[0], [setting['name'] for setting in settings], 40)}")
    return found
