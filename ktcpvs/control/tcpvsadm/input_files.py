"""The files that a command line names: configurations with what they include, and lists of networks."""

from __future__ import annotations

import sys

from ktcpvs.errors import BadValue, Refusal
from ktcpvs.model.lines import split_lines

STDIN = "<stdin>"


def read_configuration(name: str) -> tuple[str, str]:
    """Return a configuration with the files that it includes, and its name in messages. name: of a file; "-": standard
    input. Raises Refusal."""
    text, source = _read(name)
    if "include" not in text.lower():
        return text, source
    from ktcpvs.model.language.includes import expand_includes
    from ktcpvs.system.included_files import find_included

    def read(name: str) -> str:
        return _read(name)[0]

    return expand_includes(text, source, find_included, read), source


def read_networks(word: str) -> str:
    """Return the networks of a word: itself, or for @FILE those in the file. Raises Refusal, which names the file."""
    if not word.startswith("@"):
        return word
    from ktcpvs.model.network import parse_networks

    text, source = _read(word[1:])
    try:
        return str(parse_networks(text))
    except BadValue as bad:
        raise Refusal(f"{source}: {bad}") from None


def _read(name: str) -> tuple[str, str]:
    """Return the text of a file, or for "-" of standard input, and its name in messages. Raises Refusal."""
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
