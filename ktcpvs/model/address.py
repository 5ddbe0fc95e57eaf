"""Addresses as people write them: HOST:PORT, [IPV6]:PORT, unix:/PATH, and srv:NAME for the targets of SRV records.

Nothing is looked up here: a host name stays a name. Port names need the system's services database, which the caller
passes as `port_named`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache

from attrs import evolve, frozen

from ktcpvs.errors import BadAddress, shorten

PortNamed = Callable[[str], int | None]
"""Name of a port ("www") -> its number, or None if there is no such name."""

MAX_UNIX_PATH_BYTES = 107
"""The longest path a unix socket can have on Linux, in bytes (unix(7), sun_path)."""

_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""The zone of a link-local address, as in fe80::1%eth0: the name of an interface, or its number."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def no_port_names(name: str) -> int | None:
    """A services database without entries."""
    return None


@frozen(cache_hash=True)
class Inet:
    """A TCP address. host: a name, or an IP address in its shortest form, without brackets. port: 1..65535, or None if
    it was left out."""

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether the host is a name, which must be looked up before use: its last label is never a number."""
        return ":" not in self.host and not self.host.rpartition(".")[2].isdigit()

    def with_port(self, port: int | None) -> Inet:
        """Return the same address, with `port` if its own was left out."""
        return self if self.port is not None else evolve(self, port=port)


@frozen
class Unix:
    """A unix stream socket by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


SRV = "srv:"
"""The prefix of a name of SRV records."""


@frozen
class SRVName:
    """A DNS name whose SRV records (RFC 2782) list servers: each target has a port, a priority and a weight.

    It stands for these servers where a service names its servers, and nowhere else. Nothing connects to it.
    """

    host: str
    port: None = None
    is_name = True

    def __str__(self) -> str:
        return f"{SRV}{self.host}"


Address = Inet | Unix | SRVName


def host_field(address: Address) -> str:
    """Return the value of Host for a server of which only the address is known.

    It is `localhost` for a unix socket. A zone is left out, since it means something on this machine only (RFC 6874).
    """
    if isinstance(address, Unix):
        return "localhost"
    return str(evolve(address, host=address.host.partition("%")[0]))


def parse_address(text: str, port_named: PortNamed = no_port_names) -> Address:
    """Read `HOST[:PORT]`, `[IPV6][:PORT]`, `unix:/PATH` or `srv:NAME`.

    Raises BadAddress. The port is None if it was left out. A NAME has a dot: `srv:80` is a port of the host `srv`.
    """
    if text.startswith("unix:"):
        return _unix(text[5:])
    if "://" in text:
        raise BadAddress(f"'{shorten(text)}' is a URL: {_describe_url(text)}")
    if text.lower().startswith(SRV) and "." in text:
        return _srv(text[len(SRV) :])
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadAddress(f"'{shorten(text)}' is not an address: write an IPv6 address as [::1]:80")
        if ":" not in host:
            raise BadAddress(f"'{shorten(text)}': only IPv6 addresses are written in brackets")
        colon, port_text = rest[:1], rest[1:]
    else:
        host, colon, port_text = text.partition(":")
        if ":" in port_text:
            raise BadAddress(f"'{shorten(text)}': write an IPv6 address in brackets: [::1]:80")
    host = _host(host, text)
    if f"{host}:" == SRV and not port_text.isdigit() and port_text and port_named(port_text) is None:
        raise BadAddress(f"'{shorten(text)}': a name of SRV records has a dot (example: {SRV}_http._tcp.api.example)")
    return Inet(host, _port(port_text, text, port_named) if colon else None)


def parse_port(text: str, port_named: PortNamed = no_port_names) -> int:
    """Read a port's number or name. Raises BadAddress."""
    return _port(text, text, port_named)


def _port(port: str, whole: str, port_named: PortNamed) -> int:
    is_number = port.isascii() and port.isdigit()
    number = int(port) if is_number and len(port) <= 5 else 65536
    if 1 <= number <= 65535:
        return number
    where = "" if port == whole else f" in '{shorten(whole)}'"
    if is_number:
        raise BadAddress(f"port {shorten(port, 20)}{where} is out of range: ports are 1..65535")
    if not port:
        raise BadAddress(f"missing port after the colon{where}")
    named = port_named(port)
    if named is None:
        raise BadAddress(f"unknown port name '{shorten(port, 40)}'{where}: give its number")
    return named


@lru_cache(4096)
def _ip(host: str) -> str | None:
    """Return an IP address in its usual form, or None if `host` is a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _host(host: str, whole: str) -> str:
    address = _ip(host)
    if address is not None:
        _, percent, zone = host.partition("%")
        if percent and not _ZONE.fullmatch(zone):
            raise BadAddress(f"'{shorten(host)}': the zone after % must be the name of a network interface")
        return address
    whole_name = host.lower()
    name = whole_name.removesuffix(".")  # a final dot means that no search list is used (resolv.conf(5))
    if not name:
        raise BadAddress(f"'{shorten(whole)}' has no host{_hint_at_port(whole.removeprefix(':'))}")
    if name == "unix":
        raise BadAddress(f"'{shorten(whole)}': a host cannot be named unix: unix:/PATH is a unix socket")
    labels = name.split(".")
    if ":" in name or labels[-1].isdigit() or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        hint = "; 0.0.0.0 and [::] mean every address" if host == "*" else _hint_at_port(whole)
        raise BadAddress(f"'{shorten(host)}' is neither an IP address nor a host name{hint}")
    return whole_name


def _hint_at_port(text: str) -> str:
    """Return how to listen on a port that stands alone; "": `text` is none."""
    is_port = text.isascii() and text.isdigit() and len(text) <= 5
    return f"; a host stands before the port: 0.0.0.0:{text} or [::]:{text} for every address" if is_port else ""


def _describe_url(text: str) -> str:
    """Return what to write in place of a URL."""
    scheme, _, rest = text.lower().partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    is_secure = scheme in ("https", "wss")
    if re.fullmatch(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", host):
        host += ":443" if is_secure else ":80"
    return f"write HOST:PORT, as in {shorten(host, 60) or '10.0.0.1:80'}{', with the word tls behind it' * is_secure}"


def _srv(name: str) -> SRVName:
    host, colon, _ = name.partition(":")
    if colon:
        raise BadAddress(f"'{SRV}{shorten(name)}': leave out the port, which each target of SRV records has itself")
    host = _host(host, f"{SRV}{name}")
    if _ip(host) is not None:
        raise BadAddress(f"'{SRV}{shorten(name)}': expected a DNS name (example: srv:_http._tcp.api.example)")
    return SRVName(host)


def _unix(path: str) -> Unix:
    if not path.startswith("/"):
        raise BadAddress(
            f"'{shorten('unix:' + path)}': the path of a unix socket must be absolute (example: unix:/run/web.sock)"
        )
    if not path.isprintable() or len(path.encode("utf-8", "surrogatepass")) > MAX_UNIX_PATH_BYTES:
        raise BadAddress(
            f"'{shorten('unix:' + path)}': the path of a unix socket must have at most "
            f"{MAX_UNIX_PATH_BYTES} bytes, all printable"
        )
    return Unix(path)
