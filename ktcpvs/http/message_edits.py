"""Edits of messages: header fields that a service or a rule sets, adds or removes, and other paths for servers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote_from_bytes

import re2

from ktcpvs.dispatch.tracing import ServiceTracing
from ktcpvs.http.why_field import FIELD_NAME, WhyField
from ktcpvs.model.header_edits import HeaderEdit, canonical, header_edit_of
from ktcpvs.model.modifiers import NONE, Modifiers, Rewrite
from ktcpvs.model.pattern import encode_pattern, re2_options
from ktcpvs.model.request_values import normalized_path
from ktcpvs.model.service import VirtualService
from ktcpvs.model.templates import GROUPS
from ktcpvs.protocols.http1.target import url_text
from ktcpvs.protocols.trace_context import TRACE_FIELDS

MAX_CACHED_MODIFIERS = 1024
"""The most rules of a service whose edits are cached."""

ValueOf = Callable[[str], bytes]
"""Returns the value of a variable."""

_NO_VALUE = re.compile(rb"[^\t -~\x80-\xff]")
"""Bytes that no value of a field has (RFC 9110, section 5.5)."""

_SAFE_IN_PATH = "/!$&'()*+,;=:@-._~"
"""Characters of a path that need no encoding (RFC 3986, section 3.3)."""


CLEAN_VARIABLES = frozenset(
    ("host", "hostport", "request_id", "trace_id", "span_id", "client", "client_port", "scheme")
)
"""Variables whose values are such that they can stand in any field."""


def _form_of(edits: Iterable[HeaderEdit]) -> tuple[bytes, tuple[str, ...]]:
    """Return the lines that edits add, with %b in place of each variable, and the names of the variables."""
    form, names = b"", []
    for edit in edits:
        form += b"%b: " % edit.field_name.encode("ascii").replace(b"%", b"%%")
        for part, is_variable in edit.template.parts:
            if is_variable:
                names.append(part)
            form += b"%b" if is_variable else _NO_VALUE.sub(b"", part.encode()).replace(b"%", b"%%")
        form += b"\r\n"
    return form, tuple(names)


class HeaderLines:
    """Edits of header lines in one direction.

    removed: names of the fields whose lines are dropped: canonical ones in requests, in lower case in responses.
    constant: the lines that are added, where they are the same for all messages; None: they differ.
    """

    __slots__ = ("_form", "_is_clean", "_names", "constant", "removed")

    def __init__(self, edits: Iterable[HeaderEdit], key: Callable[[str], str]) -> None:
        """edits: in their order; a later one undoes earlier ones of the same field. key: name -> name in `removed`."""
        removed: set[str] = set()
        added: list[tuple[str, HeaderEdit]] = []
        for edit in edits:
            name = key(edit.field_name)
            if not edit.is_added:
                removed.add(name)
                added = [one for one in added if one[0] != name]
            if edit.value:
                added.append((name, edit))
        self.removed = frozenset(name.encode("ascii") for name in removed)
        self._form, self._names = _form_of([edit for _, edit in added])
        self._is_clean = CLEAN_VARIABLES.issuperset(self._names)
        self.constant = None if self._names else self._form % ()

    def __bool__(self) -> bool:
        return bool(self.removed or self._form)

    def added(self, value_of: ValueOf) -> bytes:
        """Return the lines that are added."""
        if self.constant is not None:
            return self.constant
        values = [value_of(name) for name in self._names]
        if not self._is_clean:
            values = [_NO_VALUE.sub(b"", value) for value in values]
        return self._form % tuple(values)

    def edited(self, head: bytes, value_of: ValueOf) -> bytes:
        """Return the edited head of a response. head: without the empty line."""
        return self.kept(head) + self.added(value_of)

    def kept(self, head: bytes) -> bytes:
        """Return the head of a response, or some of its header lines, without the fields that are dropped."""
        removed = self.removed
        if not removed or not head:
            return head
        return b"".join([line for line in head.splitlines(True) if line[: line.find(b":")].lower() not in removed])


class MessageEdits:
    """The edits of the messages that one rule takes, or of all other messages of a service.

    request, response: header lines. why: makes the field X-Ktcpvs-Why; None: no client gets it. keeps_path: the
    server gets the path and query of the request. tracing: of the service; None: its requests have no traces. traced:
    the names of the fields that a request with a trace of its own loses.
    """

    __slots__ = ("_modifiers", "_rewrite", "keeps_path", "request", "response", "traced", "tracing", "why")

    def __init__(self, config: VirtualService, modifiers: Modifiers, tracing: ServiceTracing | None = None) -> None:
        """modifiers: of the rule, after the service's own edits. tracing: of the service; None: it has none."""
        request = [*map(header_edit_of, config.request_header), *modifiers.request_headers]
        response = [*map(header_edit_of, config.response_header), *modifiers.response_headers]
        self.why = WhyField(config.why_for) if config.why_for else None
        if self.why is not None:
            response.append(HeaderEdit(FIELD_NAME, ""))  # of a server: nobody may take it for that of the switch
        self.request = HeaderLines(request, canonical)
        self.response = HeaderLines(response, str.lower)
        self.tracing = tracing if tracing is not None and tracing.is_on else None
        self.traced = self.request.removed | TRACE_FIELDS
        self._modifiers = modifiers
        self._rewrite = None if modifiers.rewrite is None else _Rewriter(modifiers.rewrite)
        self.keeps_path = self._rewrite is None and modifiers.strip_prefix is None

    def __bool__(self) -> bool:
        return bool(self.request or self.response or self._modifiers or self.tracing is not None)

    def target(self, path: bytes, value_of: ValueOf) -> bytes:
        """Return the path and query that the server gets. path: those of the request."""
        if self.keeps_path or not path.startswith(b"/"):
            return path  # OPTIONS *
        if self._modifiers.strip_prefix is not None:
            path = stripped(path, self._modifiers.strip_prefix.encode())
        return path if self._rewrite is None else self._rewrite.rewritten(path, value_of)


class _Rewriter:
    def __init__(self, rewrite: Rewrite) -> None:
        self._pattern: Any = re2.compile(encode_pattern(rewrite.pattern), options=re2_options())
        self._template = rewrite.template

    def rewritten(self, path: bytes, value_of: ValueOf) -> bytes:
        found = self._pattern.search(path)
        if found is None:
            return path
        groups = {name: group or b"" for name, group in zip(GROUPS, found.groups(), strict=False)}
        text = self._template.filled(lambda name: groups.get(name, b"") if name in GROUPS else value_of(name))
        whole = url_text(path[: found.start()] + text + path[found.end() :]).replace(b"#", b"%23")
        return whole if whole.startswith(b"/") else b"/" + whole


def stripped(path: bytes, prefix: bytes) -> bytes:
    """Return a path and query without `prefix`, where the path begins with it by whole segments as servers read it.

    A path that is written differently (`/x/../admin`, `/%61dmin`) is normalized first, so that the server gets what the
    conditions of the rule have seen.
    """
    prefix = prefix.removesuffix(b"/")
    written, mark, query = path.partition(b"?")
    normalized = normalized_path(written)
    if normalized != prefix and not normalized.startswith(prefix + b"/"):
        return path
    left = written[len(prefix) :]
    if not written.startswith(prefix) or normalized_path(left or b"/") != (normalized[len(prefix) :] or b"/"):
        left = quote_from_bytes(normalized[len(prefix) :], _SAFE_IN_PATH).encode("ascii")
    if not left.startswith(b"/"):
        left = b"/" + left
    return left + mark + query


class ServiceEdits:
    """The edits of one service's messages. own: those of all messages; None: there are none."""

    __slots__ = ("_cached", "_config", "_tracing", "own")

    def __init__(self, tracing: ServiceTracing | None = None) -> None:
        """tracing: of the service; None: it has none."""
        self._tracing = tracing
        self._config: VirtualService | None = None
        self._cached: dict[Modifiers, MessageEdits] = {}
        self.own: MessageEdits | None = None

    def configure(self, config: VirtualService) -> None:
        """Apply a configuration."""
        self._config, self._cached = config, {}
        if self._tracing is not None:
            self._tracing.configure(config)
        is_traced = self._tracing is not None and self._tracing.is_on
        has_own = config.request_header or config.response_header or config.why_for or is_traced
        self.own = MessageEdits(config, NONE, self._tracing) if has_own else None

    def of(self, modifiers: Modifiers) -> MessageEdits | None:
        """Return the edits for messages that a rule with these modifiers takes."""
        found = self._cached.get(modifiers)
        if found is None:
            if not modifiers or self._config is None:
                return self.own
            if len(self._cached) >= MAX_CACHED_MODIFIERS:
                self._cached.clear()
            found = self._cached[modifiers] = MessageEdits(self._config, modifiers, self._tracing)
        return found
