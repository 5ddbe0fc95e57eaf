"""Where the control connection is: endpoint descriptions, the default place, and what is refused.

`unix:/PATH`, `tcp:PORT`, `tcp:PORT:interface=HOST` and `tls:PORT:interface=HOST:cert=FILE:key=FILE:ca=FILE` (as a
daemon would write it), `tcp:HOST:PORT` and `tls:HOST:PORT:...` (as a client would); one reader for both. A TCP address
must be loopback: whoever reaches the control connection owns the switch. With TLS a certificate says who may.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from importlib import import_module
from typing import Any

from attrs import evolve, frozen
from twisted.internet import endpoints
from twisted.internet.interfaces import IStreamClientEndpoint

from ktcpvs.errors import BadAddress, NoTLS, shorten
from ktcpvs.model.address import parse_address

LOOPBACKS = {"tcp": "127.0.0.1", "tcp6": "::1"}
"""Where an endpoint is that names no interface."""

_PART = re.compile(r"((?:\[[0-9A-Fa-f:.]*\]|[^:\\]|\\.)*+)(?::|$)")  # an IPv6 address in brackets keeps its colons
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_TLS_WORDS = ("port", "host", "interface", "cert", "key", "ca")


@frozen
class Files:
    """One end of TLS, in PEM. cert: its certificate, then those between it and its CA; key: its private key, which may
    stand in the same file; ca: the certificates of who signs those of the other end."""

    cert: str
    key: str
    ca: str

    def __iter__(self) -> Any:
        return iter(dict.fromkeys((self.cert, self.key, self.ca)))


@frozen
class ControlAddress:
    """path: of a unix socket, or None; then host and port are those of a TCP address, on loopback unless it has tls."""

    path: str | None = None
    host: str = ""
    port: int = 0
    tls: Files | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return "unix:" + self.path.replace("\\", r"\\").replace(":", r"\:")
        if self.tls is not None:
            return f"tls:[{self.host}]:{self.port}" if ":" in self.host else f"tls:{self.host}:{self.port}"
        return f"tcp:{self.port}:interface={self.host}".replace("::1", r"\:\:1")

    def client_endpoint(self, reactor: Any, timeout: float) -> IStreamClientEndpoint:
        """The endpoint that reaches it, without its TLS. timeout: seconds."""
        if self.path is not None:
            return endpoints.UNIXClientEndpoint(reactor, self.path, timeout=timeout)
        if not is_ip(self.host):
            return endpoints.HostnameEndpoint(reactor, self.host, self.port, timeout=timeout)
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
    if kind in LOOPBACKS:
        return _tcp(text, LOOPBACKS[kind], named, plain)
    if kind == "tls":
        return _tls(text, named, plain)
    raise BadAddress(
        f"control '{shorten(text)}': it is unix:/PATH, tcp:PORT on loopback, or tls:PORT:interface=HOST with "
        "certificates"
    )


def parse_listening(text: str) -> ControlAddress:
    """The same for a daemon, which listens on IP addresses alone, and may go to another folder. Raises BadAddress."""
    where = parse_control(text)
    if where.tls is None:
        return where
    if not is_ip(where.host):
        raise BadAddress(f"control '{where}': interface={where.host} is no IP address; 0.0.0.0 is every interface")
    return evolve(where, tls=Files(*(os.path.abspath(one) for one in (where.tls.cert, where.tls.key, where.tls.ca))))


def need_tls() -> None:
    """What TLS needs is installed. Raises NoTLS."""
    for name in ("OpenSSL", "service_identity", "idna"):
        try:
            import_module(name)
        except ImportError:
            raise NoTLS(f"control over tls: {name} is not installed: pip install 'ktcpvs[tls]'") from None


def is_ip(host: str) -> bool:
    """True for an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _port(text: str, named: dict[str, str], plain: list[str], example: str) -> int:
    port = named.get("port") or (plain.pop() if plain else "")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise BadAddress(f"control '{shorten(text)}': a port is wanted, as {example}")
    return int(port)


def _host(named: dict[str, str], plain: list[str]) -> str:
    host = named.get("host") or named.get("interface") or (plain.pop() if plain else "")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return str(ipaddress.ip_address(host)) if is_ip(host) else host


def _tcp(text: str, loopback: str, named: dict[str, str], plain: list[str]) -> ControlAddress:
    """loopback: where it is when no interface is named, as with --status."""
    port, host = _port(text, named, plain, "tcp:7777"), _host(named, plain) or loopback
    if host == "localhost":
        host = "127.0.0.1"
    if not (is_ip(host) and ipaddress.ip_address(host).is_loopback):
        raise BadAddress(
            f"control '{shorten(text)}': {shorten(host, 60)} is not loopback, and whoever reaches the control "
            f"connection owns the switch: use unix:/PATH or tcp:{port} (127.0.0.1), or over a network tls:, with "
            "certificates"
        )
    return ControlAddress(host=host, port=port)


def _tls(text: str, named: dict[str, str], plain: list[str]) -> ControlAddress:
    for name in named:
        if name not in _TLS_WORDS:
            raise BadAddress(f"control '{shorten(text)}': tls: has no '{shorten(name, 40)}='; it has cert, key and ca")
    port, host = _port(text, named, plain, "tls:7777:interface=0.0.0.0:cert=FILE:ca=FILE"), _host(named, plain)
    if not (is_ip(host) or _NAME.fullmatch(host)):
        found = f"{shorten(host, 60)} is none" if host else "none is named"
        raise BadAddress(
            f"control '{shorten(text)}': a host is wanted, and {found}: a daemon says interface=ADDRESS, as 0.0.0.0, "
            "and a client tls:HOST:PORT"
        )
    missing = [name for name in ("cert", "ca") if not named.get(name)]
    if missing:
        raise BadAddress(
            f"control '{shorten(text)}': {' and '.join(f'{name}=FILE' for name in missing)} is missing: cert is the "
            "own certificate, with key=FILE unless its key is in it too, and ca is who signs those of the other side"
        )
    files = Files(named["cert"], named.get("key") or named["cert"], named["ca"])
    return ControlAddress(host=host, port=port, tls=files)
