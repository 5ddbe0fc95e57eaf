"""One run of tcpvsadm: from argv to text and an exit status, and never a traceback.

The command line and files are read before the daemon is called, and Twisted is imported only for --top and TLS.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ktcpvs.control.tcpvsadm import exit_status
from ktcpvs.control.tcpvsadm.argument_checks import check_details
from ktcpvs.control.tcpvsadm.argument_reader import read_arguments
from ktcpvs.control.tcpvsadm.exit_status import NoDaemon, UsageError
from ktcpvs.control.tcpvsadm.input_files import read_configuration, read_networks
from ktcpvs.control.tcpvsadm.invocation import Invocation
from ktcpvs.control.tcpvsadm.offline_commands import OfflineCommands, ReplayOptions
from ktcpvs.control.tcpvsadm.options import COMMANDS, REPORTED
from ktcpvs.errors import Refusal, shorten
from ktcpvs.version import __version__

MIN_WIDTH = 40
"""The least width for which listings are made narrower; a narrower terminal wraps their lines."""

MAX_MESSAGE_LENGTH = 4000

OFFLINE = ("check", "replay", "new-scheduler")
"""The commands that need no daemon."""

DEFAULT_SECONDS = "0.1"
"""The time of a replayed request about whose time nothing is known."""


def run(offline: OfflineCommands | None = None) -> NoReturn:
    """Run the console script. offline: the commands that need no daemon."""
    # A KeyboardInterrupt would end in a traceback, and the reactor would swallow it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(exit_status.INTERRUPTED))
    gc.disable()  # while modules are imported: their objects stay, and collections take a tenth of the time
    status = main(sys.argv[1:], os.environ, offline)
    gc.freeze()  # collections at the exit take a sixth of the time
    sys.exit(status)


def main(argv: Sequence[str], environment: Mapping[str, str], offline: OfflineCommands | None = None) -> int:
    """Carry out the command of `argv`, print its answer, and return the exit status."""
    try:
        given = read_arguments(argv)
    except UsageError as error:
        return _report_usage(error)
    try:
        text = _run_command(given, environment, offline)
    except UsageError as error:
        return _report_usage(error)
    except Refusal as refusal:
        _print_error(f"{_describe_command(given)}: {refusal}")
        return exit_status.REFUSED
    except NoDaemon as failure:
        _print_error(str(failure))
        return exit_status.NO_DAEMON
    except Exception as fault:
        _print_error(f"{_describe_command(given)}: internal error in tcpvsadm, please report it: {fault!r}")
        return exit_status.REFUSED
    status = _print(text)
    return exit_status.DIFFERS if given.command.name == "diff" and text and status == exit_status.DONE else status


def _block_openssl() -> None:
    """Keep Twisted from importing OpenSSL, which takes as long as all other imports, for an address without TLS."""
    if "OpenSSL" not in sys.modules:
        sys.modules["OpenSSL"] = None  # type: ignore[assignment]  # Twisted works without it


def _run_command(given: Invocation, environment: Mapping[str, str], offline: OfflineCommands | None) -> str:
    """Return what the command prints. Raises UsageError, Refusal or NoDaemon."""
    name = given.command.name
    if name == "help":
        from ktcpvs.control.tcpvsadm.usage import command_help, help_text

        return command_help(COMMANDS[given.words[0]]) if given.words else help_text()
    if name == "version":
        return f"tcpvsadm {__version__}\n"
    if name == "top" and not all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout)):
        raise UsageError("--top needs a terminal; in a pipe use --list --rate, or --list --stats --json")
    check_details(given)
    text, source = _read_input(given)
    control = given.values.get("control") or environment.get("KTCPVS_CONTROL") or None
    if control is None or not control.startswith("tls:"):
        _block_openssl()
    if name in OFFLINE and offline is None:
        raise Refusal(f"this installation cannot do --{name}, which needs all of the switch")
    if offline is not None and name == "check":
        for line in offline.check(text, source, "allow-empty" in given.values):
            _warn(line)
        return ""
    if offline is not None and name == "new-scheduler":
        return offline.new_scheduler(*given.words)
    if offline is not None and name == "replay":
        if "config" not in given.values:
            text, source = _table_of_daemon(given, control), "the table of the daemon"
        gc.enable()
        return offline.replay(_replay_options(given, text, source), _warn)
    from ktcpvs.control.tcpvsadm.session import run_command

    answer = run_command(given, control, text, source, _warn)
    return "" if answer is None else _format(given, answer)


def _table_of_daemon(given: Invocation, control: str | None) -> str:
    """Return the configuration of the daemon, as --save prints it."""
    from ktcpvs.control.tcpvsadm.output import format_configuration
    from ktcpvs.control.tcpvsadm.session import run_command

    return format_configuration(run_command(given, control))


def _replay_options(given: Invocation, text: str, source: str) -> ReplayOptions:
    values = given.values
    return ReplayOptions(
        given.words[0],
        text,
        source,
        values.get("ident"),
        values.get("scheduler"),
        values.get("balance"),
        given.headers,
        float(values.get("seconds", DEFAULT_SECONDS)),
        "json" in values,
        _width(given),
        sys.stderr is not None and sys.stderr.isatty(),
    )


def _read_input(given: Invocation) -> tuple[str, str]:
    """Return the configuration to load and its name in messages, or networks; "" for other commands. Raises Refusal."""
    if given.command.name in ("load-configfile", "restore", "check", "diff"):
        return read_configuration(given.words[0] if given.words else "-")
    if "config" in given.values:
        return read_configuration(given.values["config"])
    if given.command.name in ("allow", "deny", "del-network"):
        return "\n".join(read_networks(word) for word in given.words), ""
    return "", ""


# Output.


def _format(given: Invocation, answer: Any) -> str:
    """Return the daemon's answer as the command prints it."""
    from ktcpvs.control.tcpvsadm import addresses, colours, nodes, output

    if "json" in given.values:
        return output.format_json(answer)
    if given.command.name == "diff":
        return "".join(f"{line}\n" for line in answer)
    if given.command.name == "save":
        return output.format_configuration(answer)
    width = _width(given)
    formats: dict[str, Callable[[Any], str]] = {
        "schedulers": lambda answer: output.format_schedulers(answer, width, "verbose" in given.values),
        "certificates": lambda answer: output.format_certificates(answer, width),
        "nodes": lambda answer: nodes.format_nodes(answer, width),
        "get": output.format_settings,
        "explain": lambda answer: output.format_explanation(answer, width),
        "kill": output.format_closed,
        **dict.fromkeys(REPORTED, str),
    }
    if given.command.name in formats:
        return formats[given.command.name](answer)
    if given.command.name == "rebalance":
        from ktcpvs.control.tcpvsadm.rebalancing import format_rebalance

        return format_rebalance(answer, addresses.with_port_name)
    show = addresses.with_numeric_host if "numeric" in given.values else addresses.with_port_name
    text = _format_view(given, answer, show, width)
    return colours.colour_states(text) if colours.should_colour(sys.stdout, os.environ) else text


def _width(given: Invocation) -> int:
    """Return the width of the terminal; 0: print names whole, since --wide is given, or a program reads the output."""
    if "wide" in given.values or sys.stdout is None or not sys.stdout.isatty():
        return 0
    return max(shutil.get_terminal_size().columns, MIN_WIDTH)


def _format_view(given: Invocation, answer: Any, show: Callable[[str], str], width: int) -> str:
    """Return the output of --list, in the view that its options select."""
    from ktcpvs.control.tcpvsadm import output

    if "stats" in given.values:
        return output.format_stats(answer, show, width)
    if "rate" in given.values:
        return output.format_rates(answer, show, width)
    if "connections" in given.values:
        return output.format_connections(answer, show, width)
    return output.format_table(answer, show)


def _print(text: str) -> int:
    """Write `text` in UTF-8, as configuration files are, and return the exit status."""
    if not text:
        return exit_status.DONE
    if sys.stdout is None:
        _print_error("standard output is closed")
        return exit_status.REFUSED
    try:
        # Under PYTHONUNBUFFERED, sys.stdout itself would write no more than a pipe takes at once.
        with open(sys.stdout.fileno(), "wb", closefd=False) as output:
            output.write(text.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        return exit_status.CLOSED_PIPE
    except OSError as error:
        _print_error(f"cannot write: {error.strerror}")
        return exit_status.REFUSED
    return exit_status.DONE


def _describe_command(given: Invocation) -> str:
    ident = given.values.get("ident")
    return given.command.name if ident is None else f"{given.command.name} {shorten(ident)}"


def _report_usage(error: UsageError) -> int:
    _print_error(str(error), "Try 'tcpvsadm --help'.")
    return exit_status.MISUSED


def _warn(line: str) -> None:
    """Print a warning on standard error; the exit status does not change."""
    _print_error(f"warning: {line}")


def _print_error(why: str, then: str = "") -> None:
    """Print one line on standard error, and `then` below it."""
    if sys.stderr is None:
        return
    lines = f"tcpvsadm: {shorten(why, MAX_MESSAGE_LENGTH)}\n" + (f"{then}\n" if then else "")
    with contextlib.suppress(OSError):  # standard error is closed; the exit status still tells
        os.write(sys.stderr.fileno(), lines.encode(sys.stderr.encoding, "backslashreplace"))
