"""Who would serve a request, and why: the way of one request, walked with nobody on it.

Nothing is sent and nothing changes: a scheduler bound for the purpose, as an edit would bind it, is asked in the place
of the one that runs, and it is asked as a connection would ask.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from ktcpvs.errors import BadValue, shorten
from ktcpvs.interfaces import CONNECTION, EACH_REQUEST, IExplains
from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.model.destination import Destination
from ktcpvs.model.filter import filter_of
from ktcpvs.model.health import UP
from ktcpvs.model.scheduling import Choice, Considered, Request
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols import messages
from ktcpvs.protocols.http1 import BadRequest, HeadReader
from ktcpvs.transport.context import Context
from ktcpvs.transport.director import Director
from ktcpvs.transport.live import LiveService
from ktcpvs.transport.prepared import Prepared

FAILED = "the scheduler failed"


class Explainer:
    """Explains what the table that is in force does."""

    def __init__(self, director: Director) -> None:
        self._director = director

    async def explain(
        self, ident: str, method: str | None, target: str | None, headers: Sequence[tuple[str, str]], client: str
    ) -> dict[str, Any]:
        """What service `ident` would do with this request, as plain data for JSON: docs/tcpvsadm.md names what it has.

        method, target: None for a client that has only connected. headers: (name, value) of header lines. client: its
        IP address. Raises NoSuchService, BadValue for what cannot be a request, or what a scheduler refuses with.
        """
        director = self._director
        table, context = director.table, director.context
        config = table.service(ident)
        running = ident in table.running
        live = director.services[ident] if running else LiveService(context, config)
        prepared = await director.bind(live, config, table.settings, trial=True)
        notes = [] if running else [f"service {ident} is stopped: this is what it would do"]
        if not running and ident in director.services:
            _take_loads(prepared, director.services[ident])
        down = {destination for destination in prepared.destinations.values() if destination.health.state != UP}
        request = Request(_client(client), tried=down)
        answer = {
            "service": ident,
            "running": running,
            "scheduler": config.scheduler,
            "unit": prepared.factory.unit,
        }
        try:
            _come_in(request.client, config, live, notes)
            _read(request, prepared, context, method, target, headers, notes)
        except _Denied as why:
            considered, found = Considered(), _found("nobody", None, f"{why}: the connection is reset")
        except BadRequest as bad:
            considered, found = Considered(), _of_a_bad_request(bad, prepared)
        else:
            considered = _considered(prepared, request, context, notes)
            found = await _Inquiry(context, prepared, request, notes).answer()
        return {
            **answer,
            "request": _described(request, method, target),
            "rules": [{"number": number, "pattern": pattern, "why": why} for number, pattern, why in considered.rules],
            "servers": [_server(destination) for destination in considered.destinations],
            "notes": [*considered.notes, *notes],
            "answer": found,
        }


# The request.


def _client(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValue(f"client '{shorten(text, 40)}': an IP address is wanted") from None


class _Denied(Exception):
    """The client is turned away before it is heard; str(): why."""


def _come_in(client: str, config: VirtualService, live: LiveService, notes: list[str]) -> None:
    """What the service's gate says. Raises _Denied."""
    if isinstance(config.listen, Unix):
        return
    packed, judge = ipaddress.ip_address(client).packed, filter_of(config.allow, config.deny)
    may, network = (True, None) if judge is None else judge.judge(packed)
    if not may:
        raise _Denied(f"client denied by {network}" if network else "client denied, since no network allowed holds it")
    if network is not None:
        notes.append(f"client allowed by {network}")
    notes += live.gate.look(packed)


def _read(
    request: Request,
    prepared: Prepared,
    context: Context,
    method: str | None,
    target: str | None,
    headers: Sequence[tuple[str, str]],
    notes: list[str],
) -> None:
    """Fill `request` with what the scheduler would be shown. Raises BadValue, or BadRequest as for a client."""
    name, unit = prepared.config.scheduler, prepared.factory.unit
    if method is None or target is None:
        head = _head("GET", "/", headers, prepared.config.listen)
    else:
        head = _head(method, target, headers, prepared.config.listen)
    if unit == CONNECTION:
        if method is not None or headers:
            notes.append(f"scheduler {name} decides per connection: the request is not looked at")
        return
    if method is None:
        notes.append("no request was given: GET / is looked at")
    settings = context.settings
    read = HeadReader(settings.head_size, settings.head_lines).feed(head)
    if read is None:
        raise BadRequest(400, "the head has no end")
    if len(read.target) > settings.uri_size:
        raise BadRequest(414, f"the request target is longer than {settings.uri_size} bytes")
    found = messages.REQUEST.match(head) if unit == EACH_REQUEST else None
    if unit == EACH_REQUEST and found is None:
        raise BadRequest(400, "the head has a form that HTTP/1.1 forbids")
    seen = read if found is None else messages.Request(found)
    request.method, request.target, request.path, request.lines = seen.method, seen.target, seen.path, seen.lines


def _head(method: str, target: str, headers: Sequence[tuple[str, str]], listen: Address) -> bytes:
    """A head of HTTP/1.1, with a Host where none was given. Raises BadValue for what would be more than was said."""
    for what, text in (("method", method), ("target", target)):
        if not text or any(character <= " " or character == "\x7f" for character in text):
            raise BadValue(f"{what} '{shorten(text, 40)}': printable characters without a blank are wanted")
    for name, value in headers:
        if any(character in "\r\n\0" for character in name + value):
            raise BadValue(f"header '{shorten(name, 40)}': a line end or NUL stands in it")
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    if not any(name.lower() == "host" for name, _ in headers):
        _, scheme, rest = target.partition("://")
        host = rest.partition("/")[0] if scheme else str(listen) if isinstance(listen, Inet) else "localhost"
        lines.insert(0, f"Host: {host}\r\n")
    return f"{method} {target} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("utf-8", "replace")


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "backslashreplace")


def _described(request: Request, method: str | None, target: str | None) -> dict[str, Any]:
    """The request as it was understood; one that was not, as it was given."""
    return {
        "client": request.client,
        "method": _text(request.method) or method,
        "target": _text(request.target) or target,
        "path": _text(request.path),
        "headers": [
            {"name": _text(name), "value": _text(value.strip(b" \t"))}
            for name, _, value in (line.partition(b":") for line in request.lines.split(b"\r\n") if line)
        ],
    }


# What is looked at.


def _take_loads(prepared: Prepared, before: LiveService) -> None:
    """The servers of a stopped service have the connections that still drain."""
    for address, destination in prepared.destinations.items():
        known = before.destinations.get(address) or before.leaving.get(address)
        if known is not None:
            destination.active = known.active


def _considered(prepared: Prepared, request: Request, context: Context, notes: list[str]) -> Considered:
    everybody = Considered(destinations=tuple(prepared.destinations.values()))
    if not IExplains.providedBy(prepared.scheduler):
        return everybody
    try:
        considered = prepared.scheduler.explain(request)
        if not isinstance(considered, Considered):
            raise TypeError(f"{considered!r} is not Considered")
    except Exception as error:
        context.log.failure("scheduler {name} cannot explain itself", name=prepared.config.scheduler)
        notes.append(f"scheduler {prepared.config.scheduler} cannot explain itself: {error!r}")
        return everybody
    return considered


def _server(destination: Destination) -> dict[str, Any]:
    state: str = destination.health.state
    if state == UP:
        state = "quiesced" if not destination.weight else "full" if destination.is_full else UP
    return {
        "address": str(destination.address),
        "state": state,
        "active": destination.active,
        "weight": destination.weight,
        "maxconn": destination.maxconn,
    }


# The answer.


def _found(outcome: str, address: Address | None, reason: str) -> dict[str, Any]:
    return {"outcome": outcome, "server": None if address is None else str(address), "reason": reason}


def _of_a_bad_request(bad: BadRequest, prepared: Prepared) -> dict[str, Any]:
    redirect = prepared.config.redirect
    if bad.status == 400 and redirect is not None and prepared.factory.unit != EACH_REQUEST:
        return _found("redirect", redirect, f"redirect, since {bad}")
    return _found("nobody", None, f"{bad}: the client is answered {bad.status}")


class _Inquiry:
    """One request, as `served` would ask for it. notes: where is said what happens on the way."""

    def __init__(self, context: Context, prepared: Prepared, request: Request, notes: list[str]) -> None:
        self._context = context
        self._prepared = prepared
        self._request = request
        self._notes = notes

    async def answer(self) -> dict[str, Any]:
        """What comes of it: {"outcome", "server", "reason"}."""
        choice, why = await self._choice()
        config = self._prepared.config
        if choice is not None and choice.destination.is_full:
            other = self._instead_of(choice)
            if other is None:
                others = "" if choice.waits else ", and so is every other that may serve"
                seconds = self._context.settings.queue_timeout
                reason = f"{choice.reason}; it is full{others}: the client waits at most {seconds} seconds for room"
                return _found("queue", choice.destination.address if choice.waits else None, reason)
            choice = other
        if choice is not None:
            if choice.answer_lines:
                lines = choice.answer_lines.decode("utf-8", "backslashreplace").split("\r\n")
                self._notes += [f"the answer gets {line}" for line in lines if line]
            return _found("server", choice.destination.address, choice.reason)
        if config.redirect is not None:
            return _found("redirect", config.redirect, "redirect, since no server was found")
        closes = self._prepared.factory.unit == CONNECTION
        end = "the connection is closed" if closes else "the client is answered 503"
        return _found("nobody", None, f"{why or 'no server for this request'}: {end}")

    async def _choice(self) -> tuple[Choice | None, str]:
        """The scheduler's choice or its fallback's; and why it is the fallback's, "" where it is not."""
        choice, why = await self._asked()
        if choice is not None and choice.destination not in self._prepared.destinations.values():
            choice, why = None, FAILED
            self._notes.append(f"scheduler {self._prepared.config.scheduler} chose no server of this service")
        return (self._fallen_back(why), why) if why else (choice, "")

    async def _asked(self) -> tuple[Choice | None, str]:
        """The scheduler's choice, or why it has none to give."""
        name, seconds = self._prepared.config.scheduler, self._context.settings.choose_timeout
        try:
            answer = self._prepared.scheduler.choose(self._request)
            while answer is not None and not isinstance(answer, Choice):
                answer = await self._waited(answer, seconds)
        except _Late:
            return None, f"the scheduler took more than {seconds} seconds"
        except Exception as error:
            self._context.log.failure("scheduler of service {ident} failed", ident=self._prepared.config.ident)
            self._notes.append(f"scheduler {name} failed: {error!r}")
            return None, FAILED
        return answer, ""

    async def _waited(self, answer: Any, seconds: int) -> Any:
        """What comes of a Deferred or a coroutine. Raises _Late, or whatever it fails with."""
        if inspect.iscoroutine(answer):
            answer = Deferred.fromCoroutine(answer)
        if not isinstance(answer, Deferred):
            raise TypeError(f"{answer!r} is no Choice")
        came: Deferred[Any] = Deferred(lambda _: answer.cancel())
        answer.addBoth(lambda result: None if came.called else came.callback(result))
        return await came.addTimeout(seconds, self._context.reactor, _late)

    def _fallen_back(self, why: str) -> Choice | None:
        config = self._prepared.config
        bind = self._prepared.bind_fallback()
        try:
            choice = bind().choose(self._request) if bind is not None else None
        except Exception as error:
            self._context.log.failure("fallback of service {ident} failed", ident=config.ident)
            self._notes.append(f"fallback {config.fallback} failed: {error!r}")
            return None
        if not isinstance(choice, Choice) or choice.destination not in self._prepared.destinations.values():
            _give_up(choice)
            return None
        return evolve(choice, reason=f"fallback {config.fallback}, since {why}: {choice.reason}")

    def _instead_of(self, full: Choice) -> Choice | None:
        """Another choice, since that server is full; None: the client waits."""
        if full.waits:
            return None
        known = self._prepared.destinations.values()
        self._notes.append(f"{full.destination.address} is chosen first, and it is full")
        self._request.tried = self._request.tried | {destination for destination in known if destination.is_full}
        try:
            other = self._prepared.scheduler.choose(self._request)
        except Exception:
            self._context.log.failure("scheduler of service {ident} failed", ident=self._prepared.config.ident)
            return None
        if isinstance(other, Choice) and other.destination in known and other.destination not in self._request.tried:
            return other
        _give_up(other)
        return None


class _Late(Exception):
    """The scheduler did not answer in time."""


def _late(result: object, seconds: float) -> None:
    raise _Late


def _give_up(answer: Any) -> None:
    """Nobody waits for what a scheduler answered."""
    if inspect.iscoroutine(answer):
        answer.close()
    elif isinstance(answer, Deferred):
        answer.addErrback(lambda _: None).cancel()
