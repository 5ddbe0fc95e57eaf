"""One run of tcpvsadm: argv -> a command for the daemon -> text and an exit status, never a traceback.

The command line and files are read before anybody is called; Twisted is imported only when a daemon is called.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ktcpvs import __version__
from ktcpvs.control.tcpvsadm import outcome
from ktcpvs.control.tcpvsadm.options import Invocation, read_arguments
from ktcpvs.control.tcpvsadm.outcome import Misuse, NoDaemon
from ktcpvs.errors import BadValue, Refusal, shorten
from ktcpvs.model.lines import split_lines

STDIN = "<stdin>"
LONGEST_MESSAGE = 4000


Check = Callable[[str, str, bool], Sequence[str]]
"""Judges a configuration: its text, its name in messages, and whether it may be empty. Returns warnings, a line each.
Raises a Refusal."""


def run(check: Check | None = None) -> NoReturn:
    """The console script. check: what --check does."""
    # An exception, as KeyboardInterrupt is, would be lost in the reactor's loop.
    signal.signal(signal.SIGINT, lambda *_: os._exit(outcome.INTERRUPTED))
    gc.disable()  # while modules are imported: what they make stays, and looking through it takes a tenth of the time
    status = main(sys.argv[1:], os.environ, check)
    gc.freeze()  # nor does what ends need to be looked through: a sixth of the time
    sys.exit(status)


def main(argv: Sequence[str], environment: Mapping[str, str], check: Check | None = None) -> int:
    """Carry out the command that `argv` says, print what it answers, and give the exit status."""
    try:
        given = read_arguments(argv)
    except Misuse as misuse:
        return _misused(misuse)
    try:
        text = _answer(given, environment, check)
    except Misuse as misuse:
        return _misused(misuse)
    except Refusal as refusal:
        _complain(f"{_subject(given)}: {refusal}")
        return outcome.REFUSED
    except NoDaemon as failure:
        _complain(str(failure))
        return outcome.NO_DAEMON
    except Exception as fault:
        _complain(f"{_subject(given)}: a fault of tcpvsadm, please report it: {fault!r}")
        return outcome.REFUSED
    printed = _printed(text)
    return outcome.DIFFERS if given.command.name == "diff" and text and printed == outcome.DONE else printed


def _leave_out_tls() -> None:
    """The control connection is a unix socket or loopback: no TLS, whose import would take as long as all the rest."""
    if "OpenSSL" not in sys.modules:
        sys.modules["OpenSSL"] = None  # type: ignore[assignment]  # Twisted does without what cannot be imported


def _answer(given: Invocation, environment: Mapping[str, str], check: Check | None) -> str:
    """What the command prints. Raises Misuse, Refusal or NoDaemon."""
    name = given.command.name
    if name == "help":
        from ktcpvs.control.tcpvsadm.usage import help_text

        return help_text()
    if name == "version":
        return f"tcpvsadm {__version__}\n"
    if name == "top" and not all(file is not None and file.isatty() for file in (sys.stdin, sys.stdout)):
        raise Misuse("--top wants a terminal; in a pipe use --list --rate, or --list --stats --json")
    text, source = _text(given)
    control = given.values.get("control") or environment.get("KTCPVS_CONTROL") or None
    if control is None or not control.startswith("tls:"):
        _leave_out_tls()
    if name == "check":
        if check is None:
            raise Refusal("this installation cannot judge a configuration without a daemon")
        for line in check(text, source, "allow-empty" in given.values):
            _warn(line)
        return ""
    from ktcpvs.control.tcpvsadm.daemon import carry_out

    answer = carry_out(given, control, text, source, _warn)
    return "" if answer is None else _shown(given, answer)


def _text(given: Invocation) -> tuple[str, str]:
    """The configuration to be loaded and its name in messages, or networks; "" for other commands. Raises Refusal."""
    if given.command.name in ("load-configfile", "restore", "check", "diff"):
        return _read(given.words[0] if given.words else "-")
    if given.command.name in ("allow", "deny", "del-network"):
        return "\n".join(_networks(word) for word in given.words), ""
    return "", ""


def _networks(word: str) -> str:
    """The networks that a word names: itself, or with an @ those in a file. Raises Refusal, which names the file."""
    if not word.startswith("@"):
        return word
    from ktcpvs.model.network import parse_networks

    text, source = _read(word[1:])
    try:
        return str(parse_networks(text))
    except BadValue as bad:
        raise Refusal(f"{source}: {bad}") from None


def _read(name: str) -> tuple[str, str]:
    """A file's text, or with "-" that of standard input; and its name in messages. Raises Refusal."""
    source = STDIN if name == "-" else name
    try:
        if name != "-":
            with open(name, "rb") as file:
                data = file.read()
        elif sys.stdin is None:
            raise Refusal("standard input is closed")
        else:
            data = sys.stdin.buffer.read()
        return data.decode("utf-8"), source
    except UnicodeDecodeError as error:
        before = split_lines(data[: error.start].decode("utf-8"))
        line, column = len(before), len(before[-1]) + 1
        raise Refusal(f"{source}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise Refusal(f"{source}: {getattr(error, 'strerror', None) or error}") from None


# The terminal.


def _shown(given: Invocation, answer: Any) -> str:
    from ktcpvs.control.tcpvsadm import colours, names, show

    if "json" in given.values:
        return show.as_json(answer)
    if given.command.name == "diff":
        return "".join(f"{line}\n" for line in answer)
    if given.command.name == "save":
        return show.configuration(answer)
    if given.command.name == "schedulers":
        return show.schedulers(answer)
    if given.command.name == "get":
        return show.settings(answer)
    if given.command.name == "explain":
        return show.explanation(answer)
    address = names.numeric if "numeric" in given.values else names.named
    views = (show.stats, show.rate, show.connections)
    view = next((view for view in views if view.__name__ in given.values), show.table)
    listed = view(answer, address)
    return colours.coloured(listed) if colours.wanted(sys.stdout, os.environ) else listed


def _printed(text: str) -> int:
    """Write `text`, always in UTF-8, as configuration files are; the exit status."""
    if not text:
        return outcome.DONE
    if sys.stdout is None:
        _complain("standard output is closed")
        return outcome.REFUSED
    try:
        # sys.stdout itself would do only once what a pipe takes at once, under PYTHONUNBUFFERED.
        with open(sys.stdout.fileno(), "wb", closefd=False) as output:
            output.write(text.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        return outcome.CLOSED_PIPE
    except OSError as error:
        _complain(f"cannot write: {error.strerror}")
        return outcome.REFUSED
    return outcome.DONE


def _subject(given: Invocation) -> str:
    ident = given.values.get("ident")
    return given.command.name if ident is None else f"{given.command.name} {shorten(ident)}"


def _misused(misuse: Misuse) -> int:
    _complain(str(misuse), "Try 'tcpvsadm --help'.")
    return outcome.MISUSED


def _warn(line: str) -> None:
    """A warning on standard error; the exit status stays what it is."""
    _complain(f"warning: {line}")


def _complain(why: str, then: str = "") -> None:
    """One line on standard error, and `then` below it."""
    if sys.stderr is None:
        return
    lines = f"tcpvsadm: {shorten(why, LONGEST_MESSAGE)}\n" + (f"{then}\n" if then else "")
    with contextlib.suppress(OSError):  # nobody listens; the exit status is left
        os.write(sys.stderr.fileno(), lines.encode(sys.stderr.encoding, "backslashreplace"))
