"""The responses of rules with an action: what they say for each request, and how many there were."""

from __future__ import annotations

from collections.abc import Mapping

from ktcpvs.errors import shorten
from ktcpvs.model.actions import HTTPS, Redirect, Respond
from ktcpvs.model.scheduling import OwnResponse, Request
from ktcpvs.model.service import HTTPS_PORT, VirtualService
from ktcpvs.model.templates import GROUPS
from ktcpvs.protocols.http1 import BadRequest, OwnMessage
from ktcpvs.protocols.http1.content_types import content_type
from ktcpvs.protocols.http1.grammar import HOST
from ktcpvs.protocols.http1.own_message import status_text
from ktcpvs.protocols.http1.target import https_url, url_text
from ktcpvs.streams.contract import address_text
from ktcpvs.system.response_files import ResponseFile

MAX_LABEL = 120
"""The most characters of a rule's label in counters."""


class OwnResponses:
    """The responses of one service's rules. files: those that the rules name, by their paths. counts: (label of the
    rule, status) -> how many there were."""

    __slots__ = ("_https_port", "counts", "files")

    def __init__(self) -> None:
        self._https_port = HTTPS_PORT
        self.files: Mapping[str, ResponseFile] = {}
        self.counts: dict[tuple[str, int], int] = {}

    def configure(self, config: VirtualService, files: Mapping[str, ResponseFile]) -> None:
        """Apply a configuration, and forget the counts of rules that are gone. files: those that its rules name, by
        their paths."""
        self._https_port = config.redirect_port
        self.files = files
        if self.counts:
            labels = {shorten(rule.label, MAX_LABEL) for rule in config.rules}
            self.counts = {key: count for key, count in self.counts.items() if key[0] in labels}

    def count(self, rule: str, status: int) -> None:
        """Count a response. rule: its label."""
        key = shorten(rule, MAX_LABEL), status
        self.counts[key] = self.counts.get(key, 0) + 1

    def message(self, own: OwnResponse, request: Request, client_name: str = "") -> OwnMessage:
        """Return the response to a request. client_name: the client's address with its port. Raises BadRequest where
        the URL of a redirect needs something that the request lacks."""
        action = own.action
        if isinstance(action, Redirect):
            location = self.location(own, request, client_name)
            body = f"{status_text(action.status)}\n".encode()
            return OwnMessage(action.status, body, is_stored=True, fields=b"Location: %b\r\n" % location)
        return self._fixed(action)

    def _fixed(self, action: Respond) -> OwnMessage:
        is_stored = action.status < 400
        file = self.files.get(action.file) if action.file is not None else None
        if file is not None:
            return OwnMessage(action.status, file.contents, content_type(file.path), is_stored)
        text = f"{status_text(action.status)}\n" if action.text is None else action.text
        return OwnMessage(action.status, text.encode(), is_stored=is_stored)

    def location(self, own: OwnResponse, request: Request, client_name: str = "") -> bytes:
        """Return the URL to which an action redirects; b"" for one that does not. Raises BadRequest."""
        action = own.action
        if not isinstance(action, Redirect):
            return b""
        path = request.path or b"/"
        if action.url == HTTPS or action.template is None:
            return https_url(_host(request), path, self._https_port).encode("ascii")
        found = url_text(action.template.filled(lambda name: _value(name, own, request, client_name)))
        if found.startswith(b"//") and not action.url.startswith("//"):
            return b"/" + found.lstrip(b"/")  # else the client would choose the host
        return found


def _host(request: Request) -> bytes:
    host = request.host
    if not host or not HOST.fullmatch(host):
        raise BadRequest(400, "the request names no host, which the redirect needs")
    return host


def _value(name: str, own: OwnResponse, request: Request, client_name: str) -> bytes:
    """Return the value of a variable; b"" where there is none. Raises BadRequest for a missing host."""
    if name in GROUPS:
        number = int(name)
        return own.groups[number - 1] if number <= len(own.groups) else b""
    if name == "host":
        return _host(request)
    path, _, query = (request.path or b"").partition(b"?")
    if name == "path":
        return path
    if name == "query":
        return query
    if name == "target":
        return request.path or b""
    return _text_value(name, own, request, client_name).encode("utf-8", "surrogateescape")


def _text_value(name: str, own: OwnResponse, request: Request, client_name: str) -> str:
    connection = request.connection
    tls = connection.tls if connection is not None else None
    values = {
        "scheme": "http" if tls is None else "https",
        "client": request.client,
        "client_port": client_name.rpartition(":")[2] if request.client else "",
        "listen": address_text(connection.local_address) if connection is not None else "",
        "rule": own.rule,
        "tls_server_name": (tls.sni or "") if tls is not None else "",
        "tls_version": tls.version if tls is not None else "",
        "client_certificate_subject": tls.certificate_subject if tls is not None else "",
    }
    return values[name]
