"""The host names under which the status is served.

A web site can make its own name resolve to 127.0.0.1, and so let a visitor's browser read the status as a part of the
site (DNS rebinding). The browser sends that name in Host. Therefore the status is served only under names that no site
can own, and under those that the administrator configures.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from ktcpvs.errors import BadAddress, shorten

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]*)?")
_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*", re.ASCII)


def parse_host_name(text: str) -> str:
    """Read a name for `--status-host`; returns it in lower case and without a final dot. Raises BadAddress."""
    name = text.lower().removesuffix(".")
    if not is_host_name(name):
        raise BadAddress(f"--status-host '{shorten(text)}': not a host name (example: lb1.example.org, without a port)")
    return name


def is_host_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def refused_host(header: bytes, allowed: Sequence[str]) -> str | None:
    """Return the host of a Host header where the status is not served under it; None: it is.

    allowed: names as `parse_host_name` returns them. IP addresses, `localhost` and names below it (RFC 6761, 6.3) are
    always allowed.
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
