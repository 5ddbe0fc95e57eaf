"""The descriptors of a process: what is promised to clients can always be kept."""

from __future__ import annotations

from collections import Counter
from functools import partial

from hypothesis import given
from hypothesis import strategies as some

from ktcpvs.runtime.descriptors import Descriptors, StreamDescriptors

SERVICES = 3


class Waiting:
    """Something that waits for descriptors, as a listener does."""

    def __init__(self) -> None:
        self.resumed = 0

    def resume(self) -> None:
        self.resumed += 1


class Process:
    """Clients of HTTP/1, clients of HTTP/2 by service, and the connections to servers that they have.

    connected: of clients of HTTP/1. streams: of the streams of each service.
    """

    def __init__(self, limit: int) -> None:
        self.descriptors = Descriptors(limit)
        self.services = [StreamDescriptors(self.descriptors) for _ in range(SERVICES)]
        self.clients = self.connected = 0
        self.http2: Counter[int] = Counter()
        self.streams: Counter[int] = Counter()

    @property
    def open(self) -> int:
        """The descriptors that the process has in truth."""
        return self.clients + self.connected + self.http2.total() + self.streams.total()

    def step(self, name: str, service: int) -> None:
        descriptors, streams = self.descriptors, self.services[service]
        if name == "client" and descriptors.are_free:
            self.clients += 1
            descriptors.take(1, 1)
        elif name == "client leaves" and self.clients:
            if self.connected == self.clients:
                self.step("response", service)
            self.clients -= 1
            descriptors.give(1, 1)
        elif name == "request" and self.connected < self.clients:
            self.connected += 1
            descriptors.take_server()
        elif name == "response" and self.connected:
            self.connected -= 1
            descriptors.give_server()
        elif name == "http2" and descriptors.are_free:
            self.http2[service] += 1
            descriptors.take(1)
            streams.add_client()
        elif name == "http2 leaves" and self.http2[service]:
            self.http2[service] -= 1
            streams.remove_client()
            descriptors.give(1)
        elif name == "stream" and self.http2[service]:
            self._begin_stream(streams, service)
        elif name == "stream ends" and self.streams[service]:
            self.streams[service] -= 1
            streams.give_server()

    def _begin_stream(self, streams: StreamDescriptors, service: int) -> None:
        """A stream connects, if it may."""
        is_first = not self.streams[service]
        is_promised = self.streams[service] < self.http2[service]
        before = self.descriptors.free
        assert streams.may_connect or not is_first, "each service can serve its clients"
        if streams.may_connect:
            self.streams[service] += 1
            streams.take_server()
            left = self.descriptors.free
            assert left == before if is_promised else left >= max(self.streams[service], 2)


NAMES = ("client", "client leaves", "request", "response", "http2", "http2 leaves", "stream", "stream", "stream ends")


STEPS = some.lists(some.tuples(some.sampled_from(NAMES), some.integers(0, SERVICES - 1)), max_size=200)


@given(some.integers(2, 60), STEPS)
def test_what_is_promised_fits(limit: int, steps: list[tuple[str, int]]) -> None:
    """Whatever happens, all clients of HTTP/1 can have a server connection at once, and each service as many for its
    streams as it has clients of HTTP/2."""
    process = Process(limit)
    for name, service in steps:
        process.step(name, service)
        promised = process.clients + sum(max(process.http2[one], process.streams[one]) for one in range(SERVICES))
        assert process.clients + process.http2.total() + promised == process.descriptors.used
        assert process.open <= process.descriptors.used <= limit
    for service in range(SERVICES):
        for name in ["response"] * process.connected + ["client leaves"] * process.clients:
            process.step(name, service)
        for name in ["stream ends"] * process.streams[service] + ["http2 leaves"] * process.http2[service]:
            process.step(name, service)
    assert process.open == process.descriptors.used == process.descriptors.streams == 0


def connects(streams: StreamDescriptors) -> int:
    """Connect for as many streams as may."""
    before = streams.servers
    while streams.may_connect and streams.servers < 1000:
        streams.take_server()
    return streams.servers - before


def test_the_streams_of_a_service_leave_half_of_what_is_free() -> None:
    descriptors = Descriptors(102)
    first, second, third = (StreamDescriptors(descriptors) for _ in range(3))
    for streams in first, second, third:
        descriptors.take(1)
        streams.add_client()
    assert descriptors.free == 96
    assert connects(first) == 48
    assert descriptors.free == 49
    assert connects(second) == 25
    assert descriptors.free == 25
    for _ in range(12):
        assert descriptors.are_free
        descriptors.take(1, 1)
    assert descriptors.free == 1
    assert connects(third) == 1  # its own


def test_what_resumes_may_give_its_descriptor_back_at_once() -> None:
    """As connections that fail: the others are asked again, and nothing recurses."""
    descriptors = Descriptors(100)
    left, depths = [3] * SERVICES, [0]
    services = [StreamDescriptors(descriptors) for _ in range(SERVICES)]

    def freed(number: int) -> None:
        depths.append(depths[-1] + 1)
        services[number].take_server()
        left[number] -= 1
        if left[number]:
            services[number].wait()
        services[number].give_server()
        depths.append(depths[-1] - 1)

    for number, streams in enumerate(services):
        streams.freed = partial(freed, number)
        streams.wait()
    descriptors.wake()
    assert left == [0] * SERVICES
    assert max(depths) == 1


def test_what_waits_resumes_when_a_stream_gives_its_descriptor_back() -> None:
    descriptors = Descriptors(100)
    streams, listener, freed = StreamDescriptors(descriptors), Waiting(), Waiting()
    streams.freed = freed.resume
    for _ in range(2):
        streams.take_server()
    descriptors.waiting.add(listener)
    streams.wait()
    streams.give_server()
    assert (listener.resumed, freed.resumed) == (1, 1)
    streams.give_server()  # it does not wait any more
    assert (listener.resumed, freed.resumed) == (1, 1)
