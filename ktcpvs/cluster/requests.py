"""Requests that nodes answer each other through etcd, since they have no other connection.

A node that asks puts `requests/ID`, and each node that is asked puts pages at `answers/ID/NODE/PAGE-PAGES`: JSON,
compressed by zlib. All are under a lease of the request, so they disappear by themselves, at the latest when it ends.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import isawaitable
from secrets import token_hex
from typing import Any

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred

from ktcpvs.cluster.etcd import Change, Etcd, EtcdError, KeyValue, is_unchanged, put
from ktcpvs.cluster.records import ANSWERS, REQUESTS, BadRecord, Request, decode_request, encode_request
from ktcpvs.errors import Busy, NoCluster, Refusal, shorten
from ktcpvs.system.log import EventLog
from ktcpvs.system.thread import WorkerThread

LEASE_SECONDS = 10
"""The most seconds for which a request and its answers are in etcd."""

ANSWER_TIMEOUT = 3.0
"""Seconds for which a node waits for the answers of the others."""

MAX_ASKED = 8
"""The most requests of this node at a time."""

MAX_ANSWERED = 16
"""The most requests of other nodes that this node answers at a time. It does not respond to further ones."""

PAGE_BYTES = 512 << 10
"""The most bytes of one key."""

MAX_PAGES = 8
"""The most pages of an answer."""

MAX_JSON_BYTES = 128 << 20
"""The most bytes of an answer before it is compressed."""

COMPRESSION_LEVEL = 1
"""Of zlib: the fastest. Level 6 takes four times as long, and makes views a fifth smaller."""

NO_RESPONSE = "did not respond"
UNREADABLE = "sent an answer that this version cannot read"

Answer = Callable[[Mapping[str, Any]], Any]
"""Returns the answer to a request with these arguments, as plain data, or an awaitable of it. Raises a Refusal."""


@frozen
class Answers:
    """The answers of the nodes to one request. values: node -> its answer. missing: node -> why there is none, in a few
    words."""

    values: dict[str, Any]
    missing: dict[str, str]


@define
class _Question:
    """A request that waits for answers. nodes: those that have not answered. pages: node -> number -> page. done: fires
    when all have answered."""

    nodes: set[str]
    pages: dict[str, dict[int, bytes]] = Factory(dict)
    complete: dict[str, bytes] = Factory(dict)
    done: Deferred[None] = Factory(Deferred)


class Requests:
    """Asks other nodes, and answers them. Provides Follower."""

    def __init__(self, etcd: Etcd, prefix: str, node: str, reactor: Any, log: EventLog) -> None:
        """node: the name of this one."""
        self._etcd = etcd
        self._prefix = prefix
        self._node = node
        self._reactor = reactor
        self._log = log
        self._known: dict[str, Answer] = {}
        self._asked: dict[str, _Question] = {}
        self._answered: set[str] = set()
        self._thread = WorkerThread(reactor, "requests of nodes")

    def offer(self, what: str, answer: Answer) -> None:
        """Answer requests of that name from now on."""
        self._known[what] = answer

    # Asking.

    async def ask(
        self, what: str, arguments: Mapping[str, Any], nodes: Collection[str], timeout: float = ANSWER_TIMEOUT
    ) -> Answers:
        """Ask nodes, this one not among them. timeout: seconds. Raises Busy and NoCluster."""
        if not nodes:
            return Answers({}, {})
        if len(self._asked) >= MAX_ASKED:
            raise Busy(f"{MAX_ASKED} requests to other nodes wait for their answers already; try again in a moment")
        ident = token_hex(8)
        question = self._asked[ident] = _Question(set(nodes))
        lease = 0
        try:
            lease = await self._etcd.grant(LEASE_SECONDS)
            request = Request(what, dict(arguments), self._node, tuple(sorted(nodes)), lease)
            key = f"{self._prefix}{REQUESTS}{ident}"
            is_new = is_unchanged(key, 0)  # or it may be put twice, and then the nodes carry it out twice
            await self._etcd.transact([is_new], [put(key, encode_request(request), lease)])
            await self._wait(question, timeout)
        except EtcdError as error:
            raise NoCluster(f"other nodes cannot be asked: {error}") from None
        finally:
            del self._asked[ident]
            if lease:
                Deferred.fromCoroutine(self._forget(lease))
        found = await self._thread.call(_read_all, question.complete)
        values = {node: value for node, (value, why) in found.items() if not why}
        missing = {node: why for node, (_, why) in found.items() if why}
        return Answers(values, {**missing, **dict.fromkeys(sorted(question.nodes), NO_RESPONSE)})

    async def _wait(self, question: _Question, seconds: float) -> None:
        call = self._reactor.callLater(seconds, question.done.callback, None)
        await question.done
        if call.active():
            call.cancel()

    async def _forget(self, lease: int) -> None:
        """Delete a request with its answers."""
        with contextlib.suppress(EtcdError):  # the lease ends by itself
            await self._etcd.revoke(lease)

    def _received(self, key: str, value: bytes) -> None:
        """Use one page of an answer. Keys that belong to no request of this node are ignored."""
        parts = key.removeprefix(ANSWERS).split("/")
        question = self._asked.get(parts[0])
        if question is None or len(parts) != 3 or parts[1] not in question.nodes:
            return
        node, (number, _, count) = parts[1], parts[2].partition("-")
        if not (number.isdecimal() and count.isdecimal() and int(number) < int(count) <= MAX_PAGES):
            return
        pages = question.pages.setdefault(node, {})
        pages[int(number)] = value
        if len(pages) < int(count):
            return
        question.complete[node] = b"".join(pages[number] for number in sorted(pages))
        question.nodes.discard(node)
        if not question.nodes and not question.done.called:
            question.done.callback(None)

    # Answering.

    def _asks(self, ident: str, value: bytes) -> None:
        try:
            request = decode_request(value)
        except BadRecord as bad:
            self._log.fault(f"cluster: a request cannot be read: {bad}")
            return
        if self._node not in request.nodes or request.by == self._node or len(self._answered) >= MAX_ANSWERED:
            return
        self._answered.add(ident)
        answered = Deferred.fromCoroutine(self._answer(ident, request))
        answered.addErrback(lambda why: self._log.failure("internal error: a request of a node", why))
        answered.addCallback(lambda _: self._answered.discard(ident))

    async def _answer(self, ident: str, request: Request) -> None:
        pages = await self._thread.call(_write, await self._value_for(request))
        prefix = f"{self._prefix}{ANSWERS}{ident}/{self._node}/"
        with contextlib.suppress(EtcdError):  # the lease has ended: nobody waits for it any more
            for number, page in enumerate(pages):
                await self._etcd.transact([], [put(f"{prefix}{number}-{len(pages)}", page, request.lease)])

    async def _value_for(self, request: Request) -> dict[str, Any]:
        answer = self._known.get(request.what)
        if answer is None:
            return {"refusal": f"does not know the request '{shorten(request.what, 40)}': it is of another version"}
        try:
            found = answer(request.arguments)
            return {"answer": await found if isawaitable(found) else found}
        except Refusal as refusal:
            return {"refusal": f"has refused: {shorten(str(refusal), 1000)}"}
        except Exception:
            self._log.failure("internal error: a request of a node")
            return {"refusal": "met an internal error; see its log"}

    # What etcd says.

    def replace(self, revision: int, pairs: Iterable[KeyValue]) -> None:
        """See Follower. Requests that are there already have been asked while this node did not follow."""

    def apply(self, revision: int, changes: Iterable[Change]) -> None:
        """See Follower."""
        for change in changes:
            if change.value is None:
                continue
            key = change.key.removeprefix(self._prefix)
            if key.startswith(ANSWERS):
                self._received(key, change.value)
            elif key.startswith(REQUESTS):
                self._asks(key.removeprefix(REQUESTS), change.value)

    async def joined(self) -> None:
        """See Follower."""


def _write(value: dict[str, Any]) -> list[bytes]:
    """Return the pages of an answer."""
    data = json.dumps({"format": 1, **value}, separators=(",", ":")).encode()
    data = zlib.compress(data, COMPRESSION_LEVEL)
    if len(data) > PAGE_BYTES * MAX_PAGES:
        return _write({"refusal": f"has an answer of {len(data)} bytes; there may be at most {PAGE_BYTES * MAX_PAGES}"})
    return [data[start : start + PAGE_BYTES] for start in range(0, len(data), PAGE_BYTES)]


def _read_all(found: Mapping[str, bytes]) -> dict[str, tuple[Any, str]]:
    """Return (answer, why there is none) of each node."""
    return {node: _read(data) for node, data in found.items()}


def _read(data: bytes) -> tuple[Any, str]:
    try:
        inflating = zlib.decompressobj()
        text = inflating.decompress(data, MAX_JSON_BYTES)
        value = json.loads(text) if inflating.eof else None
    except (zlib.error, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("format") != 1:
        return None, UNREADABLE
    if "answer" in value:
        return value["answer"], ""
    return None, shorten(str(value.get("refusal", UNREADABLE)), 1000)
