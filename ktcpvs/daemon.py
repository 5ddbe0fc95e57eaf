"""The console script `ktcpvs`: runs the daemon, in the foreground or in the background, on the reactor `uvloop`."""

from __future__ import annotations

import sys
from typing import NoReturn

from ktcpvs.command_line import Invocation, WrongUsage, help_text, read_arguments
from ktcpvs.errors import Refusal
from ktcpvs.version import __version__

ENDED = 0
NOT_STARTED = 1
"""The daemon has not started, or --check has found an error."""

MISUSED = 2


def run() -> NoReturn:
    """Run ktcpvs with the arguments of this process, and exit with its status."""
    try:
        given = read_arguments(sys.argv[1:])
    except WrongUsage as error:
        _exit_misused(error)
    if "help" in given.own:
        print(help_text(), end="")
        sys.exit(ENDED)
    if "version" in given.own:
        print(f"ktcpvs {__version__}")
        sys.exit(ENDED)
    if "check" in given.own:
        sys.exit(_check(given.own["check"]))
    _run_daemon(given)


def _check(name: str) -> int:
    """Check a configuration file, and return the exit status. name: of the file; "-": standard input."""
    from ktcpvs.control.tcpvsadm.input_files import read_configuration

    try:
        text, source = read_configuration(name)
        from ktcpvs.offline import check_configuration

        warnings = check_configuration(text, source, False)
    except Refusal as refusal:
        _print_error(str(refusal))
        return NOT_STARTED
    for line in warnings:
        _print_error(f"warning: {line}")
    print(f"{source} is valid")
    return ENDED


def _run_daemon(given: Invocation) -> NoReturn:
    from ktcpvs.system.limits import uncollected

    with uncollected():
        try:
            from ktcpvs.reactor import install

            install()
        except (ImportError, OSError) as error:
            _exit_not_started(f"cannot run on uvloop: {error}; 'twistd --reactor=epoll ktcpvs' runs without it")
        from ktcpvs.application_runner import ProcessOptions, run_daemon

    process = ProcessOptions(
        is_background="daemonize" in given.own,
        pid_file=given.own.get("pidfile", ""),
        log_file=given.own.get("logfile"),
        has_syslog="syslog" in given.own,
    )
    try:
        run_daemon(process, given.service)
    except WrongUsage as error:
        _exit_misused(error)
    except Refusal as refusal:
        _exit_not_started(str(refusal))
    sys.exit(ENDED)


def _exit_misused(error: WrongUsage) -> NoReturn:
    _print_error(str(error), "Try 'ktcpvs --help'.")
    sys.exit(MISUSED)


def _exit_not_started(why: str) -> NoReturn:
    _print_error(why)
    sys.exit(NOT_STARTED)


def _print_error(why: str, then: str = "") -> None:
    """Print one line on standard error, and `then` below it. Twisted's log may have taken the place of sys.stderr."""
    if sys.__stderr__ is not None:
        print(f"ktcpvs: {why}" + (f"\n{then}" if then else ""), file=sys.__stderr__)
