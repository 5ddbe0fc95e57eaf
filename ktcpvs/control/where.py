"""Where the control connection is: endpoint descriptions, the default place, and what is refused.

`unix:/PATH`, `tcp:PORT:interface=HOST` (as a daemon would write it) or `tcp:HOST:PORT` (as a client would); the
same text serves both. A TCP address must be loopback: whoever reaches the control connection owns the switch.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from typing import Any

from attrs import frozen
from twisted.internet import endpoints
from twisted.internet.interfaces import IStreamClientEndpoint

from ktcpvs.errors import BadAddress, shorten
from ktcpvs.model.address import parse_address

_PART = re.compile(r"((?:[^:\\]|\\.)*+)(?::|$)")


@frozen
class ControlAddress:
    """path: of a unix socket, or None; then host and port are those of a TCP address on loopback."""

    path: str | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return "unix:" + self.path.replace("\\", r"\\").replace(":", r"\:")
        return f"tcp:{self.port}:interface={self.host}".replace("::1", r"\:\:1")

    def client_endpoint(self, reactor: Any, timeout: float) -> IStreamClientEndpoint:
        """The endpoint that reaches it. timeout: seconds."""
        if self.path is not None:
            return endpoints.UNIXClientEndpoint(reactor, self.path, timeout=timeout)
        kind = endpoints.TCP6ClientEndpoint if ":" in self.host else endpoints.TCP4ClientEndpoint
        return kind(reactor, self.host, self.port, timeout=timeout)


def default_control() -> ControlAddress:
    """/run/ktcpvs for root; for others $XDG_RUNTIME_DIR, else a folder of their own under the temporary directory."""
    uid = os.getuid()
    if uid == 0:
        folder = "/run/ktcpvs"
    elif os.environ.get("XDG_RUNTIME_DIR"):
        folder = os.path.join(os.environ["XDG_RUNTIME_DIR"], "ktcpvs")
    else:
        folder = os.path.join(tempfile.gettempdir(), f"ktcpvs-{uid}")
    return ControlAddress(path=os.path.join(folder, "control.sock"))


def parse_control(text: str) -> ControlAddress:
    """Read an endpoint description. Raises BadAddress."""
    kind, *parts = [re.sub(r"\\(.)", r"\1", part) for part in _PART.findall(text)[:-1] or [text]]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if "=" not in part]
    if kind == "unix":
        path = named.get("address") or named.get("path") or (plain[0] if plain else "")
        if not path.startswith("/"):
            raise BadAddress(f"control '{shorten(text)}': a unix socket's absolute path is wanted, as unix:/run/x.sock")
        parse_address(f"unix:{path}")  # such a socket can be
        return ControlAddress(path=path)
    if kind in ("tcp", "tcp6"):
        return _tcp(text, named, plain)
    raise BadAddress(f"control '{shorten(text)}': it is unix:/PATH or tcp:PORT:interface=127.0.0.1")


def _tcp(text: str, named: dict[str, str], plain: list[str]) -> ControlAddress:
    port = named.get("port") or (plain.pop() if plain else "")
    host = named.get("host") or named.get("interface") or (plain.pop() if plain else "")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise BadAddress(f"control '{shorten(text)}': a port is wanted, as tcp:7777:interface=127.0.0.1")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadAddress(
            f"control '{shorten(text)}': {shorten(host, 60) or 'every interface'} is not loopback, and whoever reaches "
            "the control connection owns the switch: use unix:/PATH or interface=127.0.0.1"
        )
    return ControlAddress(host=host, port=int(port))
