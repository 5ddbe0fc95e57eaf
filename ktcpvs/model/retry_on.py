"""The option `retry_on`: after which failures a request goes to another server.

retry_on = connect reset 502 503 504
retry_on = off
"""

from __future__ import annotations

from typing import Any

from attrs import Attribute

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.address import PortNamed
from ktcpvs.model.options import OFF

CONNECT, RESET = "connect", "reset"
STATUSES = ("502", "503", "504")
RETRY_ON = (CONNECT, RESET, *STATUSES)
DEFAULT = f"{CONNECT} {RESET}"


def read_retry_on(name: str, text: str, port_named: PortNamed) -> str:
    """Return the option's words in their one order. Raises BadValue."""
    words = text.lower().split()
    if words == [OFF]:
        return OFF
    unknown = [word for word in words if word not in RETRY_ON]
    if unknown or not words:
        what = unknown[0] if unknown else ""
        raise BadValue(f"{name} '{shorten(what, 40)}': expected off, or some of {', '.join(RETRY_ON)}")
    return " ".join(word for word in RETRY_ON if word in words)


def well_formed(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: a value that `read_retry_on` returns."""
    read_retry_on(attribute.name, value, lambda name: 0)
