"""Edits of header fields, in requests to servers or in responses to clients.

    NAME "VALUE"     sets the field: lines of that name are removed, and one with the value is added
    +NAME "VALUE"    adds a line
    NAME ""          removes the field

A value is a template.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadValue, Refusal, shorten
from ktcpvs.model.address import PortNamed
from ktcpvs.model.conditions import RESERVED
from ktcpvs.model.language.lexer import quoted, tokens, word
from ktcpvs.model.templates import IN_HEADERS, Template, read_template

MAX_VALUE = 4096
"""The most characters of a value."""

MAX_EDITS = 100
"""The most edits of one rule, or of one service in one direction."""

FORBIDDEN = frozenset(
    (
        "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
        "upgrade", "http2-settings", "expect",
    )
)  # fmt: skip
"""Fields that frame a message or concern one connection only (RFC 9110, section 7.6.1): the switch sets them itself."""

_NAME = re.compile(r"\+?([!#$%&'*.^_`|~0-9A-Za-z-][!#$%&'*+.^_`|~0-9A-Za-z-]{0,255})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def canonical(name: str) -> str:
    """Return the one name for all that programs behind a server take for the same, as CGI does: X_A and x-a."""
    return re.sub("[^a-z0-9]", "-", name.lower())


def _check_name(instance: object, attribute: Attribute[str], value: str) -> None:
    if not _NAME.fullmatch(value):
        raise BadValue(f"'{shorten(value, 40)}': expected the name of a header field (example: X-Request-ID)")
    if canonical(value.removeprefix("+")) in FORBIDDEN:
        raise BadValue(f"header {value}: the switch sets this field itself, since it frames messages or connections")


def _check_value(instance: object, attribute: Attribute[str], value: str) -> None:
    if _CONTROL.search(value):
        raise BadValue(f"header value '{shorten(value, 40)}': a control character")
    if len(value) > MAX_VALUE:
        raise BadValue(f"header value '{shorten(value, 40)}': longer than {MAX_VALUE} characters")


@frozen
class HeaderEdit:
    """One edit. name: of the field, with a `+` in front where a line is added. value: a template; "": the field is
    removed."""

    name: str = field(validator=_check_name)
    value: str = field(validator=_check_value)
    template: Template = field(init=False, eq=False, repr=False)

    @template.default
    def _read_template(self) -> Template:
        return read_template(self.value, IN_HEADERS)

    def __attrs_post_init__(self) -> None:
        if self.is_added and not self.value:
            raise BadValue(f"header {self.name}: missing value after +")

    def __str__(self) -> str:
        name = quoted(self.name) if self.name.lower() in RESERVED else word(self.name)
        return f"{name} {quoted(self.value)}"

    @property
    def is_added(self) -> bool:
        """Whether lines of that name stay."""
        return self.name.startswith("+")

    @property
    def field_name(self) -> str:
        """The name of the field alone."""
        return self.name.removeprefix("+")


def header_edit_of(text: str) -> HeaderEdit:
    """Return the edit that `text` writes. Raises a Refusal."""
    found = tokens(text.replace("\n", " "), "header")
    if len(found) != 2:
        raise BadValue(f'\'{shorten(text, 60)}\': expected NAME "VALUE" (example: X-Request-ID "{{request_id}}")')
    return HeaderEdit(found[0].text, found[1].text)


def read_header_edit(name: str, text: str, port_named: PortNamed) -> str:
    """Read the value of an option, and return it in its one form. Raises a Refusal."""
    try:
        edit = header_edit_of(text)
    except Refusal as refusal:
        raise BadValue(f"{name} = {refusal}") from None
    if edit.template.groups:
        raise BadValue(f"{name} = {edit.name}: variable '{edit.template.groups}': only rules have groups")
    return str(edit)


def header_edits(instance: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """A validator: edits in the form of `read_header_edit`, not too many."""
    no_names: Callable[[str], None] = lambda name: None  # noqa: E731
    for text in value:
        read_header_edit(attribute.name, text, no_names)
    if len(value) > MAX_EDITS:
        raise BadValue(f"{attribute.name}: at most {MAX_EDITS} edits")
