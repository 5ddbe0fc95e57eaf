"""What an option of a service is: a field of VirtualService that people may set by its name.

The same name in the configuration language, on the control connection and in the listings: parser, writer and control
read all they need from here, so that a new option is one field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, fields, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed, parse_address
from ktcpvs.model.settings import whole_number

COUNT_MAX = 10_000_000

Read = Callable[[str, str, PortNamed], Any]
"""(option's name, text, names of ports) -> value. Raises BadValue or BadAddress."""


@frozen
class Option:
    """default: what it is when it was never given. shown: listed even then. meaning: for people. is_phrase: its value
    is several words, each a token of the language."""

    name: str
    read: Read
    default: Any
    shown: bool
    meaning: str
    is_phrase: bool


def option(
    read: Read, default: Any, meaning: str, *, shown: bool = False, check: Any = None, is_phrase: bool = False
) -> Any:
    """An attrs field that is an option. is_phrase: its value is several words, some perhaps in quotes."""
    metadata = {"read": read, "shown": shown, "meaning": meaning, "is_phrase": is_phrase}
    return field(default=default, validator=check, metadata=metadata)


def options_of(configured: type) -> dict[str, Option]:
    """Name -> option, in the order of the fields."""
    return {
        attribute.name: Option(
            attribute.name,
            attribute.metadata["read"],
            attribute.default,
            attribute.metadata["shown"],
            attribute.metadata["meaning"],
            attribute.metadata["is_phrase"],
        )
        for attribute in fields(configured)
        if "read" in attribute.metadata
    }


# The kinds of values.


def read_address(name: str, text: str, port_named: PortNamed) -> Any:
    """An address, perhaps without its port."""
    return parse_address(text, port_named)


def read_word(name: str, text: str, port_named: PortNamed) -> str:
    """Any word; the field checks it."""
    return text


def read_number(name: str, text: str, port_named: PortNamed) -> int:
    """A whole number."""
    return whole_number(name, text)


def one_of(*words: str) -> Any:
    """A validator: one of these words."""

    def check(instance: object, attribute: Attribute[Any], value: str) -> None:
        if value not in words:
            raise BadValue(f"{attribute.name} = {shorten(value, 40)}: one of {', '.join(words)} is wanted")

    return check


def between(least: int, most: int, unit: str = "") -> Any:
    """A validator: a number from `least` to `most`."""

    def check(instance: object, attribute: Attribute[Any], value: int) -> None:
        if not least <= value <= most:
            raise BadValue(f"{attribute.name} = {value} is out of range: {least}..{most}{unit and ' ' + unit}")

    return check


def count(instance: object, attribute: Attribute[Any], value: int | None) -> None:
    """A validator: None, or a number that is not negative nor beyond all reason."""
    if value is not None and not 0 <= value <= COUNT_MAX:
        raise BadValue(f"{attribute.name} = {value} is out of range: 0..{COUNT_MAX}")
