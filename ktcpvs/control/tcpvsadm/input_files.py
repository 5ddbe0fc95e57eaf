"""The files that a command line names: configurations with what they include, lists of networks, and bodies."""

from __future__ import annotations

import sys

from ktcpvs.errors import BadValue, Refusal
from ktcpvs.model.lines import split_lines

STDIN = "<stdin>"

MAX_BODY_BYTES = 1 << 20
"""The most bytes of a body that are read: those that a scheduler can ask for (`MAX_BODY_PREFIX`)."""


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


def read_body(name: str) -> bytes:
    """Return the beginning of a body, which is all that a scheduler reads. name: of a file; "-": standard input. Raises
    Refusal."""
    return _read_bytes(name, MAX_BODY_BYTES)


def _read(name: str) -> tuple[str, str]:
    """Return the text of a file, or for "-" of standard input, and its name in messages. Raises Refusal."""
    data, source = _read_bytes(name), _shown(name)
    try:
        return data.decode("utf-8"), source
    except UnicodeDecodeError as error:
        before = split_lines(data[: error.start].decode("utf-8"))
        line, column = len(before), len(before[-1]) + 1
        raise Refusal(f"{source}:{line}:{column}: byte 0x{data[error.start]:02x} is not UTF-8 text") from None


def _read_bytes(name: str, limit: int = -1) -> bytes:
    """Return the first `limit` bytes of a file, or for "-" of standard input; -1: all. Raises Refusal."""
    try:
        if name != "-":
            with open(name, "rb") as file:
                return file.read(limit)
        if sys.stdin is None:
            raise Refusal("standard input is closed")
        return sys.stdin.buffer.read(limit)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise Refusal(f"{_shown(name)}: {getattr(error, 'strerror', None) or error}") from None


def _shown(name: str) -> str:
    return STDIN if name == "-" else name
