"""Splits a text into tokens. White space separates them; `"..."` is one token; `#` begins a comment.

Inside quotes a backslash is an ordinary character, so that patterns need no escapes, except before a quote: n pairs of
backslashes before a quote are n backslashes and the end of the token, and one more backslash makes the quote a part of
the token. So `\\"` is a quote, as in KTCPVS, and every text can be written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from ktcpvs.errors import BadConfiguration, BadValue, Refusal, shorten

_USUAL = re.compile(r'[^\S\n]*+(?:([^\s"#]\S*+)|"((?:[^"\\]++|\\++(?!"))*+)"(?!\S))')
"""A token without or with quotes, if no backslash is before a quote."""

_BLANK = re.compile(r"(?:[^\S\n]+|#[^\n]*)+")
_BEFORE_QUOTE = re.compile(r'(?<!\\)(\\*)"')
_POSITION = re.compile(r'#line ([0-9]{1,9}) (".*")[^\S\n]*')
INCLUDE = "include"
"""The keyword with which a file includes others (`includes`)."""

_PLAIN = re.compile(r'[^\s"#={}\\][^\s"]*')


class Place(NamedTuple):
    """A position: the file's name as the user gave it, line and column from 1."""

    source: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"

    def error(self, why: str) -> BadConfiguration:
        """Return a refusal that names this place."""
        return BadConfiguration(f"{self}: {why}")


class Token(NamedTuple):
    """A token. text: without quotes. line: where its line begins. column: its own one, from 1. quoted: then it is never
    a keyword or a sign. word: the text in lower case; "" if it is quoted.

    Large configurations have 100,000 of them, and named tuples are made in half the time of attrs' frozen classes.
    """

    text: str
    line: Place
    column: int
    quoted: bool
    word: str

    @classmethod
    def unquoted(cls, text: str, line: Place, column: int = 1) -> Token:
        """Return a token without quotes."""
        return cls(text, line, column, False, text.lower())

    @property
    def place(self) -> Place:
        """The place of its first character."""
        return Place(self.line.source, self.line.line, self.column)

    def error(self, why: str) -> BadConfiguration:
        """Return a refusal that names its place."""
        return self.place.error(why)

    def located(self, refusal: Refusal) -> BadConfiguration:
        """Return a refusal as one that names the place of this token."""
        return self.error(str(refusal))

    def is_word(self, *words: str) -> bool:
        """Whether this is one of `words`, in any case, and not quoted."""
        return self.word in words


Fail = Callable[[Token, str], Refusal]
"""(token, what is wrong) -> the refusal: with its place (`Token.error`), or without (`fail_without_place`)."""

Located = Callable[[Token, Refusal], Refusal]
"""(token, its refusal) -> the refusal: with its place (`Token.located`), or without (`not_located`)."""


def fail_without_place(token: Token, why: str) -> BadValue:
    """Return the refusal of a token that has no place, such as a word of a command line."""
    return BadValue(why)


def not_located(token: Token, refusal: Refusal) -> Refusal:
    """Return the refusal of a token that has no place: the refusal as it is."""
    return refusal


_make_token = partial(tuple.__new__, Token)
"""Makes a token of a tuple of its fields, in half the time of a call with them."""


def tokens(text: str, source: str) -> list[Token]:
    """Return all tokens of `text`. Raises BadConfiguration."""
    found: list[Token] = []
    for start, line in _lines(text, source):
        _line(line.removesuffix("\r"), start, found)
    return found


def _lines(text: str, source: str) -> Iterator[tuple[Place, str]]:
    """Yield each line with its place: after a comment `#line N "FILE"`, that in another file."""
    number = 0
    for line in text.split("\n"):
        number += 1
        if line.startswith("#line ") and (position := _POSITION.fullmatch(line)):
            number, source = int(position[1]) - 1, unquoted(position[2][1:-1])
        else:
            yield Place(source, number, 1), line


def end_place(text: str, source: str) -> Place:
    """Return the place of the last line."""
    last = Place(source, 1, 1)
    for place, _ in _lines(text, source):
        last = place
    return last


def is_position(line: str) -> bool:
    """Whether a line is a comment that says from where the next ones are."""
    return _POSITION.fullmatch(line) is not None


def end_of(line: str, token: Token) -> int:
    """Return the column, from 0, behind a token of that line."""
    start = token.place.column - 1
    return _closing_quote(line, start + 1) + 1 if token.quoted else start + len(token.text)


def _line(line: str, start: Place, found: list[Token]) -> None:
    position, length = 0, len(line)
    match, add, make = _USUAL.match, found.append, _make_token
    while True:
        while position < length and (usual := match(line, position)):
            position = usual.end()
            bare, text = usual.groups()
            if bare is not None:
                add(make((bare, start, position - len(bare) + 1, False, bare.lower())))
            else:
                add(make((text, start, position - len(text) - 1, True, "")))
        if position < length and (blank := _BLANK.match(line, position)):
            position = blank.end()
        if position == length:
            return
        if line[position] != '"':
            continue
        column = position + 1
        end = _closing_quote(line, column)
        if end < 0:
            raise Place(start.source, start.line, column).error("unterminated quote: it must end on the same line")
        text, position = unquoted(line[column:end]), end + 1
        if position < length and not line[position].isspace():
            raise Place(start.source, start.line, position + 1).error(
                f"expected white space after a quoted word, not '{shorten(line[position:], 20)}'"
            )
        found.append(Token(text, start, column, True, ""))


def _closing_quote(line: str, start: int) -> int:
    """Return where the token that began before `start` ends: at a quote after an even number of backslashes, or -1."""
    ends = (found.end() - 1 for found in _BEFORE_QUOTE.finditer(line, start) if len(found[1]) % 2 == 0)
    return next(ends, -1)


def unquoted(inside: str) -> str:
    """Return the text of a quoted token: undo the doubling of backslashes before a quote and before the end."""
    text = _BEFORE_QUOTE.sub(lambda m: "\\" * (len(m[1]) // 2) + '"', inside)
    bare = text.rstrip("\\")
    return bare + "\\" * ((len(text) - len(bare)) // 2)


def quoted(text: str) -> str:
    """Return `text`, which has no line end, as one token in quotes."""
    bare = text.rstrip("\\")
    inside = _BEFORE_QUOTE.sub(lambda m: m[1] * 2 + '\\"', bare)
    return f'"{inside}{text[len(bare) :] * 2}"'


def word(text: str) -> str:
    """Return `text` as one token, in quotes only if it needs them."""
    return text if _PLAIN.fullmatch(text) else quoted(text)
