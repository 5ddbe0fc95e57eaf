"""One command carried to the daemon, and its answer brought back.

Imports take most of a command's time. So this module imports no Twisted: most commands need only a socket that blocks,
and `reactor_session` runs the others. What only some commands need is imported where they need it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from ktcpvs.control import blocking_client
from ktcpvs.control.client_errors import NoAnswer, NotPermitted, NotTrusted
from ktcpvs.control.command_table import COMMAND_OF_NAME, Argument, ArgumentType, EditCommand
from ktcpvs.control.endpoints import ControlAddress, default_control
from ktcpvs.control.switch_base import SwitchBase, find_address
from ktcpvs.control.tcpvsadm.all_nodes import comparable
from ktcpvs.control.tcpvsadm.exit_status import NoDaemon, UsageError
from ktcpvs.control.tcpvsadm.invocation import Invocation
from ktcpvs.control.tcpvsadm.nodes import wait_for_nodes
from ktcpvs.control.tcpvsadm.options import REPORTED, SCOPES
from ktcpvs.control.tcpvsadm.session_io import SessionIO, TimeIsUp
from ktcpvs.errors import BadAddress, BadValue, NoSuchSetting, Refusal
from ktcpvs.model.assumed_request import LOCAL_CLIENT

ROOT_SOCKET = "/run/ktcpvs/control.sock"
"""The default socket of a daemon that root has started."""

RATE_SECONDS = 1.0
"""Seconds between the two reads of the counters of --rate."""

MAX_HOSTS = 10
"""The most hosts of certificates that a message names."""

Warn = Callable[[str], object]

COMMANDS_OF_HOSTS = ("drain", "maintenance")
"""Commands where a server without a port stands for all servers of that host."""

_SERVICE_OPTIONS = ("scheduler", "balance", "listen", "port", "redirect", "maxclients")


def run_command(
    given: Invocation, control: str | None, text: str = "", source: str = "", warn: Warn = lambda line: None
) -> Any:
    """Have the daemon at `control` carry a command out; None: at the default address.

    text, source: the configuration to load and its name, or networks. warn: called with each warning about an edit.
    Returns what the daemon answered, None for a command that prints nothing. May run the reactor, so it can be called
    once in a process. Raises Refusal, NoDaemon, or UsageError where `control` is not an address.
    """
    try:
        address = find_address(control)
    except BadAddress as error:
        raise UsageError(str(error)) from None
    except NotTrusted as failure:
        raise NoDaemon(str(failure)) from None
    if address.tls is not None or given.command.name == "top":
        from ktcpvs.control.tcpvsadm import reactor_session

        gc.enable()
        return reactor_session.run(control, lambda io: _carry_out(io, address, given, text, source, warn))

    async def connect() -> SwitchBase:
        return blocking_client.connect(address)

    async def sleep(seconds: float) -> None:
        time.sleep(seconds)

    gc.enable()
    return blocking_client.run(_carry_out(SessionIO(connect, sleep, _within), address, given, text, source, warn))


async def _within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Do what blocks in at most that many seconds, by SIGALRM: no call of `work` needs a timeout of its own."""

    def give_up(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        await work
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def _carry_out(
    io: SessionIO, address: ControlAddress, given: Invocation, text: str, source: str, warn: Warn
) -> Any:
    if given.command.name == "wait-ready":
        from ktcpvs.control.tcpvsadm.argument_checks import read_duration
        from ktcpvs.control.tcpvsadm.waiting import DEFAULT_SECONDS, Expected, wait_until_ready

        seconds = read_duration(given.words[0]) if given.words else None
        pid, not_pid = (int(given.values[name]) if name in given.values else None for name in ("pid", "not-pid"))
        return await wait_until_ready(
            io,
            address,
            DEFAULT_SECONDS if seconds is None else seconds,
            lambda: what_to_do(address),
            Expected(pid, not_pid, is_local=address.path is not None),
        )
    return await _run_session(io, address, given, text, source, warn)


async def _run_session(
    io: SessionIO, address: ControlAddress, given: Invocation, text: str, source: str, warn: Warn
) -> Any:
    try:
        switch = await io.connect()
    except (NotPermitted, NotTrusted) as failure:
        raise NoDaemon(str(failure)) from None
    except NoAnswer as failure:
        raise NoDaemon(f"{failure}: {what_to_do(address)}") from None
    name = given.command.name
    entry = COMMAND_OF_NAME.get("load-configfile" if name == "restore" else name)
    try:
        if entry is not None:
            return await _carry_out_edit(io, switch, entry, given, text, source, warn)
        if name == "diff":
            return await _find_differences(switch, text, source)
        if name == "trace":
            from ktcpvs.control.tcpvsadm.trace import show_trace

            return await show_trace(switch, given)
        if name == "top":
            assert io.show_top is not None
            return await io.show_top(switch, given)
        return await _read(io, switch, given)
    except NoAnswer as failure:
        raise NoDaemon(str(failure)) from None
    finally:
        switch.close()


async def _carry_out_edit(
    io: SessionIO, switch: SwitchBase, entry: EditCommand, given: Invocation, text: str, source: str, warn: Warn
) -> str | None:
    """Carry an edit out. Returns what the command prints; None: it prints nothing."""
    name = given.command.name
    wait = await _prepare_wait(io, switch, given) if "wait" in given.values else None
    switch.scope = next((name for name in SCOPES if name in given.values), "")
    arguments = _edit_arguments(entry, given, text, source)
    if entry.edit == "RenewCertificate" and not given.words:
        arguments["host"] = await _only_host(switch)
    for line in await switch.submit(entry, arguments):
        warn(line)
    if name == "add-server":
        from ktcpvs.control.tcpvsadm.look_ups import warn_of_unresolved

        await warn_of_unresolved(io.sleep, switch, given.values["ident"], given.values["real-server"], warn)
    if "wait-nodes" in given.values:
        await wait_for_nodes(switch, io.sleep, warn)
    if wait is not None:
        await wait()
    if name in REPORTED:
        from ktcpvs.control.tcpvsadm.reports import read_report

        return await read_report(switch, name, arguments)
    return None


async def _only_host(switch: SwitchBase) -> str:
    """Return a host of the only certificate that the switch obtains from a CA. Raises BadValue if there are none or
    several."""
    orders = [one["acme"] for one in await switch.certificates(None) if one.get("acme") is not None]
    hosts = list(dict.fromkeys(order["names"][0] for order in orders))
    if not hosts:
        raise BadValue("no running service has a certificate = acme")
    if len(hosts) > 1:
        more = f" and {len(hosts) - MAX_HOSTS} more" if hosts[MAX_HOSTS:] else ""
        raise BadValue(f"name the HOST: there are certificates for {', '.join(hosts[:MAX_HOSTS])}{more}")
    return str(hosts[0])


def what_to_do(address: ControlAddress, root: str = ROOT_SOCKET) -> str:
    """Return what to do where no daemon answers at `address`. root: the path of the socket of root's daemon."""
    has = _roots_daemon(root) if address == default_control() and address.path != root else ""
    if has:
        return (
            f"this is the default address of user {os.geteuid()}; root's daemon {has} unix:{root}: run tcpvsadm as "
            f"root, or with --control unix:{root} as a member of its --control-group"
        )
    start = "start it with 'ktcpvs', or give its address with --control"
    if address.path is not None and os.path.lexists(address.path):
        return f"its socket is left over from a daemon that has ended; {start}"
    return start


def _roots_daemon(root: str) -> str:
    """Return "has" if there is a socket at `root`, "may have" where its folder does not let this user see that, and ""
    if there is none."""
    try:
        os.lstat(root)
    except PermissionError:
        return "may have"
    except OSError:
        return ""
    return "has"


def _edit_arguments(entry: EditCommand, given: Invocation, text: str, source: str) -> dict[str, Any]:
    """Return the arguments of an edit's command, from the command line."""
    arguments = {argument.name: _edit_argument(argument, given, text) for argument in entry.arguments}
    if entry.edit == "Load":
        arguments |= {"source": source, "start": "new" if "start" in given.values else None}
    if entry.edit in ("DrainNode", "UndrainNode", "ForgetNode"):
        arguments["node"] = given.words[0]
    if entry.edit == "ReloadSchedulers" and given.words:
        arguments["scheduler"] = given.words[0]
    if entry.edit == "RenewCertificate" and given.words:
        arguments["host"] = given.words[0]
    if entry.edit in ("AddServer", "EditServer"):
        from ktcpvs.model.language.lexer import word

        arguments["options"] = " ".join(map(word, given.words)) or None
    if entry.edit == "AddListener":
        arguments |= _listener_words(given.words)
    if entry.edit in ("AddRule", "EditRule", "DeleteRule"):
        arguments["pattern"], modifiers = _rule_texts(given)
        if entry.edit != "DeleteRule":
            arguments["modifiers"] = modifiers
    if entry.edit in ("AddRule", "EditRule") and given.action:
        from ktcpvs.model import actions, rule_servers

        if given.action[0].lower() == rule_servers.SERVER:
            arguments["action"], behind = rule_servers.text_of_words(given.action)
            arguments["modifiers"] = " ".join(filter(None, (arguments["modifiers"], behind))) or None
        else:
            arguments["action"] = actions.text_of_words(given.action)
    return arguments


def _listener_words(words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that the words behind the address of a listener give. Raises UsageError."""
    from ktcpvs.model.language.lexer import Place, Token, fail_without_place
    from ktcpvs.model.listen import read_listen_words

    place = Place("add-listener", 1, 1)
    try:
        found = read_listen_words([Token.unquoted(word, place) for word in words], fail_without_place)
    except BadValue as refusal:
        raise UsageError(str(refusal)) from None
    return {"tls": found.get("is_tls", False), "on": str(found["on"]) if "on" in found else None}


def _rule_texts(given: Invocation) -> tuple[str | None, str | None]:
    """Return the texts of a rule's conditions and of its modifiers, from --pattern and the words; None: there are none.

    Each word is one word of the language, so those that are no keywords get quotes.
    """
    from ktcpvs.model.conditions import RESERVED, read_conditions, written_text
    from ktcpvs.model.language.lexer import quoted, tokens

    pattern = given.values.get("pattern", given.values.get("rule") if given.command.name == "del-rule" else None)
    words = [word.lower() if word.lower() in RESERVED else quoted(word) for word in given.conditions]
    end = len(words)
    with contextlib.suppress(Refusal):  # the daemon says what is wrong
        _, end = read_conditions(tokens(" ".join(words), "rule"), 0)
    modifiers = " ".join(words[end:]) or None
    words = words[:end]
    if pattern is None or not words:
        without = "" if given.command.name == "add-rule" else None  # of the name, which keeps its conditions
        return " ".join(words) or without if pattern is None else pattern, modifiers
    return " ".join([written_text(pattern), *words]), modifiers


def _edit_argument(argument: Argument, given: Invocation, text: str) -> Any:
    option = argument.option or ""
    if argument.type.is_uploaded:
        return text
    if argument.type is ArgumentType.SERVICE_OPTIONS:
        return _service_options(given)
    if argument.type is ArgumentType.SETTINGS:
        return given.named()
    if argument.type is ArgumentType.BOOLEAN:
        return option in given.values
    if argument.type is ArgumentType.INTEGER:
        return int(given.values[option]) if option in given.values else None
    return given.values.get(option)


def _service_options(given: Invocation) -> dict[str, str | int]:
    """Return the service options under the daemon's names, from options and words. The redirect `none` becomes ""."""
    options: dict[str, str | int] = {name: given.values[name] for name in _SERVICE_OPTIONS if name in given.values}
    options |= given.named()
    if options.get("redirect") == "none":
        options["redirect"] = ""
    return options


async def _find_differences(switch: SwitchBase, text: str, source: str) -> list[str]:
    """Return what the configuration would change, one line per change. Raises BadConfiguration."""
    from ktcpvs.model.describe import configuration
    from ktcpvs.model.difference import differences
    from ktcpvs.model.language.parser import parse
    from ktcpvs.model.table import Table
    from ktcpvs.system.names import service_port

    after = configuration(parse(text, source, service_port).apply(Table()))
    table = await _configured(switch)
    return differences(table["services"], table["settings"], *after)


async def _configured(switch: SwitchBase) -> dict[str, Any]:
    """Return the table without the edits that hold on the daemon's node only."""
    table = await switch.table()
    return dict(await switch.read("configured")) if table.get("local") else table


async def _prepare_wait(
    io: SessionIO, switch: SwitchBase, given: Invocation
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return the function that waits until the server of the command line has drained. Call this before the edit, after
    which the server may be gone."""
    from ktcpvs.control.tcpvsadm.asking import Asking
    from ktcpvs.control.tcpvsadm.draining import complete_address, wait_until_drained, wait_until_node_drained

    ask, ident, address = Asking(io.connect, switch), given.values.get("ident"), given.values.get("real-server")
    if address is not None and given.command.name not in COMMANDS_OF_HOSTS and ident is not None:
        address = await complete_address(switch, ident, address)

    async def wait() -> None:
        try:
            if address is None:
                await wait_until_node_drained(io.sleep, ask, given.words[0])
            else:
                await wait_until_drained(io.sleep, ask, ident, address)
        finally:
            ask.close()

    return wait


async def _read(io: SessionIO, switch: SwitchBase, given: Invocation) -> Any:
    """Return the daemon's answer to a command that prints something."""
    name, ident = given.command.name, given.values.get("ident")
    if name == "schedulers":
        return await switch.schedulers()
    if name == "nodes":
        return await switch.nodes()
    if name == "certificates":
        return await switch.certificates(ident)
    if name == "explain":
        return await _explain(switch, given)
    if name in ("save", "replay"):
        return await _configured(switch)
    if name == "rebalance":
        from ktcpvs.control.tcpvsadm.rebalancing import rebalance

        return await rebalance(io.sleep, switch, given)
    if name == "kill":
        return await switch.close_connection(given.words[0])
    if name == "get":
        return _select_settings(await switch.settings(), given.words)
    all_nodes = "all-nodes" in given.values
    if "connections" in given.values:
        return await _read_connections(switch, given, ident)
    if "rate" in given.values:
        return await _measure_rates(io, switch.cluster_stats if all_nodes else switch.stats, ident)
    if all_nodes:
        return await switch.cluster_stats(ident)
    return await (switch.stats(ident) if "stats" in given.values else switch.table(ident))


async def _explain(switch: SwitchBase, given: Invocation) -> Any:
    """Return the daemon's explanation of the request that the command describes."""
    method, target = given.request() or (None, None)
    client = given.values.get("from", LOCAL_CLIENT)
    port = int(given.values["port"]) if "port" in given.values else None
    body = b""
    if "body" in given.values:
        from ktcpvs.control.tcpvsadm.input_files import read_body

        body = read_body(given.values["body"])
    return await switch.explain(given.values["ident"], method, target, given.headers, client, port, body)


async def _read_connections(switch: SwitchBase, given: Invocation, ident: str | None) -> Any:
    """Return the connections that the options choose, in their order; those of a cluster with its nodes. With --count,
    return their number."""
    from ktcpvs.control.tcpvsadm.connections import select_connections

    answer: Any = await (
        switch.cluster_connections(ident) if "all-nodes" in given.values else switch.connections(ident)
    )
    found = answer["connections"] if isinstance(answer, dict) else answer
    found = select_connections(found, given.filters, given.values.get("sort", "age"))
    if "count" in given.values:
        return len(found)
    return {**answer, "connections": found} if isinstance(answer, dict) else found


async def _measure_rates(
    io: SessionIO, read: Callable[[str | None], Awaitable[dict[str, Any]]], ident: str | None
) -> dict[str, Any]:
    from ktcpvs.control.tcpvsadm.output import compute_rates

    before, began = await read(ident), time.monotonic()
    await io.sleep(RATE_SECONDS)
    after = await read(ident)
    return compute_rates(*comparable(before, after), time.monotonic() - began)


def _select_settings(settings: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return all settings, or the one that the command line names. Raises NoSuchSetting."""
    if not names:
        return settings
    found = [setting for setting in settings if setting["name"] == names[0]]
    if not found:
        from ktcpvs.model.language.foreign_words import unknown_option
        from ktcpvs.model.settings import LISTED_BY

        known = [setting["name"] for setting in settings]
        raise NoSuchSetting(f"no setting {unknown_option(names[0], known, LISTED_BY)}")
    return found
