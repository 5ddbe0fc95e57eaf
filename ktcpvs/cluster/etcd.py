"""A client of etcd 3.4 and later, by its JSON gateway (etcd's documentation, "gRPC gateway").

Keys are text and values bytes. Requests go to one member until it fails, then to the next one. A request that has
failed is sent again to the next member, a transaction too: if the first one was carried out although no response has
come, the second one finds that out by what it would have stored.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from random import uniform
from typing import Any

import treq.client
from attrs import define, frozen
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectError, ConnectionLost, DNSLookupError
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    RequestGenerationFailed,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.iweb import IPolicyForHTTPS

from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.errors import shorten
from ktcpvs.system.network_errors import network_reason
from ktcpvs.system.web_client import BytesBody, QuietPool

REQUEST_TIMEOUT = 2.5
"""Seconds until a request, also one that begins a watch, counts as failed."""

CONNECT_TIMEOUT = 2.0
"""Seconds."""

REPEAT_SECONDS = 6.0
"""Seconds after which a request that has failed is not sent to a further member."""

LEADER_PAUSE = 0.3
"""Seconds, at most, until the members are asked again that have no leader at the moment."""

PAGE_SIZE = 100
"""The most keys in one response."""

MAX_RESPONSE_BYTES = 256 << 20
"""The most bytes of one response; a page of the largest services has 133 MB."""

MAX_LINE = 16 << 20
"""The most bytes of one message of a watch."""

UNAVAILABLE = (502, 503, 504)
"""The statuses of a member, or of a proxy before it, that cannot respond at the moment."""

UNAUTHENTICATED = 16
"""The code of gRPC for a token that does not hold any more."""

_NETWORK_ERRORS = (
    ConnectError, ConnectionLost, DNSLookupError, RequestGenerationFailed, ResponseFailed, TimeoutError, OSError,
)  # fmt: skip


class EtcdError(Exception):
    """etcd could not be asked, or has refused; str() is the reason, in one line."""


class Unreachable(EtcdError):
    """No response has come: whether the request was carried out is not known, unless it has no effect.

    is_sent: the request may have reached a member. has_responded: a member says that etcd is not able at the moment.
    """

    def __init__(self, why: str, *, is_sent: bool = True, has_responded: bool = False) -> None:
        super().__init__(why)
        self.is_sent = is_sent
        self.has_responded = has_responded


class Compacted(EtcdError):
    """The revision at which a watch should begin is forgotten."""


@frozen
class KeyValue:
    """A key with its value. create_revision, mod_revision: those at which it was made and last changed."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int


@frozen
class Change:
    """A change that a watch has reported. value: None: the key is deleted."""

    key: str
    value: bytes | None
    create_revision: int
    mod_revision: int


@define
class RequestCounts:
    """Of all requests since the start: how many there were, how many of them got no response or an error, and how many
    seconds they took together. Watches are not counted."""

    total: int = 0
    errors: int = 0
    seconds: float = 0.0


@frozen
class Credentials:
    """The identity of this node towards etcd. user, password: of etcd; "": without. policy: makes TLS connections;
    None: the members speak plain HTTP."""

    user: str = ""
    password: str = ""
    policy: IPolicyForHTTPS | None = None


def _code(data: str | bytes) -> str:
    return b64encode(data.encode() if isinstance(data, str) else data).decode("ascii")


def _range_end(prefix: str) -> str:
    """Return the first key behind all those with a prefix."""
    return f"{prefix[:-1]}{chr(ord(prefix[-1]) + 1)}"


def put(key: str, value: bytes, lease: int = 0) -> dict[str, Any]:
    """An operation of a transaction. lease: with which the key ends; 0: none."""
    request = {"key": _code(key), "value": _code(value)}
    return {"request_put": {**request, "lease": str(lease)} if lease else request}


def delete(key: str) -> dict[str, Any]:
    return {"request_delete_range": {"key": _code(key)}}


def delete_between(first: str, end: str) -> dict[str, Any]:
    """Delete the keys from `first` on that come before `end`."""
    return {"request_delete_range": {"key": _code(first), "range_end": _code(end)}}


def _reads(operations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return operations that read the keys which `operations` put, or delete one by one."""
    return [{"request_range": {"key": request["key"]}} for request in _single(operations)]


def _single(operations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of one key, without what names their kind: one that deletes has no value."""
    return [request for one in operations for request in one.values() if "range_end" not in request]


def _revision_of_effect(operations: Iterable[dict[str, Any]], responses: Sequence[dict[str, Any]]) -> int:
    """Return the revision at which all that `operations` put was stored together; 0: it is not what is stored, or a
    key is there that they delete: another transaction may have put the same.

    responses: to `_reads(operations)`.
    """
    requests = _single(operations)
    revisions = set()
    for one, response in zip(requests, responses, strict=False):
        pairs = response.get("response_range", {}).get("kvs", ())
        if "value" in one:
            is_as_put = len(pairs) == 1 and pairs[0].get("value", "") == one["value"]
            revisions.add(int(pairs[0]["mod_revision"]) if is_as_put else 0)
        elif pairs:
            return 0
    return revisions.pop() if len(revisions) == 1 and len(requests) == len(responses) else 0


def size_of(operations: Iterable[dict[str, Any]]) -> int:
    """Return the bytes of the values that operations put."""
    return sum(len(one["request_put"]["value"]) for one in operations if "request_put" in one) * 3 // 4


def is_unchanged(key: str, mod_revision: int) -> dict[str, Any]:
    """The comparison that a key was last changed at a revision; 0: that there is no such key."""
    return {"key": _code(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(mod_revision)}


def are_older(prefix: str, revision: int) -> dict[str, Any]:
    """The comparison that no key with a prefix has changed after a revision."""
    return {
        "key": _code(prefix),
        "range_end": _code(_range_end(prefix)),
        "target": "MOD",
        "result": "LESS",
        "mod_revision": str(revision + 1),
    }


class Etcd:
    """The members of one etcd, as one server. counts: of requests."""

    def __init__(self, reactor: Any, address: EtcdAddress, credentials: Credentials | None = None) -> None:
        self._reactor = reactor
        self._urls = list(address.urls)
        self._credentials = credentials = credentials or Credentials()
        self._token: str | None = None
        self.counts = RequestCounts()
        self._pool = QuietPool(reactor)
        policy = credentials.policy or BrowserLikePolicyForHTTPS()
        agent = Agent(reactor, policy, connectTimeout=CONNECT_TIMEOUT, pool=self._pool)
        self._http = treq.client.HTTPClient(agent)

    def __repr__(self) -> str:
        return f"<Etcd {self._urls[0]}>"

    @property
    def url(self) -> str:
        """The member that is asked."""
        return self._urls[0]

    async def close(self) -> None:
        """Close idle connections."""
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]

    # Requests.

    async def range(self, prefix: str) -> tuple[int, list[KeyValue]]:
        """Return the revision, and all keys with a prefix as they were at it. Raises EtcdError."""
        found: list[KeyValue] = []
        revision, key, end = 0, _code(prefix), _code(_range_end(prefix))
        while True:
            asked = {"key": key, "range_end": end, "limit": str(PAGE_SIZE), "revision": str(revision)}
            page = await self._ask("kv/range", asked)
            with _reading(page):
                revision = revision or int(page["header"]["revision"])
                pairs = page.get("kvs", [])
                found += [
                    KeyValue(
                        b64decode(pair["key"]).decode("utf-8", "replace"),
                        b64decode(pair.get("value", "")),
                        int(pair["create_revision"]),
                        int(pair["mod_revision"]),
                    )
                    for pair in pairs
                ]
                if not page.get("more"):
                    return revision, found
                key = _code(b64decode(pairs[-1]["key"]) + b"\0")  # the key may be no UTF-8

    async def transact(
        self, compares: Sequence[dict[str, Any]], operations: Sequence[dict[str, Any]]
    ) -> tuple[bool, int]:
        """Carry out all operations if all comparisons hold. Return whether they do, and the revision. Raises EtcdError;
        after an Unreachable they may have been carried out.

        compares: at least one must fail once the operations are carried out, or these can be carried out twice.
        """
        message = {"compare": list(compares), "success": list(operations)}
        answer, doubt = await self._ask_any("kv/txn", message, {**message, "failure": _reads(operations)})
        with _reading(answer):
            revision = int(answer["header"]["revision"])
            if answer.get("succeeded"):
                return True, revision
            if doubt is None:
                return False, revision
            if at := _revision_of_effect(operations, answer.get("responses", ())):
                return True, at
        raise doubt

    async def grant(self, seconds: int) -> int:
        """Return a new lease. Raises EtcdError."""
        answer = await self._ask("lease/grant", {"TTL": str(seconds)})
        with _reading(answer):
            return int(answer["ID"])

    async def keep_alive(self, lease: int) -> bool:
        """Renew a lease. Return False if it has ended. Raises EtcdError."""
        answer = await self._ask("lease/keepalive", {"ID": str(lease)})
        with _reading(answer):
            return int(answer["result"].get("TTL", 0)) > 0

    async def revoke(self, lease: int) -> None:
        """End a lease, and delete its keys. Raises EtcdError."""
        await self._ask("lease/revoke", {"ID": str(lease)})

    async def _ask(self, path: str, message: dict[str, Any]) -> Any:
        """Return the response to a request that may be carried out twice. Raises EtcdError."""
        return (await self._ask_any(path, message, message))[0]

    async def _ask_any(
        self, path: str, message: dict[str, Any], repeated: dict[str, Any]
    ) -> tuple[Any, Unreachable | None]:
        """Ask one member after the other until one responds. While etcd has no leader, ask them again for a while.

        repeated: the message after a first attempt that has failed. Returns the response, and the failure of the first
        attempt that may have been carried out; None: there is none. Raises EtcdError.
        """
        until = self._reactor.seconds() + REPEAT_SECONDS
        doubt: Unreachable | None = None
        while True:
            has_responded = False
            for _ in range(len(self._urls)):
                try:
                    return await self._ask_once(path, message if doubt is None else repeated), doubt
                except Unreachable as error:
                    failure = error
                if failure.is_sent and doubt is None:
                    doubt = failure
                has_responded = has_responded or failure.has_responded
                if self._reactor.seconds() >= until:
                    raise doubt or failure
            if not has_responded:
                raise doubt or failure
            await deferLater(self._reactor, uniform(LEADER_PAUSE / 2, LEADER_PAUSE))

    async def _ask_once(self, path: str, message: dict[str, Any]) -> Any:
        """Return the response of the member that is asked now. Raises EtcdError."""
        began = self._reactor.seconds()
        self.counts.total += 1
        try:
            return await self._ask_member(path, message)
        except EtcdError:
            self.counts.errors += 1
            raise
        finally:
            self.counts.seconds += self._reactor.seconds() - began

    async def _ask_member(self, path: str, message: dict[str, Any]) -> Any:
        url, status, answer = await self._exchange(path, message)
        if answer.get("code") == UNAUTHENTICATED and self._token is not None:
            self._token = None
            url, status, answer = await self._exchange(path, message)
        if status == 200 and "error" not in answer:
            return answer
        raise self._refusal(url, status, answer)

    async def _exchange(self, path: str, message: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
        """Return the URL of the member that has responded, the status and the response. Raises EtcdError."""
        url, response = await self._post(path, message)
        return url, response.code, await self._answer(url, response)

    async def _answer(self, url: str, response: Any) -> dict[str, Any]:
        """Return the response of a member. Raises EtcdError."""
        body = await self._read(url, response)
        if response.code in UNAVAILABLE:
            with suppress(EtcdError):
                return _decode(body)
            return {}  # by a proxy
        try:
            return _decode(body)
        except EtcdError as error:
            self._leave(url)
            raise EtcdError(f"{url}: {error}") from None

    async def _post(self, path: str, message: dict[str, Any]) -> tuple[str, Any]:
        """Send a request to the member that is asked now. Return its URL, and the beginning of the response. Raises
        Unreachable."""
        url = self._urls[0]
        headers: dict[bytes | str, bytes | str] = {"Content-Type": "application/json"}
        if self._credentials.user and path != "auth/authenticate":
            if self._token is None:
                user = {"name": self._credentials.user, "password": self._credentials.password}
                answer = await self._ask_once("auth/authenticate", user)
                with _reading(answer):
                    self._token = str(answer["token"])
            headers["Authorization"] = self._token
        data = json.dumps(message).encode()
        posted = self._http.post(f"{url}/v3/{path}", data=BytesBody(data), headers=headers)
        try:
            return url, await posted.addTimeout(REQUEST_TIMEOUT, self._reactor)
        except _NETWORK_ERRORS as error:
            raise self._unreachable(url, error) from None

    async def _read(self, url: str, response: Any) -> bytes:
        """Return the body of a response. Raises EtcdError."""
        reader = _BodyReader()
        response.original.deliverBody(reader)
        try:
            return await reader.body.addTimeout(REQUEST_TIMEOUT, self._reactor)
        except _NETWORK_ERRORS as error:
            raise self._unreachable(url, error) from None

    def _unreachable(self, url: str, error: Exception) -> Unreachable:
        """A member has failed: ask another one from now on, and let go of idle connections, which may be dead too."""
        self._leave(url)
        why = f"{url} does not respond: {_why(error)}"
        return Unreachable(why, is_sent=not isinstance(error, ConnectError | DNSLookupError))

    def _leave(self, url: str) -> None:
        """Ask another member than this one from now on."""
        if self._urls[0] == url:
            self._urls.append(self._urls.pop(0))
        closed = self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
        closed.addErrback(lambda _: None)

    def _refusal(self, url: str, status: int, answer: dict[str, Any]) -> EtcdError:
        """The error that a response is."""
        error = answer.get("error")
        said = error.get("message") if isinstance(error, dict) else answer.get("message") or error
        why = f"{url}: {shorten(str(said or f'status {status}'))}"
        if status not in UNAVAILABLE and "no leader" not in why and "timed out" not in why:
            return EtcdError(why)
        self._leave(url)
        return Unreachable(why, has_responded=True)

    # Watching.

    async def watch(
        self, prefix: str, revision: int, received: Callable[[int, Sequence[Change]], object]
    ) -> Callable[[], Deferred[None]]:
        """Watch all keys with a prefix, from `revision` on. received: called with the revision and its changes.

        Return a function that returns a Deferred, which fails with an EtcdError when the watch has ended; cancelling
        it ends the watch. Raises EtcdError.
        """
        create = {"key": _code(prefix), "range_end": _code(_range_end(prefix)), "start_revision": str(revision)}
        url, response = await self._post("watch", {"create_request": create})
        if response.code != 200:
            raise self._refusal(url, response.code, await self._answer(url, response))
        reader = _WatchReader(received, lambda error: self._unreachable(url, error))
        response.original.deliverBody(reader)
        return lambda: reader.ended


class _BodyReader(Protocol):
    """Reads the body of a response. body: fires with it, or fails with a network error; cancelling it closes the
    connection."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.body: Deferred[bytes] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > MAX_RESPONSE_BYTES and not self.body.called:
            self.body.errback(EtcdError(f"a response is longer than {MAX_RESPONSE_BYTES} bytes"))
            self._close()

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self.body.called:
            return
        if reason is not None and reason.check(ResponseDone):
            self.body.callback(b"".join(self._parts))
        else:
            self.body.errback(ConnectionLost("the response was cut"))

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


class _WatchReader(Protocol):
    """Reads the messages of a watch, one in each line."""

    def __init__(
        self, received: Callable[[int, Sequence[Change]], object], unreachable: Callable[[Exception], Unreachable]
    ) -> None:
        self._received = received
        self._unreachable = unreachable
        self._data = b""
        self.ended: Deferred[None] = Deferred(lambda _: self._close())

    def dataReceived(self, data: bytes) -> None:
        *lines, self._data = (self._data + data).split(b"\n")
        try:
            for line in lines:
                self._line_received(line)
            if len(self._data) > MAX_LINE:
                raise EtcdError(f"a message of the watch is longer than {MAX_LINE} bytes")
        except EtcdError as error:
            self._end(error)
        except Exception as error:
            self._end(EtcdError(f"a message of the watch cannot be read: {error!r}"))

    def _line_received(self, line: bytes) -> None:
        message = _decode(line)
        if "error" in message:
            raise EtcdError(f"the watch has ended: {message['error'].get('message', message['error'])}")
        result = message.get("result", {})
        if result.get("compact_revision"):
            raise Compacted(f"revisions before {result['compact_revision']} are compacted")
        if result.get("canceled"):
            raise EtcdError(f"the watch has ended: {result.get('cancel_reason', 'no reason given')}")
        if self.ended.called:
            return
        # The first message comes before the changes from the first revision of the watch on.
        revision = 0 if result.get("created") else int(result["header"]["revision"])
        self._received(revision, list(_changes(result.get("events", ()))))

    def connectionLost(self, reason: Failure | None = None) -> None:
        if not self.ended.called:
            self._end(self._unreachable(ConnectionLost("the watch was cut")))

    def _end(self, error: EtcdError) -> None:
        if not self.ended.called:
            self._close()
            self.ended.errback(error)

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def _changes(events: Iterable[dict[str, Any]]) -> Iterable[Change]:
    for event in events:
        pair = event["kv"]
        is_deleted = event.get("type") == "DELETE"
        yield Change(
            b64decode(pair["key"]).decode("utf-8", "replace"),
            None if is_deleted else b64decode(pair.get("value", "")),
            int(pair.get("create_revision", 0)),
            int(pair["mod_revision"]),
        )


def _decode(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise EtcdError(f"the response is not etcd's: {body[:80]!r}")
    return answer


@contextmanager
def _reading(answer: object) -> Iterator[None]:
    """Turn what is wrong with a response into an EtcdError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise EtcdError(f"the response is not etcd's: {shorten(str(answer), 80)}") from None


def _why(error: Exception) -> str:
    """Return a network error in words."""
    if isinstance(error, ResponseFailed | RequestGenerationFailed) and error.reasons:
        error = error.reasons[0].value
    if isinstance(error, TimeoutError | CancelledError):
        return f"no response within {REQUEST_TIMEOUT:g} seconds"
    return network_reason(error)
