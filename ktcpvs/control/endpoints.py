"""Addresses of the control connection: endpoint descriptions, the default address, and the addresses that are refused.

One reader for the forms of a daemon, `unix:/PATH`, `tcp:PORT`, `tcp:PORT:interface=HOST` and
`tls:PORT:interface=HOST:cert=FILE:key=FILE:ca=FILE`, and those of a client, `tcp:HOST:PORT` and `tls:HOST:PORT:...`.
A plain TCP address must be loopback, since every client that reaches it may administer the switch. With TLS, a client
needs a certificate.
"""

from __future__ import annotations

import ipaddress
import os
import re
from importlib import import_module
from typing import Any

from attrs import evolve, frozen

from ktcpvs.errors import BadAddress, NoTLS, shorten
from ktcpvs.model.address import parse_address

LOOPBACK_HOSTS = {"tcp": "127.0.0.1", "tcp6": "::1"}
"""The host of an endpoint that names no interface."""

_PART = re.compile(r"((?:\[[0-9A-Fa-f:.]*\]|[^:\\]|\\.)*+)(?::|$)")  # an IPv6 address in brackets keeps its colons
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_TLS_PARAMETERS = ("port", "host", "interface", "cert", "key", "ca")


@frozen
class TLSFiles:
    """The PEM files of one side. cert: its certificate, followed by intermediate ones; key: its private key, which may
    be in the same file; ca: the certificates of the CAs that sign those of the other side."""

    cert: str
    key: str
    ca: str

    def __iter__(self) -> Any:
        return iter(dict.fromkeys((self.cert, self.key, self.ca)))


@frozen
class ControlAddress:
    """The address of a control connection. path: of a unix socket; None: host and port are a TCP address, on loopback
    unless it has tls."""

    path: str | None = None
    host: str = ""
    port: int = 0
    tls: TLSFiles | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return "unix:" + self.path.replace("\\", r"\\").replace(":", r"\:")
        if self.tls is not None:
            return f"tls:[{self.host}]:{self.port}" if ":" in self.host else f"tls:{self.host}:{self.port}"
        return f"tcp:{self.port}:interface={self.host}".replace("::1", r"\:\:1")


def default_control() -> ControlAddress:
    """Return the default address: in /run/ktcpvs for root; for other users in $XDG_RUNTIME_DIR, or else in a folder of
    their own in the temporary directory."""
    uid = os.getuid()
    if uid == 0:
        folder = "/run/ktcpvs"
    elif os.environ.get("XDG_RUNTIME_DIR"):
        folder = os.path.join(os.environ["XDG_RUNTIME_DIR"], "ktcpvs")
    else:
        import tempfile  # takes as long to import as this whole module, and only users without a folder need it

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
            raise BadAddress(
                f"control '{shorten(text)}': missing absolute path of a unix socket (example: unix:/run/x.sock)"
            )
        parse_address(f"unix:{path}")  # refuses paths that a socket cannot have
        return ControlAddress(path=path)
    if kind in LOOPBACK_HOSTS:
        return _tcp(text, LOOPBACK_HOSTS[kind], named, plain)
    if kind == "tls":
        return _tls(text, named, plain)
    raise BadAddress(
        f"control '{shorten(text)}': expected unix:/PATH, tcp:PORT on loopback, or tls:PORT:interface=HOST with "
        "certificates"
    )


def parse_listen_address(text: str) -> ControlAddress:
    """Read the address of a daemon: its host must be an IP address, and its files become absolute paths, since the
    daemon may change its working directory. Raises BadAddress."""
    address = parse_control(text)
    if address.tls is None:
        return address
    if not is_ip(address.host):
        raise BadAddress(
            f"control '{address}': interface={address.host} is not an IP address; 0.0.0.0 means every interface"
        )
    return evolve(address, tls=TLSFiles(*map(os.path.abspath, (address.tls.cert, address.tls.key, address.tls.ca))))


def require_tls() -> None:
    """Raise NoTLS where a package that TLS needs is not installed."""
    for name in ("OpenSSL", "service_identity", "idna"):
        try:
            import_module(name)
        except ImportError:
            raise NoTLS(f"control over tls: {name} is not installed; try: pip install 'ktcpvs[tls]'") from None


def is_ip(host: str) -> bool:
    """True where `host` is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _port(text: str, named: dict[str, str], plain: list[str], example: str) -> int:
    port = named.get("port") or (plain.pop() if plain else "")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65535):
        raise BadAddress(
            f"control '{shorten(text)}': missing port, or not a number from 1 to 65535 (example: {example})"
        )
    return int(port)


def _host(named: dict[str, str], plain: list[str]) -> str:
    host = named.get("host") or named.get("interface") or (plain.pop() if plain else "")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return str(ipaddress.ip_address(host)) if is_ip(host) else host


def _tcp(text: str, loopback: str, named: dict[str, str], plain: list[str]) -> ControlAddress:
    """Read the rest of a TCP address. loopback: the host where `text` names none."""
    port, host = _port(text, named, plain, "tcp:7777"), _host(named, plain) or loopback
    if host == "localhost":
        host = "127.0.0.1"
    if not (is_ip(host) and ipaddress.ip_address(host).is_loopback):
        raise BadAddress(
            f"control '{shorten(text)}': {shorten(host, 60)} is not loopback, and every client that reaches it may "
            f"administer the switch: use unix:/PATH or tcp:{port} (127.0.0.1), or over a network tls: with certificates"
        )
    return ControlAddress(host=host, port=port)


def _tls(text: str, named: dict[str, str], plain: list[str]) -> ControlAddress:
    for name in named:
        if name not in _TLS_PARAMETERS:
            raise BadAddress(
                f"control '{shorten(text)}': unknown parameter '{shorten(name, 40)}='; tls: has cert, key and ca"
            )
    port, host = _port(text, named, plain, "tls:7777:interface=0.0.0.0:cert=FILE:ca=FILE"), _host(named, plain)
    if not (is_ip(host) or _NAME.fullmatch(host)):
        defect = f"'{shorten(host, 60)}' is not a host" if host else "missing host"
        raise BadAddress(
            f"control '{shorten(text)}': {defect}: use interface=ADDRESS for a daemon (example: 0.0.0.0), and "
            "tls:HOST:PORT for a client"
        )
    missing = [name for name in ("cert", "ca") if not named.get(name)]
    if missing:
        raise BadAddress(
            f"control '{shorten(text)}': missing {' and '.join(f'{name}=FILE' for name in missing)}: cert= is the own "
            "certificate (with key= where its key is in another file), and ca= the CA of the other side's certificates"
        )
    files = TLSFiles(named["cert"], named.get("key") or named["cert"], named["ca"])
    return ControlAddress(host=host, port=port, tls=files)
