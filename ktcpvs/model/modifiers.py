"""Modifiers of a rule: its rate, its own balance scheduler, and what changes in its requests and their responses.

rate 5/m [burst 10] [client | header NAME | cookie NAME]  balance wrr [NAME VALUE ...]
request_header NAME VALUE  response_header NAME VALUE  strip_prefix /admin  rewrite "^/old/(.*)" "/new/{1}"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import evolve, field, frozen

from ktcpvs.errors import BadPattern, BadValue, Refusal, did_you_mean, nearest, shorten, unknown
from ktcpvs.model.address import no_port_names
from ktcpvs.model.conditions import FIELD_NAME, NAME, RESERVED
from ktcpvs.model.header_edits import MAX_EDITS, HeaderEdit
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.lexer import Located, Token, not_located, quoted, tokens, word
from ktcpvs.model.options import MAX_COUNT, rate_of, read_rate
from ktcpvs.model.pattern import check_pattern
from ktcpvs.model.scheduler_words import parse_scheduler, read_balance
from ktcpvs.model.scheduler_words import well_formed as well_formed_scheduler
from ktcpvs.model.settings import whole_number
from ktcpvs.model.templates import IN_HEADERS, Template, read_template

RATE, BALANCE, REQUEST_HEADER, RESPONSE_HEADER, STRIP_PREFIX, REWRITE = WORDS = (
    "rate", "balance", "request_header", "response_header", "strip_prefix", "rewrite",
)  # fmt: skip
"""The words with which modifiers begin."""


BY_CLIENT, BY_HEADER, BY_COOKIE = KEYS = ("client", "header", "cookie")
"""The keys by which a rate counts."""

BURST = "burst"


def _check_rate(instance: object, attribute: object, value: str) -> None:
    if not rate_of(value)[0]:
        raise BadValue(f"rate {shorten(value, 40)}: expected a rate (examples: 100/s, 30/m, 5/h)")


def _check_burst(instance: object, attribute: object, value: int) -> None:
    if not 0 <= value <= MAX_COUNT:
        raise BadValue(f"burst {value} is out of range: 0..{MAX_COUNT}")


def _check_key_name(instance: Rate, attribute: object, value: str) -> None:
    if instance.by != BY_CLIENT and not FIELD_NAME.fullmatch(value):
        raise BadValue(f"rate: '{shorten(value, 40)}': expected the name of a {instance.by} (example: X-Api-Key)")


@frozen
class Rate:
    """The most requests that the rule takes. rate: as `read_rate` returns it. burst: how many of them may come at once;
    0: as many as the rate's number. by: one of KEYS. name: of the header field or the cookie."""

    rate: str = field(validator=_check_rate)
    burst: int = field(default=0, validator=_check_burst)
    by: str = BY_CLIENT
    name: str = field(default="", validator=_check_key_name)

    def __str__(self) -> str:
        burst = f" {BURST} {self.burst}" if self.burst else ""
        if self.by == BY_CLIENT:
            return f"{self.rate}{burst}"
        return f"{self.rate}{burst} {self.by} {_name(self.name)}"


def _name(name: str) -> str:
    """Return a name as a token, in quotes if it is a word of the language."""
    return quoted(name) if name.lower() in RESERVED else word(name)


@frozen
class Rewrite:
    """The first match of `pattern` in path and query becomes `replacement`, a template whose groups are those of the
    pattern."""

    pattern: str
    replacement: str
    template: Template = field(init=False, eq=False, repr=False)

    @template.default
    def _read_template(self) -> Template:
        return read_template(self.replacement, IN_HEADERS)

    def __attrs_post_init__(self) -> None:
        groups = check_pattern(self.pattern)
        if self.template.groups > groups:
            raise BadPattern(
                f"rewrite '{shorten(self.replacement, 60)}': unknown variable '{self.template.groups}': the pattern "
                f"has {groups} groups"
            )

    def __str__(self) -> str:
        return f"{quoted(self.pattern)} {quoted(self.replacement)}"


def _check_prefix(instance: object, attribute: object, value: str | None) -> None:
    if value is None:
        return
    if not value.startswith("/") or value == "/" or not value.isprintable() or {"?", "#", "%", " "} & set(value):
        raise BadValue(f"strip_prefix '{shorten(value, 60)}': expected the beginning of a path (example: /admin)")
    if {"", ".", ".."} & set(value.removesuffix("/").split("/")[1:]):
        raise BadValue(
            f"strip_prefix '{shorten(value, 60)}': no request has this path, since it is compared without . .."
        )


@frozen(cache_hash=True)
class Modifiers:
    """The modifiers of one rule. balance: the scheduler that chooses among its servers, by name, with options of its
    own (`scheduler_words`); None: that of the service."""

    request_headers: tuple[HeaderEdit, ...] = ()
    response_headers: tuple[HeaderEdit, ...] = ()
    strip_prefix: str | None = field(default=None, validator=_check_prefix)
    rewrite: Rewrite | None = None
    rate: Rate | None = None
    balance: str | None = field(default=None, validator=well_formed_scheduler)

    def __bool__(self) -> bool:
        return self != NONE

    def __str__(self) -> str:
        return " ".join(self.texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each."""
        return tuple(text for _, _, text in self._parts)

    @property
    def by_kind(self) -> dict[tuple[str, str], str]:
        """(kind, name of a header field in lower case or "") -> the texts of these."""
        found: dict[tuple[str, str], str] = {}
        for kind, name, text in self._parts:
            key = kind, name.lower()
            found[key] = f"{found[key]} {text}" if key in found else text
        return found

    @property
    def _parts(self) -> Iterator[tuple[str, str, str]]:
        """The kind of each, the name of its header field or "", and its text."""
        if self.rate is not None:
            yield RATE, "", f"{RATE} {self.rate}"
        if self.balance is not None:
            yield BALANCE, "", f"{BALANCE} {parse_scheduler(self.balance).in_rule}"
        for kind, edits in (REQUEST_HEADER, self.request_headers), (RESPONSE_HEADER, self.response_headers):
            for edit in edits:
                yield kind, edit.name, f"{kind} {edit}"
        if self.strip_prefix is not None:
            yield STRIP_PREFIX, "", f"{STRIP_PREFIX} {word(self.strip_prefix)}"
        if self.rewrite is not None:
            yield REWRITE, "", f"{REWRITE} {self.rewrite}"

    @property
    def changes_messages(self) -> bool:
        """Whether requests or responses are changed."""
        has_edits = bool(self.request_headers or self.response_headers)
        return has_edits or self.strip_prefix is not None or self.rewrite is not None

    @property
    def concerns_requests(self) -> bool:
        """Whether each request has to do with them: a balance scheduler has not."""
        return self.rate is not None or self.changes_messages

    @property
    def groups(self) -> int:
        """The number of groups that the rule's pattern must have."""
        edits = (*self.request_headers, *self.response_headers)
        return max((edit.template.groups for edit in edits), default=0)


NONE = Modifiers()


def read_modifier(
    found: Sequence[Token], position: int, before: Modifiers, located: Located = not_located
) -> tuple[Modifiers, int]:
    """Read the modifier that begins with the token at `position`, one of WORDS. before: those in front of it.

    Returns all of them, and the position behind it. Raises a Refusal.
    """
    begin = found[position]
    kind = begin.text.lower()
    if kind == RATE:
        try:
            rate, position = _read_rate(found, position + 1)
            if before.rate is not None:
                raise BadValue("rate appears a second time")
        except Refusal as refusal:
            raise located(begin, refusal) from None
        return evolve(before, rate=rate), position
    if kind == BALANCE and position + 1 < len(found) and not _is_end(found[position + 1]):
        balance, behind = read_balance(found, position + 1, located)
        if before.balance is not None:
            raise located(begin, BadValue(f"{kind} appears a second time"))
        return evolve(before, balance=balance), behind
    count = 1 if kind in (STRIP_PREFIX, BALANCE) else 2
    values = [token.text for token in found[position + 1 : position + 1 + count]]
    try:
        if len(values) < count or any(_is_end(token) for token in found[position + 1 : position + 1 + count]):
            raise BadValue(f"{kind}: missing value (example: {_EXAMPLES[kind]})")
        return _with(before, kind, values), position + 1 + count
    except Refusal as refusal:
        raise located(begin, refusal) from None


def _read_rate(found: Sequence[Token], position: int) -> tuple[Rate, int]:
    """Read: RATE [burst N] [client | header NAME | cookie NAME]"""
    if position >= len(found) or _is_end(found[position]):
        raise BadValue("rate: missing value (example: rate 5/m)")
    rate = Rate(read_rate(RATE, found[position].text, no_port_names))
    position += 1
    for words in ((BURST,), KEYS):
        if position >= len(found) or found[position].text.lower() not in words:
            continue
        given = found[position].text.lower()
        position += 1
        if given == BY_CLIENT:
            continue
        if position >= len(found) or _is_end(found[position]):
            raise BadValue(f"rate: missing value after '{given}'")
        text = found[position].text
        rate = evolve(rate, burst=whole_number(BURST, text)) if given == BURST else evolve(rate, by=given, name=text)
        position += 1
    return rate, position


_EXAMPLES = {
    BALANCE: "balance wrr",
    REQUEST_HEADER: 'request_header X-Request-ID "{request_id}"',
    RESPONSE_HEADER: 'response_header X-Frame-Options "DENY"',
    STRIP_PREFIX: "strip_prefix /admin",
    REWRITE: 'rewrite "^/old/(.*)" "/new/{1}"',
}


def _is_end(token: Token) -> bool:
    return token.is_word("use", "}", "{", "=", *WORDS)


def _with(before: Modifiers, kind: str, values: Sequence[str]) -> Modifiers:
    if kind in (REQUEST_HEADER, RESPONSE_HEADER):
        is_request = kind == REQUEST_HEADER
        edits = (*(before.request_headers if is_request else before.response_headers), HeaderEdit(*values))
        if len(edits) > MAX_EDITS:
            raise BadValue(f"{kind}: a rule has at most {MAX_EDITS} edits")
        return evolve(before, request_headers=edits) if is_request else evolve(before, response_headers=edits)
    if getattr(before, kind) is not None:
        raise BadValue(f"{kind} appears a second time")
    if kind == STRIP_PREFIX:
        return evolve(before, strip_prefix=values[0] or None)
    return evolve(before, rewrite=Rewrite(*values))


def modifiers_of(text: str) -> Modifiers:
    """Return the modifiers that `text` writes, as the configuration language does. Raises a Refusal."""
    found = tokens(text.replace("\n", " "), "modifiers")
    modifiers, position = NONE, 0
    while position < len(found):
        if not found[position].is_word(*WORDS):
            raise BadValue(_describe_unknown(found[position].text))
        modifiers, position = read_modifier(found, position, modifiers)
    return modifiers


def _describe_unknown(text: str) -> str:
    """Return what is wrong with a word that is no modifier. It may be one of a condition, in front of which there is
    none."""
    if text.lower() in RESERVED:
        hint = "; the name of a rule comes first in files, and is the option --name NAME of tcpvsadm"
        hint = hint if text.lower() == NAME else ""
        return f"'{shorten(text, 40)}' is out of place{hint}"
    hint = foreign_words.hint(foreign_words.CONDITIONS, text)
    if not hint and nearest(text, WORDS) is None:
        hint = did_you_mean(text, RESERVED)
    return f"unknown word '{shorten(text, 40)}'{hint}" if hint else f"unknown modifier {unknown(text, WORDS, 40)}"


def as_modifiers(value: Modifiers | str | None) -> Modifiers:
    """Return modifiers, which may be given as their text; None: there are none. Raises a Refusal."""
    if isinstance(value, Modifiers):
        return value
    return modifiers_of(value) if value else NONE
