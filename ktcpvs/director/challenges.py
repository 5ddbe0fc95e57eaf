"""The challenges of ACME that are pending on this node: its own ones, and those of other nodes of its cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from twisted.internet.defer import Deferred

from ktcpvs.director.director import Director
from ktcpvs.errors import BadValue, Busy
from ktcpvs.model.challenges import Challenge
from ktcpvs.runtime.challenges import PendingChallenges
from ktcpvs.system.timer_wheel import Timer

MAX_CHALLENGES = 1000
"""The most challenges that are pending at a time. A certificate has one for each of its names, 100 at most."""

MAX_PENDING_TIME = 3600
"""The most seconds for which a challenge is pending. It is withdrawn before, unless the node that ordered the
certificate has died meanwhile."""

MAX_RESTORED_TIME = 600
"""The most seconds for which a daemon answers a challenge of the one that it has taken over from. It may order the
certificate without this challenge, which a CA has looked for already."""


class NodeChallenges:
    """Has all processes of this node answer challenges. Provides ChallengePublisher for a switch in no cluster."""

    def __init__(self, director: Director) -> None:
        self._director = director
        self._own: dict[Challenge, Timer] = {}  # each with the timer that withdraws it at last
        self._shared: tuple[Challenge, ...] = ()

    @property
    def own(self) -> Sequence[Challenge]:
        """Those that this node has published, or its daemon before."""
        return tuple(self._own)

    def restore(self, challenges: Iterable[Challenge]) -> None:
        """Answer those of the daemon that this one takes over from; to be called before the table is loaded. A CA may
        ask for them just now."""
        self._add(challenges, MAX_RESTORED_TIME)
        if self._own:
            self._director.challenges.put(PendingChallenges.of(self.own))

    async def publish(self, challenges: Sequence[Challenge]) -> None:
        """See ChallengePublisher. Raises Busy if this daemon is ending or another one has taken over, and BadValue if
        there are too many."""
        new = [one for one in dict.fromkeys(challenges) if one not in self._own]
        if len(self._own) + len(new) > MAX_CHALLENGES:
            raise BadValue(f"{len(self._own)} challenges of ACME are pending; there may be at most {MAX_CHALLENGES}")
        self._add(new)
        await self._use()
        if self._director.is_ending:
            raise Busy("this daemon is ending, or another one has taken over: it orders no certificates any more")

    async def withdraw(self, challenges: Sequence[Challenge]) -> None:
        """See ChallengePublisher."""
        timers = [self._own.pop(one) for one in dict.fromkeys(challenges) if one in self._own]
        for timer in timers:
            timer.cancel()
        if timers:
            await self._use()

    async def share(self, challenges: Iterable[Challenge]) -> None:
        """Answer these challenges, which the nodes of the cluster have published, and no others of theirs. Returns when
        each process of this node does."""
        before, self._shared = self._shared, tuple(challenges)
        if before or self._shared:  # if they are the same, an earlier call may still be under way
            await self._use()

    async def _use(self) -> None:
        await self._director.challenges.use(PendingChallenges.of(dict.fromkeys((*self._shared, *self._own))))

    def _add(self, challenges: Iterable[Challenge], seconds: int = MAX_PENDING_TIME) -> None:
        after = self._director.context.wheel.after
        self._own |= {one: after(seconds, partial(self._expire, one)) for one in challenges}

    def _expire(self, challenge: Challenge) -> None:
        failed = partial(self._director.context.log.failure, "internal error: challenges of ACME")
        Deferred.fromCoroutine(self.withdraw([challenge])).addErrback(failed)
