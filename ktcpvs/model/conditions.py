"""Conditions of rules: what a rule asks of a request or a connection, read from words and written as words.

    host shop.example *.shop.example  not method GET HEAD  header X-Beta "^(1|on)$"

Conditions side by side must all hold; of several values of one condition any will do. A rule is known by its name, or
else by the text of its conditions: that of a lone pattern is the pattern itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from attrs import frozen

from ktcpvs.errors import BadPattern, BadValue, Refusal, did_you_mean, shorten, unknown
from ktcpvs.model.language.lexer import Located, Token, not_located, quoted, tokens, word
from ktcpvs.model.network import parse_network
from ktcpvs.model.pattern import check_pattern

HOST, PATH, PATTERN, METHOD, HEADER, COOKIE, QUERY, SNI, FROM, PORT, TLS, SHARE = KINDS = (
    "host", "path", "pattern", "method", "header", "cookie", "query", "sni", "from", "port", "tls", "share",
)  # fmt: skip
"""The kinds of conditions, each the word that begins it."""

NAMED = frozenset((HEADER, COOKIE, QUERY))
"""Kinds whose first word is a name, which patterns may follow."""

SEARCHED = NAMED | {PATTERN}
"""Kinds whose values are patterns."""

NOT, NAME, USE = "not", "name", "use"

MODIFIERS = ("rate", "request_header", "response_header", "strip_prefix", "rewrite", "balance", "match")
"""The words that may stand between conditions and `use`."""

RESERVED = frozenset((*KINDS, NOT, NAME, USE, *MODIFIERS))
"""Words that end the values of a condition; a value that is one of them stands in quotes."""

MAX_CONDITIONS = 16
"""The most conditions of one rule."""

MAX_VALUES = 1000
"""The most values of one condition."""

SHARE_UNIT = 100
"""`share` counts in hundredths of a percent."""

_HOST = re.compile(r"(?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")
_SHARE = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_TLS_TEXT = f"{TLS} on"
"""The text of a lone `tls`, which as `tls` would be a pattern."""


@frozen(cache_hash=True)
class Condition:
    """One condition. values: in their one form, any of which will do; empty: the named thing is there, or TLS is
    spoken. name: of the header, the cookie or the argument. is_negated: it holds where it would not."""

    kind: str
    values: tuple[str, ...] = ()
    name: str = ""
    is_negated: bool = False

    def __str__(self) -> str:
        words = [self.kind, *([_written(self.name)] if self.kind in NAMED else [])]
        words += [quoted(value) if self.kind in SEARCHED else _written(value) for value in self.values]
        return " ".join([NOT, *words] if self.is_negated else words)

    @property
    def share(self) -> int:
        """Of the kind SHARE: hundredths of a percent."""
        return share_of(self.values[0])


def _written(text: str) -> str:
    return quoted(text) if text.lower() in RESERVED else word(text)


def share_of(text: str) -> int:
    """Return the hundredths of a percent that `read_share` has read."""
    found = _SHARE.fullmatch(text)
    assert found is not None  # as it was read
    return int(found[1]) * SHARE_UNIT + int((found[2] or "").ljust(2, "0"))


# The values of each kind: each function returns a value in its one form, or raises a Refusal.


def read_host(text: str) -> str:
    """Return a host name, perhaps behind `*.`, in lower case and without a final dot. Raises BadPattern."""
    host = text.lower().removesuffix(".")
    if _HOST.fullmatch(host) and len(host) <= 253 and not host.rpartition(".")[2].isdigit():
        return host
    hint = ""
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and _HOST.fullmatch(name):
        hint = f"; without its port: {HOST} {name} {PORT} {port}"
    elif not host.isascii():
        ascii_name = _ascii_name(host)
        hint = f"; did you mean '{ascii_name}'?" if ascii_name else ""
    raise BadPattern(f"host '{shorten(text, 60)}': expected a name, or *. and a name (example: *.example.org){hint}")


def _ascii_name(host: str) -> str:
    """Return the form in which clients send an internationalized name (RFC 3490); "" where there is none."""
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
    return name if _HOST.fullmatch(name) else ""


def _read_path(text: str) -> str:
    if not text.startswith("/"):
        raise BadValue(f"path '{shorten(text, 60)}': expected a path that begins with / (example: /admin/)")
    if "?" in text or "#" in text:
        raise BadValue(f"path '{shorten(text, 60)}': a path ends before ? and #; for arguments: query NAME PATTERN")
    if not text.isprintable():
        raise BadValue(f"path '{shorten(text, 60)}': a control character")
    if _ENCODED.search(text):
        raise BadValue(f"path '{shorten(text, 60)}': it is compared with the decoded path, so write it decoded")
    if "//" in text or {".", ".."} & set(text.split("/")):
        raise BadValue(
            f"path '{shorten(text, 60)}': no request has this path, since it is compared without . and .. and "
            "repeated slashes"
        )
    return text


def _read_pattern(text: str) -> str:
    check_pattern(text)
    return text


def _read_method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        raise BadValue(f"method '{shorten(text, 40)}': expected a method (example: POST)")
    if text not in _METHODS and text.upper() in _METHODS:
        raise BadValue(f"method '{text}': methods have upper and lower case; did you mean '{text.upper()}'?")
    return text


def _read_network(text: str) -> str:
    return str(parse_network(text))


def _read_port(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise BadValue(f"port '{shorten(text, 40)}': expected a number from 1 to 65535")
    return str(int(text))


def read_share(text: str) -> str:
    """Return a share in its one form. Raises BadValue."""
    found = _SHARE.fullmatch(text)
    if found is None or share_of(text) > 100 * SHARE_UNIT:
        raise BadValue(f"share '{shorten(text, 40)}': expected a percentage from 0% to 100% (example: 5%)")
    fraction = (found[2] or "").rstrip("0")
    return f"{int(found[1])}{'.' * bool(fraction)}{fraction}%"


def _read_name(kind: str, text: str) -> str:
    if kind == QUERY:
        if not text or len(text) > 256 or not text.isprintable():
            raise BadValue(f"query '{shorten(text, 40)}': expected the name of an argument")
    elif not FIELD_NAME.fullmatch(text):
        name, colon, value = text.partition(":")
        example = "X-Beta" if kind == HEADER else "session"
        hint = f"example: {example}"
        if colon and FIELD_NAME.fullmatch(name):
            hint = f"write: {kind} {name} {quoted(value.strip() or 'PATTERN')}, without a colon"
        raise BadValue(f"{kind} '{shorten(text, 40)}': expected the name of a {kind} ({hint})")
    return text


_READERS: dict[str, Callable[[str], str]] = {
    HOST: read_host,
    PATH: _read_path,
    PATTERN: _read_pattern,
    METHOD: _read_method,
    HEADER: _read_pattern,
    COOKIE: _read_pattern,
    QUERY: _read_pattern,
    SNI: read_host,
    FROM: _read_network,
    PORT: _read_port,
    SHARE: read_share,
}


# Reading.


def read_conditions(
    found: Sequence[Token], position: int, located: Located = not_located
) -> tuple[tuple[Condition, ...], int]:
    """Read conditions from the token at `position` on, up to one that begins none.

    Returns them, perhaps none, and the position of that token. Raises a Refusal.
    """
    conditions: list[Condition] = []
    while position < len(found):
        token = found[position]
        is_negated = token.is_word(NOT)
        if is_negated:
            position += 1
            if position == len(found) or not found[position].is_word(*KINDS):
                shown = f", not '{shorten(found[position].text, 40)}'" if position < len(found) else ""
                at = found[min(position, len(found) - 1)]
                raise located(at, BadValue(f"expected a condition after 'not'{shown}; one of {', '.join(KINDS)}"))
            token = found[position]
        if not token.is_word(*KINDS):
            break
        condition, position = _read_condition(found, position, is_negated, located)
        conditions.append(condition)
        if len(conditions) > MAX_CONDITIONS:
            raise located(token, BadValue(f"a rule has at most {MAX_CONDITIONS} conditions"))
    return tuple(conditions), position


def _read_condition(found: Sequence[Token], position: int, is_negated: bool, located: Located) -> tuple[Condition, int]:
    """Read the condition whose kind is at `position`."""
    begin = found[position]
    kind, name = begin.text.lower(), ""
    position += 1
    if kind == TLS:
        if position < len(found) and found[position].is_word("on"):
            position += 1
        return Condition(TLS, is_negated=is_negated), position
    if position == len(found):
        raise located(begin, BadValue(f"missing value after '{kind}'"))
    if kind in NAMED:
        try:
            name = _read_name(kind, found[position].text)
        except Refusal as refusal:
            raise located(found[position], refusal) from None
        position += 1
    values: dict[str, None] = {}
    while position < len(found) and (not (values or name) or not _ends(found, position)):
        token = found[position]
        try:
            if values or name:
                _check_further(kind, token)
            values[_READERS[kind](token.text)] = None
        except Refusal as refusal:
            raise located(token, refusal) from None
        position += 1
        if len(values) > MAX_VALUES:
            raise located(begin, BadValue(f"{kind}: a condition has at most {MAX_VALUES} values"))
    if kind == SHARE and len(values) > 1:
        raise located(begin, BadValue("share: a condition has one share"))
    return Condition(kind, tuple(values), name, is_negated), position


def _ends(found: Sequence[Token], position: int) -> bool:
    """Whether the token at `position` is no value of the condition before it."""
    token = found[position]
    if token.quoted:
        return False
    after = found[position + 1] if position + 1 < len(found) else None
    return token.text.lower() in RESERVED or token.text in ("}", "{") or (after is not None and after.is_word("="))


def _check_further(kind: str, token: Token) -> None:
    """Refuse a value that is more likely a word that was meant to end the condition."""
    if token.quoted:
        return
    if token.text.lower() == "server":
        raise BadPattern(f"expected '{USE}', not 'server'")
    if kind in SEARCHED:
        expected = "a pattern in quotes, 'use', or another condition"
    elif kind in (HOST, SNI) and "." not in token.text and token.text != "localhost":
        expected = "'use', or another condition"
    else:
        return
    hint = did_you_mean(token.text, sorted(RESERVED), 0.8)
    if hint or kind in SEARCHED:
        raise BadPattern(f"expected {expected}, not '{shorten(token.text, 40)}'{hint}")


# The text of conditions.

_BEGINNINGS = frozenset((*KINDS, NOT))


def is_pattern(text: str) -> bool:
    """Whether `text` is a pattern. If not, it is conditions: it begins with the word of one, or `not`, and a blank."""
    first, blank, _ = text.partition(" ")
    return not blank or first not in _BEGINNINGS


def is_only(kind: str, text: str) -> bool:
    """Whether `text` is one condition of that kind, not negated."""
    first, *others = text.split(" ")
    return first == kind and RESERVED.isdisjoint(others)


def conditions_of(text: str) -> tuple[Condition, ...]:
    """Return the conditions that `text` says: a pattern, or conditions as the configuration language writes them.

    Raises a Refusal.
    """
    if is_pattern(text):
        check_pattern(text)
        return (Condition(PATTERN, (text,)),)
    found = tokens(text, "rule")
    conditions, position = read_conditions(found, 0)
    if position < len(found):
        rest = found[position].text
        raise BadValue(f"rule '{shorten(text, 60)}': unknown condition {unknown(rest, KINDS, 40)}")
    return conditions


def text_of(conditions: Sequence[Condition]) -> str:
    """Return the text of conditions, which `conditions_of` reads back."""
    if len(conditions) == 1 and not conditions[0].is_negated:
        only = conditions[0]
        if only.kind == TLS:
            return _TLS_TEXT
        if only.kind == PATTERN and len(only.values) == 1 and is_pattern(only.values[0]):
            return only.values[0]
    return " ".join(map(str, conditions))


def normalized_text(text: str) -> str:
    """Return the text of a rule's conditions in its one form. Raises a Refusal."""
    return text if is_pattern(text) else text_of(conditions_of(text))


def written_text(text: str) -> str:
    """Return the text of a rule's conditions as the configuration language writes them."""
    return f"{PATTERN} {quoted(text)}" if is_pattern(text) else text
