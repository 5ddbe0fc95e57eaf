"""The command line as a table: every command, the options it takes, and how argv is read by that table.

Nothing is carried out and nothing is looked up here. A command line that cannot be meant is a Misuse; whether a
value is good is for the daemon to say, as long as it has the form of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from attrs import field, frozen

from ktcpvs.control.tcpvsadm.outcome import Misuse
from ktcpvs.errors import shorten


@frozen
class Option:
    """value: what its value is called in --help; None: it takes none. meaning: for --help. repeats: it may be given any
    number of times."""

    name: str
    short: str | None
    value: str | None
    meaning: str
    repeats: bool = False


@frozen
class Command:
    """required, optional: names of options, or of the command `start`, given as an option. meaning: for --help.

    words: what its words are called in --help; least, most: how many there are, most None: any number.
    first_is_value: the first word is the value of the option itself, as in `-f FILE`.
    """

    name: str
    short: str | None
    meaning: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    words: str = ""
    least: int = 0
    most: int | None = 0
    first_is_value: bool = False


VIEWS = ("stats", "rate", "connections")
"""What --list shows in the place of the configuration; one of them at a time."""

_SERVICE = ("scheduler", "balance", "port", "listen", "redirect", "maxclients")
_SERVER = ("ident", "real-server")
_RULE = ("ident", "pattern", "real-server")
_BALANCE = ("weight", "maxconn")
_CHANGE = (*_BALANCE, "wait")
_REQUEST = ("header", "from", "json")
_LOADING = ("start", "confirm", "allow-empty")

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("list", "L", "print the table, as without any command", (), ("ident", "numeric", *VIEWS, "json")),
        Command("top", None, "show what happens now, once a second; q ends", (), ("ident", "numeric")),
        Command(
            "add-service", "A", "add a virtual service, stopped; NAME=VALUE: any option it has", ("ident",), _SERVICE,
            words="[NAME=VALUE...]", most=None,
        ),
        Command(
            "edit-service", "E", "change the options given, and no others", ("ident",), _SERVICE,
            words="[NAME=VALUE...]", most=None,
        ),
        Command("delete-service", "D", "delete a stopped virtual service", ("ident",)),
        Command("flush", "F", "delete all virtual services, if none runs"),
        Command("add-server", "a", "add a real server to a service", _SERVER, _BALANCE),
        Command("edit-server", "e", "give a real server another weight or maxconn", _SERVER, _CHANGE),
        Command("delete-server", "d", "delete a real server that no rule uses; it drains", _SERVER, ("wait",)),
        Command("add-rule", None, "add a rule, or one more server to the pattern's rule", _RULE, ("match",)),
        Command("del-rule", None, "take a server out of a rule; the last one takes the rule with it", _RULE),
        Command(
            "allow", None, "let clients of these networks come, and no others", ("ident",), ("only",),
            words="NETWORK|@FILE...", least=1, most=None,
        ),
        Command(
            "deny", None, "turn clients of these networks away", ("ident",), ("only",),
            words="NETWORK|@FILE...", least=1, most=None,
        ),
        Command(
            "del-network", None, "neither allow nor deny these networks any more", ("ident",),
            words="NETWORK|@FILE...", least=1, most=None,
        ),
        Command(
            "load-configfile", "f", "put a configuration file in the table's place, whole or not at all",
            (), _LOADING, words="FILE", least=1, most=1, first_is_value=True,
        ),
        Command("restore", None, "the same, from standard input", (), _LOADING),
        Command("confirm", None, "keep what -f --confirm TIME has put in force on trial"),
        Command(
            "check", None, "judge a configuration file without a daemon, its tests included",
            (), ("allow-empty",), words="FILE", least=1, most=1, first_is_value=True,
        ),
        Command(
            "diff", None, "say what -f would change, a line each; exit status 4 if anything",
            words="FILE", least=1, most=1, first_is_value=True,
        ),
        Command("save", None, "print the table and the settings as a configuration file"),
        Command("start", None, "start a service; without -i, all of them", (), ("ident",)),
        Command("stop", None, "stop a service, which drains; without -i, all of them", (), ("ident",)),
        Command("set", None, "change settings; unload=1 ends the daemon", words="NAME=VALUE...", least=1, most=None),
        Command("get", None, "print all settings, or one", (), ("json",), words="[NAME]", most=1),
        Command(
            "explain", None, "say who would serve a request, and why; nothing is sent", ("ident",), _REQUEST,
            words="['METHOD TARGET']", most=3,
        ),
        Command("schedulers", None, "print the schedulers there are, and what could not be loaded", (), ("json",)),
        Command("help", "h", "print this text"),
        Command("version", None, "print the version of tcpvsadm"),
    )
}  # fmt: skip
"""By name, in the order of --help."""

OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option("ident", "i", "ID", "name of the virtual service"),
        Option("scheduler", "s", "SCHED", "scheduler, see --schedulers (default: http)"),
        Option("balance", None, "SCHED", "scheduler among the servers of a rule (default: wlc)"),
        Option("listen", "l", "ADDR[:PORT]", "where the service listens (default: 0.0.0.0:8080)"),
        Option("port", "P", "PORT", "port where it listens, a number or the name of a service"),
        Option("redirect", None, "ADDR", "last resort when there is no server; none: refuse instead"),
        Option("maxclients", None, "N", "most clients at once; 0: as many as there are descriptors (default)"),
        Option("real-server", "r", "ADDR[:PORT]", "real server (default port: the service's)"),
        Option("weight", "w", "N", "0..65535, 0: no new connections (default: 1)"),
        Option("maxconn", None, "N", "most connections at once; 0: no such limit (default)"),
        Option("pattern", "p", "REGEX", "searched in the path and query of a request"),
        Option("match", "m", "N", "group of the pattern whose text is hashed, 0..10"),
        Option("confirm", None, "TIME", "undo it after 60s or 5m, unless 'tcpvsadm --confirm' comes"),
        Option("allow-empty", None, None, "load an empty file too, which deletes all services"),
        Option("wait", None, None, "say who is left, until the server is drained"),
        Option("only", None, None, "in the place of those that were there"),
        Option("numeric", "n", None, "ports in numbers, host names as addresses"),
        Option("stats", None, None, "show counters"),
        Option("rate", None, None, "show what the counters gain in a second"),
        Option("connections", None, None, "show the clients connected now"),
        Option("header", "H", "'NAME: VALUE'", "header line of the request; may be repeated", True),
        Option("from", None, "ADDR", "IP address of the client (default: 127.0.0.1)"),
        Option("json", None, None, "print JSON"),
        Option("control", None, "ENDPOINT", "where the daemon answers (default: $KTCPVS_CONTROL)"),
    )
}
"""By name, in the order of --help. `control` goes with every command."""

NUMBERS = ("weight", "match", "maxclients", "maxconn")
"""Options whose value is a whole number."""

_DURATION = re.compile(r"([0-9]{1,6})([sm]?)")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_PORT = re.compile(r"[0-9]{1,9}|(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._+-]*")
_MAY_BE_EMPTY = ("pattern",)
_NAMED = {"set": "setting", "add-service": "option", "edit-service": "option"}
"""Commands whose words are NAME=VALUE, and what it is that they name."""


@frozen
class Invocation:
    """One command line, understood. values: option -> its text, "" of an option that takes none; of one that repeats,
    its last. words: see Command. headers: (name, value) of each --header, in their order."""

    command: Command
    values: Mapping[str, str] = field(factory=dict)
    words: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()

    def named(self) -> dict[str, str]:
        """The words NAME=VALUE of --set, --add-service and --edit-service: name -> value."""
        return dict(word.split("=", 1) for word in self.words)

    def request(self) -> tuple[str, str] | None:
        """Method and target that --explain was given; None: it was given none."""
        if not self.words:
            return None
        method, target = " ".join(self.words).split(" ")[:2]
        return method, target


def read_arguments(argv: Sequence[str]) -> Invocation:
    """Read `argv`, without the program's name, as getopt_long does. Raises Misuse."""
    given: list[Command] = []
    values: dict[str, str] = {}
    words: list[str] = []
    headers: list[tuple[str, str]] = []
    for what, value in _items(argv):
        if what is None:
            words.append(value or "")
        elif isinstance(what, Command):
            given.append(what)
            words[:0] = [] if value is None else [value]
        elif what.name in values and not what.repeats:
            raise Misuse(f"The '{what.name}' option is given twice")
        else:
            values[what.name] = value or ""
            if what.name == "header":
                headers.append(_header(values[what.name]))
    if "confirm" in values:
        if not given:
            given = [COMMANDS["confirm"]]
            del values["confirm"]
        else:
            values["confirm"] = _trial_time(given[0], words, values["confirm"])
    if COMMANDS["start"] in given and any("start" in command.optional for command in given):
        given.remove(COMMANDS["start"])
        values["start"] = ""
    if len(given) > 1:
        one, two = (command.name for command in given[:2])
        raise Misuse(f"The '{one}' command is given twice" if one == two else f"Two commands: '{one}' and '{two}'")
    command = given[0] if given else COMMANDS["list"]
    _check_options(command, values)
    _check_words(command, words)
    _check_named(command, values, words)
    return Invocation(command, values, tuple(words), tuple(headers))


def _trial_time(command: Command, words: list[str], value: str) -> str:
    """The seconds of `--confirm SECONDS`, which stand in the next word; taken out of `words`. Raises Misuse."""
    if not value and len(words) > command.least:
        value = words.pop()
    found = _DURATION.fullmatch(value)
    if "confirm" in command.optional and not (found and int(found[1])):
        raise Misuse(f"confirm '{shorten(value, 40)}': a time is wanted, as 60, 60s or 5m")
    return str(int(found[1]) * (60 if found[2] == "m" else 1)) if found else value


def _items(argv: Sequence[str]) -> Iterator[tuple[Command | Option | None, str | None]]:
    """Commands and options with their values, None for those without; and words, which belong to nothing (None)."""
    rest = iter(enumerate(argv, 1))
    for number, word in rest:
        _check_text(number, word)
        if word == "--":
            for later, left in rest:
                _check_text(later, left)
                yield None, left
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            what = _long(name)
            if equals:
                if not _may_have_value(what):
                    raise Misuse(f"Option '--{what.name}' takes no value")
                yield what, _filled(what, f"--{what.name}", value)
            else:
                yield what, _next_value(what, f"--{what.name}", rest)
        elif word.startswith("-") and word != "-":
            yield from _cluster(word[1:], rest)
        else:
            yield None, word


def _cluster(letters: str, rest: Iterator[tuple[int, str]]) -> Iterator[tuple[Command | Option, str | None]]:
    """Short options in one word; what follows one that takes a value is the value."""
    while letters:
        letter, letters = letters[0], letters[1:]
        what = _SHORT.get(letter)
        if what is None:
            raise Misuse(f"Unknown option '{shorten('-' + letter)}'{_hint('-' + letter)}")
        if letters and _needs_value(what):
            yield what, _filled(what, f"-{letter}", letters)
            return
        yield what, _next_value(what, f"-{letter}", rest)


_LONG: dict[str, Command | Option] = {**COMMANDS, **OPTIONS}
_SHORT: dict[str, Command | Option] = {what.short: what for what in _LONG.values() if what.short}
_SHORT |= {"C": COMMANDS["flush"], "S": COMMANDS["save"], "R": COMMANDS["restore"]}  # as in ipvsadm

_SERVICE_HABIT = "a service is named with -i ID and listens at -l ADDR:PORT"
_METHOD_HABIT = "connections are always relayed, so there is no packet-forwarding method to choose"
_HABITS = {
    "-t": _SERVICE_HABIT,
    "--tcp-service": _SERVICE_HABIT,
    "-u": "UDP is not switched; a TCP " + _SERVICE_HABIT[2:],
    "--udp-service": "UDP is not switched; a TCP " + _SERVICE_HABIT[2:],
    "-g": _METHOD_HABIT,
    "--gatewaying": _METHOD_HABIT,
    "--masquerading": _METHOD_HABIT,
    "--ipip": _METHOD_HABIT,
    "-c": "use --connections",
    "-x": "use --maxconn N",
    "--u-threshold": "use --maxconn N",
    "--clear": "use -F, --flush",
    "--zero": "counters cannot be zeroed; --rate shows what they gain in a second",
    "--persistent": "use -s chttp, whose cookie keeps a client at its server, or -s sh, which hashes its address",
}
"""Options of ipvsadm that do not exist here -> what to do instead."""


def _long(name: str) -> Command | Option:
    if name in _LONG:
        return _LONG[name]
    meant = [known for known in _LONG if known.startswith(name)]
    if len(meant) == 1 and f"--{name}" not in _HABITS:
        return _LONG[meant[0]]
    if f"--{name}" not in _HABITS and meant and name:
        raise Misuse(f"Option '--{name}' may be {' or '.join('--' + known for known in meant)}")
    raise Misuse(f"Unknown option '{shorten('--' + name)}'{_hint(f'--{name}')}")


def _hint(written: str) -> str:
    """Advise what to use instead of the unknown option `written`, or guess what was meant; "" where nothing is near."""
    if written in _HABITS:
        return f": {_HABITS[written]}"
    near = get_close_matches(written[2:], _LONG, 1) if re.match("--[a-z]", written) else []
    return f"; did you mean '--{near[0]}'?" if near else ""


def _needs_value(what: Command | Option) -> bool:
    if what.name == "confirm":
        return False  # alone it is a command
    return what.first_is_value if isinstance(what, Command) else what.value is not None


def _may_have_value(what: Command | Option) -> bool:
    return what.name == "confirm" or _needs_value(what) or (isinstance(what, Command) and what.most != 0)


def _next_value(what: Command | Option, written: str, rest: Iterator[tuple[int, str]]) -> str | None:
    """The next word when `what` needs a value, whatever that word looks like."""
    if not _needs_value(what):
        return None
    for number, value in rest:
        _check_text(number, value)
        return _filled(what, written, value)
    raise Misuse(f"Option '{written}' needs a value")


def _filled(what: Command | Option, written: str, value: str) -> str:
    if not value and what.name not in _MAY_BE_EMPTY:
        raise Misuse(f"The value of option '{written}' is empty")
    return value


def _check_text(number: int, word: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in word):
        shown = ascii(word.encode("utf-8", "surrogateescape"))[1:] if _from_bytes(word) else ascii(word)
        raise Misuse(f"Argument {number} is no text in this locale: {shorten(shown)}")


def _from_bytes(word: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff" for character in word)


def _check_options(command: Command, values: Mapping[str, str]) -> None:
    for name in values:
        if name not in (*command.required, *command.optional, "control"):
            raise Misuse(f"Illegal '{name}' option with the '{command.name}' command")
    for name in command.required:
        if name not in values:
            raise Misuse(f"You need to supply the '{name}' option for the '{command.name}' command")
    views = [name for name in values if name in VIEWS]
    if len(views) > 1:
        raise Misuse(f"Illegal '{views[1]}' option with the '{views[0]}' option")
    for name in NUMBERS:
        if name in values and not _NUMBER.fullmatch(values[name]):
            raise Misuse(f"{name} '{shorten(values[name], 40)}': a whole number of at most 9 digits is wanted")
    if "port" in values and not _PORT.fullmatch(values["port"]):
        raise Misuse(f"port '{shorten(values['port'], 40)}': a number or the name of a service is wanted")


def _check_words(command: Command, words: Sequence[str]) -> None:
    if command.most is not None and len(words) > command.most:
        raise Misuse(f"Unexpected argument '{shorten(words[command.most])}' with the '{command.name}' command")
    if len(words) < command.least:
        raise Misuse(f"You need to supply {command.words} for the '{command.name}' command")
    if command.name == "get" and words == [""]:
        raise Misuse("The name of a setting is empty")
    if command.name == "explain" and words:
        request = " ".join(words)
        method, _, rest = request.partition(" ")
        target, _, version = rest.partition(" ")
        if not method or not target or version not in ("", "HTTP/1.0", "HTTP/1.1"):
            raise Misuse(f"'{shorten(request)}': METHOD TARGET is wanted, as 'GET /index.html'")


def _check_named(command: Command, values: Mapping[str, str], words: Sequence[str]) -> None:
    """Words NAME=VALUE: each name once, and not as an option besides."""
    kind = _NAMED.get(command.name)
    if kind is None:
        return
    names: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if not name or not equals:
            raise Misuse(f"'{shorten(word)}': NAME=VALUE is wanted")
        if name in names or name in values:
            raise Misuse(f"The {kind} '{shorten(name, 40)}' is given twice")
        names.append(name)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise Misuse(f"header '{shorten(text, 40)}': 'NAME: VALUE' is wanted")
    return name, value.strip(" \t")
