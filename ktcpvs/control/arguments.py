"""A service's options as text -> typed values for an edit; the words are those of the configuration language."""

from __future__ import annotations

from typing import Any

from ktcpvs.errors import BadValue, shorten, unknown
from ktcpvs.model.address import parse_port
from ktcpvs.model.service import OPTIONS
from ktcpvs.system.names import service_port


def service_options(options: list[dict[str, str]]) -> dict[str, Any]:
    """[{"name", "value"}] -> {name: value}; an empty text takes away what may be missing.

    Raises BadValue or BadAddress.
    """
    values: dict[str, Any] = {}
    for option in options:
        name, text = option["name"], option["value"]
        if name in values:
            raise BadValue(f"option {shorten(name, 40)} is given twice")
        values[name] = _value(name, text)
    return values


def _value(name: str, text: str) -> Any:
    if name == "port":
        return parse_port(text, service_port)
    option = OPTIONS.get(name)
    if option is None:
        raise BadValue(f"a service has no option {unknown(name, [*OPTIONS, 'port'], 40)}")
    if not text and option.default is None:
        return None
    return option.read(name, text, service_port)
