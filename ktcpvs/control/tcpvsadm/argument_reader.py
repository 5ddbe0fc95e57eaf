"""The reading of argv of tcpvsadm into an invocation, by the table of commands and options.

This module carries nothing out and looks nothing up. A command line that makes no sense is a UsageError.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ktcpvs.control.tcpvsadm.argument_checks import (
    check_first_word,
    check_named,
    check_options,
    check_words,
    is_number,
    read_duration,
)
from ktcpvs.control.tcpvsadm.exit_status import UsageError
from ktcpvs.control.tcpvsadm.hints import IPVSADM_OPTIONS, METHOD_HINT, SERVICE_HINT
from ktcpvs.control.tcpvsadm.invocation import Invocation
from ktcpvs.control.tcpvsadm.options import COMMANDS, EXAMPLES, OPTIONS, VIEWS, Command, Option
from ktcpvs.errors import nearest, shorten

_MAY_BE_EMPTY = ("pattern", "name", "trace")


def read_arguments(argv: Sequence[str]) -> Invocation:
    """Read `argv`, without the program's name, as getopt_long does; --help beside a command asks for the help of that
    one, whatever else is given. Raises UsageError."""
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
    if COMMANDS["help"] in given and (described := _first_command(given, values)):
        return Invocation(COMMANDS["help"], words=(described,))
    _take_options_from_commands(given, values, words)
    if len(given) > 1:
        one, two = (command.name for command in given[:2])
        if one == two:
            raise UsageError(f"The '{one}' command is given twice")
        is_mark = two == "load-configfile" and words[:1] and words[0].isdigit()
        hint = f"; marks of a firewall are not supported: {SERVICE_HINT}" if is_mark else ""
        raise UsageError(f"Two commands: '{one}' and '{two}'{hint}")
    command = given[0] if given else COMMANDS["list"]
    check_first_word(given, words, values)
    _take_values(command, words, values)
    check_options(command, words, values)
    check_words(command, words, values)
    check_named(command, values, words)
    return Invocation(command, values, tuple(words), tuple(headers), tuple(filters))


def _first_command(given: Sequence[Command], values: Mapping[str, str]) -> str:
    """Return the name of the first command beside --help; "": there is none."""
    names = [command.name for command in given if command.name != "help"]
    names += [name for name in ("confirm",) if name in values]
    names += ["list" for name in VIEWS if name in values]
    return names[0] if names else ""


def _take_options_from_commands(given: list[Command], values: dict[str, str], words: list[str]) -> None:
    """Tell --confirm and --start apart, which are commands alone and options beside a command. Raises UsageError."""
    if "confirm" in values:
        if not given:
            given.append(COMMANDS["confirm"])
            del values["confirm"]
        else:
            values["confirm"] = _take_confirm_time(given[0], words, values["confirm"])
    if COMMANDS["start"] in given and any("start" in command.optional for command in given):
        given.remove(COMMANDS["start"])
        values["start"] = ""


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
            if not is_number(values["count"]):
                raise UsageError(f"count '{shorten(values['count'], 40)}': not a whole number of at most 9 digits")
    if "for" in values:
        seconds = read_duration(values["for"])
        if not seconds:
            raise UsageError(f"for '{shorten(values['for'], 40)}': not a time (examples: 60, 60s, 5m)")
        values["for"] = str(seconds)


def _take_confirm_time(command: Command, words: list[str], value: str) -> str:
    """Return the seconds of `--confirm TIME`, whose value may be in `words` and is removed there. Raises UsageError."""
    if not value and len(words) > command.min_words:
        value = words.pop()
    seconds = read_duration(value)
    if "confirm" in command.optional and not seconds:
        raise UsageError(f"confirm '{shorten(value, 40)}': not a time (examples: 60, 60s, 5m)")
    return value if seconds is None else str(seconds)


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
                yield from _with_next(item, f"--{item.name}", rest)
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
        yield from _with_next(item, f"-{letter}", rest)


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


def _with_next(
    item: Command | Option, written: str, rest: Iterator[tuple[int, str]]
) -> Iterator[tuple[Command | Option, str | None]]:
    """Iterate over `item` with its value, which is the next word where it needs one; a command that is followed by
    --help is without one."""
    value = _next_value(item, written, rest)
    if value in ("-h", "--help") and isinstance(item, Command):
        yield item, None
        item, value = COMMANDS["help"], None
    yield item, value


def _next_value(item: Command | Option, written: str, rest: Iterator[tuple[int, str]]) -> str | None:
    """Return the next word where `item` needs a value, whatever that word looks like."""
    if not _needs_value(item):
        return None
    for number, value in rest:
        _check_text(number, value)
        return _nonempty(item, written, value)
    hints = {"-m": f": {METHOD_HINT}", "-l": " (to list, use -L)"}  # which mean that in ipvsadm
    hint = hints.get(written) or f": {written} {EXAMPLES.get(item.name) or _value_of(item)}"
    raise UsageError(f"Option '{written}' needs a value{hint}")


def _value_of(item: Command | Option) -> str:
    """Return the name that --help gives the value of an option, or of a command that takes one."""
    return item.words if isinstance(item, Command) else item.value or ""


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


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"header '{shorten(text, 40)}': not 'NAME: VALUE'")
    return name, value.strip(" \t")
