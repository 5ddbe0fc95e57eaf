"""What an option of a service is: a field of VirtualService that people may set by its name.

The same name in the configuration language, on the control connection and in the listings: parser, writer and control
read all they need from here, so that a new option is one field.
"""

from __future__ import annotations

import re
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


_RATE = re.compile(r"([0-9]{1,8})(?:/([smh]))?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
OFF = "off"


def read_rate(name: str, text: str, port_named: PortNamed) -> str:
    """So many a second, a minute or an hour: 100/s, 30/m, 5/h; 100 is 100/s; 0 and off: no limit."""
    found = _RATE.fullmatch(text)
    if text == OFF or (found and not int(found[1])):
        return OFF
    return f"{int(found[1])}/{found[2] or 's'}" if found else text


def rate_of(rate: str) -> tuple[int, float]:
    """(how many, seconds between two of them) of what `read_rate` gave; (0, 0) where there is no limit."""
    found = _RATE.fullmatch(rate)
    return (int(found[1]), _SECONDS[found[2]] / int(found[1])) if found else (0, 0.0)


def rate(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: what `read_rate` gives for a rate."""
    found = _RATE.fullmatch(value)
    if value != OFF and not (found and found[2] and 0 < int(found[1]) <= COUNT_MAX):
        raise BadValue(f"{attribute.name} = {shorten(value, 40)}: a rate is wanted, as 100/s, 30/m or 5/h, or off")


def in_range(lowest: int, highest: int) -> Any:
    """A validator: a number from `lowest` to `highest`, or None for an option that was never given."""

    def check(instance: object, attribute: Attribute[Any], value: int | None) -> None:
        if value is not None and not lowest <= value <= highest:
            raise BadValue(f"{attribute.name} = {value} is out of range: {lowest}..{highest}")

    return check


def one_of(*words: str) -> Any:
    """A validator: one of these words."""

    def check(instance: object, attribute: Attribute[Any], value: str) -> None:
        if value not in words:
            raise BadValue(f"{attribute.name} = {shorten(value, 40)}: one of {', '.join(words)} is wanted")

    return check


def count(instance: object, attribute: Attribute[Any], value: int | None) -> None:
    """A validator: None, or a number that is not negative nor beyond all reason."""
    if value is not None and not 0 <= value <= COUNT_MAX:
        raise BadValue(f"{attribute.name} = {value} is out of range: 0..{COUNT_MAX}")
