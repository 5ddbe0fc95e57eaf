"""The option `check`: how the switch checks whether a server is healthy.

    check = off
    check = tcp
    check = http PATH [expect STATUS ...]
    check = grpc [SERVICE]
    check = send "TEXT" expect "TEXT"

In TEXT, the escapes \\r \\n \\t \\\\ and \\xHH stand for bytes.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import Attribute, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed
from ktcpvs.model.language.lexer import Token, quoted, tokens, word

OFF, TCP, HTTP, GRPC, SEND = "off", "tcp", "http", "grpc", "send"

_FORMS = 'expected off, tcp, http PATH [expect STATUS ...], grpc [SERVICE], or send "TEXT" expect "TEXT"'
_SERVICE = re.compile(r"[A-Za-z0-9_./-]{1,100}")
_PATH = re.compile(r"/[!-~]{0,1023}")
_ESCAPE = re.compile(r"\\(?:([rnt\\])|x([0-9A-Fa-f]{2})|(.?))", re.DOTALL)
_MEANING = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}


class NotWell(Exception):
    """A check has failed; str() says why."""


@frozen
class Check:
    """A parsed check. kind: OFF, TCP, HTTP, GRPC or SEND. path: of HTTP. statuses: those that pass; empty: 200 to 399.
    send, expect: bytes of SEND. service: the name that the health service of GRPC is asked for; "": the whole
    server."""

    kind: str = OFF
    path: str = ""
    statuses: tuple[int, ...] = ()
    send: bytes = b""
    expect: bytes = b""
    service: str = ""

    def is_well(self, status: int) -> bool:
        """Whether an HTTP check with this status passes."""
        return status in self.statuses if self.statuses else 200 <= status < 400


def parse_check(text: str) -> Check:
    """Parse the option's text. Raises BadValue."""
    found = tokens(text, "check")
    kind = found[0].text if found and not found[0].quoted else ""
    rest = found[1:]
    if kind in (OFF, TCP) and not rest:
        return Check(kind)
    if kind == HTTP and rest:
        return _http(rest)
    if kind == GRPC and len(rest) <= 1:
        return _grpc(rest)
    if kind == SEND and len(rest) == 3 and rest[1].is_word("expect"):
        return Check(SEND, send=_bytes(rest[0].text), expect=_bytes(rest[2].text, least=1))
    raise BadValue(f"check = {shorten(text, 60)}: {_FORMS}")


def _grpc(rest: list[Token]) -> Check:
    name = rest[0].text if rest else ""
    if rest and not _SERVICE.fullmatch(name):
        raise BadValue(f"check = grpc {shorten(name, 60)}: expected the name of a service (example: shop.Orders)")
    return Check(GRPC, service=name)


def _http(rest: list[Token]) -> Check:
    path = rest[0].text
    if not _PATH.fullmatch(path):
        raise BadValue(f"check = http {shorten(path, 60)}: expected a path (example: /health)")
    if len(rest) > 1 and (not rest[1].is_word("expect") or len(rest) == 2):
        raise BadValue(f"check = http {shorten(path, 60)}: only expect STATUS ... may follow the path")
    statuses = []
    for token in rest[2:]:
        if not re.fullmatch(r"[1-5][0-9][0-9]", token.text):
            raise BadValue(f"check = http: status {shorten(token.text, 20)}: expected a number from 100 to 599")
        statuses.append(int(token.text))
    return Check(HTTP, path, tuple(statuses))


def _bytes(text: str, least: int = 0) -> bytes:
    def unescape(found: re.Match[str]) -> str:
        if found[1]:
            return _MEANING[found[1]]
        if found[2]:
            return chr(int(found[2], 16))
        raise BadValue(rf"check: '\{found[3]}': unknown escape; expected \r, \n, \t, \\ or \xHH")

    value = _ESCAPE.sub(unescape, text)
    try:
        meaning = value.encode("latin-1")
    except UnicodeEncodeError:
        meaning = value.encode()
    if not least <= len(meaning) <= 1024:
        raise BadValue(f"check: expected a text of {least} to 1024 bytes")
    return meaning


def read_check(name: str, text: str, port_named: PortNamed) -> str:
    """Return the option's text in its usual form, in which it is written and listed. Raises BadValue or
    BadConfiguration."""
    parse_check(text)
    return " ".join(quoted(token.text) if token.quoted else word(token.text) for token in tokens(text, name))


def well_formed(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: a text that `parse_check` accepts."""
    parse_check(value)
