"""A client of a real etcd whose requests, responses and watch are late at random, and get lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ktcpvs.cluster.etcd import Change, Etcd, KeyValue, Unreachable
from ktcpvs.cluster.etcd_address import EtcdAddress


class UnsteadyEtcd(Etcd):
    """carried_out: (operations, revision) of each transaction that etcd has carried out, also where the response was
    lost. is_steady: nothing is late or lost any more."""

    def __init__(self, reactor: Any, address: EtcdAddress, random: Random, longest: float, losses: float) -> None:
        """longest: seconds of the longest delays. losses: the part of transactions whose request or response is lost;
        the watch is cut as often."""
        super().__init__(reactor, address)
        self._clock = reactor
        self._random = random
        self._longest = longest
        self._losses = losses
        self._watch: _LateWatch | None = None
        self.carried_out: list[tuple[Sequence[dict[str, Any]], int]] = []
        self.is_steady = False

    def delay(self) -> float:
        """Return the seconds by which something is late: most things hardly, and few very much."""
        return 0.0 if self.is_steady else self._longest * self._random.random() ** 6

    def _is_lost(self) -> bool:
        return not self.is_steady and self._random.random() < self._losses

    async def _late(self) -> None:
        await deferLater(self._clock, self.delay())

    async def range(self, prefix: str) -> tuple[int, list[KeyValue]]:
        await self._late()
        found = await super().range(prefix)
        await self._late()
        return found

    async def transact(
        self, compares: Sequence[dict[str, Any]], operations: Sequence[dict[str, Any]]
    ) -> tuple[bool, int]:
        await self._late()
        if self._is_lost():
            raise Unreachable("the request is lost")
        is_done, revision = await super().transact(compares, operations)
        if is_done:
            self.carried_out.append((operations, revision))
        await self._late()
        if self._is_lost():
            raise Unreachable("the response is lost")
        if self._watch is not None and self._is_lost():
            self._watch.cut()
        return is_done, revision

    async def watch(
        self, prefix: str, revision: int, received: Callable[[int, Sequence[Change]], object]
    ) -> Callable[[], Deferred[None]]:
        watch = self._watch = _LateWatch(self, self._clock, received)
        watch.follow((await super().watch(prefix, revision, watch.put))())
        return lambda: watch.ended


class _LateWatch:
    """Delivers the messages of a watch late, in their order. ended: as that of the watch."""

    def __init__(self, etcd: UnsteadyEtcd, clock: Any, received: Callable[[int, Sequence[Change]], object]) -> None:
        self._etcd = etcd
        self._clock = clock
        self._received = received
        self._messages: deque[tuple[int, Sequence[Change]]] = deque()
        self._call: Any = None
        self._source: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred(lambda _: self._stop())

    def follow(self, source: Deferred[None]) -> None:
        self._source = source
        source.addErrback(lambda why: None if self.ended.called else self.ended.errback(why))

    def put(self, revision: int, changes: Sequence[Change]) -> None:
        self._messages.append((revision, changes))
        if self._call is None and not self.ended.called:
            self._call = self._clock.callLater(self._etcd.delay(), self._deliver)

    def _deliver(self) -> None:
        self._call = None
        message = self._messages.popleft()
        if self._messages:
            self._call = self._clock.callLater(self._etcd.delay(), self._deliver)
        self._received(*message)

    def cut(self) -> None:
        if not self.ended.called:
            self.ended.errback(Unreachable("the watch is cut"))
            self._stop()

    def _stop(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        self._messages.clear()
        self._source.cancel()
