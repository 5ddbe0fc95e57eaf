"""The contracts between the switch and its schedulers, ours and other people's.

A scheduler answers and never acts: it sees what the switch knows, says who shall serve and why, and touches
no socket, no clock and no counter.
"""

from typing import Any

from zope.interface import Attribute, Interface

CONNECTION = "CONNECTION"
"""Ask once when a connection comes; nothing is read from it before."""

FIRST_REQUEST = "FIRST_REQUEST"
"""Ask once when the head of the first HTTP request has come; all else of the connection is relayed untouched."""

EACH_REQUEST = "EACH_REQUEST"
"""Ask for every HTTP request; each goes on a connection to its own server."""

UNITS = (CONNECTION, FIRST_REQUEST, EACH_REQUEST)


USES_RULES, USES_MATCH, USES_BALANCE, USES_WEIGHT, USES_COOKIE = "rules", "match", "balance", "weight", "cookie"
"""The parts of a service's configuration that a scheduler may use, see L{IUsesOptions}."""


class IScheduler(Interface):
    """One virtual service's scheduler, bound to the service as it is configured now."""

    def choose(request: Any) -> Any:
        """Who shall serve `request`?

        `request` is a L{ktcpvs.model.scheduling.Request}. Destinations in `request.tried` are not up,
        or have already failed for it, and must not be chosen. The set is not to be changed.

        Returns a L{ktcpvs.model.scheduling.Choice}, or None when nobody can serve: the switch then uses the
        service's redirect address, or refuses the client.

        It may also return a Deferred that fires with one of these, or be a coroutine: the client waits for it, at most
        the setting choose_timeout. After that, and when it fails, the service's `fallback` scheduler is asked.
        """


class IBindsInSteps(Interface):
    """A scheduler plugin that may take long to bind, besides L{ISchedulerFactory}."""

    def binding(service: Any, previous: Any) -> Any:
        """What `bind` does, as a generator that returns the scheduler: it yields after a few milliseconds of work, and
        the switch serves others before it goes on. Nothing is yielded for services that are bound quickly."""


class IWatches(Interface):
    """A bound scheduler that keeps its servers in an order, besides L{IScheduler}."""

    def watched() -> Any:
        """(destination, call) pairs: `call(destination)` is made whenever the number of connections of that destination
        changes. Asked once, when the scheduler takes its place."""


class IExplains(Interface):
    """A bound scheduler that can say how it comes to its choice, besides L{IScheduler}."""

    def explain(request: Any) -> Any:
        """What would be looked at for `request`, in the order in which it would be: a
        L{ktcpvs.model.scheduling.Considered}. Nothing may change by it, what `choose` answers next included."""


class ISchedulerFactory(Interface):
    """A scheduler plugin: an object that also provides L{twisted.plugin.IPlugin}, in a `twisted/plugins` folder."""

    name = Attribute("The word after `scheduler =` and `tcpvsadm -s`, a str.")

    unit = Attribute("When to ask: CONNECTION, FIRST_REQUEST or EACH_REQUEST.")

    def bind(service: Any, previous: Any) -> Any:
        """The L{IScheduler} for `service`, a L{ktcpvs.model.scheduling.ServiceView}.

        Called when the service starts and again after every edit of it; `previous` is the scheduler that is
        being replaced if it came from this same factory (take over what you remember), else None.
        Raise L{ktcpvs.errors.Refusal} when the service cannot be served so: the edit is refused with it.
        """


class IUsesOptions(Interface):
    """A scheduler plugin that says what it looks at in a service's configuration, besides L{ISchedulerFactory}.

    The switch warns administrators of what they configure and the scheduler ignores. It has no such warnings about a
    plugin that does not provide this interface.
    """

    uses = Attribute(
        """A frozenset of USES_RULES: the service's rules; USES_MATCH: the rules' match numbers; USES_BALANCE: the
        scheduler `balance`; USES_WEIGHT: the servers' weights, other than 0 or not; USES_COOKIE: it sets a cookie."""
    )
