"""Describes how the messages of one request would be changed, for --explain: by the code that changes them."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from ktcpvs.dispatch.trusted_proxies import TrustedProxies
from ktcpvs.http.message_edits import ServiceEdits
from ktcpvs.http.request_edits import RequestEdits
from ktcpvs.interfaces import EACH_REQUEST
from ktcpvs.model.destination import Destination
from ktcpvs.model.header_edits import canonical
from ktcpvs.model.modifiers import NONE
from ktcpvs.model.scheduling import Choice, ModifiedChoice, OwnResponse, Request
from ktcpvs.model.service import VirtualService

ASSUMED_PORT = 12345
"""The port of the client, where a field is made of it."""


@frozen
class _Assumed:
    """The exchange of the request, as its edits see it."""

    request: Request
    choice: Choice | None
    destination: Destination | None


def message_notes(
    config: VirtualService, unit: str, request: Request, decided: Choice | OwnResponse, peer: str
) -> Iterator[str]:
    """Yield what the server and the client get besides the message as it came, a line each.

    unit: of the scheduler. decided: the server, or the switch's own response. peer: the address of the connection.
    """
    if unit != EACH_REQUEST or request.path is None:
        return
    proxies = TrustedProxies()
    proxies.configure(config, unit)
    service_edits = ServiceEdits()
    service_edits.configure(config)
    modifiers = decided.modifiers if isinstance(decided, ModifiedChoice | OwnResponse) else NONE
    rule, groups = (decided.rule, decided.groups) if isinstance(decided, ModifiedChoice | OwnResponse) else ("", ())
    edits = service_edits.of(modifiers)
    if edits is None:
        return
    choice = decided if isinstance(decided, Choice) else None
    assumed = _Assumed(request, choice, choice.destination if choice is not None else None)
    name = f"[{peer}]:{ASSUMED_PORT}" if ":" in peer else f"{peer}:{ASSUMED_PORT}"
    made = RequestEdits(assumed, name, proxies, edits, rule, groups)
    if choice is not None:
        lines, removed, target = made.of_request(request.path)
        if target is not None and target != request.path:
            yield f"the server gets the path {_text(target)}"
        added = _lines(lines)
        kept = {canonical(line.partition(":")[0]) for line in added}
        gone = {_text(name) for name in removed} & {canonical(_text(name)) for name, _ in request.headers}
        yield from (f"the server does not get {name} of the request" for name in sorted(gone - kept))
        yield from (f"the server gets {line}" for line in added)
    added = _lines(made.response_head(b"", _why(decided)))
    kept = {line.partition(":")[0].lower() for line in added}
    yield from (
        f"the response loses {name}" for name in sorted({_text(name) for name in edits.response.removed} - kept)
    )
    yield from (f"the response gets {line}" for line in added)


def _why(decided: Choice | OwnResponse) -> str | None:
    return None if isinstance(decided, Choice) else decided.why


def _lines(data: bytes) -> list[str]:
    return [line for line in _text(data).split("\r\n") if line]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
