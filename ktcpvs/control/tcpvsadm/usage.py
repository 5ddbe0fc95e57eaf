"""The text of --help, made from the table of commands and options, for terminals of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from ktcpvs.control.command_table import COMMAND_OF_NAME
from ktcpvs.control.tcpvsadm.options import COMMANDS, GLOBAL, OPTIONS, SCOPES, VIEWS, Command, Option

WIDTH = 80
_MEANING_COLUMN = 34

_EXIT_STATUSES = (
    "0 done; 1 refused, nothing was changed; 2 wrong usage; 3 no daemon answers; 4 --diff found differences."
)


def help_text() -> str:
    """Return the text that --help prints."""
    lines = ["Usage: tcpvsadm COMMAND [OPTION]...", "Administer the TCP Virtual Server, a layer-7 switch.", ""]
    lines.append("Commands:")
    for command in COMMANDS.values():
        lines += _fill("  ", synopsis(command), 10)
        lines.append(f"        {command.meaning}")
    lines += ["", "Options:"]
    for option in OPTIONS.values():
        lines += _option_lines(option)
    lines += ["", *_fill("Exit status:", _EXIT_STATUSES.split(), 8)]
    return "\n".join(lines) + "\n"


def command_help(command: Command) -> str:
    """Return the text that `--COMMAND --help` prints: the command, and the options that it takes."""
    first, *parts = synopsis(command)
    lines = _fill(f"Usage: tcpvsadm {first.strip()}", parts, 10)
    first, *rest = command.meaning.split()
    lines += [*_fill(f"{first[0].upper()}{first[1:]}", rest, 0), ""]
    for name in options_of(command):
        lines += _option_lines(OPTIONS[name])
    lines += ["", "'man tcpvsadm' has more, and 'tcpvsadm --help' all commands."]
    return "\n".join(lines) + "\n"


def options_of(command: Command) -> list[str]:
    """Return the names of the options that make sense with a command, in the order of --help."""
    is_edit = command.name in COMMAND_OF_NAME or command.name == "restore"
    taken = {*command.required, *command.optional, *((*GLOBAL, *SCOPES) if is_edit else ("control",))}
    return [name for name in OPTIONS if name in taken]


def _option_lines(option: Option) -> list[str]:
    names = " ".join(filter(None, [_names(option.short, option.name), option.value]))
    return _fill(f"  {names}".ljust(_MEANING_COLUMN - 1), option.meaning.split(), _MEANING_COLUMN)


def synopsis(command: Command) -> list[str]:
    """Return a command, its words and its options, in parts: `-a, --add-server`, `-i ID`, `-r ADDR[:PORT]`, ..."""
    parts = [_names(command.short, command.name)]
    required = [_describe_option(name) for name in command.required]
    words = [command.words] if command.words else []
    parts += [*words, *required] if command.first_is_value else [*required, *words]
    views = [name for name in command.optional if name in VIEWS]
    for name in command.optional:
        if name not in views:
            value = command.option_values.get(name)
            described = _describe_option(name) + (f" {value}" if value else "")
            parts.append(f"[{described}]" + ("..." if name in OPTIONS and OPTIONS[name].repeats else ""))
        elif name == views[0]:
            parts.append(f"[{' | '.join('--' + view for view in views)}]")
    return parts


def _describe_option(option_name: str) -> str:
    option = OPTIONS.get(option_name)
    if option is None:  # a command that is given as an option
        return f"--{option_name}"
    name = f"-{option.short}" if option.short else f"--{option.name}"
    return f"{name} {option.value}" if option.value else name


def _names(short: str | None, name: str) -> str:
    return f"-{short}, --{name}" if short else f"    --{name}"


def _fill(start: str, parts: Iterable[str], indent: int) -> list[str]:
    """Fill lines of at most WIDTH characters with `start` and the parts, which are not broken."""
    lines = [start]
    for part in parts:
        if len(lines[-1]) + 1 + len(part) > WIDTH:
            lines.append(" " * (indent - 1))
        lines[-1] += part if lines[-1] == "  " else f" {part}"
    return lines
