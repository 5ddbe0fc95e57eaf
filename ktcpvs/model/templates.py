"""Templates: texts with variables in braces, such as `https://{host}{target}`, that are filled in for each request.

`{{` is a brace. An unknown variable is an error when the template is read, so that a request never meets one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from attrs import field, frozen

from ktcpvs.errors import BadValue, shorten, unknown

VARIABLES = (
    "host", "hostport", "path", "query", "target", "scheme", "client", "client_port", "listen", "rule",
    "tls_server_name", "tls_version", "client_certificate_subject", "client_certificate_fingerprint",
)  # fmt: skip
"""The names of variables, besides `1` to `9`: the groups of the rule's pattern."""

IN_HEADERS = (*VARIABLES, "server", "request_id", "trace_id", "span_id")
"""The names of variables in the values of header fields, where more is known than in a redirect."""

GROUPS = tuple(str(number) for number in range(1, 10))

_NAME = re.compile(r"[!-~]{1,64}")
_PIECE = re.compile(r"\{\{|\{([^{}]*)\}|\{")


@frozen
class Template:
    """A text with variables. parts: (text, whether it is the name of a variable), in their order."""

    text: str
    parts: tuple[tuple[str, bool], ...] = field(repr=False)

    @property
    def variables(self) -> frozenset[str]:
        """The names of all its variables."""
        return frozenset(part for part, is_variable in self.parts if is_variable)

    @property
    def groups(self) -> int:
        """The highest number of a group in it; 0: it has none."""
        return max((int(name) for name in self.variables if name in GROUPS), default=0)

    def filled(self, value_of: Callable[[str], bytes]) -> bytes:
        """Return the text in UTF-8 with a value for each variable. value_of: returns the value of a name."""
        return b"".join([value_of(part) if is_variable else part.encode() for part, is_variable in self.parts])


def read_template(
    text: str, known: Collection[str] = VARIABLES, groups: Collection[str] = GROUPS, named: Collection[str] = ()
) -> Template:
    """Read a template.

    known: the variables that have values where it is used. groups: those of GROUPS that have. named: KIND of variables
    `KIND.NAME`, where any name has a value. Raises BadValue.
    """
    parts: list[tuple[str, bool]] = []
    literal, position = "", 0
    for found in _PIECE.finditer(text):
        literal += text[position : found.start()]
        position = found.end()
        if found[0] == "{{":
            literal += "{"
            continue
        name = found[1]
        if name is None:
            raise BadValue(
                f"'{shorten(text[found.start() :], 40)}': missing }} after a variable; a brace is written {{{{"
            )
        kind, _, of_kind = name.partition(".")
        if name not in known and name not in groups and not (kind in named and _NAME.fullmatch(of_kind)):
            raise BadValue(f"unknown variable {unknown(name, [*known, *(f'{one}.NAME' for one in named)], 40)}")
        if literal:
            parts.append((literal, False))
        parts.append((name, True))
        literal = ""
    literal += text[position:]
    return Template(text, (*parts, *([(literal, False)] if literal else [])))
