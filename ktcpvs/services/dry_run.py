"""One request put to a scheduler that was bound for the purpose, as a connection would put it: who would serve?

Nothing is sent and nothing changes.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from ktcpvs.errors import BadValue, shorten
from ktcpvs.interfaces import CONNECTION, EACH_REQUEST
from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.model.filter import filter_of
from ktcpvs.model.scheduling import Choice, Request
from ktcpvs.model.service import VirtualService
from ktcpvs.protocols import messages
from ktcpvs.protocols.http1 import NO_HTTP_1, BadRequest, HeadReader
from ktcpvs.runtime.context import Context
from ktcpvs.services.prepared import Prepared
from ktcpvs.system.pending import cancel_pending

FAILED = "the scheduler failed"

# The request.


def client_address(text: str) -> str:
    """An IP address in its usual form. Raises BadValue."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise BadValue(f"client '{shorten(text, 40)}': an IP address is wanted") from None


def denial(client: str, config: VirtualService) -> str:
    """Why the service's lists of networks turn that client away, in words; "" when they do not."""
    judge = None if isinstance(config.listen, Unix) else filter_of(config.allow, config.deny)
    may, network = (True, None) if judge is None else judge.judge(ipaddress.ip_address(client).packed)
    if may:
        return ""
    return f"client denied by {network}" if network else "client denied, since no network allowed holds it"


def read_request(
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
    read = HeadReader(settings.head_size, settings.head_lines, settings.uri_size).feed(head)
    if read is None:
        raise BadRequest(400, "the head has no end")
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


# The answer.


def found(outcome: str, address: Address | None, reason: str) -> dict[str, Any]:
    return {"outcome": outcome, "server": None if address is None else str(address), "reason": reason}


def of_a_bad_request(bad: BadRequest, prepared: Prepared) -> dict[str, Any]:
    redirect = prepared.config.redirect
    if bad.status in NO_HTTP_1 and redirect is not None and prepared.factory.unit != EACH_REQUEST:
        return found("redirect", redirect, f"redirect, since {bad}")
    return found("nobody", None, f"{bad}: the client is answered {bad.status}")


class DryRun:
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
                return found("queue", choice.destination.address if choice.waits else None, reason)
            choice = other
        if choice is not None:
            if choice.answer_lines:
                lines = choice.answer_lines.decode("utf-8", "backslashreplace").split("\r\n")
                self._notes += [f"the answer gets {line}" for line in lines if line]
            return found("server", choice.destination.address, choice.reason)
        if config.redirect is not None:
            return found("redirect", config.redirect, "redirect, since no server was found")
        closes = self._prepared.factory.unit == CONNECTION
        end = "the connection is closed" if closes else "the client is answered 503"
        return found("nobody", None, f"{why or 'no server for this request'}: {end}")

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
        came: Deferred[Any] = Deferred(lambda _: cancel_pending(answer, self._context.log))
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
            cancel_pending(choice, self._context.log)
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
        cancel_pending(other, self._context.log)
        return None


class _Late(Exception):
    """The scheduler did not answer in time."""


def _late(result: object, seconds: float) -> None:
    raise _Late
