"""The values of the variables in templates, for one request."""

from __future__ import annotations

from collections.abc import Callable

from ktcpvs.model.request_templates import REQUEST_VALUES, encoded
from ktcpvs.model.request_values import port_of
from ktcpvs.model.scheduling import Request
from ktcpvs.model.templates import GROUPS
from ktcpvs.protocols.http1.grammar import HOST
from ktcpvs.streams.contract import address_text


class TemplateValues:
    """The values of templates for one request. client_name: the address of the connection, with its port. rule: the
    label of the rule; "": there is none. groups: the texts of the groups of its pattern. server: the address of the
    chosen server; "": there is none. request_id: the ID of the request; b"": it has none, as where a redirect is
    made."""

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
        read = REQUEST_VALUES.get(name)
        return _VALUES[name](self) if read is None else read(self.request)

    @property
    def client_port(self) -> str:
        """The port of the client; "" for one on a unix socket."""
        return self.client_name.rpartition(":")[2] if self.request.client else ""

    @property
    def listen(self) -> str:
        """The address to which the client has connected."""
        connection = self.request.connection
        return address_text(connection.local_address) if connection is not None else ""


_VALUES: dict[str, Callable[[TemplateValues], bytes]] = {
    "host": lambda values: values.host,
    "hostport": lambda values: values.hostport,
    "request_id": lambda values: values.request_id,
    "client_port": lambda values: encoded(values.client_port),
    "rule": lambda values: encoded(values.rule),
    "server": lambda values: encoded(values.server),
    "listen": lambda values: encoded(values.listen),
}
