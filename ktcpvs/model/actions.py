"""Actions of rules: responses that the switch gives itself, in place of a server.

use redirect [301 | 302 | 303 | 307 | 308] (URL | https)
use respond STATUS [TEXT | file PATH]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadValue, Refusal, shorten, unknown
from ktcpvs.model.language import foreign_words
from ktcpvs.model.language.lexer import Located, Token, not_located, quoted, tokens, word
from ktcpvs.model.templates import Template, read_template
from ktcpvs.model.tls import is_path

REDIRECT, RESPOND = ACTIONS = ("redirect", "respond")
"""The words with which an action begins."""

HTTPS, FILE = "https", "file"

REDIRECTS = (301, 302, 303, 307, 308)
DEFAULT_REDIRECT = 302
"""The status of a redirect that names none."""

WITHOUT_CONTENT = frozenset((204, 205))
"""Statuses whose responses have no content (RFC 9110, sections 15.3.5 and 15.3.6)."""

MAX_URL = 2048
"""The most characters of a URL in a redirect."""

MAX_TEXT = 8192
"""The most characters of the text of a response; a longer one is a file."""

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:|/|\{)\S*")


def _check_redirect(instance: object, attribute: Attribute[int], value: int) -> None:
    if value not in REDIRECTS:
        raise BadValue(f"redirect {value}: expected one of {', '.join(map(str, REDIRECTS))}")


def _check_status(instance: object, attribute: Attribute[int], value: int) -> None:
    if value in REDIRECTS:
        raise BadValue(f"respond {value}: it needs a URL (example: redirect {value} https)")
    if not (200 <= value <= 299 or 400 <= value <= 599):
        raise BadValue(f"respond {value}: expected a status from 200 to 299 or from 400 to 599")


def _check_text(instance: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and _CONTROL.search(value):
        raise BadValue("respond: a control character in the text; a text of several lines is a file: file PATH")
    if value is not None and len(value) > MAX_TEXT:
        raise BadValue(f"respond: a text has at most {MAX_TEXT} characters; a longer one is a file: file PATH")


def _check_file(instance: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and not is_path(value):
        raise BadValue(f"file {shorten(value, 40)}: expected the absolute path of a file")


@frozen
class Redirect:
    """A response that redirects. status: one of REDIRECTS. url: a template, or HTTPS: the same URL over TLS."""

    status: int = field(validator=_check_redirect)
    url: str
    template: Template | None = field(init=False, eq=False, repr=False)
    """None for HTTPS."""

    @template.default
    def _read_template(self) -> Template | None:
        if self.url == HTTPS:
            return None
        if not _URL.fullmatch(self.url) or not self.url.isprintable() or len(self.url) > MAX_URL:
            raise BadValue(
                f"redirect '{shorten(self.url, 60)}': expected https, or a URL without white space "
                '(examples: "https://{host}/new/{1}", "/new/")'
            )
        return read_template(self.url)

    def __str__(self) -> str:
        return f"{self.summary} {HTTPS if self.url == HTTPS else quoted(self.url)}"

    @property
    def summary(self) -> str:
        """Its effect, in two words."""
        return f"{REDIRECT} {self.status}"

    @property
    def groups(self) -> int:
        """The number of groups that the rule's pattern must have."""
        return self.template.groups if self.template is not None else 0


@frozen
class Respond:
    """A fixed response. text: its content; file: the file that has it, by its absolute path; both None: the status in
    words."""

    status: int = field(validator=_check_status)
    text: str | None = field(default=None, validator=_check_text)
    file: str | None = field(default=None, validator=_check_file)

    def __attrs_post_init__(self) -> None:
        if self.status in WITHOUT_CONTENT and (self.text is not None or self.file is not None):
            raise BadValue(f"respond {self.status}: a response with this status has no content")
        if self.text is not None and self.file is not None:
            raise BadValue("respond: either a text or a file")

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.summary} {FILE} {word(self.file)}"
        return self.summary if self.text is None else f"{self.summary} {quoted(self.text)}"

    @property
    def summary(self) -> str:
        """Its effect, in two words."""
        return f"{RESPOND} {self.status}"

    @property
    def groups(self) -> int:
        """The number of groups that the rule's pattern must have."""
        return 0


Action = Redirect | Respond


# Reading.


def read_action(found: Sequence[Token], position: int, located: Located = not_located) -> tuple[Action, int]:
    """Read an action from the token at `position` on, which is one of ACTIONS.

    Returns it, and the position behind it. Raises a Refusal.
    """
    begin = found[position]
    try:
        if begin.is_word(REDIRECT):
            return _read_redirect(found, position + 1)
        if begin.is_word(RESPOND):
            return _read_respond(found, position + 1)
        if hint := foreign_words.hint(foreign_words.ACTIONS, begin.text):
            raise BadValue(f"expected an action: unknown word '{shorten(begin.text, 40)}'{hint}")
        raise BadValue(f"expected an action: unknown word {unknown(begin.text, ACTIONS, 40)}")
    except Refusal as refusal:
        raise located(begin, refusal) from None


def _read_redirect(found: Sequence[Token], position: int) -> tuple[Redirect, int]:
    status, position = _read_status(found, position)
    if _ends(found, position):
        raise BadValue('redirect: missing URL (examples: redirect 301 "https://{host}/new/", redirect https)')
    token = found[position]
    url = HTTPS if token.is_word(HTTPS) else token.text
    return Redirect(DEFAULT_REDIRECT if status is None else status, url), position + 1


def _read_respond(found: Sequence[Token], position: int) -> tuple[Respond, int]:
    status, position = _read_status(found, position)
    if status is None:
        raise BadValue("respond: missing status (example: respond 403)")
    if _ends(found, position):
        return Respond(status), position
    token = found[position]
    if token.quoted:
        return Respond(status, token.text), position + 1
    if not token.is_word(FILE):
        raise BadValue(f"respond {status}: expected a text in quotes, or file PATH, not '{shorten(token.text, 40)}'")
    if _ends(found, position + 1):
        raise BadValue(f"respond {status} file: missing path (example: file /etc/ktcpvs/sorry.html)")
    return Respond(status, None, found[position + 1].text), position + 2


def _read_status(found: Sequence[Token], position: int) -> tuple[int | None, int]:
    """Return the number at `position` and the position behind it; None: there is none."""
    if _ends(found, position) or found[position].quoted:
        return None, position
    text = found[position].text
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        return None, position
    return int(text), position + 1


def _ends(found: Sequence[Token], position: int) -> bool:
    """Whether the action ends before `position`: at a keyword with its `=`, at a test, or with the block."""
    if position >= len(found):
        return True
    token = found[position]
    after = found[position + 1] if position + 1 < len(found) else None
    if token.quoted:
        return False
    return token.text == "}" or (after is not None and (after.is_word("=") or (after.quoted and token.is_word("test"))))


def action_of(text: str) -> Action:
    """Return the action that `text` writes, as the configuration language does behind `use`. Raises a Refusal."""
    found = tokens(text.replace("\n", " "), "action")
    if not found:
        raise BadValue(f"missing action; there are: {', '.join(ACTIONS)}")
    action, position = read_action(found, 0)
    if position < len(found):
        raise BadValue(f"{action}: unexpected '{shorten(found[position].text, 40)}' behind it")
    return action


def as_action(value: Action | str | None) -> Action | None:
    """Return an action, which may be given as its text. Raises a Refusal."""
    return action_of(value) if isinstance(value, str) else value


def text_of_words(words: Sequence[str]) -> str:
    """Return the text of an action that is given as words, each without quotes."""
    kind, *rest = words or ("",)
    written = [kind.lower()]
    if rest and rest[0].isascii() and rest[0].isdigit():
        written.append(rest.pop(0))
    keyword = HTTPS if written[0] == REDIRECT else FILE if len(rest) > 1 else None
    if rest and rest[0].lower() == keyword:
        written.append(rest.pop(0).lower())
    return " ".join([*written, *map(quoted, rest)])
