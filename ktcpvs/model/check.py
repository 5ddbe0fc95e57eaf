"""The option `check`: how the switch checks whether a server is healthy.

    check = off
    check = tcp [WHERE]...
    check = http [METHOD] PATH [host HOST] [header "NAME: VALUE"]... [expect STATUS ...] [body "PATTERN"] [weight FIELD]
            [WHERE]...
    check = grpc [SERVICE] [tls] [proxy]
    check = send "TEXT" expect "TEXT" [WHERE]...

WHERE is `port N`, `tls` or `proxy`. In TEXT, the escapes \\r \\n \\t \\\\ and \\xHH stand for bytes.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from attrs import Attribute, evolve, frozen

from ktcpvs.errors import BadValue, shorten, unknown
from ktcpvs.model.address import Address, Inet, PortNamed
from ktcpvs.model.language.lexer import Token, quoted, tokens, word
from ktcpvs.model.options import MAX_WEIGHT
from ktcpvs.model.pattern import check_pattern
from ktcpvs.model.settings import whole_number

OFF, TCP, HTTP, GRPC, SEND = "off", "tcp", "http", "grpc", "send"

_FORMS = 'expected off, tcp, http PATH [expect STATUS ...], grpc [SERVICE], or send "TEXT" expect "TEXT"'
_SERVICE = re.compile(r"[A-Za-z0-9_./-]{1,100}")
_LIKE_CLIENTS = ("tls", "proxy")
_WHERE = ("port", *_LIKE_CLIENTS)
_WORDS = ("host", "header", "expect", "body", "weight", *_WHERE)
_METHOD = re.compile(r"[A-Z]{1,32}")
_PATH = re.compile(r"/[!-~]{0,1023}")
_HOST = re.compile(r"[!-~]{1,255}")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_FIELD_VALUE = re.compile(r"(?:[!-~](?:[ \t!-~]{0,1022}[!-~])?)?")
_ESCAPE = re.compile(r"\\(?:([rnt\\])|x([0-9A-Fa-f]{2})|(.?))", re.DOTALL)
_MEANING = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}
_WEIGHT = re.compile(r"([0-9]{1,5})(%?)")

OWN_FIELDS = ("host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect")
"""The fields of a check's request that the switch sets itself, or that would change how it is read."""


@frozen
class CheckResponse:
    """The response of a server to a check. line: the first line, shortened; "": there was none. weight: the value of
    the field that `weight` names; None: it has no such field."""

    line: str = ""
    weight: str | None = None


class NotWell(Exception):
    """A check has failed; str() says why. response: None: there was none."""

    def __init__(self, why: str, response: CheckResponse | None = None) -> None:
        super().__init__(why)
        self.response = response


@frozen
class Check:
    """A parsed check.

    kind: OFF, TCP, HTTP, GRPC or SEND. path, method: of HTTP. statuses: those that pass; empty: 200 to 399. send,
    expect: bytes of SEND. host: the value of Host; None: the server's. headers: (name, value) of further fields. body:
    the pattern that must be found in the response's body; None: any will do. weight: the response's field that has the
    server's weight; None: none has. service: the name that the health service of GRPC is asked for; "": the whole
    server. port: to connect to; None: that of the server. tls, proxy: at another address than the server's own, connect
    with the server's TLS, and its header of the PROXY protocol.
    """

    kind: str = OFF
    path: str = ""
    statuses: tuple[int, ...] = ()
    send: bytes = b""
    expect: bytes = b""
    service: str = ""
    method: str = "GET"
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    weight: str | None = None
    port: int | None = None
    tls: bool = False
    proxy: bool = False

    def is_well(self, status: int) -> bool:
        """Whether an HTTP check with this status passes."""
        return status in self.statuses if self.statuses else 200 <= status < 400

    def address(self, server: Address) -> Address:
        """Return the address to check of a server."""
        return evolve(server, port=self.port) if self.port is not None and isinstance(server, Inet) else server


NO_CHECK = Check()
"""The value of `check = off`."""


def parse_check(text: str) -> Check:
    """Parse the option's text. Raises BadValue."""
    if text == OFF:  # as most services have it
        return NO_CHECK
    found = tokens(text, "check")
    kind = found[0].text if found and not found[0].quoted else ""
    rest = deque(found[1:])
    if kind == OFF and not rest:
        return NO_CHECK
    if kind == TCP:
        return _where(Check(TCP), text, rest)
    if kind == HTTP and rest:
        return _http(rest)
    if kind == GRPC:
        return _grpc(text, rest)
    if kind == SEND and len(rest) >= 3 and rest[1].is_word("expect"):
        send, _, expect = rest.popleft(), rest.popleft(), rest.popleft()
        return _where(Check(SEND, send=_bytes(send.text), expect=_bytes(expect.text, least=1)), text, rest)
    raise BadValue(f"check = {shorten(text, 60)}: {_FORMS}")


def _grpc(text: str, rest: deque[Token]) -> Check:
    name = rest.popleft().text if rest and not rest[0].is_word(*_LIKE_CLIENTS) else ""
    if name and not _SERVICE.fullmatch(name):
        raise BadValue(f"check = grpc {shorten(name, 60)}: expected the name of a service (example: shop.Orders)")
    return _where(Check(GRPC, service=name), text, rest, _LIKE_CLIENTS)


def _where(check: Check, text: str, rest: deque[Token], words: tuple[str, ...] = _WHERE) -> Check:
    """Read the words that say how to connect, where nothing else may follow."""
    seen: set[str] = set()
    while rest:
        token = rest.popleft()
        if not token.is_word(*words):
            expected = f"'{shorten(token.text, 20)}' is none of {', '.join(words)}" if seen else _FORMS
            raise BadValue(f"check = {shorten(text, 60)}: {expected}")
        name = token.text.lower()
        _once(check, name, seen)
        check = _with_word(check, name, rest)
    return check


def _once(check: Check, name: str, seen: set[str]) -> None:
    if name in seen and name != "header":
        raise BadValue(f"check = {check.kind}: '{name}' appears a second time")
    seen.add(name)


def _http(rest: deque[Token]) -> Check:
    method = "GET"
    if len(rest) > 1 and _METHOD.fullmatch(rest[0].text):
        method = rest.popleft().text
    if method == "CONNECT":
        raise BadValue("check = http CONNECT: a proxy's method cannot check a server")
    path = rest.popleft().text
    if not _PATH.fullmatch(path):
        raise BadValue(f"check = http {shorten(path, 60)}: expected a path (example: /health)")
    check = Check(HTTP, path, method=method)
    seen: set[str] = set()
    while rest:
        token = rest.popleft()
        if not token.is_word(*_WORDS):
            raise BadValue(f"check = http: unknown word {unknown(token.text, _WORDS)}")
        name = token.text.lower()
        _once(check, name, seen)
        check = _with_word(check, name, rest)
    if check.body is not None and method == "HEAD":
        raise BadValue("check = http HEAD: a response to HEAD has no body that could contain a pattern; use GET")
    return check


def _with_word(check: Check, name: str, rest: deque[Token]) -> Check:
    """Read the value of a word of a check, unless it has none."""
    if name in _LIKE_CLIENTS:
        return evolve(check, tls=True) if name == "tls" else evolve(check, proxy=True)
    if name == "expect":
        statuses = [_status(_value(name, rest))]
        while rest and not rest[0].is_word(*_WORDS):
            statuses.append(_status(rest.popleft().text))
        return evolve(check, statuses=tuple(statuses))
    text = _value(name, rest)
    if name == "host":
        if not _HOST.fullmatch(text):
            raise BadValue(f"check = http: host '{shorten(text, 60)}': expected a name, perhaps with a port")
        return evolve(check, host=text)
    if name == "header":
        return evolve(check, headers=(*check.headers, _field(text)))
    if name == "port":
        return evolve(check, port=_port(text))
    if name == "body":
        check_pattern(text)
        return evolve(check, body=text)
    if not _FIELD_NAME.fullmatch(text):
        raise BadValue(f"check = http: weight '{shorten(text, 60)}': expected the name of a header field")
    return evolve(check, weight=text)


def _value(name: str, rest: deque[Token]) -> str:
    if not rest:
        raise BadValue(f"check: missing value after '{name}'")
    return rest.popleft().text


def _status(text: str) -> int:
    if not re.fullmatch(r"[1-5][0-9][0-9]", text):
        raise BadValue(f"check = http: status {shorten(text, 20)}: expected a number from 100 to 599")
    return int(text)


def _port(text: str) -> int:
    port = whole_number("check: port", text)
    if not 1 <= port <= 65535:
        raise BadValue(f"check: port {port} is out of range: ports are 1..65535")
    return port


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    value = value.strip(" \t")
    if not colon or not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
        raise BadValue(f"check = http: header '{shorten(text, 60)}': expected \"NAME: VALUE\" in ASCII")
    if name.lower() in OWN_FIELDS:
        hint = "; to set it: host NAME" if name.lower() == "host" else ""
        raise BadValue(f"check = http: header '{name}' is set by the switch itself{hint}")
    return name, value


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


def read_weight(text: str, share: int) -> float:
    """Return the weight that a check's response asks for: a number, or a percentage of `share`, the configured one.

    Raises BadValue.
    """
    found = _WEIGHT.fullmatch(text.strip(" \t"))
    if found is None or int(found[1]) > (100 if found[2] else MAX_WEIGHT):
        raise BadValue(f"weight '{shorten(text, 40)}': expected 0..{MAX_WEIGHT}, or 0%..100% of the configured weight")
    return round(share * int(found[1]) / 100, 2) if found[2] else int(found[1])


def read_check(name: str, text: str, port_named: PortNamed) -> str:
    """Return the option's text in its usual form, in which it is written and listed. Raises BadValue or
    BadConfiguration."""
    parse_check(text)
    return " ".join(quoted(token.text) if token.quoted else word(token.text) for token in tokens(text, name))


def well_formed(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: a text that `parse_check` accepts."""
    parse_check(value)
