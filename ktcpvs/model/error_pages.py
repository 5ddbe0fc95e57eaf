"""Error pages of a service: files that the switch responds with where it would give a text of its own.

error_page = 502 503 504 /etc/ktcpvs/sorry.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import Attribute

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed, no_port_names
from ktcpvs.model.language.lexer import tokens, word
from ktcpvs.model.tls import is_path


def read_error_page(name: str, text: str, port_named: PortNamed) -> str:
    """Read statuses and a path, and return them in their one form. Raises a Refusal."""
    *statuses, path = [token.text for token in tokens(text, name)] or [""]
    if not statuses or not is_path(path):
        raise BadValue(
            f"{name} = {shorten(text, 60)}: expected statuses and the absolute path of a file (example: 502 503 "
            "/etc/ktcpvs/sorry.html)"
        )
    for status in statuses:
        if not (status.isascii() and status.isdigit() and len(status) == 3 and 400 <= int(status) <= 599):
            raise BadValue(f"{name} = {shorten(status, 40)}: expected a status from 400 to 599")
    return " ".join([*dict.fromkeys(statuses), word(path)])


def _parts(text: str) -> tuple[list[int], str]:
    *statuses, path = [token.text for token in tokens(text, "error_page")]
    return [int(status) for status in statuses], path


def error_pages(texts: Sequence[str]) -> Mapping[int, str]:
    """Return the path of the page of each status. texts: as `read_error_page` returns them."""
    return {status: path for statuses, path in map(_parts, texts) for status in statuses}


def each_status_once(instance: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """A validator: texts as `read_error_page` returns them, without a status that appears twice."""
    seen: set[int] = set()
    for text in value:
        read_error_page(attribute.name, text, no_port_names)
        for status in _parts(text)[0]:
            if status in seen:
                raise BadValue(f"{attribute.name} = {status}: this status appears a second time")
            seen.add(status)
