"""The address of the status server: `tcp:PORT` on loopback, or `tcp:PORT:interface=HOST`."""

from __future__ import annotations

import ipaddress
import re

from attrs import frozen

from ktcpvs.errors import BadAddress, shorten

_LOOPBACK_HOSTS = {"tcp": "127.0.0.1", "tcp6": "::1"}
_FORM = re.compile(r"(?P<kind>tcp6?):(?:port=)?(?P<port>[0-9]{1,5})(?::interface=(?P<host>(?:[^:\\]|\\:)+))?", re.ASCII)


@frozen
class StatusAddress:
    """The address of the status page. host: an IP address. port: 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}/" if ":" in self.host else f"http://{self.host}:{self.port}/"


def parse_status(text: str) -> StatusAddress:
    """Read an endpoint description in Twisted's syntax: the colons of an IPv6 address are `\\:`. Raises BadAddress."""
    found = _FORM.fullmatch(text)
    host = (found["host"] or _LOOPBACK_HOSTS[found["kind"]]).replace("\\:", ":") if found else ""
    host = _LOOPBACK_HOSTS["tcp"] if host == "localhost" else host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = None
    if found is None or not 0 < int(found["port"]) <= 65535:
        raise BadAddress(
            f"status '{shorten(text)}': expected tcp:PORT or tcp:PORT:interface=ADDRESS (example: tcp:9109)"
        )
    return StatusAddress(host, int(found["port"]))
