"""The command line of tcpvsadm as a table: every command, its options, and how argv is read by them.

This module carries nothing out and looks nothing up. A command line that makes no sense is a UsageError; the daemon
decides whether a value is good, as long as it has the form of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from attrs import field, frozen

from ktcpvs.control.command_table import COMMAND_OF_NAME
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.control.tcpvsadm.hints import (
    IPVSADM_OPTIONS,
    METHOD_HINT,
    PERSISTENCE_HINT,
    SERVICE_HINT,
    UNEXPECTED_HINTS,
    WORD_HINTS,
)
from ktcpvs.errors import nearest, shorten


@frozen
class Option:
    """value: the name of its value in --help; None: it has none. meaning: for --help. repeats: it may be given several
    times."""

    name: str
    short: str | None
    value: str | None
    meaning: str
    repeats: bool = False


@frozen
class Command:
    """A command, and the words and options that it takes.

    required, optional: names of options, or of the command `start` where it may be given as an option. meaning: for
    --help. words: their name in --help. min_words, max_words: how many there may be; None: any number. first_is_value:
    the first word is the value of the command's own option, as in `-f FILE`. option_values: option -> the name of the
    value that it has with this command, and with no other one.
    """

    name: str
    short: str | None
    meaning: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    words: str = ""
    min_words: int = 0
    max_words: int | None = 0
    first_is_value: bool = False
    option_values: Mapping[str, str] = field(factory=dict)


VIEWS = ("stats", "rate", "connections")
"""Listings that --list shows instead of the configuration, one at a time."""

_SERVICE = ("scheduler", "balance", "port", "listen", "redirect", "maxclients")
_LOAD = ("start", "confirm", "allow-empty")
_RULE_WORDS = "[CONDITION...] [MODIFIER...] [use ACTION | use SERVERS]"
_REQUEST = ("header", "body", "from", "port", "wide", "json")


def _edit_command(
    name: str,
    short: str | None = None,
    optional: tuple[str, ...] | None = None,
    also: tuple[str, ...] = (),
    note: str = "",
    words: str = "",
    min_words: int = 0,
    max_words: int | None = 0,
    first_is_value: bool = False,
    spares: tuple[str, ...] = (),
) -> Command:
    """Make the command of an edit from its entry in `command_table`.

    optional: instead of the entry's optional options. also: options that only tcpvsadm knows. note: added to the help.
    spares: required options instead of which there may be words or other options.
    """
    entry = COMMAND_OF_NAME[name]
    given = [(argument.option, argument.is_required and argument.option not in spares) for argument in entry.arguments]
    required = tuple(option for option, is_required in given if option and is_required)
    if optional is None:
        optional = tuple(option for option, is_required in given if option and not is_required)
    return Command(
        name,
        short,
        entry.help + note,
        required,
        (*optional, *also),
        words,
        min_words,
        max_words,
        first_is_value,
    )


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "list", "L", "print the table, as without any command",
            (), ("ident", "numeric", *VIEWS, "filter", "sort", "count", "all-nodes", "wide", "json"),
        ),
        Command(
            "kill", None, "close a client connection, which --connections lists with its ID",
            words="ID", min_words=1, max_words=1, first_is_value=True,
        ),
        Command("top", None, "show live rates, updated every second; q quits", (), ("ident", "numeric", "all-nodes")),
        _edit_command(
            "add-service", "A", _SERVICE, note="; NAME=VALUE sets any option", words="[NAME=VALUE...]", max_words=None
        ),
        _edit_command("edit-service", "E", _SERVICE, words="[NAME=VALUE...]", max_words=None),
        _edit_command("delete-service", "D"),
        _edit_command("flush", "F"),
        _edit_command("add-listener", words="[tls] [on NODE[,NODE...]]", max_words=None),
        _edit_command("del-listener"),
        _edit_command("add-server", "a", words="[WORD...]", max_words=None),
        _edit_command("edit-server", "e", also=("wait",), words="[WORD...]", max_words=None),
        _edit_command("delete-server", "d", also=("wait",)),
        _edit_command("drain", also=("wait",)),
        _edit_command("ready"),
        _edit_command("maintenance", also=("wait",)),
        Command(
            "rebalance", None, "move the oldest connections off servers that have more than their share",
            ("ident",), ("reset", "wait", "all-nodes", "json"),
            words="PERCENT%", min_words=1, max_words=1, first_is_value=True,
        ),
        _edit_command("add-rule", words=_RULE_WORDS, max_words=None, spares=("pattern",)),
        _edit_command("edit-rule", words=_RULE_WORDS, max_words=None),
        _edit_command("move-rule"),
        _edit_command("del-rule", also=("rule",), words="[CONDITION...]", max_words=None, spares=("pattern",)),
        _edit_command("allow", words="NETWORK|@FILE...", min_words=1, max_words=None),
        _edit_command("deny", words="NETWORK|@FILE...", min_words=1, max_words=None),
        _edit_command("del-network", words="NETWORK|@FILE...", min_words=1, max_words=None),
        _edit_command("load-configfile", "f", _LOAD, words="FILE", min_words=1, max_words=1, first_is_value=True),
        Command("restore", None, "like load-configfile, from standard input", (), _LOAD),
        _edit_command("confirm"),
        _edit_command("end-local"),
        Command(
            "check", None, "check a configuration file without a daemon, and run its tests",
            (), ("allow-empty",), words="FILE", min_words=1, max_words=1, first_is_value=True,
        ),
        Command(
            "diff", None, "print what -f would change; exit status 4 if anything",
            words="FILE", min_words=1, max_words=1, first_is_value=True,
        ),
        Command("save", None, "print the table and the settings as a configuration file"),
        _edit_command("start"),
        _edit_command("stop"),
        _edit_command("set", words="NAME=VALUE...", min_words=1, max_words=None),
        Command("get", None, "print all settings, or one", (), ("json",), words="[NAME]", max_words=1),
        Command(
            "explain", None, "explain which server would handle a request; none is contacted", ("ident",), _REQUEST,
            words="['METHOD TARGET']", max_words=3,
        ),
        Command(
            "trace", None, "print requests as they end, with what was decided and how long it took",
            (), ("ident", "count", "for", "json"),
            words="'[CONDITION...]'", min_words=1, max_words=1, first_is_value=True, option_values={"count": "N"},
        ),
        Command("certificates", None, "print the certificates of running services", (), ("ident", "wide", "json")),
        _edit_command("reload-certificates"),
        _edit_command("renew-certificate", words="[HOST]", max_words=1),
        Command("nodes", None, "print the nodes of the cluster, and what each of them runs", (), ("wide", "json")),
        _edit_command(
            "drain-node", also=("wait",), words="NODE", min_words=1, max_words=1, first_is_value=True
        ),
        _edit_command("undrain-node", words="NODE", min_words=1, max_words=1, first_is_value=True),
        _edit_command("forget-node", words="NODE", min_words=1, max_words=1, first_is_value=True),
        Command(
            "replay", None, "run an access log through a scheduler, in simulation, and compare", (),
            ("ident", "scheduler", "balance", "config", "header", "seconds", "wide", "json"),
            words="LOG", min_words=1, max_words=1, first_is_value=True,
        ),
        Command(
            "new-scheduler", None, "write the package of a scheduler of your own, with its tests",
            words="NAME DIR", min_words=2, max_words=2, first_is_value=True,
        ),
        Command(
            "schedulers", None, "print the available schedulers, and plugins that failed to load",
            (), ("verbose", "wide", "json"),
        ),
        _edit_command("reload-schedulers", words="[NAME]", max_words=1),
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
        Option("listen", "l", "ADDR[:PORT]", "address to listen on (default: 0.0.0.0:8080)"),
        Option("port", "P", "PORT", "listening port, a number or a service name"),
        Option("redirect", None, "ADDR", "used when no server is available; none: refuse instead"),
        Option("maxclients", None, "N", "most clients at once; 0: limited by descriptors (default)"),
        Option("real-server", "r", "ADDR[:PORT]", "real server (default port: that of the service)"),
        Option("weight", "w", "N", "0..65535, 0: no new connections (default: 1)"),
        Option("maxconn", None, "N", "most connections at once; 0: no limit (default)"),
        Option("pattern", "p", "REGEX", "regular expression, searched in path and query"),
        Option("match", "m", "N", "group of the pattern to hash, 0..10"),
        Option("name", None, "NAME", "name of the rule"),
        Option("rule", None, "RULE", "a rule: its name, its conditions, or its number"),
        Option("before", None, "RULE", "the rule in front of which it goes"),
        Option("confirm", None, "TIME", "undo it after TIME (60s, 5m) unless confirmed"),
        Option("allow-empty", None, None, "load even a file without services, which deletes all of them"),
        Option("wait", None, None, "wait until all have left the server or the node, or have moved; print progress"),
        Option("reset", None, None, "with --rebalance: also reset connections that cannot be closed otherwise"),
        Option("delay", None, "SECONDS", "the node goes on accepting for so long (default: 0)"),
        Option("only", None, None, "replace the list instead of adding to it"),
        Option("numeric", "n", None, "print numeric ports and addresses"),
        Option("stats", None, None, "show counters"),
        Option("rate", None, None, "show rates per second"),
        Option("connections", None, None, "show client connections"),
        Option(
            "filter",
            None,
            "NAME=VALUE",
            "with --connections: only of this client, server or state; may be repeated",
            True,
        ),
        Option("sort", None, "COLUMN", "with --connections: age, idle, in, out, client, server, state"),
        Option("count", None, None, "with --connections: print their number; of --trace: N requests (100)"),
        Option("for", None, "TIME", "how long to trace: 30s, 5m (default: 60s)"),
        Option("verbose", "v", None, "with --schedulers: also the options of each scheduler"),
        Option("wide", None, None, "do not shorten names to the width of the terminal"),
        Option("all-nodes", None, None, "in a cluster: of all nodes together"),
        Option("header", "H", "'NAME: VALUE'", "header field of the request; may be repeated", True),
        Option("body", None, "FILE", "body of the request, of which 1 MiB is read; -: standard input"),
        Option("config", None, "FILE", "with --replay: a configuration, instead of the daemon's table"),
        Option("seconds", None, "TIME", "time of a request that the log does not tell (default: 0.1)"),
        Option("from", None, "ADDR", "IP address of the client (default: 127.0.0.1)"),
        Option("json", None, None, "print JSON"),
        Option("local", None, None, "in a cluster: change this node only, until --end-local"),
        Option("force-local", None, None, "while etcd fails: change this node only, until it responds"),
        Option("wait-nodes", None, None, "in a cluster: wait until all nodes have the change in force"),
        Option("control", None, "ENDPOINT", "address of the daemon (default: $KTCPVS_CONTROL)"),
    )
}
"""By name, in the order of --help."""

GLOBAL = ("control", "wait-nodes")
"""Options that go with every command."""

SCOPES = ("local", "force-local")
"""Options that go with every command that edits; the daemon refuses them with some."""

NUMBERS = ("weight", "match", "maxclients", "maxconn", "delay")
"""Options whose value is a whole number."""

REPEATING = ("listen", "certificate", "request_header", "response_header", "error_page")
"""Options of a service that may be given several times as NAME=VALUE."""

_DURATION = re.compile(r"([0-9]{1,6})([sm]?)")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?")
_PORT = re.compile(r"[0-9]{1,9}|(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._+-]*")
_MAY_BE_EMPTY = ("pattern", "name", "trace")
_NAME_VALUE_COMMANDS = {"set": "setting", "add-service": "option", "edit-service": "option"}
"""Commands whose words are NAME=VALUE -> what the names stand for."""

_NAME_VALUE_EXAMPLES = {"setting": "read_timeout=60", "option": "maxclients=100"}
"""The meaning of the names -> an example of NAME=VALUE."""


@frozen
class Invocation:
    """One command line. values: option -> its value, "" of an option without one; of an option that repeats, the last.
    words: see Command. headers: (name, value) of each --header, in their order. filters: the value of each --filter."""

    command: Command
    values: Mapping[str, str] = field(factory=dict)
    words: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    filters: tuple[str, ...] = ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """Of the words of a rule: those before `use`, which are conditions and modifiers."""
        return self.words[: _use(self.words)]

    @property
    def action(self) -> tuple[str, ...]:
        """Of the words of a rule: those behind `use`, which are an action or servers."""
        return self.words[_use(self.words) + 1 :]

    def named(self) -> dict[str, str]:
        """Return {name: value} of the words NAME=VALUE of --set, --add-service and --edit-service. An option that is
        given several times has a value in each line."""
        named: dict[str, str] = {}
        for name, value in (word.split("=", 1) for word in self.words):
            named[name] = f"{named[name]}\n{value}" if name in named else value
        return named

    def request(self) -> tuple[str, str] | None:
        """Return method and target of the request for --explain; None: there is none."""
        if not self.words:
            return None
        method, target = " ".join(self.words).split(" ")[:2]
        return method, target


def _use(words: Sequence[str]) -> int:
    """Return the place of the word `use`, behind which an action is; the number of words if it is not there."""
    return next((place for place, word in enumerate(words) if word.lower() == "use"), len(words))


def read_arguments(argv: Sequence[str]) -> Invocation:
    """Read `argv`, without the program's name, as getopt_long does. Raises UsageError."""
    given: list[Command] = []
    values: dict[str, str] = {}
    words: list[str] = []
    headers: list[tuple[str, str]] = []
    filters: list[str] = []
    for item, value in _scan(argv):
        if item is None:
            words.append(value or "")
        elif isinstance(item, Command):
            given.append(item)
            words[:0] = [] if value is None else [value]
        elif item.name in values and not item.repeats:
            raise UsageError(f"The '{item.name}' option is given twice")
        else:
            values[item.name] = value or ""
            if item.name == "filter":
                filters.append(values[item.name])
            if item.name == "header":
                headers.append(_parse_header(values[item.name]))
    if "confirm" in values:
        if not given:
            given = [COMMANDS["confirm"]]
            del values["confirm"]
        else:
            values["confirm"] = _take_confirm_time(given[0], words, values["confirm"])
    if COMMANDS["start"] in given and any("start" in command.optional for command in given):
        given.remove(COMMANDS["start"])
        values["start"] = ""
    if len(given) > 1:
        one, two = (command.name for command in given[:2])
        if one == two:
            raise UsageError(f"The '{one}' command is given twice")
        is_mark = two == "load-configfile" and words[:1] and words[0].isdigit()
        hint = f"; marks of a firewall are not supported: {SERVICE_HINT}" if is_mark else ""
        raise UsageError(f"Two commands: '{one}' and '{two}'{hint}")
    command = given[0] if given else COMMANDS["list"]
    _check_first_word(given, words, values)
    _take_values(command, words, values)
    _check_options(command, words, values)
    _check_words(command, words, values)
    _check_named(command, values, words)
    return Invocation(command, values, tuple(words), tuple(headers), tuple(filters))


def _take_values(command: Command, words: list[str], values: dict[str, str]) -> None:
    """Give options the values that they have with this command alone; they may be in `words`, and are removed there.
    Raises UsageError."""
    if "count" in values:
        if "count" not in command.option_values:
            if values["count"]:
                raise UsageError("Option '--count' takes no value with this command")
        else:
            if not values["count"]:
                place = next((place for place, word in enumerate(words) if place and word.isdigit()), None)
                if place is None:
                    raise UsageError("Option '--count' needs a value with the 'trace' command")
                values["count"] = words.pop(place)
            if not _NUMBER.fullmatch(values["count"]):
                raise UsageError(f"count '{shorten(values['count'], 40)}': not a whole number of at most 9 digits")
    if "for" in values:
        found = _DURATION.fullmatch(values["for"])
        if not (found and int(found[1])):
            raise UsageError(f"for '{shorten(values['for'], 40)}': not a time (examples: 60, 60s, 5m)")
        values["for"] = str(int(found[1]) * (60 if found[2] == "m" else 1))


def _take_confirm_time(command: Command, words: list[str], value: str) -> str:
    """Return the seconds of `--confirm TIME`, whose value may be in `words` and is removed there. Raises UsageError."""
    if not value and len(words) > command.min_words:
        value = words.pop()
    found = _DURATION.fullmatch(value)
    if "confirm" in command.optional and not (found and int(found[1])):
        raise UsageError(f"confirm '{shorten(value, 40)}': not a time (examples: 60, 60s, 5m)")
    return str(int(found[1]) * (60 if found[2] == "m" else 1)) if found else value


def _scan(argv: Sequence[str]) -> Iterator[tuple[Command | Option | None, str | None]]:
    """Iterate over commands and options with their values, None for those without, and over the other words, with None
    instead of a command."""
    rest = iter(enumerate(argv, 1))
    for number, word in rest:
        _check_text(number, word)
        if word == "--":
            for later, plain in rest:
                _check_text(later, plain)
                yield None, plain
        elif word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            item = _find_long(name)
            if equals:
                if not _may_have_value(item):
                    raise UsageError(f"Option '--{item.name}' takes no value")
                yield item, _nonempty(item, f"--{item.name}", value)
            else:
                yield item, _next_value(item, f"--{item.name}", rest)
        elif word.startswith("-") and word != "-":
            yield from _scan_cluster(word[1:], rest)
        else:
            yield None, word


def _scan_cluster(letters: str, rest: Iterator[tuple[int, str]]) -> Iterator[tuple[Command | Option, str | None]]:
    """Iterate over the short options of one word; the rest of the word is the value of an option that takes one."""
    if letters in _LONG:
        raise UsageError(f"Unknown option '-{letters}'; did you mean '--{letters}'?")
    while letters:
        letter, letters = letters[0], letters[1:]
        item = _SHORT.get(letter)
        if item is None:
            raise UsageError(f"Unknown option '{shorten('-' + letter)}'{_suggest('-' + letter)}")
        if letters and _needs_value(item):
            yield item, _nonempty(item, f"-{letter}", letters)
            return
        yield item, _next_value(item, f"-{letter}", rest)


_LONG: dict[str, Command | Option] = {**COMMANDS, **OPTIONS}
_SHORT: dict[str, Command | Option] = {item.short: item for item in _LONG.values() if item.short}
_SHORT |= {"C": COMMANDS["flush"], "S": COMMANDS["save"], "R": COMMANDS["restore"]}  # as in ipvsadm


def _find_long(name: str) -> Command | Option:
    if name in _LONG:
        return _LONG[name]
    matches = [known for known in _LONG if known.startswith(name)]
    if len(matches) == 1 and f"--{name}" not in IPVSADM_OPTIONS:
        return _LONG[matches[0]]
    if f"--{name}" not in IPVSADM_OPTIONS and matches and name:
        raise UsageError(f"Option '--{name}' may be {' or '.join('--' + known for known in matches)}")
    raise UsageError(f"Unknown option '{shorten('--' + name)}'{_suggest(f'--{name}')}")


def _suggest(written: str) -> str:
    """Return what to use instead of the unknown option `written`, or the nearest option; "" where there is none."""
    if written in IPVSADM_OPTIONS:
        return f": {IPVSADM_OPTIONS[written]}"
    near = nearest(written[2:], _LONG) if re.match("--[A-Za-z]", written) else None
    return f"; did you mean '--{near}'?" if near else ""


def _needs_value(item: Command | Option) -> bool:
    if item.name == "confirm":
        return False  # alone it is a command
    return item.first_is_value if isinstance(item, Command) else item.value is not None


def _may_have_value(item: Command | Option) -> bool:
    return (
        item.name in ("confirm", "count") or _needs_value(item) or (isinstance(item, Command) and item.max_words != 0)
    )


def _next_value(item: Command | Option, written: str, rest: Iterator[tuple[int, str]]) -> str | None:
    """Return the next word where `item` needs a value, whatever that word looks like."""
    if not _needs_value(item):
        return None
    for number, value in rest:
        _check_text(number, value)
        return _nonempty(item, written, value)
    hints = {"-m": f": {METHOD_HINT}", "-l": " (to list, use -L)"}  # which mean that in ipvsadm
    hint = hints.get(written) or f": {written} {_EXAMPLES.get(item.name) or _value_of(item)}"
    raise UsageError(f"Option '{written}' needs a value{hint}")


def _value_of(item: Command | Option) -> str:
    """Return the name that --help gives the value of an option, or of a command that takes one."""
    return item.words if isinstance(item, Command) else item.value or ""


_EXAMPLES = {
    "ident": "shop",
    "real-server": "10.0.0.1:80",
    "listen": "0.0.0.0:80",
    "rule": "NAME, or 1 for the first",
    "trace": "'path /shop/', or '' for all requests",
}
"""Options and commands -> a value, for errors."""


def _nonempty(item: Command | Option, written: str, value: str) -> str:
    if not value and item.name not in _MAY_BE_EMPTY:
        raise UsageError(f"The value of option '{written}' is empty")
    return value


def _check_text(number: int, word: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in word):
        shown = ascii(word.encode("utf-8", "surrogateescape"))[1:] if _is_from_bytes(word) else ascii(word)
        raise UsageError(f"Argument {number} is not text in this locale: {shorten(shown)}")


def _is_from_bytes(word: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" or "\udc80" <= character <= "\udcff" for character in word)


_MISPLACED = {
    ("listen", "n"): "; to list numeric addresses, use -L -n",
    ("verbose", ""): "; it belongs to --schedulers, and the version is --version",
}
"""(option, value) that a command does not take -> what to use instead."""


def _check_options(command: Command, words: Sequence[str], values: Mapping[str, str]) -> None:
    for name in values:
        is_scope = name in SCOPES and (command.name in COMMAND_OF_NAME or command.name == "restore")
        if not is_scope and name not in (*command.required, *command.optional, *GLOBAL):
            hint = _explain_illegal(command, name, values[name])
            raise UsageError(f"Illegal '{name}' option with the '{command.name}' command{hint}")
    for name in command.required:
        if name not in values:
            hint = (_explain_word(command, words[0], values, name) if words else "") or _show_option(name)
            raise UsageError(f"You need to supply the '{name}' option for the '{command.name}' command{hint}")
    for names in (VIEWS, SCOPES):
        given = [name for name in values if name in names]
        if len(given) > 1:
            raise UsageError(f"Illegal '{given[1]}' option with the '{given[0]}' option: give one of them")
    for name in NUMBERS:
        if name in values and not _NUMBER.fullmatch(values[name]):
            raise UsageError(f"{name} '{shorten(values[name], 40)}': not a whole number of at most 9 digits")
    if "seconds" in values and not _is_duration(values["seconds"]):
        raise UsageError(f"seconds '{shorten(values['seconds'], 40)}': expected seconds up to 3600 (example: 0.05)")
    if command.name == "explain" and not values.get("port", "1").isdigit():
        raise UsageError(f"port '{shorten(values['port'], 40)}': not a number")
    if "port" in values and not _PORT.fullmatch(values["port"]):
        raise UsageError(f"port '{shorten(values['port'], 40)}': not a number or a service name")


def _explain_illegal(command: Command, name: str, value: str) -> str:
    """Return what to use instead of an option that ipvsadm has with this command; "" where that is unknown."""
    if name == "pattern" and command.name in ("add-service", "edit-service"):
        return f"; for persistence, {PERSISTENCE_HINT}"
    if name == "name" and "rule" in (*command.required, *command.optional):
        return f"; the rule goes with --rule: --rule {shorten(value, 64)}"
    return _MISPLACED.get((name, value), "")


def _show_option(name: str) -> str:
    """Return how an option is written, for the error that it is missing."""
    option = OPTIONS[name]
    example = f" (example: -{option.short} {_EXAMPLES[name]})" if option.short and name in _EXAMPLES else ""
    written = f"-{option.short}" if option.short else f"--{name}"
    return f": {written} {option.value}, {option.meaning.partition(' (')[0]}{example}"


def _is_duration(text: str) -> bool:
    return bool(_SECONDS.fullmatch(text)) and 0 < float(text) <= 3600


def _check_connections(values: Mapping[str, str], filters: Sequence[str]) -> None:
    for name in ("filter", "sort", "count"):
        if name in values and "connections" not in values:
            raise UsageError(f"The '{name}' option needs the 'connections' option")
    if "connections" in values and ("sort" in values or filters):
        from ktcpvs.control.tcpvsadm.connections import check_filter, check_order

        why = check_order(values["sort"]) if "sort" in values else ""
        if why := next(filter(None, (why, *map(check_filter, filters))), ""):
            raise UsageError(why)


def _check_words(command: Command, words: Sequence[str], values: Mapping[str, str]) -> None:
    if command.max_words is not None and len(words) > command.max_words:
        word = words[command.max_words]
        hint = _explain_word(command, word, values)
        raise UsageError(f"Unexpected argument '{shorten(word)}' with the '{command.name}' command{hint}")
    if len(words) < command.min_words:
        raise UsageError(f"You need to supply {command.words} for the '{command.name}' command")
    if command.name in _ACTION_COMMANDS:
        _check_action(command, words, values)
    conditions = words[: _use(words)]
    if command.name in ("add-rule", "del-rule") and not conditions and not values.keys() & {"pattern", "name", "rule"}:
        raise UsageError(f"You need to supply the 'pattern' option or conditions for the '{command.name}' command")
    if command.name == "del-rule" and len(words) == 1 and "rule" not in values:
        raise UsageError(
            f"Unexpected argument '{shorten(words[0])}' with the 'del-rule' command: a rule goes with --rule: "
            f"--rule {shorten(words[0])}"
        )
    if command.name == "get" and words == [""]:
        raise UsageError("The name of a setting is empty")
    if command.name == "add-listener" and words and words[0] not in ("tls", "on"):
        raise UsageError(
            f"Unexpected argument '{shorten(words[0])}' with the 'add-listener' command: expected 'tls' or 'on NODE'"
        )
    if command.name == "explain" and words:
        request = " ".join(words)
        method, _, rest = request.partition(" ")
        target, _, version = rest.partition(" ")
        if not method or not target or version not in ("", "HTTP/1.0", "HTTP/1.1"):
            raise UsageError(f"'{shorten(request)}': not METHOD TARGET (example: 'GET /index.html')")


def _check_first_word(given: Sequence[Command], words: Sequence[str], values: Mapping[str, str]) -> None:
    """Raise UsageError if a word without any command is the name of one, or is similar to it."""
    word = words[0] if words else ""
    if given or values or not word[:1].isalnum():
        return
    begin = f"Unexpected argument '{shorten(word)}' with the 'list' command"
    if word in WORD_HINTS:
        raise UsageError(f"{begin}: {WORD_HINTS[word]}")
    near = nearest(word, (*COMMANDS, *VIEWS), 0.75)
    if near == word.lower():
        raise UsageError(f"{begin}; did you mean '--{near}'?")
    if near:
        raise UsageError(f"{begin}; did you mean '--{near}', or -i {shorten(word)} for a virtual service?")


def _explain_word(command: Command, word: str, values: Mapping[str, str], missing: str = "") -> str:
    """Return what to use instead of a word that nothing stands for; "" where that is unknown. missing: the option that
    is required and not given."""
    if not word[:1].isalnum():
        return ""
    if command.name in UNEXPECTED_HINTS:
        return f": {UNEXPECTED_HINTS[command.name].format(word=shorten(word))}"
    is_name = command.name == "explain" and missing and " " not in word  # and no request
    if command.max_words != 0 and not is_name:
        return ""  # the word may belong to the command
    for name in (missing,) if missing else ("ident", "real-server"):
        if name in (*command.required, *command.optional) and name not in values and OPTIONS[name].short:
            option = OPTIONS[name]
            meaning = option.meaning.partition(" (")[0]
            return f": the {meaning} goes with -{option.short}: -{option.short} {shorten(word)}"
    return ""


_NEEDED_CHANGE = {
    "edit-service": "an option of the service (examples: maxclients=100, -s wlc)",
    "edit-server": "a weight, a maxconn or words of the server (examples: -w 2, maintenance)",
}
"""Commands that change nothing alone -> what they need."""


def check_details(given: Invocation) -> None:
    """Check what depends on several options: an edit must change something, and --filter, --sort and --count belong to
    --connections. Raises UsageError."""
    if given.command.name == "list":
        _check_connections(given.values, given.filters)
    needed = _NEEDED_CHANGE.get(given.command.name)
    if needed and not given.words and not given.values.keys() - {*given.command.required, *SCOPES, *GLOBAL}:
        raise UsageError(f"Nothing to change: give {needed}")


_ACTION_COMMANDS = ("add-rule", "edit-rule")


def _check_action(command: Command, words: Sequence[str], values: Mapping[str, str]) -> None:
    """Check that a new rule has a server or an action."""
    place = _use(words)
    if place + 1 == len(words):
        raise UsageError(
            f"Missing action or servers after 'use' with the '{command.name}' command (example: use respond 403)"
        )
    action = next((spot for spot, word in enumerate(words) if word.lower() in ("respond", "redirect", "server")), None)
    if place == len(words) and action is not None:
        shown = shorten(" ".join(words[action:]), 40)
        raise UsageError(
            f"Unexpected argument '{words[action]}' with the '{command.name}' command: write 'use' before it: "
            f"use {shown}"
        )
    if command.name == "add-rule" and place == len(words) and "real-server" not in values:
        raise UsageError(
            "You need to supply the 'real-server' option for the 'add-rule' command, or servers or an action "
            "(examples: use server 10.0.0.1:80 95, use respond 403)"
        )


_NO_OPTIONS = {
    "server": "a server is added by -a -i ID -r ADDR:PORT",
    "weight": "the weight of a server is set by -e -i ID -r ADDR:PORT -w N",
    "rule": "a rule is added by --add-rule -i ID CONDITION... -r SERVER",
    "test": "tests are in configuration files only",
}
"""Words of a configuration's blocks that are no options of the service -> what to use instead."""


def _check_named(command: Command, values: Mapping[str, str], words: Sequence[str]) -> None:
    """Check words NAME=VALUE: each name may be given once, as a word or as an option."""
    kind = _NAME_VALUE_COMMANDS.get(command.name)
    if kind is None:
        return
    names: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if not name or not equals:
            raise UsageError(f"'{shorten(word)}': not NAME=VALUE (example: {_NAME_VALUE_EXAMPLES[kind]})")
        if kind == "option" and name in _NO_OPTIONS:
            raise UsageError(f"A service has no option '{name}': {_NO_OPTIONS[name]}")
        if (name in names and (command.name == "set" or name not in REPEATING)) or name in values:
            raise UsageError(f"The {kind} '{shorten(name, 40)}' is given twice")
        names.append(name)


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"header '{shorten(text, 40)}': not 'NAME: VALUE'")
    return name, value.strip(" \t")
