"""The values of the variables in templates, for one request."""

from __future__ import annotations

from attrs import frozen

from ktcpvs.model.scheduling import Request
from ktcpvs.model.templates import GROUPS
from ktcpvs.protocols.http1.grammar import HOST
from ktcpvs.streams.contract import address_text


@frozen(eq=False)
class TemplateValues:
    """client_name: the address of the connection, with its port. rule: its label; "": there is none. groups: the texts
    of the groups of the rule's pattern. server: the address of the chosen server; "": there is none."""

    request: Request
    client_name: str = ""
    rule: str = ""
    groups: tuple[bytes, ...] = ()
    server: str = ""
    request_id: bytes = b""

    @property
    def host(self) -> bytes:
        """The host that is asked for; b"": there is none, or it is malformed."""
        host = self.request.host
        return host if host is not None and HOST.fullmatch(host) else b""

    def of(self, name: str) -> bytes:
        """Return the value of a variable; b"" where there is none."""
        if name in GROUPS:
            number = int(name)
            return self.groups[number - 1] if number <= len(self.groups) else b""
        if name == "host":
            return self.host
        if name == "request_id":
            return self.request_id
        path = self.request.path or b""
        if name == "target":
            return path
        if name == "path":
            return path.partition(b"?")[0]
        if name == "query":
            return path.partition(b"?")[2]
        return self._text(name).encode("utf-8", "surrogateescape")

    def _text(self, name: str) -> str:
        connection = self.request.connection
        tls = connection.tls if connection is not None else None
        values = {
            "scheme": "http" if tls is None else "https",
            "client": self.request.client,
            "client_port": self.client_name.rpartition(":")[2] if self.request.client else "",
            "listen": address_text(connection.local_address) if connection is not None else "",
            "rule": self.rule,
            "server": self.server,
            "tls_server_name": (tls.sni or "") if tls is not None else "",
            "tls_version": tls.version if tls is not None else "",
            "client_certificate_subject": tls.certificate_subject if tls is not None else "",
            "client_certificate_fingerprint": tls.certificate_fingerprint if tls is not None else "",
        }
        return values[name]
