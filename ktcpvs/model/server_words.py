"""The words behind a server: how the switch connects to it, and when it may be used.

server = ADDRESS [WEIGHT] [maxconn N] [tls [ca FILE | verify off] [name HOST] [cert FILE]] [h2] [proxy v1|v2]
         [priority N | backup] [drain | maintenance] [check ADDRESS]
         [max_pending N] [start PROGRAM] [label NAME[=VALUE]]...

Commands use the same words. The defaults, which they need to change a server: `tls off`, `h2 off`, `proxy off`,
`priority 0`, `ready`, `check off`, `max_pending 0`, `start off`,
`label off`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ktcpvs.errors import BadValue, Refusal, shorten, unknown
from ktcpvs.model.address import Address, parse_address
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.lexer import Fail, Token, fail_without_place, tokens, word
from ktcpvs.model.listen import check_complete
from ktcpvs.model.options import MAX_COUNT, OFF
from ktcpvs.model.tls import PROXY_VERSIONS, ServerTLS

BACKUP = 100
"""The priority that the word `backup` stands for: after all others, and used only while none of them can serve."""

BACKUP_WORD = "backup"
PRIORITY = "priority"
READY, DRAIN, MAINTENANCE = MODES = ("ready", "drain", "maintenance")
"""Whether a server is used. DRAIN: only its sessions come to it. MAINTENANCE: nothing comes to it, checks included."""

CHECK = "check"
MAX_PENDING = "max_pending"
START = "start"
LABEL, LABELS = "label", "labels"
MAX_LABELS = 16
"""The most labels of a server."""

TLS, H2, PROXY = "tls", "h2", "proxy"
SERVER_WORDS = (TLS, H2, PROXY, PRIORITY, BACKUP_WORD, *MODES, CHECK, MAX_PENDING, START, LABEL)
TLS_WORDS = ("ca", "verify", "name", "cert")

Rest = deque[Token]
Values = dict[str, Any]
Labels = tuple[tuple[str, str], ...]
"""(name, value) of each label, by name; "" is the value of a label that is only a name."""

_CHECK_HINT = (
    "behind a server it is the address to check instead, or 'off'; to check all servers, the service has a line "
    "'check = tcp' or 'check = http PATH'"
)

_LABEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._/-]{0,62})(?:=([A-Za-z0-9._/:@+-]{0,63}))?")


def read_words(found: Sequence[Token], fail: Fail) -> dict[str, Any]:
    """Read the words of a server: return {field of RealServer: value} of those that are given."""
    rest = deque(found)
    values: dict[str, Any] = {}
    words: dict[str, str] = {}  # field -> the word that has set it
    while rest:
        token = rest.popleft()
        if not token.is_word(*SERVER_WORDS):
            hint = foreign_words.hint_at_server_word(token.text)
            shown = f"'{shorten(token.text)}'{hint}" if hint else unknown(token.text, (*SERVER_WORDS, *TLS_WORDS))
            raise fail(token, f"unknown word {shown}")
        called = token.text.lower()
        name, read = _READERS[called]
        if (before := words.setdefault(name, called)) != called:
            raise fail(token, f"'{before}' and '{called}' contradict each other: leave one of them out")
        if name in values and name != LABELS:
            raise fail(token, f"'{called}' appears a second time")
        values[name] = read(token, rest, values, fail)
    return values


def _read_h2(start: Token, rest: Rest, values: Values, fail: Fail) -> bool:
    if rest and rest[0].is_word(OFF):
        rest.popleft()
        return False
    return True


def _read_tls(start: Token, rest: Rest, values: Values, fail: Fail) -> ServerTLS | None:
    """Read what follows `tls`. values: of the words so far: `h2` may stand among those of TLS."""
    if rest and rest[0].is_word(OFF):
        rest.popleft()
        return None
    given: dict[str, Any] = {}
    while rest and rest[0].is_word(*TLS_WORDS, H2):
        if rest[0].is_word(H2):
            if H2 in values:
                break  # the second one is refused there
            values[H2] = _read_h2(rest.popleft(), rest, values, fail)
            continue
        token = rest.popleft()
        name = token.text.lower()
        key = "is_verified" if name == "verify" else name
        if key in given:
            raise fail(token, f"'{name}' appears a second time")
        value = _take_value(token, rest, fail)
        if name == "verify" and not value.is_word(OFF):
            raise fail(value, f"verify '{shorten(value.text, 40)}': expected off; without 'verify' it is on")
        given[key] = False if name == "verify" else value.text.lower() if name == "name" else value.text
        try:
            ServerTLS(**given)
        except Refusal as refusal:
            raise fail(value, str(refusal)) from None
    return ServerTLS(**given)


def _read_proxy(start: Token, rest: Rest, values: Values, fail: Fail) -> str:
    value = _take_value(start, rest, fail)
    if not value.is_word(OFF, *PROXY_VERSIONS):
        raise fail(value, f"proxy '{shorten(value.text, 40)}': expected v1 or v2")
    return value.text.lower()


def _read_priority(start: Token, rest: Rest, values: Values, fail: Fail) -> int:
    value = _take_value(start, rest, fail)
    text = value.text
    if not (text.isascii() and text.isdigit()) or len(text) > 3 or int(text) > BACKUP:
        raise fail(value, f"priority '{shorten(text, 40)}': expected a number from 0 to {BACKUP}")
    return int(text)


def _read_check(start: Token, rest: Rest, values: Values, fail: Fail) -> Address | None:
    if not rest:
        raise fail(start, f"missing value after 'check': {_CHECK_HINT}")
    value = _take_value(start, rest, fail)
    if value.is_word(OFF):
        return None
    try:
        address = parse_address(value.text)
        check_complete(address)
    except Refusal as refusal:
        hint = f"; {_CHECK_HINT}" if foreign_words.hint_at_server_word(value.text) else ""
        raise fail(value, f"check: {refusal}{hint}") from None
    return address


def _read_max_pending(start: Token, rest: Rest, values: Values, fail: Fail) -> int:
    value = _take_value(start, rest, fail)
    text = value.text
    if not (text.isascii() and text.isdigit()) or len(text) > 8 or int(text) > MAX_COUNT:
        raise fail(value, f"max_pending '{shorten(text, 40)}': expected a number from 0 to {MAX_COUNT}")
    return int(text)


_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def _read_start(start: Token, rest: Rest, values: Values, fail: Fail) -> str | None:
    value = _take_value(start, rest, fail)
    if value.is_word(OFF):
        return None
    try:
        return check_program(value.text)
    except Refusal as refusal:
        raise fail(value, str(refusal)) from None


def check_program(name: str) -> str:
    """Return the name of a program that starts a server. Raises BadValue for a path and for a command."""
    if not _PROGRAM.fullmatch(name):
        raise BadValue(f"start '{shorten(name, 40)}': expected the name of a program in the folder of --start-folder")
    return name


def _read_label(start: Token, rest: Rest, values: Values, fail: Fail) -> Labels:
    """Read one more label: return it with those that have been read."""
    before: Labels = values.get(LABELS, ())
    value = _take_value(start, rest, fail)
    if value.is_word(OFF):
        if before:
            raise fail(value, "'label off' contradicts the labels before it: leave one of them out")
        return ()
    found = _LABEL.fullmatch(value.text)
    if found is None:
        raise fail(
            value,
            f"label '{shorten(value.text, 40)}': expected NAME or NAME=VALUE, each at most 63 letters, digits and "
            "some of . _ - / in a name, and of : @ + besides in a value (example: zone=a)",
        )
    if any(name == found[1] for name, _ in before):
        raise fail(value, f"label '{found[1]}' appears a second time")
    if len(before) == MAX_LABELS:
        raise fail(value, f"a server may have at most {MAX_LABELS} labels")
    return tuple(sorted((*before, (found[1], found[2] or ""))))


def _read_mode(start: Token, rest: Rest, values: Values, fail: Fail) -> str:
    return start.text.lower()


def _read_backup(start: Token, rest: Rest, values: Values, fail: Fail) -> int:
    return BACKUP


_READERS: dict[str, tuple[str, Callable[[Token, Rest, Values, Fail], Any]]] = {
    TLS: ("tls", _read_tls),
    H2: ("h2", _read_h2),
    "proxy": ("proxy", _read_proxy),
    PRIORITY: ("priority", _read_priority),
    BACKUP_WORD: ("priority", _read_backup),
    CHECK: ("check", _read_check),
    MAX_PENDING: (MAX_PENDING, _read_max_pending),
    START: (START, _read_start),
    LABEL: (LABELS, _read_label),
    **dict.fromkeys(MODES, ("mode", _read_mode)),
}
"""Word -> the field that it sets, and the function that reads its value."""


def _take_value(token: Token, rest: Rest, fail: Fail) -> Token:
    if not rest:
        raise fail(token, f"missing value after '{token.text.lower()}'")
    return rest.popleft()


def read_server_options(text: str) -> dict[str, Any]:
    """Read the words of a server from a command. Raises BadValue."""
    return read_words(tokens(text.replace("\n", " "), "words"), fail_without_place)


def write_words(described: Mapping[str, Any], *, with_defaults: bool = False) -> str:
    """Return the words of a server. described: as plain data, where what is missing was not given. with_defaults: write
    defaults too, as commands need it."""
    parts = (write_connection_words, write_use_words)
    return " ".join(filter(None, (write(described, with_defaults=with_defaults) for write in parts)))


def write_use_words(described: Mapping[str, Any], *, with_defaults: bool = False) -> str:
    """Return those words of a server that say when it is used, and how that is checked."""
    words = []
    if "priority" in described and (described["priority"] or with_defaults):
        words.append(write_priority(described["priority"]))
    if "mode" in described and (described["mode"] != READY or with_defaults):
        words.append(described["mode"])
    if "check" in described and (described["check"] is not None or with_defaults):
        words += [CHECK, OFF if described["check"] is None else word(str(described["check"]))]
    if MAX_PENDING in described and (described[MAX_PENDING] or with_defaults):
        words += [MAX_PENDING, str(described[MAX_PENDING])]
    if START in described and (described[START] is not None or with_defaults):
        words += [START, described[START] or OFF]
    if LABELS in described and (described[LABELS] or with_defaults):
        words.append(write_labels(described[LABELS]))
    return " ".join(words)


def write_labels(labels: Mapping[str, str]) -> str:
    """Return the words that stand for labels; `label off`: there are none."""
    return " ".join(f"{LABEL} {name}={value}" if value else f"{LABEL} {name}" for name, value in labels.items()) or (
        f"{LABEL} {OFF}"
    )


def write_priority(priority: int) -> str:
    """Return the word that stands for a priority, perhaps with its number."""
    return BACKUP_WORD if priority == BACKUP else f"{PRIORITY} {priority}"


def write_connection_words(described: Mapping[str, Any], *, with_defaults: bool = False) -> str:
    """Return those words of a server that say how it is connected to."""
    words: list[str] = []
    if "tls" in described and (described["tls"] is not None or with_defaults):
        words += ["tls", *_tls_words(described["tls"])]
    if H2 in described and (described[H2] or with_defaults):
        words += [H2] if described[H2] else [H2, OFF]
    if "proxy" in described and (described["proxy"] != OFF or with_defaults):
        words += ["proxy", described["proxy"]]
    return " ".join(words)


def _tls_words(tls: Mapping[str, Any] | None) -> list[str]:
    if tls is None:
        return [OFF]
    words = [] if tls["verify"] else ["verify", OFF]
    for name in ("ca", "name", "cert"):
        if tls[name] is not None:
            words += [name, word(tls[name])]
    return words


def write_server_options(options: Mapping[str, Any]) -> str:
    """Return the words of a command for values of `read_words`, which read them back."""
    plain = {name: value.described() if isinstance(value, ServerTLS) else value for name, value in options.items()}
    if LABELS in plain:
        plain[LABELS] = dict(plain[LABELS])
    return write_words(plain, with_defaults=True)
