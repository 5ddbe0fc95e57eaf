"""A client of etcd 3.4 and later, by its JSON gateway (etcd's documentation, "gRPC gateway").

Keys are text and values bytes. Requests go to one member until it fails, then to the next one.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import treq.client
from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.error import ConnectError, ConnectionLost, DNSLookupError
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestGenerationFailed,
    ResponseFailed,
    _HTTP11ClientFactory,
)
from twisted.web.iweb import IBodyProducer, IPolicyForHTTPS
from zope.interface import implementer

from ktcpvs.cluster.etcd_address import EtcdAddress

REQUEST_TIMEOUT = 4.0
"""Seconds until a request, also one that begins a watch, counts as failed."""

CONNECT_TIMEOUT = 2.0
"""Seconds."""

PAGE_SIZE = 256
"""The most keys in one response."""

MAX_LINE = 16 << 20
"""The most bytes of one message of a watch."""

UNAUTHENTICATED = 16
"""The code of gRPC for a token that does not hold any more."""

_NETWORK_ERRORS = (
    ConnectError, ConnectionLost, DNSLookupError, RequestGenerationFailed, ResponseFailed, TimeoutError, OSError,
)  # fmt: skip


class EtcdError(Exception):
    """etcd could not be asked, or has refused; str() is the reason, in one line."""


class Unreachable(EtcdError):
    """No response has come: whether the request was carried out is not known, unless it has no effect."""


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


@frozen
class Credentials:
    """user, password: of etcd; "": without. policy: makes TLS connections; None: the members speak plain HTTP."""

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


@implementer(IBodyProducer)
class _Body:
    """The body of a request. treq would send bytes piece by piece, by the reactor that is installed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class _QuietFactory(_HTTP11ClientFactory):
    noisy = False  # no line of the log for each connection


class _QuietPool(HTTPConnectionPool):
    _factory = _QuietFactory


class Etcd:
    """The members of one etcd, as one server."""

    def __init__(self, reactor: Any, address: EtcdAddress, credentials: Credentials | None = None) -> None:
        self._reactor = reactor
        self._urls = list(address.urls)
        self._credentials = credentials = credentials or Credentials()
        self._token: str | None = None
        self._pool = _QuietPool(reactor)  # type: ignore[no-untyped-call]
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
        revision, key, end = 0, prefix, _code(_range_end(prefix))
        while True:
            asked = {"key": _code(key), "range_end": end, "limit": str(PAGE_SIZE), "revision": str(revision)}
            page = await self._ask("kv/range", asked)
            revision = revision or int(page["header"]["revision"])
            found += [
                KeyValue(
                    b64decode(pair["key"]).decode("utf-8", "replace"),
                    b64decode(pair.get("value", "")),
                    int(pair["create_revision"]),
                    int(pair["mod_revision"]),
                )
                for pair in page.get("kvs", ())
            ]
            if not page.get("more"):
                return revision, found
            key = found[-1].key + "\0"

    async def transact(
        self, compares: Sequence[dict[str, Any]], operations: Sequence[dict[str, Any]]
    ) -> tuple[bool, int]:
        """Carry out all operations if all comparisons hold. Return whether they do, and the revision. Raises EtcdError;
        after an Unreachable they may have been carried out."""
        answer = await self._ask("kv/txn", {"compare": list(compares), "success": list(operations)})
        return bool(answer.get("succeeded")), int(answer["header"]["revision"])

    async def grant(self, seconds: int) -> int:
        """Return a new lease."""
        return int((await self._ask("lease/grant", {"TTL": str(seconds)}))["ID"])

    async def keep_alive(self, lease: int) -> bool:
        """Renew a lease. Return False if it has ended."""
        answer = await self._ask("lease/keepalive", {"ID": str(lease)})
        return int(answer.get("result", {}).get("TTL", 0)) > 0

    async def revoke(self, lease: int) -> None:
        """End a lease, and delete its keys."""
        await self._ask("lease/revoke", {"ID": str(lease)})

    async def _ask(self, path: str, message: dict[str, Any]) -> Any:
        """Return the response to a request. Raises EtcdError."""
        response = await self._post(path, message)
        try:
            body = await self._bounded(response.content())
        except _NETWORK_ERRORS as error:
            raise self._unreachable(error) from None
        answer = _decode(body)
        if response.code == 200:
            return answer
        if answer.get("code") == UNAUTHENTICATED and self._token is not None:
            self._token = None
            return await self._ask(path, message)
        raise _refusal(self._urls[0], response.code, answer)

    async def _post(self, path: str, message: dict[str, Any]) -> Any:
        headers: dict[bytes | str, bytes | str] = {"Content-Type": "application/json"}
        if self._credentials.user and path != "auth/authenticate":
            if self._token is None:
                user = {"name": self._credentials.user, "password": self._credentials.password}
                self._token = str((await self._ask("auth/authenticate", user))["token"])
            headers["Authorization"] = self._token
        data = json.dumps(message).encode()
        try:
            return await self._bounded(self._http.post(f"{self._urls[0]}/v3/{path}", data=_Body(data), headers=headers))
        except _NETWORK_ERRORS as error:
            raise self._unreachable(error) from None

    async def _bounded(self, waiting: Deferred[Any]) -> Any:
        return await waiting.addTimeout(REQUEST_TIMEOUT, self._reactor)

    def _unreachable(self, error: Exception) -> Unreachable:
        """Ask another member from now on."""
        url = self._urls.pop(0)
        self._urls.append(url)
        return Unreachable(f"{url} does not respond: {_why(error)}")

    # Watching.

    async def watch(
        self, prefix: str, revision: int, received: Callable[[int, Sequence[Change]], object]
    ) -> Callable[[], Deferred[None]]:
        """Watch all keys with a prefix, from `revision` on. received: called with the revision and its changes.

        Return a function that returns a Deferred, which fails with an EtcdError when the watch has ended; cancelling
        it ends the watch. Raises EtcdError.
        """
        create = {"key": _code(prefix), "range_end": _code(_range_end(prefix)), "start_revision": str(revision)}
        response = await self._post("watch", {"create_request": create})
        if response.code != 200:
            raise _refusal(self._urls[0], response.code, _decode(await self._bounded(response.content())))
        reader = _WatchReader(received, self._unreachable)
        response.original.deliverBody(reader)
        return lambda: reader.ended


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
        self._received(int(result["header"]["revision"]), list(_changes(result.get("events", ()))))

    def connectionLost(self, reason: Failure | None = None) -> None:
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


def _refusal(url: str, status: int, answer: dict[str, Any]) -> EtcdError:
    why = str(answer.get("message") or answer.get("error") or f"status {status}")
    kind = Unreachable if status in (502, 503, 504) or "no leader" in why or "timed out" in why else EtcdError
    return kind(f"{url}: {why}")


def _why(error: Exception) -> str:
    """Return a network error in words."""
    if isinstance(error, ResponseFailed | RequestGenerationFailed) and error.reasons:
        error = error.reasons[0].value
    if isinstance(error, TimeoutError | CancelledError):
        return f"no response within {REQUEST_TIMEOUT:g} seconds"
    return str(error).rstrip(".") or type(error).__name__
