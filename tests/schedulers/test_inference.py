"""The example ktcpvs-inference: prompts of any bodies, bounded load, queues by metrics, and the comparison."""

from __future__ import annotations

import gc
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st
from ktcpvs_inference import Inference
from ktcpvs_inference.metrics import MAX_COUNT, STALE_AFTER, TIMEOUT, Queue, Queues, Source, sum_of
from ktcpvs_inference.prompt import MAX_PARTS, MAX_TOKENS, NONE, Prompt, read_prompt
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from ktcpvs.errors import BadValue
from ktcpvs.interfaces import Choice, Destination, Request, ServiceView
from ktcpvs.model.address import Inet, Unix
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.scheduler_options import check_declared, read_options
from ktcpvs.model.service import VirtualService
from ktcpvs.testing import check_scheduler

QUIET = "inference metrics_interval 0"


def view(text: str = QUIET, *weights: int) -> ServiceView:
    """A service of servers with these weights; of four without any."""
    servers = tuple([RealServer(Inet(f"10.0.0.{n}", 8000), weight) for n, weight in enumerate(weights or (1,) * 4, 1)])
    config = VirtualService("llm", scheduler=text, servers=servers)
    known = {one.address: Destination(one.address, one.weight) for one in servers}
    return ServiceView.of(config, known, options=read_options(Inference(), text))


def chat(*messages: tuple[str, Any], **fields: Any) -> bytes:
    return json.dumps(
        {"model": "m", **fields, "messages": [{"role": role, "content": content} for role, content in messages]}
    ).encode()


def ask(body: bytes, lines: bytes = b"Host: llm\r\n", *tried: Destination) -> Request:
    path = b"/v1/chat/completions"
    return Request("192.0.2.1", b"POST", path, path, lines, set(tried), body_prefix=body)


def chosen(scheduler: Any, request: Request) -> Choice:
    choice = scheduler.choose(request)
    assert isinstance(choice, Choice)
    return choice


# The prompt.


def test_a_conversation_is_what_stands_up_to_the_first_message_of_the_user() -> None:
    first = read_prompt(chat(("system", "be brief"), ("user", "hello"), user="ann"))
    later = read_prompt(
        chat(("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "more"), user="ann")
    )
    assert first == later == Prompt(b"system\nbe brief\n", b"system\nbe brief\nuser\nhello\n", b"ann")
    other = read_prompt(chat(("system", "be brief"), ("user", "good evening")))
    assert other.system == first.system
    assert other.conversation != first.conversation


def test_contents_and_prompts_may_have_parts() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    parts = read_prompt(
        chat(("user", [{"type": "text", "text": "what is "}, {"type": "text", "text": "this"}, picture]))
    )
    assert parts.conversation == b"user\nwhat is thisdata:image/png;base64,AA==\n"
    assert read_prompt(b'{"prompt": "once upon"}').conversation == b"once upon"
    assert read_prompt(b'{"prompt": ["once", "upon"]}').conversation == b"onceupon"
    assert read_prompt(b'{"prompt": [1, 23]}') != read_prompt(b'{"prompt": [12, 3]}') != NONE


BODIES = (
    chat(("system", 'quotes " and \\ and \u00fc \U0001f600\n'), ("user", "hello \\"), ("assistant", "x" * 50)),
    json.dumps({"messages": [{"content": "\u00fc" * 9, "role": "user"}], "user": "b"}, ensure_ascii=False).encode(),
    b'{"tools": [[], {"a": {}}, -1.5e3, true, null], "prompt": "abc\\u00e9\\"", "stream": false}',
)


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_ends_in_the_middle_is_read_as_far_as_it_goes(body: bytes) -> None:
    whole = read_prompt(body).conversation
    known = [read_prompt(body[:end]).conversation for end in range(len(body) + 1)]
    assert known[-1] == whole
    assert len(set(known)) > 5, "it grows with the body"
    done = known.index(whole)
    assert set(known[done:]) == {whole}, "what comes after the first message of the user changes nothing"
    assert done < len(body)


@given(st.one_of(st.binary(), st.text(alphabet='{}[]",:\\u0a1 eE.-tfn', max_size=60).map(str.encode)))
@example(b"[" * 100_000)
@example(b'{"prompt":' + b"[" * 60_000)
@example(b'{"messages": [{"role": ' + b"[" * 900 + b"]" * 900 + b"}]}")
@example(b'{"prompt": "\\ud800"}')
@example(b'{"prompt": "abc\\')
@example(b'{"prompt": "abc\\\\')
@example(b'{"prompt": 1' + b"0" * 9000)
@example(b"\xff\xfe{\x00")
@examples(300)
def test_no_bytes_raise(body: bytes) -> None:
    assert isinstance(read_prompt(body), Prompt)


def test_a_body_of_many_tokens_is_read_up_to_a_limit() -> None:
    numbers = b'{"prompt": [' + b"1, " * 60_000
    assert read_prompt(numbers).conversation == read_prompt(numbers + b"1]}").conversation == b"1," * MAX_PARTS
    tools = b'{"tools": [' + b"1, " * (MAX_TOKENS // 2) + b'1], "prompt": "a", '
    assert read_prompt(tools).conversation == b""
    assert read_prompt(tools + b'"n": 1}').conversation == b"a", "a complete body is read whole"


def test_messages_after_the_first_of_the_user_are_not_read() -> None:
    turns = [("user", "hello"), *(("user", "more"),) * 100]
    assert read_prompt(chat(*turns)[:-2]) == read_prompt(chat(*turns))
    assert read_prompt(chat(*turns)[:-2] + b"no JSON") == read_prompt(chat(*turns))


def test_a_body_without_a_prompt_has_none() -> None:
    for body in (
        b"",
        b"{}",
        b"[]",
        b"1",
        b'"a"',
        b"name=value",
        b'{"messages": {}}',
        b'{"messages": [1, "a"]}',
        b"{1: 2}",
    ):
        assert read_prompt(body).conversation == b"", body


# The choice.


def test_it_keeps_the_contract() -> None:
    check_scheduler(Inference(), named=QUIET)
    check_declared(Inference())


def test_turns_of_a_conversation_meet_one_server_and_conversations_spread() -> None:
    scheduler = Inference().bind(view(), None)
    servers = set()
    for number in range(100):
        opening = ("system", "s"), ("user", f"question {number}")
        first = chosen(scheduler, ask(chat(*opening)))
        later = chosen(scheduler, ask(chat(*opening, ("assistant", "a"), ("user", "b"))[:150]))
        assert first.destination is later.destination
        servers.add(first.destination)
    assert len(servers) == 4
    assert first.reason == "by the hash of the beginning of the prompt"


def test_by_system_all_conversations_of_a_system_prompt_meet_one_server() -> None:
    scheduler = Inference().bind(view(f"{QUIET} by system"), None)
    bodies = [chat(("system", "s"), ("user", f"question {number}")) for number in range(50)]
    assert len({chosen(scheduler, ask(body)).destination for body in bodies}) == 1
    others = [chat(("user", f"question {number}")) for number in range(50)]
    assert len({chosen(scheduler, ask(body)).destination for body in others}) == 4


def test_only_the_first_bytes_are_hashed() -> None:
    scheduler = Inference().bind(view(f"{QUIET} prefix_bytes 10"), None)
    bodies = [b'{"prompt": "0123456789%d"}' % number for number in range(50)]
    assert len({chosen(scheduler, ask(body)).destination for body in bodies}) == 1


@pytest.mark.parametrize("where", ["header", "user"])
def test_a_session_goes_before_the_prompt(where: str) -> None:
    option = "session_header X-Session" if where == "header" else "session_user on"
    scheduler = Inference().bind(view(f"{QUIET} {option}"), None)

    def ask_as(name: str, prompt: str) -> Request:
        fields = {"user": name} if where == "user" else {}
        lines = f"x-session: {name}\r\n".encode() if where == "header" else b""
        return ask(chat(("user", prompt), **fields), lines)

    assert len({chosen(scheduler, ask_as("ann", str(number))).destination for number in range(50)}) == 1
    assert len({chosen(scheduler, ask_as(str(number), "same")).destination for number in range(50)}) == 4
    assert len({chosen(scheduler, ask_as("", str(number))).destination for number in range(50)}) == 4


def test_a_server_with_more_than_its_share_is_passed_over() -> None:
    service = view(f"{QUIET} load_factor 1.5 min_load 4")
    scheduler, request = Inference().bind(service, None), ask(b'{"prompt": "popular"}')
    first = chosen(scheduler, request).destination
    leases, reasons = [], set()
    for _ in range(40):
        choice = chosen(scheduler, request)
        leases.append(choice.destination.lease())
        reasons.add((choice.destination is first, choice.reason))
    assert max(one.active for one in service.destinations) == first.active == 15
    hashed = "by the hash of the beginning of the prompt"
    assert reasons == {(True, hashed), (False, f"{hashed}, those before it have too much to do")}
    for lease in leases[3:]:
        lease.end()
    assert first.active == 3
    assert chosen(scheduler, request).destination is first, "fewer than min_load"


def test_without_a_prompt_the_least_load_decides() -> None:
    service = view(QUIET, 1, 2, 1)
    scheduler = Inference().bind(service, None)
    for _ in range(8):
        chosen(scheduler, ask(b"")).destination.lease()
    assert [one.active for one in service.destinations] == [2, 4, 2]
    assert "no body" in chosen(scheduler, ask(b"")).reason
    assert "no prompt" in chosen(scheduler, ask(b"name=value")).reason


def test_a_server_that_goes_moves_only_its_own_prompts() -> None:
    service = view()
    scheduler = Inference().bind(service, None)
    bodies = [b'{"prompt": "%d"}' % number for number in range(100)]
    gone = service.destinations[1]
    for body in bodies:
        before, after = (chosen(scheduler, ask(body, b"", *tried)).destination for tried in ((), (gone,)))
        assert after is not gone
        assert (before is after) == (before is not gone)


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("by user", "cannot be"),
        ("load_factor 0.5", "out of range"),
        ("waiting num-requests", "is not like"),
        ("metrics_path metrics", "is not like"),
        ("session_header X-Ses:sion", "is not like"),
    ],
)
def test_options_that_cannot_be_are_refused(option: str, error: str) -> None:
    with pytest.raises(BadValue, match=error):
        read_options(Inference(), f"inference {option}")


# The queues.

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } \\"b"} %d.0
vllm:num_requests_running{engine="1",model_name="c"} 1.0 1764230000000
vllm:num_requests_running_total{engine="1"} 99
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0"} %d
"""


def test_samples_of_a_metric_are_summed() -> None:
    text = VLLM % (3, 5)
    assert sum_of(text, "vllm:num_requests_running") == 4
    assert sum_of(text, "vllm:num_requests_waiting") == 5
    assert sum_of(b"llamacpp:requests_deferred 7\r\n", "llamacpp:requests_deferred") == 7
    assert sum_of(text, "vllm:num_requests") is None


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "many", str(MAX_COUNT * 10)])
def test_what_is_no_number_of_requests_is_nothing(value: str) -> None:
    assert sum_of(f"a {value}\n".encode(), "a") is None


@given(st.one_of(st.binary(), st.text(alphabet='a{}" \\\n1.=,', max_size=80).map(str.encode)))
@examples(200)
def test_no_metrics_raise(text: bytes) -> None:
    assert isinstance(sum_of(text, "a"), float | None)


class ReactorClock(Clock):
    def callWhenRunning(self, call: Any) -> None:
        call()


class Servers:
    """Answers requests for metrics. asked: the URLs, in their order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.results: list[Deferred[bytes]] = []

    def __call__(self, url: str) -> Deferred[bytes]:
        self.asked.append(url)
        self.results.append(Deferred())
        return self.results[-1]


class User:
    """A bound scheduler, as far as queues need it."""

    def __init__(self, *destinations: Destination) -> None:
        self.destinations = destinations


SOURCE = Source("/metrics", 0, "vllm:num_requests_running", "vllm:num_requests_waiting", 1.0)


@pytest.fixture
def clock() -> ReactorClock:
    return ReactorClock()


@pytest.fixture
def servers() -> Servers:
    return Servers()


def test_each_server_is_asked_at_each_interval_but_once_at_a_time(clock: ReactorClock, servers: Servers) -> None:
    queues = Queues(SOURCE, clock, servers)
    one, other = Destination(Inet("10.0.0.1", 8000)), Destination(Inet("2001:db8::1", 8000))
    user = User(one, other, Destination(Unix("/run/llm.sock")))
    queues.used_by(user)
    assert servers.asked == ["http://10.0.0.1:8000/metrics", "http://[2001:db8::1]:8000/metrics"]
    clock.advance(1)
    assert len(servers.asked) == 2, "both are being asked"
    one.active = 2
    servers.results[0].callback(VLLM % (3, 5))
    assert queues.of(one) == Queue(5, 7), "4 run and 5 wait, of which 2 are of this switch"
    assert queues.of(other) is None
    clock.advance(1)
    assert servers.asked[2:] == ["http://10.0.0.1:8000/metrics", "http://[2001:db8::1]:8000/metrics"], "it timed out"


def test_what_is_stale_or_of_a_server_that_is_gone_is_forgotten(clock: ReactorClock, servers: Servers) -> None:
    queues, one = Queues(evolve(SOURCE, port=9000), clock, servers), Destination(Inet("10.0.0.1", 8000))
    user = User(one)
    queues.used_by(user)
    assert servers.asked == ["http://10.0.0.1:9000/metrics"]
    servers.results[0].callback(VLLM % (0, 5))
    for _ in range(STALE_AFTER):
        clock.advance(1)
        assert queues.of(one) is not None
        if not servers.results[-1].called:
            servers.results[-1].errback(ConnectionRefusedError())
    clock.advance(1)
    assert queues.of(one) is None
    servers.results[-1].callback(VLLM % (0, 5))
    assert queues.of(one) is not None
    user.destinations = ()
    clock.advance(1)
    assert queues.of(one) is None


def test_it_ends_with_the_last_scheduler_that_uses_it(clock: ReactorClock, servers: Servers) -> None:
    queues, one = Queues(SOURCE, clock, servers), Destination(Inet("10.0.0.1", 8000))
    first, second = User(one), User(one)
    queues.used_by(first)
    queues.used_by(second)
    del first
    gc.collect()
    clock.advance(1)
    assert clock.getDelayedCalls()
    del second
    gc.collect()
    for _ in range(4):
        clock.advance(1)
    assert clock.getDelayedCalls() == []
    third = User(one)
    queues.used_by(third)
    assert clock.getDelayedCalls()
    del queues, third
    gc.collect()
    clock.advance(1)
    clock.advance(TIMEOUT)
    assert clock.getDelayedCalls() == []


class Told:
    """Queues that a test sets."""

    def __init__(self) -> None:
        self.known: dict[Destination, Queue] = {}

    def of(self, destination: Destination) -> Queue | None:
        return self.known.get(destination)


def test_queues_and_requests_of_others_count() -> None:
    told, service = Told(), view()
    scheduler, request = Inference(told).bind(service, None), ask(b'{"prompt": "popular"}')
    first = chosen(scheduler, request).destination
    told.known[first] = Queue(3, 0)
    second = chosen(scheduler, request).destination
    assert second is not first, "more wait there than max_waiting"
    told.known[second] = Queue(0, 50)
    third = chosen(scheduler, request).destination
    assert third not in (first, second), "others keep it busy"
    notes = scheduler.explain(request).notes
    assert f"{first.address}: 0 of this switch; 0 of others, 3 waiting" in notes
    assert f"{third.address}: 0 of this switch; no metrics" in notes
    told.known = {one: Queue(9, 0) for one in service.destinations}
    assert chosen(scheduler, request).destination is first, "where all have queues, the hash decides"


# The comparison.


def test_the_simulation_shows_what_the_document_says() -> None:
    tool = runpy.run_path(str(Path(__file__).parents[2] / "docs/tools/compare_inference.py"))
    usual, ours = (tool["simulate"](name, 100, tool["EQUAL"]) for name in ("wlc", "inference"))
    assert ours.hits > usual.hits + 0.05
    assert ours.first.p50 < usual.first.p50 * 0.8
    assert ours.first.p99 < usual.first.p99
