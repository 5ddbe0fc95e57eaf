"""Which Host names the status page answers for.

A web site can let its own name lead to 127.0.0.1 and have a visitor's browser read the status page as if it belonged to
the site (DNS rebinding). The browser says that name in Host. So only names that nobody else can own are answered for,
and those that the administrator gives.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from ktcpvs.errors import BadAddress, shorten

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]*)?")
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*", re.ASCII)


def parse_host_name(text: str) -> str:
    """A name for `--status-host`, in lower case and without a dot at its end. Raises BadAddress."""
    name = text.lower().removesuffix(".")
    if not is_host_name(name):
        raise BadAddress(f"--status-host '{shorten(text)}': not a host name (example: lb1.example.org, without a port)")
    return name


def is_host_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def refused_host(header: bytes, allowed: Sequence[str]) -> str | None:
    """The host that a Host header names, where it is none that is answered for; else None.

    allowed: as of `parse_host_name`. IP addresses, `localhost` and names below it (RFC 6761, 6.3) are always allowed.
    """
    text = header.decode("ascii", "backslashreplace").strip()
    found = _HOST.fullmatch(text)
    host = found[1].lower().removesuffix(".") if found else text
    if found and (host == "localhost" or host.endswith(".localhost") or host in allowed or _is_ip(host)):
        return None
    return host


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
