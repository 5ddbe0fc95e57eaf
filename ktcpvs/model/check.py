"""What the option `check` says: how a server shows that it is well.

    check = off
    check = tcp
    check = http PATH [expect STATUS ...]
    check = send "TEXT" expect "TEXT"

In TEXT, \\r \\n \\t \\\\ and \\xHH stand for bytes.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import Attribute, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed
from ktcpvs.model.language.lexer import Token, quoted, tokens, word

OFF, TCP, HTTP, SEND = "off", "tcp", "http", "send"

_FORMS = 'off, tcp, http PATH [expect STATUS ...], or send "TEXT" expect "TEXT" is wanted'
_PATH = re.compile(r"/[!-~]{0,1023}")
_ESCAPE = re.compile(r"\\(?:([rnt\\])|x([0-9A-Fa-f]{2})|(.?))", re.DOTALL)
_MEANING = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}


class NotWell(Exception):
    """What a check finds wrong, in words."""


@frozen
class Check:
    """kind: OFF, TCP, HTTP or SEND. path: of HTTP. statuses: those that are well; none: 200 to 399. send, expect: bytes
    of SEND."""

    kind: str = OFF
    path: str = ""
    statuses: tuple[int, ...] = ()
    send: bytes = b""
    expect: bytes = b""

    def is_well(self, status: int) -> bool:
        """Is that what a well server answers to HTTP?"""
        return status in self.statuses if self.statuses else 200 <= status < 400


def parse_check(text: str) -> Check:
    """Read the option's text. Raises BadValue."""
    found = tokens(text, "check")
    kind = found[0].text if found and not found[0].quoted else ""
    rest = found[1:]
    if kind in (OFF, TCP) and not rest:
        return Check(kind)
    if kind == HTTP and rest:
        return _http(rest)
    if kind == SEND and len(rest) == 3 and rest[1].is_word("expect"):
        return Check(SEND, send=_bytes(rest[0].text), expect=_bytes(rest[2].text, least=1))
    raise BadValue(f"check = {shorten(text, 60)}: {_FORMS}")


def _http(rest: list[Token]) -> Check:
    path = rest[0].text
    if not _PATH.fullmatch(path):
        raise BadValue(f"check = http {shorten(path, 60)}: a path is wanted, as /health")
    if len(rest) > 1 and (not rest[1].is_word("expect") or len(rest) == 2):
        raise BadValue(f"check = http {shorten(path, 60)}: after the path stands nothing, or expect STATUS ...")
    statuses = []
    for token in rest[2:]:
        if not re.fullmatch(r"[1-5][0-9][0-9]", token.text):
            raise BadValue(f"check = http: status {shorten(token.text, 20)}: a number from 100 to 599 is wanted")
        statuses.append(int(token.text))
    return Check(HTTP, path, tuple(statuses))


def _bytes(text: str, least: int = 0) -> bytes:
    def meant(found: re.Match[str]) -> str:
        if found[1]:
            return _MEANING[found[1]]
        if found[2]:
            return chr(int(found[2], 16))
        raise BadValue(rf"check: '\{found[3]}': after a backslash stands r, n, t, x with two digits, or another one")

    value = _ESCAPE.sub(meant, text)
    try:
        meaning = value.encode("latin-1")
    except UnicodeEncodeError:
        meaning = value.encode()
    if not least <= len(meaning) <= 1024:
        raise BadValue(f"check: a text of {least} to 1024 bytes is wanted")
    return meaning


def read_check(name: str, text: str, port_named: PortNamed) -> str:
    """The option's text in its usual form, as it is written and listed. Raises BadValue or BadConfiguration."""
    parse_check(text)
    return " ".join(quoted(token.text) if token.quoted else word(token.text) for token in tokens(text, name))


def well_formed(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: what `parse_check` reads."""
    parse_check(value)
