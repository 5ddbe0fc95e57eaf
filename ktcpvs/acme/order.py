"""One order of a certificate, from the names to the certificate, which goes on where an earlier process has left it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from ktcpvs.acme.problems import ACMEProblem, OrderStopped
from ktcpvs.acme.record import PendingOrder, Record
from ktcpvs.errors import Refusal
from ktcpvs.model.challenges import Challenge, ChallengePublisher

POLL_DELAY, MAX_POLL_DELAY = 1.0, 10.0
"""Seconds between two looks at an order: the first time, and at most. Each is longer than the one before."""

POLL_GROWTH = 1.5

ORDER_TIMEOUT = 300.0
"""Seconds after which an attempt ends, though the CA has not. The next one goes on with the order."""

PENDING, READY, VALID, INVALID = "pending", "ready", "valid", "invalid"


class CAClient(Protocol):
    """Speaks with the CA; see ktcpvs.acme.client.ACMEClient, which provides it."""

    def new_order(self, names: Sequence[str], replaced: str = "") -> str: ...
    def look(self, url: str) -> Any: ...
    def authorization(self, url: str, kinds: Sequence[str]) -> Any: ...
    def refusals(self, urls: Sequence[str]) -> str: ...
    def answer(self, url: str) -> None: ...
    def finalize(self, url: str, names: Sequence[str], key: str) -> None: ...
    def download(self, url: str) -> str: ...
    def renewal_info(self, pem: str) -> Any: ...


InThread = Callable[..., "Deferred[Any]"]
"""Calls a function with its arguments, in the thread of the client; fires with its result."""


class Order:
    """An attempt to get a certificate. It ends with the certificate, an ACMEProblem, a Refusal or OrderStopped."""

    def __init__(
        self,
        reactor: Any,
        client: CAClient,
        in_thread: InThread,
        publisher: ChallengePublisher,
        save: Callable[[Record], Awaitable[None]],
        may_go_on: Callable[[], bool],
        make_key: Callable[[], str],
    ) -> None:
        """save: keeps a record, with its order in progress. may_go_on: asked before each step; False: another process
        orders from now on. make_key: makes a private key, in PEM."""
        self._reactor = reactor
        self._client = client
        self._in_thread = in_thread
        self._publisher = publisher
        self._save = save
        self._may_go_on = may_go_on
        self._make_key = make_key
        self._published: list[Challenge] = []
        self._is_answered = False

    async def obtain(self, record: Record, directory: str, kinds: Sequence[str]) -> str:
        """Return the certificate with its chain and its key, in PEM. record: with the order to go on with, if it has
        one. directory: the URL of the CA's. kinds: of challenges, the preferred one first."""
        order = record.order
        if order is None or order.directory != directory:
            order = await self._begin(record, directory)
        try:
            chain = await self._complete(record, order, kinds)
        finally:
            if self._published:
                await self._publisher.withdraw(self._published)
        return chain.rstrip() + "\n" + order.key

    async def _begin(self, record: Record, directory: str) -> PendingOrder:
        """Make an order, and keep it before anything else is done: a restart goes on with it, and the CA counts only
        one."""
        key = await self._in_thread(self._make_key)
        replaced = record.pem if record.directory == directory else ""
        url = await self._step(self._client.new_order, record.names, replaced)
        order = PendingOrder(url, directory, key)
        await self._save(evolve(record, order=order))
        return order

    async def _complete(self, record: Record, order: PendingOrder, kinds: Sequence[str]) -> str:
        ends, delay = self._reactor.seconds() + ORDER_TIMEOUT, POLL_DELAY
        is_finalized = False
        while True:
            state = await self._step(self._client.look, order.url)
            if state.state == VALID and state.certificate:
                chain: str = await self._step(self._client.download, state.certificate)
                return chain
            if state.state == INVALID:
                refusals = await self._step(self._client.refusals, state.authorizations)
                raise ACMEProblem(refusals or state.error or "the CA has refused the order, and says nothing more")
            if state.state == PENDING and not self._is_answered:
                await self._answer(state.authorizations, kinds)
            elif state.state == READY and not is_finalized:
                await self._step(self._client.finalize, state.finalize, record.names, order.key)
                is_finalized = True
            if self._reactor.seconds() >= ends:
                raise ACMEProblem(f"the order is still {state.state} after {ORDER_TIMEOUT:.0f} s", is_order_lost=False)
            await deferLater(self._reactor, min(max(delay, state.retry_after or 0.0), MAX_POLL_DELAY))
            delay = min(delay * POLL_GROWTH, MAX_POLL_DELAY)

    async def _answer(self, authorizations: Sequence[str], kinds: Sequence[str]) -> None:
        """Publish all challenges, and then tell the CA to look."""
        found = [await self._step(self._client.authorization, url, kinds) for url in authorizations]
        self._published = [one.challenge for one in found if one.challenge is not None]
        if self._published:
            try:
                await self._publisher.publish(self._published)
            except Refusal as refusal:
                raise ACMEProblem(f"challenges cannot be answered: {refusal}", is_order_lost=False) from None
        for one in found:
            if one.url:
                await self._step(self._client.answer, one.url)
        self._is_answered = True

    async def _step(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._may_go_on():
            raise OrderStopped
        result = await self._in_thread(function, *arguments)
        if not self._may_go_on():
            raise OrderStopped
        return result
