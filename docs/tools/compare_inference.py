"""Compares schedulers for servers of language models in simulation: brings the table of docs/inference.md up to date.

python docs/tools/compare_inference.py [--seconds N]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from random import Random

from attrs import define, frozen

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS / "examples/ktcpvs-inference"))

from ktcpvs_inference import Inference  # noqa: E402
from ktcpvs_inference.metrics import Queue  # noqa: E402

from ktcpvs.interfaces import Destination  # noqa: E402
from ktcpvs.model.address import Inet  # noqa: E402
from ktcpvs.model.real_server import RealServer  # noqa: E402
from ktcpvs.model.service import VirtualService  # noqa: E402
from ktcpvs.simulation.arrivals import Arrival, client_address  # noqa: E402
from ktcpvs.simulation.behaviour import Outcome  # noqa: E402
from ktcpvs.simulation.durations import Durations  # noqa: E402
from ktcpvs.simulation.simulated_service import SimulatedRequest, SimulatedService  # noqa: E402
from ktcpvs.system.plugins import Schedulers, find_schedulers  # noqa: E402

BEGIN, END = "<!-- compared by docs/tools/compare_inference.py: begin -->", "<!-- compared: end -->"

SERVERS = 8
BATCH = 32
"""Requests that a server works on at once; others wait inside of it."""

BLOCK = 64
"""Tokens in a block of the prefix cache."""

CACHE_BLOCKS = 1500
"""Blocks that a server keeps, those that were used last: 96,000 tokens."""

PREFILL = 1 / 8000
"""Seconds for a token of the prompt that is not in the cache. A server does one prompt after the other."""

DECODE = 0.025
"""Seconds for a token of the response."""

SYSTEMS, SYSTEM_TOKENS = 40, 2048
"""System prompts, and their length. Some are asked for more often: the n-th with 1/n."""

TURN_TOKENS = 256
"""Tokens by which a conversation grows: a message of the user and the response before it."""

TURNS, THINKING = 6, 15.0
"""Turns of a conversation on average, and seconds between them."""

RATE = 5.0
"""Conversations that begin in a second."""

WARM_UP = 30.0
"""Seconds at the beginning that are not counted, while caches are empty."""

SEED = 1


@define(eq=False)
class Turn(Arrival):
    """A turn of a conversation. blocks: of its prompt, in their order; equal ones are the same text."""

    blocks: Sequence[tuple[int, int]] = ()


def turns(rate: float, seed: int) -> Iterator[Turn]:
    """Yield the turns of all conversations, in the order of their times, without end."""
    chance, begins, number = Random(seed), 0.0, 0
    weights = [1 / place for place in range(1, SYSTEMS + 1)]
    due: list[tuple[float, int, int, int]] = []
    while True:
        begins += chance.expovariate(rate)
        while due and due[0][0] <= begins:
            at, conversation, turn, system = heappop(due)
            yield turn_of(at, conversation, turn, system)
            if chance.random() > 1 / TURNS:
                heappush(due, (at + chance.expovariate(1 / THINKING), conversation, turn + 1, system))
        number += 1
        heappush(due, (begins, number, 1, chance.choices(range(SYSTEMS), weights)[0]))


def turn_of(at: float, conversation: int, turn: int, system: int) -> Turn:
    """Return one turn, with its body as a client of the API sends it."""
    messages = [{"role": "system", "content": f"You are assistant number {system}."}]
    for number in range(1, turn + 1):
        messages.append({"role": "user", "content": f"question {number} of conversation {conversation}"})
        if number < turn:
            messages.append({"role": "assistant", "content": f"response {number}"})
    body = json.dumps({"model": "m", "stream": True, "messages": messages}).encode()
    blocks = [(-system, place) for place in range(SYSTEM_TOKENS // BLOCK)]
    blocks += [(conversation, place) for place in range(turn * TURN_TOKENS // BLOCK)]
    target = b"/v1/chat/completions"
    return Turn(at, client_address(conversation % 65536), b"POST", target, body=body, blocks=blocks)


class Model:
    """One server. speed: of its prompts, 1 for most."""

    def __init__(self, speed: float, batch: int) -> None:
        self.speed = speed
        self.batch = batch
        self._cache: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._free_at = 0.0

    def first_token(self, now: float, blocks: Sequence[tuple[int, int]]) -> tuple[float, int]:
        """Take a prompt. Return the time of the first token, and how many of its blocks were cached."""
        cached = next((place for place, block in enumerate(blocks) if block not in self._cache), len(blocks))
        for block in reversed(blocks):  # the end of a prompt is forgotten before its beginning
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) > CACHE_BLOCKS:
            self._cache.popitem(last=False)
        self._free_at = max(self._free_at, now) + (len(blocks) - cached) * BLOCK * PREFILL / self.speed
        return self._free_at + DECODE, cached


@frozen
class Result:
    """The result of one scheduler. hits: the share of the tokens of prompts that were cached. first: times to the first
    token, in seconds. last: the share of the requests that the
    last server got."""

    hits: float
    first: Durations
    last: float


class Queues:
    """The metrics of the servers, once in a second: nothing but their requests from this switch."""

    def __init__(self) -> None:
        self.service: SimulatedService | None = None
        self.models: dict[Destination, Model] = {}
        self._known: dict[Destination, Queue] = {}
        self._at = -1.0

    def of(self, destination: Destination) -> Queue | None:
        assert self.service is not None
        if self.service.time.now >= self._at + 1:
            self._at = self.service.time.now
            self._known = {one: Queue(max(0, one.active - model.batch), 0) for one, model in self.models.items()}
        return self._known.get(destination)


def simulate(scheduler: str, seconds: float, speeds: Sequence[float], tells: bool = True) -> Result:
    """Run a scheduler. speeds: of the servers. tells: the scheduler knows the servers' queues."""
    queues = Queues()
    servers = tuple([RealServer(Inet(f"10.0.0.{number}", 80)) for number in range(1, len(speeds) + 1)])
    config = VirtualService("llm", scheduler=scheduler, servers=servers)
    models = {server.address: Model(speed, int(BATCH * speed)) for server, speed in zip(servers, speeds, strict=True)}
    chance, first = Random(SEED), Durations()
    counts = dict.fromkeys(models, 0)
    cached = total = 0

    def answer(request: SimulatedRequest, destination: Destination) -> Outcome:
        nonlocal cached, total
        turn, now = request.arrival, service.time.now
        assert isinstance(turn, Turn)
        begins, hits = models[destination.address].first_token(now, turn.blocks)
        if turn.at >= WARM_UP:
            cached += hits
            total += len(turn.blocks)
            counts[destination.address] += 1
            first.add(begins - turn.at)
        return Outcome(begins - now + chance.lognormvariate(4.8, 0.6) * DECODE)

    service = SimulatedService(
        config,
        answer,
        lambda request: None,
        capacities={address: model.batch for address, model in models.items()},
        schedulers=Schedulers({**find_schedulers().known, "inference": Inference(queues if tells else None)}),
    )
    queues.service = service
    queues.models = {one: models[one.address] for one in service.destinations}
    service.run(until(turns(RATE, SEED), seconds))
    assert not service.faults, service.faults
    return Result(cached / total, first, [*counts.values()][-1] / sum(counts.values()))


def until(arrivals: Iterator[Turn], seconds: float) -> Iterator[Turn]:
    """Yield those of the first `seconds`."""
    for arrival in arrivals:
        if arrival.at > seconds:
            return
        yield arrival


SCHEDULERS = (
    ("`wlc`", "wlc", True),
    ("`p2c`", "p2c", True),
    ("`inference`", "inference", True),
    ("`inference by system`", "inference by system", True),
    ("`inference metrics_interval 0`", "inference metrics_interval 0", False),
)
"""(how the table calls it, the scheduler, whether it knows the queues)"""

EQUAL = (1.0,) * SERVERS
SMALLER = (*EQUAL[1:], 0.3)
"""The last server is smaller: it reads prompts at 30 % of the speed, and works on 30 % of the requests at once."""


def table(seconds: float) -> str:
    """Return the table of the document."""
    lines = [
        "| scheduler | cached | TTFT p50 | p99 | with a small server: cached | TTFT p50 | p99 | to the small one |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, scheduler, tells in SCHEDULERS:
        equal, smaller = (simulate(scheduler, seconds, speeds, tells) for speeds in (EQUAL, SMALLER))
        cells = [name, *figures(equal), *figures(smaller), f"{smaller.last:.1%}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def figures(result: Result) -> list[str]:
    return [f"{result.hits:.0%}", *(f"{(time or 0) * 1000:.0f} ms" for time in (result.first.p50, result.first.p99))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=300, help="of virtual time; 300 without it")
    page = DOCS / "inference.md"
    found = re.compile(f"(?<={re.escape(BEGIN)}\n\n).*?(?=\n\n{re.escape(END)})", re.DOTALL)
    lines = table(parser.parse_args().seconds)
    page.write_text(found.sub(lambda _: lines, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
