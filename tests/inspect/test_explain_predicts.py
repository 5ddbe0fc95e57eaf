"""`--explain` predicts what the switch does with the same request, in any state of its servers."""

from __future__ import annotations

from typing import Any

from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from memory import Peer, World
from twisted.internet.defer import Deferred

from ktcpvs.inspect.explain import Explainer
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.destination import Destination, Lease
from ktcpvs.model.scheduling import Choice, Request

SERVERS = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
REDIRECT = "10.0.0.9:80"
STATES = ("up", "down", "ejected", "full", "quiesced", "drain", "maintenance")
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Failing:
    """A scheduler that raises."""

    def choose(self, request: Request) -> Choice:
        raise RuntimeError("no choice")


class Foreign:
    """A scheduler that chooses a server of no service."""

    def choose(self, request: Request) -> Choice:
        return Choice(Destination("10.9.9.9:80"), "chance")  # type: ignore[arg-type]


class Late:
    """A scheduler that answers too late."""

    def choose(self, request: Request) -> Deferred[Choice]:
        return Deferred()


class Promising:
    """A scheduler whose choices come as a Deferred; `scheduler` makes them."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def choose(self, request: Request) -> Deferred[Choice]:
        answer: Deferred[Choice] = Deferred()
        answer.callback(self._scheduler.choose(request))
        return answer


BROKEN = {"failing": Failing, "foreign": Foreign, "late": Late}


def make_world(
    scheduler: str, states: list[str], options: list[str], use: list[int], priorities: tuple[int, ...] = (0, 0, 0)
) -> tuple[World, list[Lease]]:
    lines = [f"scheduler = {scheduler}", "eject = 1 eject_share = 100", *options]
    for address, state, priority in zip(SERVERS, states, priorities, strict=False):
        words = f"priority {priority} {state if state in ('drain', 'maintenance') else ''}"
        lines.append(f"server = {address} {'0' if state == 'quiesced' else '1'} maxconn {int(state == 'full')} {words}")
    used = [SERVERS[number] for number in use if number < len(states)] or [SERVERS[0]]
    if scheduler != "wlc":
        lines.append(f'rule = pattern ".*" use {" ".join(f"server {address}" for address in used)}')
    world = World(*lines, settings="choose_timeout = 2")
    leases: list[Lease] = []
    for address, state in zip(SERVERS, states, strict=False):
        destination = next(one for one in world.live.usable if str(one.address) == address)
        if state == "full":
            leases.append(destination.lease())
        elif state == "down":
            world.live.health.mark(destination, False, "its checks fail")
        elif state == "ejected":
            world.live.health.failed(destination, "it broke off")
    return world, leases


def explained(world: World, scheduler: str) -> tuple[str, str | None, str]:
    results: list[Any] = []
    method, target = (None, None) if scheduler == "wlc" else ("GET", "/")
    headers = [] if scheduler == "wlc" else [("Host", "h")]
    work = Explainer(world.director).explain("s", AssumedRequest(method, target, headers, "192.0.2.1"))
    Deferred.fromCoroutine(work).addBoth(results.append)
    world.passes(4)
    (result,) = results
    assert isinstance(result, dict), result
    answer = result["answer"]
    return answer["outcome"], answer["server"], answer["reason"]


def served(world: World, client: Peer) -> tuple[str, str | None, str]:
    """Return what happened to the client's request: outcome, server and reason."""
    world.passes(4)  # for a scheduler that answers late
    called = world.called()
    (connection,) = world.live.connections
    choice = connection.dispatcher.choice
    if called:
        assert choice is not None
        return "redirect" if called == [REDIRECT] else "server", called[0], choice.reason
    if connection.state == "queued":
        return "queue", None, ""
    return "nobody", None, connection.ending.removeprefix("503: ")


def end(world: World, leases: list[Lease]) -> None:
    for lease in leases:
        lease.end()
    for _ in range(len(SERVERS) + 3):
        for *_, factory, _timeout, _bind in world.reactor.tcpClients:
            if factory is not None and not getattr(factory, "was_refused", False):
                factory.was_refused = True  # type: ignore[attr-defined]
                world.refuse(factory)
    world.reset_all()
    world.passes(400)
    world.close()


@examples(250)
@given(
    st.sampled_from(("wlc", "http", "phttp")),
    st.lists(st.sampled_from(STATES), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), max_size=3, unique=True),
    st.booleans(),
    st.sampled_from(("none", "lc", "rr")),
    st.sampled_from(("well", "well", "well", "promising", *BROKEN)),
    st.sampled_from(((0, 0, 0), (0, 1, 0), (0, 1, 2), (1, 0, 100), (100, 0, 0), (0, 100, 1))),
    st.sampled_from((0, 50, 100)),
)
def test_explain_predicts(
    scheduler: str,
    states: list[str],
    use: list[int],
    redirects: bool,
    fallback: str,
    kind: str,
    priorities: tuple[int, ...],
    overflow: int,
) -> None:
    options = [f"fallback = {fallback}", f"overflow = {overflow}"] + ([f"redirect = {REDIRECT}"] if redirects else [])
    world, leases = make_world(scheduler, states, options, use, priorities)
    try:
        bind = world.live.scheduler.factory.bind
        made = world.live.selector.scheduler
        if kind == "promising":
            made = Promising(made)
            replace_scheduler(world, lambda service, previous: Promising(bind(service, previous)))
        elif kind in BROKEN:
            made = BROKEN[kind]()
            replace_scheduler(world, lambda service, previous: BROKEN[kind]())
        world.live.selector.scheduler = made
        outcome, server, reason = explained(world, scheduler)
        client = world.client()
        if scheduler != "wlc":
            client.says(GET)
        came = served(world, client)
        assert came[0] == outcome, (came, outcome, server, reason)
        if outcome in ("server", "redirect"):
            assert came == (outcome, server, reason)
        elif outcome == "nobody":
            assert reason.startswith(came[2]), (came, reason)
    finally:
        end(world, leases)


def replace_scheduler(world: World, bind: Any) -> None:
    """Replace `bind` of the service's scheduler plugin, for this world only."""

    class Factory:
        name, unit = world.live.scheduler.factory.name, world.live.scheduler.factory.unit

        def bind(self, service: Any, previous: Any) -> Any:
            return bind(service, previous)

    plugins, name = world.director.schedulers(), world.live.config.scheduler
    plugins.known[name] = Factory()
