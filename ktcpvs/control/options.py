"""A service's options as text -> typed values for an edit; the words are those of the configuration language."""

from __future__ import annotations

from typing import Any

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import parse_address, parse_port
from ktcpvs.model.language.parser import NUMBERS
from ktcpvs.model.settings import whole_number
from ktcpvs.system.names import service_port

OPTIONS = ("listen", "port", "scheduler", "redirect", *NUMBERS)


def service_options(options: list[dict[str, str]]) -> dict[str, Any]:
    """[{"name", "value"}] -> {name: value}; an empty redirect is None. Raises BadValue or BadAddress."""
    values: dict[str, Any] = {}
    for option in options:
        name, text = option["name"], option["value"]
        if name in values:
            raise BadValue(f"option {shorten(name, 40)} is given twice")
        values[name] = _value(name, text)
    return values


def _value(name: str, text: str) -> Any:
    if name == "listen":
        return parse_address(text, service_port)
    if name == "redirect":
        return parse_address(text, service_port) if text else None
    if name == "port":
        return parse_port(text, service_port)
    if name == "scheduler":
        return text
    if name in NUMBERS:
        return whole_number(name, text)
    raise BadValue(f"a service has no option '{shorten(name, 40)}'; there are: {', '.join(OPTIONS)}")
