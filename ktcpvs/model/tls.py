"""TLS, HTTP/2 and the PROXY protocol in the configuration: files, words of a server, and contradictions.

server = ADDRESS [WEIGHT] [maxconn N] [tls [ca FILE | verify off] [name HOST] [cert FILE]] [h2] [proxy v1|v2]
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import Attribute, field, frozen

from ktcpvs.errors import BadAddress, BadValue, Refusal, shorten, unknown
from ktcpvs.model.address import Address, Inet, parse_address
from ktcpvs.model.language.lexer import Token, tokens, word
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


def paths(instance: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """A validator: absolute paths, each once."""
    for one in value:
        if not is_path(one):
            raise BadValue(f"{attribute.name} = {shorten(one, 40)}: expected the absolute path of a file or folder")
    if len(set(value)) != len(value):
        raise BadValue(f"{attribute.name}: a path appears a second time")


def path_or_refuse(instance: object, attribute: Attribute[Any], value: str) -> None:
    """A validator: an absolute path, or REFUSE."""
    if value != REFUSE and not is_path(value):
        form = f"expected {REFUSE}, or the absolute path of a certificate"
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


# The words of a server.


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


TLS, H2, PROXY = SERVER_WORDS = ("tls", "h2", "proxy")
TLS_WORDS = ("ca", "verify", "name", "cert")

Fail = Callable[[Token, str], Refusal]
"""Makes the refusal of a word: with its place, or without."""


def read_words(found: Sequence[Token], fail: Fail) -> dict[str, Any]:
    """Read the words of a server: return {field of RealServer: value} of those that are given.

    `tls off`, `h2 off` and `proxy off` are the defaults, and needed to change a server.
    """
    rest = deque(found)
    values: dict[str, Any] = {}
    while rest:
        token = rest.popleft()
        if not token.is_word(*SERVER_WORDS):
            raise fail(token, f"unknown word {unknown(token.text, (*SERVER_WORDS, *TLS_WORDS))}")
        name = token.text.lower()
        if name in values:
            raise fail(token, f"'{name}' appears a second time")
        if name == H2:
            values[H2] = _read_h2(rest)
        elif name == PROXY:
            values[PROXY] = _read_proxy(token, rest, fail)
        else:
            values[TLS] = _read_tls(rest, values, fail)
    return values


def _read_h2(rest: deque[Token]) -> bool:
    if rest and rest[0].is_word(OFF):
        rest.popleft()
        return False
    return True


def _read_tls(rest: deque[Token], values: dict[str, Any], fail: Fail) -> ServerTLS | None:
    """Read what follows `tls`. values: of the words so far: `h2` may stand among those of TLS."""
    if rest and rest[0].is_word(OFF):
        rest.popleft()
        return None
    given: dict[str, Any] = {}
    while rest and rest[0].is_word(*TLS_WORDS, H2):
        if rest[0].is_word(H2):
            if H2 in values:
                break  # the second one is refused there
            rest.popleft()
            values[H2] = _read_h2(rest)
            continue
        token = rest.popleft()
        name = token.text.lower()
        key = "is_verified" if name == "verify" else name
        if key in given:
            raise fail(token, f"'{name}' appears a second time")
        value = _take_value(token, rest, fail)
        if name == "verify" and not value.is_word(OFF):
            raise fail(value, f"verify '{shorten(value.text, 40)}': expected off; without 'verify' it is on")
        given[key] = False if name == "verify" else value.text.lower() if name == "name" else value.text
        try:
            ServerTLS(**given)
        except Refusal as refusal:
            raise fail(value, str(refusal)) from None
    return ServerTLS(**given)


def _read_proxy(start: Token, rest: deque[Token], fail: Fail) -> str:
    value = _take_value(start, rest, fail)
    if not value.is_word(OFF, *PROXY_VERSIONS):
        raise fail(value, f"proxy '{shorten(value.text, 40)}': expected v1 or v2")
    return value.text.lower()


def _take_value(token: Token, rest: deque[Token], fail: Fail) -> Token:
    if not rest:
        raise fail(token, f"missing value after '{token.text.lower()}'")
    return rest.popleft()


def read_server_options(text: str) -> dict[str, Any]:
    """Read the words of a server from a command. Raises BadValue."""
    return read_words(tokens(text.replace("\n", " "), "words"), lambda token, why: BadValue(why))


def write_words(described: Mapping[str, Any], *, with_defaults: bool = False) -> str:
    """Return the words of a server. described: as plain data, where what is missing was not given. with_defaults: write
    `off` too, as commands need it."""
    words: list[str] = []
    if "tls" in described and (described["tls"] is not None or with_defaults):
        words += ["tls", *_tls_words(described["tls"])]
    if H2 in described and (described[H2] or with_defaults):
        words += [H2] if described[H2] else [H2, OFF]
    if "proxy" in described and (described["proxy"] != OFF or with_defaults):
        words += ["proxy", described["proxy"]]
    return " ".join(words)


def _tls_words(tls: Mapping[str, Any] | None) -> list[str]:
    if tls is None:
        return [OFF]
    words = [] if tls["verify"] else ["verify", OFF]
    for name in ("ca", "name", "cert"):
        if tls[name] is not None:
            words += [name, word(tls[name])]
    return words


def write_server_options(options: Mapping[str, Any]) -> str:
    """Return the words of a command for values of `read_words`, which read them back."""
    plain = {name: value.described() if isinstance(value, ServerTLS) else value for name, value in options.items()}
    return write_words(plain, with_defaults=True)
