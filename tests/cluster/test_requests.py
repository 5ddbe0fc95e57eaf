"""Requests of nodes to each other, through a real etcd."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import pytest
from e2e.harness import ControlThread
from servers import wait_for
from twisted.internet.defer import Deferred, DeferredList

from ktcpvs.cluster import requests as limits
from ktcpvs.cluster.etcd import Etcd, put
from ktcpvs.cluster.etcd_address import EtcdAddress
from ktcpvs.cluster.records import ANSWERS, REQUESTS, Request, encode_request
from ktcpvs.cluster.requests import NO_RESPONSE, PAGE_BYTES, UNREADABLE, Requests
from ktcpvs.errors import BadValue, Busy
from ktcpvs.system.log import EventLog

TIMEOUT = 20.0
"""Seconds for answers that must come."""


class Node:
    """A node that only asks and answers."""

    def __init__(self, thread: ControlThread, etcd: Etcd, prefix: str, name: str) -> None:
        self.requests = Requests(etcd, prefix, name, thread.reactor, EventLog())
        self._thread = thread

        async def follow() -> None:
            revision, pairs = await etcd.range(prefix)
            self.requests.replace(revision, pairs)
            self.watch = (await etcd.watch(prefix, revision + 1, self.requests.apply))()
            self.watch.addErrback(lambda why: None)

        thread.run(follow)

    def ask(self, what: str, *nodes: str, timeout: float = TIMEOUT, **arguments: Any) -> limits.Answers:
        answers: limits.Answers = self._thread.run(self.requests.ask, what, arguments, nodes, timeout)
        return answers

    def stop(self) -> None:
        self._thread.reactor.callFromThread(self.watch.cancel)


@pytest.fixture
def start(thread: ControlThread, etcd: Etcd, address: EtcdAddress) -> Iterator[Callable[[str], Node]]:
    made = []

    def node(name: str) -> Node:
        made.append(Node(thread, etcd, address.prefix, name))
        return made[-1]

    yield node
    for one in made:
        one.stop()


def test_each_node_that_is_asked_answers(
    start: Callable[[str], Node], thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    a, b, c, d = map(start, "abcd")
    later: Deferred[str] = Deferred()
    b.requests.offer("what", lambda arguments: {"b": arguments})
    c.requests.offer("what", lambda arguments: later)
    d.requests.offer("what", lambda arguments: "d is not asked")
    thread.reactor.callFromThread(thread.reactor.callLater, 0.1, later.callback, "later")
    answers = a.ask("what", "b", "c", number=5)
    assert answers == limits.Answers({"b": {"b": {"number": 5}}, "c": "later"}, {})
    assert a.ask("what") == limits.Answers({}, {}), "nobody is asked"
    wait_for(lambda: thread.run(etcd.range, address.prefix)[1] == [], "everything to disappear")


def test_a_request_that_is_sent_again_is_carried_out_once(
    start: Callable[[str], Node], etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first response may be lost: see Etcd.transact."""
    a, b = map(start, "ab")
    transact, asked = etcd.transact, []

    async def transact_twice(*arguments: Any) -> tuple[bool, int]:
        await transact(*arguments)
        return await transact(*arguments)

    b.requests.offer("what", asked.append)
    monkeypatch.setattr(etcd, "transact", transact_twice)
    assert a.ask("what", "b", number=1).values == {"b": None}
    assert a.ask("what", "b", number=2).values == {"b": None}
    assert asked == [{"number": 1}, {"number": 2}]


def test_a_refusal_a_fault_and_an_unknown_request(start: Callable[[str], Node]) -> None:
    a, b, c, _ = map(start, "abcd")

    def refuse(arguments: Mapping[str, Any]) -> Any:
        raise BadValue("no service web")

    b.requests.offer("what", refuse)
    c.requests.offer("what", lambda arguments: 1 / arguments["zero"])
    assert a.ask("what", "b", "c", "d", zero=0) == limits.Answers(
        {},
        {
            "b": "has refused: no service web",
            "c": "met an internal error; see its log",
            "d": "does not know the request 'what': it is of another version",
        },
    )


def test_an_answer_of_many_pages(start: Callable[[str], Node]) -> None:
    a, b = map(start, "ab")
    text = Random(1).randbytes(PAGE_BYTES).hex()  # compresses to half of it: more than a page
    b.requests.offer("what", lambda arguments: text)
    assert a.ask("what", "b").values == {"b": text}


def test_an_answer_that_is_too_large_is_refused(start: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PAGES", 2)
    monkeypatch.setattr(limits, "PAGE_BYTES", 200)
    a, b = map(start, "ab")
    b.requests.offer("what", lambda arguments: Random(1).randbytes(arguments["size"]).hex())
    assert len(a.ask("what", "b", size=150).values["b"]) == 300
    assert a.ask("what", "b", size=2000).missing["b"].endswith("; there may be at most 400")


def test_a_node_that_does_not_respond_is_waited_for_as_long_as_said(start: Callable[[str], Node]) -> None:
    a, b = map(start, "ab")
    b.requests.offer("what", lambda arguments: 1)
    assert a.ask("what", "b", "gone", timeout=1.0) == limits.Answers({"b": 1}, {"gone": NO_RESPONSE})


def bomb() -> bytes:
    """More than is read. Made by the test, since each process of pytest imports this module."""
    return zlib.compress(b"[" * (limits.MAX_JSON_BYTES + 1))


def deep() -> bytes:
    return zlib.compress(b"[" * 200_000)


@pytest.mark.parametrize(
    ("page", "value"),
    [
        ("0-1", b"garbage"),
        ("0-1", b""),
        ("0-1", zlib.compress(b"[1]")),
        ("0-1", zlib.compress(b'{"format":1}')),
        ("0-1", zlib.compress(json.dumps({"format": 2, "answer": 1}).encode())),
        ("0-1", zlib.compress(b'{"format":1,"answer":1}')[:-1]),
        ("0-1", bomb),
        ("0-1", deep),
    ],
    ids=["garbage", "empty", "list", "nothing", "newer", "cut", "bomb", "deep"],
)
def test_an_answer_that_cannot_be_read_is_kept_out(
    start: Callable[[str], Node],
    thread: ControlThread,
    etcd: Etcd,
    address: EtcdAddress,
    page: str,
    value: bytes | Callable[[], bytes],
) -> None:
    a, b = map(start, "ab")
    written = value if isinstance(value, bytes) else value()

    async def interfere(arguments: Mapping[str, Any]) -> Any:
        """Write the answer of node `c` too."""
        (pair,) = (await etcd.range(f"{address.prefix}{REQUESTS}"))[1]
        ident = pair.key.rpartition("/")[2]
        await etcd.transact([], [put(f"{address.prefix}{ANSWERS}{ident}/c/{page}", written)])
        return "b"

    b.requests.offer("what", lambda arguments: Deferred.fromCoroutine(interfere(arguments)))
    assert a.ask("what", "b", "c") == limits.Answers({"b": "b"}, {"c": UNREADABLE})


@pytest.mark.parametrize("page", ["1-1", "0-0", "0-9", "x-1", "0", "-1-1", "0-99999999999999999999", "0-1/more"])
def test_pages_that_belong_to_no_answer_are_ignored(
    start: Callable[[str], Node], etcd: Etcd, address: EtcdAddress, page: str
) -> None:
    a, b = map(start, "ab")

    async def interfere(arguments: Mapping[str, Any]) -> Any:
        (pair,) = (await etcd.range(f"{address.prefix}{REQUESTS}"))[1]
        ident = pair.key.rpartition("/")[2]
        await etcd.transact([], [put(f"{address.prefix}{ANSWERS}{ident}/b/{page}", b"x")])
        return "b"

    b.requests.offer("what", lambda arguments: Deferred.fromCoroutine(interfere(arguments)))
    assert a.ask("what", "b") == limits.Answers({"b": "b"}, {})


def test_requests_that_cannot_be_read_do_not_hinder_others(
    start: Callable[[str], Node], thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    a, b = map(start, "ab")
    b.requests.offer("what", lambda arguments: 1)
    ended = thread.run(etcd.grant, 60)
    thread.run(etcd.revoke, ended)
    for number, value in enumerate(
        (b"", b"[]", b'{"format":1}', b'{"format":9}', encode_request(Request("what", {}, "c", ("b",), ended)))
    ):
        thread.run(etcd.transact, [], [put(f"{address.prefix}{REQUESTS}{number}", value)])
    assert a.ask("what", "b").values == {"b": 1}


def test_the_number_of_requests_at_a_time_is_bounded(
    start: Callable[[str], Node], thread: ControlThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_ANSWERED", 2)
    a, b = map(start, "ab")
    waiting: list[Deferred[Any]] = []

    def answer(arguments: Mapping[str, Any]) -> Any:
        waiting.append(Deferred())
        return waiting[-1]

    b.requests.offer("what", answer)

    async def ask_all() -> list[Any]:
        asked = [
            Deferred.fromCoroutine(a.requests.ask("what", {}, ["b"], timeout=2.0)) for _ in range(limits.MAX_ASKED + 1)
        ]
        return list(await DeferredList(asked, consumeErrors=True))

    results = thread.run(ask_all)
    refused = [failure.value for is_done, failure in results if not is_done]
    assert [type(one) for one in refused] == [Busy]
    assert [result.missing for is_done, result in results if is_done] == [{"b": NO_RESPONSE}] * limits.MAX_ASKED
    assert len(waiting) == 2
    for one in waiting:
        thread.reactor.callFromThread(one.callback, None)
