"""redis: Redis maps tenants to servers. An example of an asynchronous scheduler."""

import os
import random

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from ktcpvs.interfaces import EACH_REQUEST, USES_WEIGHT, Choice, IScheduler, ISchedulerFactory, IUsesOptions

ADDRESS = os.environ.get("KTCPVS_REDIS", "127.0.0.1:6379")
HEADER = b"x-tenant"
TIMEOUT = 5  # seconds after which an unresponsive Redis is connected again


@implementer(IPlugin, ISchedulerFactory, IUsesOptions)
class Redis:
    """Per request: the server that Redis has for the header X-Tenant; without one, by weight."""

    name = "redis"
    unit = EACH_REQUEST
    uses = frozenset((USES_WEIGHT,))

    def __init__(self):
        self._redis = None  # one connection for all services, opened when the first of them is bound

    def bind(self, service, previous):
        if self._redis is None:
            # Not at the top of the file: this import installs a reactor, and plugins may be loaded before the daemon
            # has installed its own.
            from twisted.internet import endpoints, reactor
            from txredisapi import RedisFactory

            host, _, port = ADDRESS.rpartition(":")
            self._redis = RedisFactory(ADDRESS, None, 1, isLazy=True, replyTimeout=TIMEOUT, convertNumbers=False)
            self._redis.startConnecting(endpoints.HostnameEndpoint(reactor, host.strip("[]"), int(port), TIMEOUT))
        return BoundRedis(service, self._redis)


@implementer(IScheduler)
class BoundRedis:
    def __init__(self, service, redis):
        self._service = service
        self._redis = redis

    async def choose(self, request):
        tenant = dict(request.headers).get(HEADER)
        named = await self._look_up(tenant) if tenant else None
        usable = [d for d in self._service.destinations if d.weight and d not in request.tried]
        for destination in usable:
            if str(destination.address) == named:
                return Choice(destination, "the tenant's server", waits=True)
        with_room = [d for d in usable if not d.is_full] or usable
        if not with_room:
            return None
        chosen = random.choices(with_room, [d.weight for d in with_room])[0]
        return Choice(chosen, f"drawn by weight from {len(with_room)}")

    async def _look_up(self, tenant):
        """Return the address in the tenant's key, or None if there is no such key."""
        if not self._redis.size:
            raise ConnectionError(f"no connection to Redis at {ADDRESS}")  # without waiting: the fallback chooses
        answer = Deferred()  # choose_timeout cancels this one; Redis still has TIMEOUT to reply
        key = b"ktcpvs:%b:%b" % (self._service.ident.encode(), tenant)
        self._redis.handler.get(key).chainDeferred(answer)
        return await answer
