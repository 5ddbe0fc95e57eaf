"""Checks of a command line of tcpvsadm: options and words that its command does not take, or lacks.

A command line that makes no sense is a UsageError; the daemon decides whether a value is good, as long as it has the
form of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from shlex import quote

from ktcpvs.control.command_table import COMMAND_OF_NAME
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.control.tcpvsadm.hints import PERSISTENCE_HINT, UNEXPECTED_HINTS, WORD_HINTS
from ktcpvs.control.tcpvsadm.invocation import Invocation, place_of_use
from ktcpvs.control.tcpvsadm.options import (
    COMMANDS,
    EXAMPLES,
    GLOBAL,
    NUMBERS,
    OPTIONS,
    REPEATING,
    SCOPES,
    VIEWS,
    Command,
)
from ktcpvs.errors import nearest, shorten
from ktcpvs.model.expectation import CHANGED_IN_FILES

_DURATION = re.compile(r"([0-9]{1,6})([sm]?)")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?")
_PID = re.compile(r"[1-9][0-9]{0,8}")
_PORT = re.compile(r"[0-9]{1,9}|(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._+-]*")
_NAME_VALUE_COMMANDS = {"set": "setting", "add-service": "option", "edit-service": "option"}
"""Commands whose words are NAME=VALUE -> what the names stand for."""

_NAME_VALUE_EXAMPLES = {"setting": "read_timeout=60", "option": "maxclients=100"}
"""The meaning of the names -> an example of NAME=VALUE."""

_TLS = "tls"
"""The condition of a rule that is one word."""

_MISPLACED = {
    ("listen", "n"): "; to list numeric addresses, use -L -n",
    ("verbose", ""): "; it belongs to --schedulers, and the version is --version",
}
"""(option, value) that a command does not take -> what to use instead."""


def is_number(text: str) -> bool:
    """Whether it is a whole number of at most 9 digits."""
    return bool(_NUMBER.fullmatch(text))


def read_duration(text: str) -> int | None:
    """Return the seconds in "60", "60s" or "1m"; None: it is no such time."""
    found = _DURATION.fullmatch(text)
    return int(found[1]) * (60 if found[2] == "m" else 1) if found else None


def check_options(command: Command, words: Sequence[str], values: Mapping[str, str]) -> None:
    """Check the options of a command: none that it does not take, all that it requires, each value of its form. words:
    all words that are no options. values: option -> its value. Raises UsageError."""
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
    _check_forms(command, values)


def _check_forms(command: Command, values: Mapping[str, str]) -> None:
    """Check that each value has the form of its kind. Raises UsageError."""
    for name in NUMBERS:
        if name in values and not is_number(values[name]):
            raise UsageError(f"{name} '{shorten(values[name], 40)}': not a whole number of at most 9 digits")
    for name in ("pid", "not-pid"):
        if name in values and not _PID.fullmatch(values[name]):
            raise UsageError(
                f"{name} '{shorten(values[name], 40)}': not the number of a process (example: --{name} 4711)"
            )
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
    example = f" (example: -{option.short} {EXAMPLES[name]})" if option.short and name in EXAMPLES else ""
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


def check_words(command: Command, words: Sequence[str], values: Mapping[str, str]) -> None:
    """Check the words of a command: their number, and their form where it has one. values: option -> its value. Raises
    UsageError."""
    if command.max_words is not None and len(words) > command.max_words:
        word = words[command.max_words]
        hint = _explain_word(command, word, values)
        raise UsageError(f"Unexpected argument '{shorten(word)}' with the '{command.name}' command{hint}")
    if len(words) < command.min_words:
        raise UsageError(f"You need to supply {command.words} for the '{command.name}' command")
    if command.name in _ACTION_COMMANDS:
        _check_action(command, words, values)
    conditions = words[: place_of_use(words)]
    if command.name in ("add-rule", "del-rule") and not conditions and not values.keys() & {"pattern", "name", "rule"}:
        raise UsageError(f"You need to supply the 'pattern' option or conditions for the '{command.name}' command")
    if command.name == "wait-ready" and words and read_duration(words[0]) is None:
        raise UsageError(f"wait-ready '{shorten(words[0], 40)}': not a time (examples: 60, 60s, 5m)")
    is_reference = len(words) == 1 and words[0].lower() != _TLS and not values.keys() & {"pattern", "rule"}
    if command.name == "del-rule" and is_reference:
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


def check_first_word(given: Sequence[Command], words: Sequence[str], values: Mapping[str, str]) -> None:
    """Check that a word without any command is not the name of one, or similar to it. Raises UsageError."""
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
    place = place_of_use(words)
    if place + 1 == len(words):
        raise UsageError(
            f"Missing action or servers after 'use' with the '{command.name}' command (example: use respond 403)"
        )
    if command.name == "add-rule" and place == len(words) and "real-server" not in values:
        actions = ("respond", "redirect", "server")
        if action := next((spot for spot, word in enumerate(words) if word.lower() in actions), None):
            shown = shorten(" ".join(words[action:]), 40)
            raise UsageError(
                f"Unexpected argument '{words[action]}' with the 'add-rule' command: write 'use' before it: use {shown}"
            )
        raise UsageError(
            "You need to supply the 'real-server' option for the 'add-rule' command, or servers or an action "
            "(examples: use server 10.0.0.1:80 95, use respond 403)"
        )


_NO_OPTIONS = {
    "server": "a server is added by -a -i ID -r ADDR:PORT",
    "weight": "the weight of a server is set by -e -i ID -r ADDR:PORT -w N",
    "rule": "a rule is added by --add-rule -i ID CONDITION... -r SERVER",
    "test": CHANGED_IN_FILES,
}
"""Words of a configuration's blocks that are no options of the service -> what to use instead."""


def check_named(command: Command, values: Mapping[str, str], words: Sequence[str]) -> None:
    """Check words NAME=VALUE: each name may be given once, as a word or as an option. Raises UsageError."""
    kind = _NAME_VALUE_COMMANDS.get(command.name)
    if kind is None:
        return
    names: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if kind == "option" and word.lower() in ("tls", "on"):
            raise UsageError(_explain_listener_word(words, words.index(word), values))
        if not name or not equals:
            raise UsageError(f"'{shorten(word)}': not NAME=VALUE (example: {_NAME_VALUE_EXAMPLES[kind]})")
        if kind == "option" and name in _NO_OPTIONS:
            raise UsageError(f"A service has no option '{name}': {_NO_OPTIONS[name]}")
        if (name in names and (command.name == "set" or name not in REPEATING)) or name in values:
            raise UsageError(f"The {kind} '{shorten(name, 40)}' is given twice")
        names.append(name)


def _explain_listener_word(words: Sequence[str], place: int, values: Mapping[str, str]) -> str:
    """Return how to write the words of a listener with a command that takes NAME=VALUE. place: of the first one."""
    end = next((spot for spot in range(place, len(words)) if "=" in words[spot]), len(words))
    before = words[place - 1] if place else ""
    address = before.removeprefix("listen=") if before.startswith("listen=") else values.get("listen", "0.0.0.0:443")
    listener = shorten(" ".join([address, *words[place:end]]), 80)
    how = f"write a listener's words and its address as one argument: -l {quote(listener)}"
    return f"'{words[place]}': not NAME=VALUE; {how}"
