"""The table of the command line as the text of --help."""

from __future__ import annotations

from ktcpvs.control.tcpvsadm.options import COMMANDS, OPTIONS, VIEWS, Command, Option

_WIDTH = 100


def help_text() -> str:
    """What --help prints."""
    lines = [
        "Usage: tcpvsadm COMMAND [OPTION]...",
        "Administer the TCP Virtual Server, a layer-7 switch.",
        "",
        "Commands:",
    ]
    for command in COMMANDS.values():
        lines += _wrapped(f"  {synopsis(command)}", " " * 10)
        lines.append(f"        {command.meaning}")
    lines += ["", "Options:"]
    for option in OPTIONS.values():
        names = " ".join(filter(None, [_names(option.short, option.name), option.value]))
        lines.append(f"  {names:<32}{option.meaning}")
    lines += [
        "",
        "Exit status: 0 done; 1 refused, nothing was changed; 2 misuse of the command line; 3 no daemon answers.",
    ]
    return "\n".join(lines) + "\n"


def synopsis(command: Command) -> str:
    """The command with its words and options: `-a, --add-server -i ID -r ADDR[:PORT] [-w N]`."""
    parts = [_names(command.short, command.name)]
    if command.words:
        parts.append(command.words)
    parts += [_use(OPTIONS[name]) for name in command.required]
    views = [name for name in command.optional if name in VIEWS]
    for name in command.optional:
        if name not in views:
            parts.append(f"[{_use(OPTIONS[name])}]")
        elif name == views[0]:
            parts.append(f"[{' | '.join('--' + view for view in views)}]")
    return " ".join(parts)


def _use(option: Option) -> str:
    name = f"-{option.short}" if option.short else f"--{option.name}"
    return f"{name} {option.value}" if option.value else name


def _names(short: str | None, name: str) -> str:
    return f"-{short}, --{name}" if short else f"    --{name}"


def _wrapped(text: str, indent: str) -> list[str]:
    """`text` in lines of at most _WIDTH characters, broken before an option."""
    lines = []
    while len(text) > _WIDTH:
        cut = text.rindex(" [", 0, _WIDTH)
        lines.append(text[:cut])
        text = indent + text[cut + 1 :]
    return [*lines, text]
