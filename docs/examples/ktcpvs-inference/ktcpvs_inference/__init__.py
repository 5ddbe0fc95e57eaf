"""inference: servers of language models, by the prefix of the prompt, with bounded load and the servers' own queues."""

import math
from hashlib import blake2b
from typing import Any

from zope.interface import implementer

from ktcpvs.interfaces import (
    EACH_REQUEST,
    USES_WEIGHT,
    Choice,
    ChoiceOption,
    Considered,
    Destination,
    IExplains,
    IntegerOption,
    IReadsBodies,
    IScheduler,
    ISchedulerFactory,
    IUsesOptions,
    NumberOption,
    Request,
    ServiceView,
    TextOption,
)
from ktcpvs_inference.metrics import Queues, Source
from ktcpvs_inference.prompt import read_prompt

_METRIC = "[a-zA-Z_:][a-zA-Z0-9_:]*"

OPTIONS = {
    "by": ChoiceOption(
        default="conversation",
        choices=("conversation", "system"),
        help="what is hashed: the prompt up to the first message of the user, or the system prompt alone",
    ),
    "prefix_bytes": IntegerOption(default=8192, minimum=1, maximum=65536, help="the most bytes of it that are hashed"),
    "session_header": TextOption(
        default=None, longest=100, pattern="[-!#$%&'*+.^_`|~0-9A-Za-z]+", help="hash this header field if there is one"
    ),
    "session_user": ChoiceOption(
        default="off", choices=("on", "off"), help="hash the field user of the body if there is one"
    ),
    "load_factor": NumberOption(
        default=1.25, minimum=1, maximum=1000, help="how many times its share of the load a server may have"
    ),
    "min_load": IntegerOption(
        default=8, minimum=0, maximum=100000, help="so many requests may a server have in any case"
    ),
    "max_waiting": IntegerOption(
        default=2, minimum=0, maximum=100000, help="with more requests waiting inside of it, a server is passed over"
    ),
    "metrics_interval": NumberOption(
        default=1, minimum=0, maximum=60, help="seconds between two looks at the servers' metrics; 0: none"
    ),
    "metrics_path": TextOption(default="/metrics", longest=200, pattern="/[!-~]*", help="where a server has them"),
    "metrics_port": IntegerOption(default=0, minimum=0, maximum=65535, help="their port; 0: that of the server"),
    "running": TextOption(
        default="vllm:num_requests_running", longest=200, pattern=_METRIC, help="the metric of requests in work"
    ),
    "waiting": TextOption(
        default="vllm:num_requests_waiting", longest=200, pattern=_METRIC, help="the metric of requests that wait"
    ),
}

MIN_INTERVAL = 0.1
"""Seconds: the shortest interval between two fetches."""


@implementer(ISchedulerFactory, IReadsBodies, IUsesOptions)
class Inference:
    """Per request: the server whose cache has the beginning of the prompt, unless others have much less to do."""

    name = "inference"
    unit = EACH_REQUEST
    body_prefix = 65536
    uses = frozenset((USES_WEIGHT,))
    options = OPTIONS

    def __init__(self, queues: Any = None) -> None:
        """queues: has a method `of` like that of `Queues`, for simulations; None: they are fetched."""
        self._queues = queues

    def bind(self, service: ServiceView, previous: Any) -> "BoundInference":
        if self._queues is not None:
            return BoundInference(service, self._queues)
        queues = self._fetched(service, getattr(previous, "queues", None))
        bound = BoundInference(service, queues)
        if queues is not None and not service.trial:
            queues.used_by(bound)
        return bound

    def _fetched(self, service: ServiceView, previous: Any) -> Queues | None:
        """Return the queues of a service; None: there are none. previous: what the scheduler before it had."""
        options = service.options
        if not options["metrics_interval"]:
            return None
        source = Source(
            options["metrics_path"],
            options["metrics_port"],
            options["running"],
            options["waiting"],
            max(options["metrics_interval"], MIN_INTERVAL),
        )
        if isinstance(previous, Queues) and previous.source == source:  # else it is of an old version of this file
            return previous
        if service.trial:
            return None
        from twisted.internet import reactor  # not at the top: that would install one before the daemon does

        return Queues(source, reactor)


@implementer(IScheduler, IExplains)
class BoundInference:
    """The scheduler of one service. destinations: its servers. queues: what they tell; None: nothing is fetched."""

    def __init__(self, service: ServiceView, queues: Queues | None) -> None:
        options = service.options
        self.destinations = service.destinations
        self.queues = queues
        self._why = service.why
        self._seeds = {one: str(one.address).encode() for one in service.destinations}
        self._by_system = options["by"] == "system"
        self._prefix_bytes = options["prefix_bytes"]
        self._header = options["session_header"]
        self._by_user = options["session_user"] == "on"
        self._load_factor = options["load_factor"]
        self._min_load = options["min_load"]
        self._max_waiting = options["max_waiting"]

    def choose(self, request: Request) -> Choice | None:
        usable = [one for one in self.destinations if one.weight > 0 and one not in request.tried]
        if not usable:
            return None
        key, what = self._key(request)
        loads = {one: self._load(one) for one in usable}
        if not key:
            least = min(usable, key=lambda one: ((loads[one] + 1) / one.weight, one.total / one.weight))
            return Choice(least, f"{self._why}the least load, since {what}")
        digest = blake2b(key, digest_size=16).digest()
        order = sorted(usable, key=lambda one: self._draw(digest, one))
        bound = (sum(loads.values()) + 1) * self._load_factor / sum(one.weight for one in usable)
        below = [one for one in order if loads[one] < max(bound * one.weight, self._min_load)]
        chosen = next((one for one in below if self._waiting(one) <= self._max_waiting), (below or order)[0])
        reason = f"{self._why}by the hash of {what}"
        return Choice(chosen, reason if chosen is order[0] else f"{reason}, those before it have too much to do")

    def explain(self, request: Request) -> Considered:
        """Say what is hashed, and what is known of the servers."""
        key, what = self._key(request)
        notes = [f"{len(key)} bytes of {what} are hashed" if key else f"nothing is hashed, since {what}"]
        for one in self.destinations:
            queue = self.queues.of(one) if self.queues is not None else None
            told = "no metrics" if queue is None else f"{queue.foreign:.0f} of others, {queue.waiting:.0f} waiting"
            notes.append(f"{one.address}: {one.active} of this switch; {told}")
        return Considered((), tuple(notes), self.destinations)

    def _key(self, request: Request) -> tuple[bytes, str]:
        """Return what is hashed, and its name; b"" and the reason: there is nothing."""
        if self._header is not None and (session := request.headers.get(self._header)):
            return session[: self._prefix_bytes], f"the header {self._header}"
        if not request.body_prefix:
            return b"", "there is no body"
        prompt = read_prompt(request.body_prefix)
        if self._by_user and prompt.user:
            return prompt.user[: self._prefix_bytes], "the user"
        if self._by_system and prompt.system:
            return prompt.system[: self._prefix_bytes], "the system prompt"
        if prompt.conversation:
            return prompt.conversation[: self._prefix_bytes], "the beginning of the prompt"
        return b"", "no prompt could be read"

    def _load(self, destination: Destination) -> float:
        """Return the requests that a server has: those of this switch, and what it told of others."""
        queue = self.queues.of(destination) if self.queues is not None else None
        return destination.active + (0.0 if queue is None else queue.foreign)

    def _waiting(self, destination: Destination) -> float:
        queue = self.queues.of(destination) if self.queues is not None else None
        return 0.0 if queue is None else queue.waiting

    def _draw(self, digest: bytes, destination: Destination) -> float:
        """Return a server's place in the order for a key: weighted rendezvous hashing, the least is first."""
        drawn = int.from_bytes(blake2b(digest + self._seeds[destination], digest_size=8).digest(), "big")
        return -math.log((drawn + 1) / (2**64 + 1)) / destination.weight
