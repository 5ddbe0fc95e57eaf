"""The responses of rules with an action: what they say for each request, and how many there were."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from ktcpvs.dispatch.template_values import TemplateValues
from ktcpvs.errors import shorten
from ktcpvs.model.actions import Redirect, Respond
from ktcpvs.model.error_pages import error_pages
from ktcpvs.model.rule import MAX_LABEL
from ktcpvs.model.scheduling import OwnResponse, Request
from ktcpvs.model.service import HTTPS_PORT, VirtualService
from ktcpvs.protocols.http1 import BadRequest, OwnMessage, error_message
from ktcpvs.protocols.http1.content_types import content_type
from ktcpvs.protocols.http1.own_message import status_text
from ktcpvs.protocols.http1.target import https_url, url_text
from ktcpvs.protocols.http2.constants import HTTP_1_1_REQUIRED, PREFACE
from ktcpvs.protocols.http2.frames import goaway_frame, settings_frame
from ktcpvs.system.response_files import ResponseFile

NEED_HOST = frozenset(("host", "hostport"))
"""Variables without which a redirect would lead nowhere."""

CHALLENGE_ANSWERED = "a challenge of ACME"
"""The reason why the switch responds itself to the request of a CA."""


def challenge_response(key_authorization: bytes) -> OwnMessage:
    """Return the response to a challenge of ACME (RFC 8555, section 8.3)."""
    return OwnMessage(200, key_authorization, "application/octet-stream")


def is_http2(bad: BadRequest, received: bytes | bytearray) -> bool:
    """Whether a request is refused since the client speaks HTTP/2 by prior knowledge (RFC 9113, section 3.3). received:
    its first bytes."""
    return bad.status == 505 and PREFACE.startswith(received[: len(PREFACE)])


def http2_refusal(reason: str) -> OwnMessage:
    """Return what tells a client of HTTP/2 that it must speak HTTP/1.1 (RFC 9113, section 7), and why: the frames with
    which a server begins and ends, since such a client cannot read a response of HTTP/1."""
    return OwnMessage(505, whole=settings_frame(()) + goaway_frame(0, HTTP_1_1_REQUIRED, reason))


class OwnResponses:
    """The responses that one service gives itself. files: those that its rules and error pages name, by their paths.
    counts: (label of a rule, status) -> how many there were."""

    __slots__ = ("_error_pages", "_https_port", "counts", "files")

    def __init__(self) -> None:
        self._error_pages: Mapping[int, str] = {}
        self._https_port = HTTPS_PORT
        self.files: Mapping[str, ResponseFile] = {}
        self.counts: dict[tuple[str, int], int] = {}

    def configure(self, config: VirtualService, files: Mapping[str, ResponseFile]) -> None:
        """Apply a configuration, and forget the counts of rules that are gone. files: those that it
        names, by their paths."""
        self._error_pages = error_pages(config.error_page)
        self._https_port = config.redirect_port
        self.files = files
        if self.counts:
            labels = {shorten(rule.label, MAX_LABEL) for rule in config.rules}
            self.counts = {key: count for key, count in self.counts.items() if key[0] in labels}

    def count(self, rule: str, status: int) -> None:
        """Count a response. rule: its label."""
        key = shorten(rule, MAX_LABEL), status
        self.counts[key] = self.counts.get(key, 0) + 1

    def error(self, status: int, reason: str, later: int = 0, location: str = "", lines: bytes = b"") -> OwnMessage:
        """Return the response that refuses or redirects a request: `error_message`, with the error page of the service
        in place of the text."""
        message = error_message(status, reason, later, location, lines)
        file = self.files.get(self._error_pages.get(status, ""))
        return (
            message
            if file is None or message.whole is not None
            else evolve(message, body=file.contents, content_type=content_type(file.path))
        )

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
        values = TemplateValues(request, client_name, own.rule, own.groups)
        template = action.template
        if not values.host and (template is None or NEED_HOST & template.variables):
            raise BadRequest(400, "the request names no host, which the redirect needs")
        if template is None:
            return https_url(values.host, request.path or b"/", self._https_port).encode("ascii")
        found = url_text(template.filled(values.of))
        if found.startswith(b"//") and not action.url.startswith("//"):
            return b"/" + found.lstrip(b"/")  # else the client would choose the host
        return found
