"""The command line of `ktcpvs` as a table: its options in groups, their help, and how argv is read by them.

This module imports no Twisted, so that --help, --version and wrong options respond at once. `ktcpvs.tap` makes the
options of `twistd ktcpvs` from the same table, and checks their values.
"""

from __future__ import annotations

import getopt
import textwrap
from collections.abc import Iterator, Sequence

from attrs import frozen

from ktcpvs.control.endpoints import default_control
from ktcpvs.errors import nearest, shorten

WIDTH = 80
"""The most columns of a line of --help."""

_MEANING_COLUMN = 26


@frozen
class DaemonOption:
    """An option of the daemon.

    short: its letter; None: it has none. value: the name of its value in --help; None: it has none. meaning: for
    --help. default: its value where it is not given, None: there is none. note: what --help says instead of the
    default. repeats: it may be given several times.
    """

    name: str
    short: str | None
    value: str | None
    meaning: str
    default: str | None = None
    note: str | None = None
    repeats: bool = False

    @property
    def help(self) -> str:
        """The meaning, and the default."""
        default = self.note if self.note is not None else self.default
        parts = [self.meaning]
        if self.repeats:
            parts.append("May be given several times.")
        if default is not None:
            parts.append(f"[default: {default}]")
        return " ".join(parts)


TABLE = (
    DaemonOption("config", "c", "FILE", "Load this file at each start and at SIGHUP, and start its services."),
    DaemonOption("state", "s", "FILE", "Save the table in this file; later starts load it instead of --config."),
)

SERVING = (
    DaemonOption(
        "workers", "w", "N", "Number of worker processes; auto: one for each core; 0: a single process.", "auto"
    ),
    DaemonOption(
        "start-folder", None, "FOLDER",
        "The folder of the programs that start servers (server = ADDRESS start PROGRAM).", note="none is started",
    ),
    DaemonOption(
        "nameserver", None, "HOST[:PORT]", "Ask this name server for the names of servers.",
        note="those in /etc/resolv.conf", repeats=True,
    ),
)  # fmt: skip

ADMINISTRATION = (
    DaemonOption(
        "control", None, "ENDPOINT",
        "Address for tcpvsadm: unix:/PATH, tcp:PORT on loopback, or over a network "
        "tls:PORT:interface=HOST:cert=FILE:key=FILE:ca=FILE, for clients with a certificate of that CA; at most one "
        "is unix:/PATH.",
        note=str(default_control()), repeats=True,
    ),
    DaemonOption("control-group", None, "GROUP", "Let members of this group administer too, over the unix socket."),
    DaemonOption(
        "status", None, "ENDPOINT",
        "Serve the status page and metrics here: tcp:PORT on loopback, or tcp:PORT:interface=HOST.", note="none",
    ),
    DaemonOption(
        "status-host", None, "NAME",
        "Serve them under this host name too, besides IP addresses and localhost.", repeats=True,
    ),
    DaemonOption(
        "takeover", None, "unix:/PATH",
        "Take over table, sockets and sessions from the daemon with this control address; that daemon drains and ends.",
    ),
)  # fmt: skip

PRIVILEGES = (
    DaemonOption(
        "user", "u", "USER",
        "When started as root: run as this user, with only the capabilities that the switch needs.",
    ),
    DaemonOption("group", "g", "GROUP", "With --user: run as this group.", note="the user's own"),
)  # fmt: skip

CLUSTER = (
    DaemonOption(
        "cluster", None, "ADDRESS",
        "Be a node of the cluster whose table is in etcd: etcd:URL[,URL...]/PREFIX, for example "
        "etcd:http://127.0.0.1:2379/ktcpvs.",
    ),
    DaemonOption(
        "node", None, "NAME", "The name of this node, in a cluster and for `on` in a table.", note="the host name"
    ),
    DaemonOption(
        "node-labels", None, "LABEL[,LABEL...]", "Labels of this node, for `on = label:LABEL`.", note="none"
    ),
    DaemonOption(
        "cluster-ca", None, "FILE", "The CA of etcd's members, a PEM file.", note="the system's"
    ),
    DaemonOption("cluster-cert", None, "FILE", "The certificate to show to etcd, a PEM file."),
    DaemonOption(
        "cluster-key", None, "FILE", "Its key, a PEM file.", note="in the file of --cluster-cert"
    ),
    DaemonOption("cluster-credentials", None, "FILE", "A file with USER:PASSWORD for etcd."),
    DaemonOption(
        "cluster-secret", None, "FILE",
        "A file with a secret that all nodes have; with it they share sessions, sealed in etcd. To make one: "
        "(umask 077; head -c 32 /dev/urandom | base64 > FILE)",
    ),
)  # fmt: skip

PROCESS = (
    DaemonOption(
        "daemonize", "D", None,
        "Go into the background once the services listen. The exit status then says whether they do.",
    ),
    DaemonOption(
        "pidfile", None, "FILE", "Write the number of the process to this file; it is removed at the end.", note="none"
    ),
    DaemonOption(
        "logfile", None, "FILE", "Append the log to this file; SIGUSR1 opens it again.",
        note="standard output; with --daemonize: syslog",
    ),
    DaemonOption("syslog", None, None, "Send the log to syslog, as ktcpvs."),
)  # fmt: skip
"""Options that `twistd ktcpvs` does not have, since twistd has its own."""

OTHER = (
    DaemonOption(
        "check", None, "FILE", "Check a configuration file, run its tests, and exit: 0 if it is valid, otherwise 1."
    ),
    DaemonOption("help", "h", None, "Print this text."),
    DaemonOption("version", "V", None, "Print the version."),
)  # fmt: skip

GROUPS = {
    "Table": TABLE,
    "Serving": SERVING,
    "Administration": ADMINISTRATION,
    "Privileges": PRIVILEGES,
    "Cluster": CLUSTER,
    "Process": PROCESS,
    "Other": OTHER,
}
"""The options in the order of --help."""

SERVICE_OPTIONS = (*TABLE, *SERVING, *ADMINISTRATION, *PRIVILEGES, *CLUSTER)
"""The options that describe the service, which `twistd ktcpvs` has too."""

OPTIONS = {option.name: option for group in GROUPS.values() for option in group}
_SHORT = {option.short: option for option in OPTIONS.values() if option.short}

HINTS = {
    "-f": "use -c FILE, --config FILE",
    "-t": "use --check FILE",
    "-p": "use --pidfile FILE",
    "-d": "use -D, --daemonize; 'tcpvsadm --set debug_level=4' has the log say more",
    "-n": "ktcpvs stays in the foreground without -D, --daemonize",
    "-v": "use --version",
    "-l": "use --logfile FILE",
    "-r": "use 'twistd --reactor=NAME ktcpvs' for another reactor",
    "-sf": "use --takeover unix:/PATH",
    "-st": "use --takeover unix:/PATH",
    "--reload": "send SIGHUP, or run 'tcpvsadm -f FILE'",
    "--test": "use --check FILE",
    "--nodaemon": "ktcpvs stays in the foreground without -D, --daemonize",
    "--foreground": "ktcpvs stays in the foreground without -D, --daemonize",
    "--port": "services listen where the configuration or 'tcpvsadm -A -i ID -l ADDR:PORT' says",
    "--listen": "services listen where the configuration or 'tcpvsadm -A -i ID -l ADDR:PORT' says",
    "--bind": "services listen where the configuration or 'tcpvsadm -A -i ID -l ADDR:PORT' says",
    "--reactor": "use 'twistd --reactor=NAME ktcpvs' for another reactor",
    "--uid": "use --user USER, which keeps the needed capabilities",
    "--gid": "use --group GROUP",
    "--debug": "'tcpvsadm --set debug_level=4' has the log say more",
}
"""Options of HAProxy, nginx and twistd that do not exist here -> what to use instead."""

_WORD_HINTS = {
    "start": "ktcpvs starts without a command; 'tcpvsadm --start -i ID' starts a service",
    "stop": "send SIGTERM to stop the daemon; 'tcpvsadm --stop -i ID' stops a service",
    "reload": "send SIGHUP, or run 'tcpvsadm -f FILE'",
    "restart": "send SIGUSR2, which starts the program anew without losing clients",
    "status": "run 'tcpvsadm --list'",
    "check": "use --check FILE",
    "help": "use --help",
    "version": "use --version",
}

_SIGNALS = {
    "reload": _WORD_HINTS["reload"],
    "stop": _WORD_HINTS["stop"],
    "quit": _WORD_HINTS["stop"],
    "reopen": "send SIGUSR1, which opens log files again",
}
"""Words behind `-s` that are signals for nginx, and not meant as state files -> what to use instead."""

EXIT_STATUSES = (
    "0 ended on request, or --check found no error; 1 not started, or --check found an error; 2 wrong usage."
)


class WrongUsage(Exception):
    """The command line makes no sense; str() is the reason, in one line."""


@frozen
class Invocation:
    """One command line. own: the options of PROCESS and OTHER that were given -> their values, "" for none. service:
    the words that give the other options, each `--NAME=VALUE`."""

    own: dict[str, str]
    service: tuple[str, ...]


def _check_values(given: Sequence[tuple[str, str]]) -> None:
    """Raise WrongUsage for an option without its value, for which getopt has taken the next option."""
    for written, value in given:
        if value.startswith("--") and value[2:].partition("=")[0] in OPTIONS:
            option = _SHORT[written[1:]] if len(written) == 2 else OPTIONS[written[2:]]
            raise WrongUsage(f"option '{written}' needs a value: {option.value}; it is followed by {shorten(value)}")


def read_arguments(argv: Sequence[str]) -> Invocation:
    """Read the words behind the name of the program. Raises WrongUsage."""
    letters = "".join(f"{letter}:" if option.value else letter for letter, option in _SHORT.items())
    names = [f"{name}=" if option.value else name for name, option in OPTIONS.items()]
    for word in argv:
        if word in ("-sf", "-st"):  # HAProxy's, which getopt would read as -s f
            raise WrongUsage(f"unknown option '{word}': {HINTS[word]}")
    try:
        given, words = getopt.getopt(list(argv), letters, names)
    except getopt.GetoptError as error:
        raise WrongUsage(_describe_error(error)) from None
    _check_values(given)
    if words:
        hint = _WORD_HINTS.get(words[0])
        if hint is None and words[0].endswith((".conf", ".cfg")):
            hint = f"to load it, use --config {shorten(words[0], 40)}"
        raise WrongUsage(f"unexpected argument '{shorten(words[0])}'{f': {hint}' if hint else ''}")
    own: dict[str, str] = {}
    service: list[str] = []
    seen: set[str] = set()
    for written, value in given:
        option = _SHORT[written[1:]] if len(written) == 2 else OPTIONS[written[2:]]
        if option.name in seen and not option.repeats:
            raise WrongUsage(f"--{option.name} is given twice")
        seen.add(option.name)
        if option.name == "state" and value in _SIGNALS:
            raise WrongUsage(f"--state {value}: {_SIGNALS[value]} (a state file of that name: ./{value})")
        if option in SERVICE_OPTIONS:
            service.append(f"--{option.name}={value}")
        elif option.value and not value:
            raise WrongUsage(f"--{option.name}: missing {option.value}")
        else:
            own[option.name] = value
    if "logfile" in own and "syslog" in own:
        raise WrongUsage("--logfile excludes --syslog")
    return Invocation(own, tuple(service))


def _describe_error(error: getopt.GetoptError) -> str:
    """Return what is wrong with an option, and what would be right."""
    written = f"-{error.opt}" if len(error.opt) == 1 else f"--{error.opt}"
    name = error.opt.partition("=")[0]
    option = _SHORT.get(name) if len(name) == 1 else OPTIONS.get(name)
    if option is not None and option.value:
        return f"option '{written}' needs a value: {option.value}"
    if option is not None:
        return f"option '--{name}' takes no value"
    candidates = [known for known in OPTIONS if name and known.startswith(name)] if len(name) > 1 else []
    if len(candidates) > 1:
        return f"option '{shorten(written)}' may be {' or '.join(f'--{known}' for known in candidates)}"
    if candidates:
        return f"option '--{candidates[0]}' needs a value: {OPTIONS[candidates[0]].value}"
    if written in HINTS:
        return f"unknown option '{written}': {HINTS[written]}"
    if _is_administration(name):
        return f"unknown option '{written}': it is a command of tcpvsadm, which changes and shows a daemon that runs"
    near = nearest(name, OPTIONS) if len(name) > 1 else None
    hint = f"; did you mean '--{near}'?" if near else ""
    return f"unknown option '{shorten(written)}'{hint}"


def _is_administration(name: str) -> bool:
    """Whether tcpvsadm has a command of that name or letter."""
    from ktcpvs.control.tcpvsadm.options import COMMANDS

    return name in COMMANDS or any(name == command.short for command in COMMANDS.values())


def help_text() -> str:
    """Return the text that --help prints, for terminals of 80 columns."""
    lines = [
        "Usage: ktcpvs [OPTION]...",
        "Run the TCP Virtual Server, a layer-7 switch, in the foreground. Administer it",
        "with tcpvsadm.",
    ]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        for option in group:
            lines += _describe_option(option)
    lines.append("")
    lines += textwrap.wrap(
        "Signals: SIGTERM drains and ends (twice: ends now); SIGHUP loads --config and certificates again; SIGUSR1 "
        "opens log files again; SIGUSR2 starts the program anew, which takes over.",
        WIDTH,
        subsequent_indent="  ",
    )
    lines += textwrap.wrap(f"Exit status: {EXIT_STATUSES}", WIDTH, subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def _describe_option(option: DaemonOption) -> Iterator[str]:
    """Yield the lines of an option: its names, and beside or below them what it means."""
    names = f"-{option.short}, --{option.name}" if option.short else f"    --{option.name}"
    begin = f"  {names}{f' {option.value}' if option.value else ''}"
    text = textwrap.wrap(option.help, WIDTH - _MEANING_COLUMN, break_long_words=False, break_on_hyphens=False)
    if len(begin) + 2 <= _MEANING_COLUMN:
        begin = begin.ljust(_MEANING_COLUMN) + text.pop(0)
    yield begin
    for line in text:
        yield " " * _MEANING_COLUMN + line
