"""The values of the variables in templates, for one request."""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.model.request_values import port_of
from ktcpvs.model.scheduling import Request, TLSNames
from ktcpvs.model.templates import GROUPS
from ktcpvs.protocols.http1.grammar import HOST
from ktcpvs.streams.contract import address_text


class TemplateValues:
    """client_name: the address of the connection, with its port. rule: the label of the rule; "": there is none.
    groups: the texts of the groups of its pattern. server: the address of the chosen server; "": there is none.
    request_id: the ID of the request; b"": it has none, as where a redirect is made."""

    __slots__ = ("client_name", "groups", "request", "request_id", "rule", "server")

    def __init__(
        self,
        request: Request,
        client_name: str = "",
        rule: str = "",
        groups: tuple[bytes, ...] = (),
        server: str = "",
        request_id: bytes = b"",
    ) -> None:
        self.request = request
        self.client_name = client_name
        self.rule = rule
        self.groups = groups
        self.server = server
        self.request_id = request_id

    @property
    def host(self) -> bytes:
        """The host that is asked for; b"": there is none, or it is malformed."""
        host = self.request.host
        return host if host is not None and HOST.fullmatch(host) else b""

    @property
    def hostport(self) -> bytes:
        """The host that is asked for, with the port that the request names, if it names one."""
        host, request = self.host, self.request
        port = port_of(request.target or b"/", request.lines) if host else b""
        return b"%b:%b" % (host, port) if port else host

    def of(self, name: str) -> bytes:
        """Return the value of a variable; b"" where there is none."""
        if name in GROUPS:
            number = int(name)
            return self.groups[number - 1] if number <= len(self.groups) else b""
        return _VALUES[name](self)

    @property
    def path(self) -> bytes:
        """The path and query of the request."""
        return self.request.path or b""

    @property
    def tls(self) -> TLSNames | None:
        """The TLS of the client's connection."""
        connection = self.request.connection
        return connection.tls if connection is not None else None

    @property
    def client_port(self) -> str:
        """The port of the client; "" for one on a unix socket."""
        return self.client_name.rpartition(":")[2] if self.request.client else ""

    @property
    def listen(self) -> str:
        """The address to which the client has connected."""
        connection = self.request.connection
        return address_text(connection.local_address) if connection is not None else ""


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _of_tls(read: Callable[[TLSNames], str | None]) -> Callable[[TemplateValues], bytes]:
    """Return what reads a value of the client's TLS; b"" without TLS."""
    return lambda values: b"" if values.tls is None else _encoded(read(values.tls) or "")


_VALUES: dict[str, Callable[[TemplateValues], bytes]] = {
    "host": lambda values: values.host,
    "hostport": lambda values: values.hostport,
    "request_id": lambda values: values.request_id,
    "target": lambda values: values.path,
    "path": lambda values: values.path.partition(b"?")[0],
    "query": lambda values: values.path.partition(b"?")[2],
    "scheme": lambda values: b"http" if values.tls is None else b"https",
    "client": lambda values: _encoded(values.request.client),
    "client_port": lambda values: _encoded(values.client_port),
    "rule": lambda values: _encoded(values.rule),
    "server": lambda values: _encoded(values.server),
    "listen": lambda values: _encoded(values.listen),
    "tls_server_name": _of_tls(lambda tls: tls.sni),
    "tls_version": _of_tls(lambda tls: tls.version),
    "client_certificate_subject": _of_tls(lambda tls: tls.certificate_subject),
    "client_certificate_fingerprint": _of_tls(lambda tls: tls.certificate_fingerprint),
}
