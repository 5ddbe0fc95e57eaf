"""The queues of servers, as their metrics for Prometheus tell them. They are fetched in the background."""

import re
from collections.abc import Callable
from typing import Any
from weakref import WeakSet, ref

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from ktcpvs.interfaces import Destination

MAX_METRICS = 1 << 20
"""The most bytes of metrics that are read from a server."""

MAX_COUNT = 1e9
"""A larger number of requests is a fault of the server."""

TIMEOUT = 2.0
"""Seconds for a server to tell its metrics."""

IDLE_TIMEOUT = 90
"""Seconds for which a connection for metrics is kept."""

STALE_AFTER = 3
"""Intervals after which what a server has told is forgotten."""


@frozen
class Source:
    """The place of the numbers. path: of the metrics. port: of the servers' metrics; 0: that of the server. running,
    waiting: names of metrics. interval: seconds between two fetches."""

    path: str
    port: int
    running: str
    waiting: str
    interval: float


@define
class Queue:
    """Numbers of one server. waiting: requests that wait inside of it. foreign: requests that it has, and that do not
    come from this switch. age: intervals since then."""

    waiting: float
    foreign: float
    age: int = 0


def sum_of(metrics: bytes, name: str) -> float | None:
    """Return the sum of all samples of a metric, in the text format of Prometheus; None: there is none, or it is no
    number of requests."""
    labels = rb'(?:\{(?:[^"}\n]|"(?:[^"\\\n]|\\.)*+")*+\})?'
    sample = rb"^" + re.escape(name.encode()) + labels + rb"[ \t]++([^ \t\r\n]++)"
    total = None
    for value in re.findall(sample, metrics, re.MULTILINE):
        try:
            number = float(value)
        except ValueError:
            return None
        if not 0 <= number <= MAX_COUNT:  # NaN is not, either
            return None
        total = (total or 0.0) + number
    return total


Fetch = Callable[[str], Deferred[bytes]]
"""Fetches a URL; fails unless it has status 200 and at most MAX_METRICS bytes."""


def _loop(weak: "ref[Queues]") -> LoopingCall:
    """Return the loop that fetches; it ends when nobody uses the queues. A service that is deleted tells nobody."""

    def tick() -> None:
        queues = weak()
        if queues is None or not queues.tick():
            loop.stop()

    loop = LoopingCall(tick)
    return loop


class Queues:
    """The queues of the servers of one service. It fetches as long as a scheduler uses it. source: where they are."""

    def __init__(self, source: Source, reactor: Any, fetch: Fetch | None = None) -> None:
        """fetch: None: with an Agent of Twisted."""
        self.source = source
        self._reactor = reactor
        self._fetch = fetch
        self._users: WeakSet[Any] = WeakSet()
        self._known: dict[Destination, Queue] = {}
        self._asked: dict[Destination, Deferred[bytes]] = {}
        self._loop: LoopingCall | None = None

    def used_by(self, scheduler: Any) -> None:
        """Fetch for the `destinations` of a bound scheduler, until that is garbage."""
        self._users.add(scheduler)
        if self._loop is None:
            self._loop = loop = _loop(ref(self))
            loop.clock = self._reactor
            interval = self.source.interval
            self._reactor.callWhenRunning(lambda: loop.start(interval))

    def tick(self) -> bool:
        """Fetch, if somebody uses it. Return whether somebody does."""
        if not self._users:
            self._loop = None
            return False
        self.fetch()
        return True

    def of(self, destination: Destination) -> Queue | None:
        """Return what a server has told lately; None: nothing."""
        return self._known.get(destination)

    def fetch(self) -> None:
        """Ask each server that is not being asked, and forget what is stale."""
        destinations = dict.fromkeys([one for user in self._users for one in user.destinations])
        for destination, queue in list(self._known.items()):
            queue.age += 1
            if queue.age > STALE_AFTER or destination not in destinations:
                del self._known[destination]
        for destination in destinations:
            host = getattr(destination.address, "host", None)  # a unix socket has none
            if host is not None and destination not in self._asked:
                self._ask(destination, _url(host, self.source.port or destination.address.port, self.source.path))

    def _ask(self, destination: Destination, url: str) -> None:
        if self._fetch is None:
            self._fetch = agent_fetch(self._reactor)
        asked = self._asked[destination] = self._fetch(url)
        asked.addTimeout(TIMEOUT, self._reactor)
        asked.addCallback(self._take, destination)
        asked.addErrback(lambda failure: None)  # what is not known is not used
        asked.addCallback(lambda result: self._asked.pop(destination) and None)

    def _take(self, metrics: bytes, destination: Destination) -> None:
        running, waiting = (sum_of(metrics, name) for name in (self.source.running, self.source.waiting))
        if running is not None or waiting is not None:
            there = (running or 0.0) + (waiting or 0.0)
            self._known[destination] = Queue(waiting or 0.0, max(0.0, there - destination.active))


def _url(host: str, port: int, path: str) -> str:
    return f"http://[{host}]:{port}{path}" if ":" in host else f"http://{host}:{port}{path}"


class _Body(Protocol):
    """Collects a body of at most MAX_METRICS bytes."""

    def __init__(self, done: Deferred[bytes]) -> None:
        self._done = done
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        if self._done.called:
            return  # the connection is about to close
        self._data += data
        if len(self._data) > MAX_METRICS:
            self.close()
            self._done.errback(ValueError(f"more than {MAX_METRICS} bytes"))

    def connectionLost(self, reason: Failure) -> None:
        if not self._done.called:
            from twisted.web.client import ResponseDone

            if reason.check(ResponseDone):
                self._done.callback(bytes(self._data))
            else:
                self._done.errback(reason)

    def close(self) -> None:
        """Read no more, and use the connection no more."""
        self.transport.loseConnection()


def agent_fetch(reactor: Any) -> Fetch:
    """Return a Fetch that keeps one connection to each server."""
    # Not at the top of the file: this may install a reactor, before the daemon has installed its own.
    from twisted.web.client import Agent

    from ktcpvs.system.web_client import QuietPool

    pool = QuietPool(reactor)
    pool.maxPersistentPerHost = 1
    pool.cachedConnectionTimeout = IDLE_TIMEOUT
    agent = Agent(reactor, connectTimeout=TIMEOUT, pool=pool)

    async def fetch(url: str) -> bytes:
        response = await agent.request(b"GET", url.encode("ascii"))
        done: Deferred[bytes] = Deferred(lambda cancelled: body.close())
        body = _Body(done)
        response.deliverBody(body)
        metrics = await done
        if response.code != 200:
            raise ValueError(f"status {response.code}")
        return metrics

    return lambda url: Deferred.fromCoroutine(fetch(url))
