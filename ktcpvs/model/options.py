"""Options of services: fields of VirtualService that administrators may set by name.

The configuration language, the control connection and the listings use the same names. Parser, writer and control get
everything from here, so that a new option is one field.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from attrs import Attribute, field, fields, frozen

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed, parse_address
from ktcpvs.model.settings import whole_number

MAX_COUNT = 10_000_000
MAX_WEIGHT = 65535

Read = Callable[[str, str, PortNamed], Any]
"""(name of the option, text, names of ports) -> value. Raises BadValue or BadAddress."""


@frozen
class Option:
    """An option. default: its value if it was never set. shown: listings show it even then. meaning: for people.
    is_phrase: its value is several words, each a token of the language. repeats: it may be given several
    times; its value is a tuple, and `read` reads one item. opens_phrase: a first word after which the value is several
    words, though otherwise it is one; "": there is none."""

    name: str
    read: Read
    default: Any
    shown: bool
    meaning: str
    is_phrase: bool
    repeats: bool = False
    opens_phrase: str = ""

    def read_text(self, text: str, port_named: PortNamed) -> Any:
        """Return the value that `text` writes; of an option that repeats, with an item in each line."""
        if not self.repeats:
            return self.read(self.name, text, port_named)
        lines = text.split("\n") if text or self.default else ()
        return tuple([self.read(self.name, line, port_named) for line in lines])


def option(
    read: Read,
    default: Any,
    meaning: str,
    *,
    shown: bool = False,
    check: Any = None,
    is_phrase: bool = False,
    repeats: bool = False,
    converter: Any = None,
    opens_phrase: str = "",
) -> Any:
    """Declare an attrs field that is an option. is_phrase: its value is several words, some perhaps quoted. repeats:
    its value is a tuple, and each item has a line of its own. opens_phrase: see Option."""
    metadata = {"read": read, "shown": shown, "meaning": meaning, "is_phrase": is_phrase, "repeats": repeats}
    metadata["opens_phrase"] = opens_phrase
    return field(default=default, validator=check, metadata=metadata, converter=converter)


def options_of(configured: type) -> dict[str, Option]:
    """Return name -> option, in the order of the fields."""
    return {
        attribute.name: Option(
            attribute.name,
            attribute.metadata["read"],
            attribute.default,
            attribute.metadata["shown"],
            attribute.metadata["meaning"],
            attribute.metadata["is_phrase"],
            attribute.metadata["repeats"],
            attribute.metadata["opens_phrase"],
        )
        for attribute in fields(configured)
        if "read" in attribute.metadata
    }


def check_weight(weight: int | None) -> None:
    """Raise BadValue for a weight that is out of range. None: there is none."""
    if weight is not None and not 0 <= weight <= MAX_WEIGHT:
        raise BadValue(f"weight {weight} is out of range: 0..{MAX_WEIGHT}")


# The kinds of values.


def read_address(name: str, text: str, port_named: PortNamed) -> Any:
    """Read an address, perhaps without its port."""
    return parse_address(text, port_named)


def read_word(name: str, text: str, port_named: PortNamed) -> str:
    """Read any word; the field's validator checks it."""
    return text


def read_number(name: str, text: str, port_named: PortNamed) -> int:
    """Read a whole number."""
    return whole_number(name, text)


def read_seconds(name: str, text: str, port_named: PortNamed) -> int:
    """Read a whole number of seconds."""
    return whole_number(name, text, "seconds")


_RATE = re.compile(r"([0-9]{1,8})(?:/([smh]))?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
OFF = "off"


def read_rate(name: str, text: str, port_named: PortNamed) -> str:
    """Read a rate per second, minute or hour: 100/s, 30/m, 5/h; 100 is 100/s; 0 and off: no limit."""
    found = _RATE.fullmatch(text)
    if text == OFF or (found and not int(found[1])):
        return OFF
    return f"{int(found[1])}/{found[2] or 's'}" if found else text


def rate_of(rate: str) -> tuple[int, float]:
    """Return (how many, seconds between two) of a rate that `read_rate` returned; (0, 0): no limit."""
    found = _RATE.fullmatch(rate)
    return (int(found[1]), _SECONDS[found[2]] / int(found[1])) if found else (0, 0.0)


def rate(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: a rate that `read_rate` returns."""
    found = _RATE.fullmatch(value)
    if value != OFF and not (found and found[2] and 0 < int(found[1]) <= MAX_COUNT):
        raise BadValue(f"{attribute.name} = {shorten(value, 40)}: expected a rate (100/s, 30/m, 5/h) or off")


def in_range(lowest: int, highest: int) -> Any:
    """A validator: a number from `lowest` to `highest`, or None for an option that was never set."""

    def check(instance: object, attribute: Attribute[Any], value: int | None) -> None:
        if value is not None and not lowest <= value <= highest:
            raise BadValue(f"{attribute.name} = {value} is out of range: {lowest}..{highest}")

    return check


def one_of(*words: str) -> Any:
    """A validator: one of these words."""

    def check(instance: object, attribute: Attribute[Any], value: str) -> None:
        if value not in words:
            raise BadValue(f"{attribute.name} = {shorten(value, 40)}: expected one of {', '.join(words)}")

    return check


def count(instance: object, attribute: Attribute[Any], value: int | None) -> None:
    """A validator: None, or a number from 0 to MAX_COUNT."""
    if value is not None and not 0 <= value <= MAX_COUNT:
        raise BadValue(f"{attribute.name} = {value} is out of range: 0..{MAX_COUNT}")
