"""TLS and the PROXY protocol in the configuration: files, TLS to servers, and contradictions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadAddress, BadValue, shorten
from ktcpvs.model.acme import is_acme, read_certificate
from ktcpvs.model.address import Address, Inet, parse_address
from ktcpvs.model.options import OFF

REFUSE = "refuse"
"""The value of tls_default with which a client that names no known server is refused."""

OPTIONAL, REQUIRED = "optional", "required"
TLS_OPTIONS = ("certificate", "tls_min", "tls_ciphers", "client_ca", "client_certificate", "tls_default", "https_only")
"""The options of a service that need a listener with TLS."""

PROXY_VERSIONS = ("v1", "v2")
MAX_PATH = 1024

_CIPHERS = re.compile(r"[A-Za-z0-9:+!@=_.,-]{1,1024}")


def is_path(text: str) -> bool:
    """Whether `text` is the absolute path of a file or folder, as configurations write it."""
    return text.startswith("/") and text.isprintable() and len(text) <= MAX_PATH


def path(instance: object, attribute: Attribute[Any], value: str | None) -> None:
    """A validator: an absolute path, or None."""
    if value is not None and not is_path(value):
        raise BadValue(f"{attribute.name} = {shorten(value, 40)}: expected the absolute path of a file")


def certificates(instance: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """A validator: absolute paths, or names for ACME as `read_certificate` returns them; each once."""
    for one in value:
        if not _is_certificate(one):
            form = "expected the absolute path of a file or folder, or acme NAME..."
            raise BadValue(f"{attribute.name} = {shorten(one, 40)}: {form}")
    if len(set(value)) != len(value):
        raise BadValue(f"{attribute.name}: {'names appear' if is_acme(value[-1]) else 'a path appears'} a second time")


def _is_certificate(value: str) -> bool:
    """Whether a value is a path, or names for ACME as `read_certificate` returns them."""
    return is_path(value) or (is_acme(value) and value == read_certificate(value))


def certificate_or_refuse(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: an absolute path, names for ACME, or REFUSE."""
    if value != REFUSE and not _is_certificate(value):
        form = f"expected {REFUSE}, the absolute path of a certificate, or acme NAME..."
        raise BadValue(f"{attribute.name} = {shorten(value, 40)}: {form}")


def ciphers(instance: object, attribute: Attribute[Any], value: str | None) -> None:
    """A validator: a list of ciphers in the form of OpenSSL, or None."""
    if value is not None and not _CIPHERS.fullmatch(value):
        raise BadValue(
            f"{attribute.name} = {shorten(value, 40)}: expected names of ciphers as OpenSSL writes them, "
            "with colons between them"
        )


CONTRADICTING = ("listen", "certificate", "client_ca", "client_certificate")
"""The options that `contradiction` compares."""


def contradiction(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the option of a service that cannot be kept, and why; None: all can. values: those of CONTRADICTING."""
    with_tls = [listener for listener in values["listen"] if listener.is_tls]
    if with_tls and not values["certificate"]:
        return "listen", f"listen = {with_tls[0]}: missing certificate (example: certificate = /etc/ssl/site.pem)"
    wanted = values["client_certificate"]
    if wanted != OFF and values["client_ca"] is None:
        return "client_certificate", f"client_certificate = {wanted}: missing client_ca, which verifies it"
    return None


# TLS to servers.


def _check_path(instance: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and not is_path(value):
        raise BadValue(f"{attribute.alias} {shorten(value, 40)}: expected the absolute path of a file")


def _check_name(instance: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and not _is_host(value):
        raise BadValue(f"{attribute.alias} {shorten(value, 40)}: expected the host name in the server's certificate")


def _is_host(text: str) -> bool:
    try:
        address = parse_address(text)
    except BadAddress:
        return False
    return isinstance(address, Inet) and address.port is None and address.host == text and address.is_name


@frozen
class ServerTLS:
    """TLS on the connections to a server. ca: the file with the CAs that verify it; None: the system's. is_verified:
    False: any certificate will do. name: the name to send and to verify; None: that of the address. cert: the file with
    the certificate and the key that the switch shows; None: it shows none."""

    ca: str | None = field(default=None, validator=_check_path)
    is_verified: bool = True
    name: str | None = field(default=None, validator=_check_name)
    cert: str | None = field(default=None, validator=_check_path)

    def __attrs_post_init__(self) -> None:
        if self.ca is not None and not self.is_verified:
            raise BadValue("'ca' and 'verify off' contradict each other: leave one of them out")

    def described(self) -> dict[str, Any]:
        """As plain data."""
        return {"ca": self.ca, "verify": self.is_verified, "name": self.name, "cert": self.cert}

    def server_name(self, address: Address, configured: str | None = None) -> str | None:
        """Return the host name or IP address to verify; a host name is also sent. None: there is none, since the server
        listens on a unix socket.

        address: of the server. configured: the host name with port that it belongs to; None: it is itself configured.
        """
        name = self.name
        if name is None:
            named = address if configured is None else parse_address(configured)
            if not isinstance(named, Inet):
                return None
            name = named.host.partition("%")[0]  # a zone means something on this machine only
        return name.rstrip(".")  # a dot at the end is for name servers (RFC 6066, section 3)
