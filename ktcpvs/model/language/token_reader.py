"""Reads the tokens of a configuration one after another: words, signs, values, addresses, and blocks of keywords."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ktcpvs.errors import BadConfiguration, Refusal, did_you_mean, shorten
from ktcpvs.model.address import Address, PortNamed, parse_address
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.keywords import KEYWORDS, TEST
from ktcpvs.model.language.lexer import INCLUDE, Place, Token, quoted
from ktcpvs.model.settings import Settings, whole_number

T = TypeVar("T")


class errors_at:
    """Add the place of this token to refusals from within, unless they have one. A table of 10,000 rules enters 50,000
    of these."""

    __slots__ = ("_token",)

    def __init__(self, token: Token) -> None:
        self._token = token

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Refusal) and not isinstance(error, BadConfiguration):
            raise self._token.error(str(error)) from None


class TokenReader:
    """Reads one token after another. Errors are BadConfiguration, and name the place of the token."""

    def __init__(self, found: Sequence[Token], end: Callable[[], Place], port_named: PortNamed) -> None:
        """end: returns the place of the end."""
        self._tokens = found
        self._count = len(found)
        self._position = 0
        self._end = end
        self.port_named = port_named
        self._keywords = _keywords(found)
        self._addresses: dict[str, Address] = {}  # rules name the same servers again

    def peek(self, further: int = 0) -> Token | None:
        position = self._position + further
        return self._tokens[position] if position < self._count else None

    def next_or_none(self) -> Token | None:
        position = self._position
        self._position = position + 1
        return self._tokens[position] if position < self._count else None

    def next(self, expected: str) -> Token:
        position = self._position
        if position >= self._count:
            raise self._end().error(f"unexpected end of the text; expected {expected}")
        self._position = position + 1
        return self._tokens[position]

    def previous(self) -> Token:
        """Return the token before the one that was read last."""
        return self._tokens[self._position - 2]

    @property
    def line_before(self) -> Place:
        """The line of the token that was read last."""
        return self._tokens[self._position - 1].line

    def is_keyword(self) -> bool:
        """Whether a keyword with its `=` comes next, or a test."""
        return self._position in self._keywords

    def following(self, *words: str) -> Token | None:
        """Return the next token if it belongs to what was read before; None: a keyword comes next, or the end of the
        block or of the text. words: then it must be one of these, too."""
        position = self._position
        if position >= self._count or position in self._keywords:
            return None
        token = self._tokens[position]
        return token if token.word != "}" and (not words or token.word in words) else None

    def read(self, read: Callable[[Sequence[Token], int], tuple[T, int]]) -> T:
        """Return what `read` finds. read: (all tokens, position of the next one) -> (value, position behind it)."""
        found, self._position = read(self._tokens, self._position)
        return found

    def number(self, name: str, token: Token) -> int:
        """Return the value of `name` in a token that was read."""
        with errors_at(token):
            return whole_number(name, token.text)

    def address(self) -> tuple[Token, Address]:
        """Read an address."""
        token = self.next("an address")
        found = self._addresses.get(token.text)
        if found is None:
            with errors_at(token):
                found = self._addresses[token.text] = parse_address(token.text, self.port_named)
        return token, found

    def phrase(self, first: Token, in_line: bool = False) -> str:
        """Return `first` and the tokens after it as text, up to the next keyword or the end of the block. in_line: or
        of the line."""
        found = [first]
        while (token := self.following()) is not None:
            if in_line and token.line != first.line:
                break
            found.append(self.next("a word"))
        return " ".join(quoted(token.text) if token.quoted else token.text for token in found)

    def sign(self, sign: str) -> None:
        """Read a sign, such as `=`."""
        token = self.next(f"'{sign}'")
        if token.quoted or token.text != sign:
            raise token.error(f"expected '{sign}', not '{shorten(token.text)}'")

    def block(self, bare: str = "") -> Iterator[Token]:
        """Yield the keywords of a `{ ... }` block, after their `=`. bare: a keyword that is followed by a quoted word
        instead of `=`."""
        self.sign("{")
        while True:
            is_keyword = self.is_keyword()
            keyword = self.next("'}'")
            if keyword.word == "}":
                return
            if bare and keyword.word == bare and (after := self.peek()) is not None and after.quoted:
                yield keyword
                continue
            if not is_keyword or keyword.quoted:
                if "=" in keyword.text and keyword.text != "=":
                    raise keyword.error(f"'{shorten(keyword.text)}': put white space around '='")
                raise keyword.error(_describe_bare(keyword))
            self.sign("=")
            if keyword.is_word(INCLUDE):
                raise cannot_include(keyword)
            yield keyword


def _keywords(found: Sequence[Token]) -> frozenset[int]:
    """Return the positions of tokens in front of a `=`, and of tests."""
    return frozenset(
        [
            position
            for position, token in enumerate(found, -1)
            if token.word == "=" or (token.quoted and position >= 0 and found[position].word == TEST)
        ]
    )


def _describe_bare(keyword: Token) -> str:
    """Return what is wrong with a word in the place of a keyword, behind which there is no '='."""
    shown, name = repr(shorten(keyword.text)), keyword.text.lower().removesuffix(":")
    if keyword.quoted:
        hint = ""
    elif name in KEYWORDS or name in Settings.names():
        hint = f" (example: {foreign_words.EXAMPLES.get(name, f'{name} = VALUE')})"
    else:
        hint = foreign_words.hint(foreign_words.IN_BLOCK, name) or did_you_mean(keyword.text, KEYWORDS, 0.75)
    return f"{shown}: expected a keyword followed by '=', or '}}'{hint}"


def cannot_include(keyword: Token) -> BadConfiguration:
    """Return a refusal of an include in a text that came without its files."""
    return keyword.error("include: only files that ktcpvs and tcpvsadm read may include others")


def once(seen: set[str], name: str, keyword: Token) -> None:
    """Add `name` to those that a block has. Raises BadConfiguration if it has it already."""
    if name in seen:
        raise keyword.error(f"{name} appears a second time")
    seen.add(name)
