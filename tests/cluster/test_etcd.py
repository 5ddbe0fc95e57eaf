"""The client of etcd, against a real one."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from e2e.harness import ControlThread
from etcd_server import EtcdServer, Proxy
from servers import LOOPBACK, SocketServer, free_port, wait_for
from twisted.internet.defer import Deferred

from ktcpvs.cluster.etcd import (
    PAGE_SIZE,
    Change,
    Compacted,
    Etcd,
    EtcdError,
    Unreachable,
    are_older,
    delete,
    delete_between,
    is_unchanged,
    put,
)
from ktcpvs.cluster.etcd_address import EtcdAddress


def test_what_is_put_is_read(thread: ControlThread, etcd: Etcd, address: EtcdAddress) -> None:
    keys = [f"{address.prefix}{number:04}" for number in range(2 * PAGE_SIZE + 1)]  # three pages
    for start in range(0, len(keys), 100):
        done, _ = thread.run(etcd.transact, [], [put(key, key.encode()) for key in keys[start : start + 100]])
        assert done
    revision, found = thread.run(etcd.range, address.prefix)
    assert [pair.key for pair in found] == keys
    assert [pair.value for pair in found] == [key.encode() for key in keys]
    assert revision == found[-1].mod_revision == found[-1].create_revision


def test_a_transaction_is_carried_out_only_if_all_comparisons_hold(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    one, two = f"{address.prefix}one", f"{address.prefix}two"
    done, revision = thread.run(etcd.transact, [is_unchanged(one, 0)], [put(one, b"\xff\0"), put(two, b"")])
    assert done
    for compares, is_done in (
        ([is_unchanged(one, 0)], False),
        ([is_unchanged(one, revision), is_unchanged(two, revision - 1)], False),
        ([is_unchanged(one, revision), are_older(address.prefix, revision - 1)], False),
        ([is_unchanged(one, revision), are_older(address.prefix, revision)], True),
    ):
        assert thread.run(etcd.transact, compares, [put(two, b"2")])[0] is is_done
    assert [pair.value for pair in thread.run(etcd.range, address.prefix)[1]] == [b"\xff\0", b"2"]
    thread.run(etcd.transact, [], [delete(one)])
    assert [pair.key for pair in thread.run(etcd.range, address.prefix)[1]] == [two]
    thread.run(etcd.transact, [], [delete_between(address.prefix, f"{address.prefix}~")])
    assert thread.run(etcd.range, address.prefix)[1] == []


class Watched:
    """What a watch reports. ended: its error."""

    def __init__(self, thread: ControlThread, etcd: Etcd, prefix: str, revision: int) -> None:
        self.changes: list[Change] = []
        self.revisions: list[int] = []  # of the messages
        self.error: list[Any] = []

        async def begin() -> Deferred[None]:
            return (await etcd.watch(prefix, revision, self.received))()

        async def follow() -> None:
            self.ended = await begin()
            self.ended.addErrback(lambda why: self.error.append(why.value))

        thread.run(follow)

    def received(self, revision: int, changes: Sequence[Change]) -> None:
        self.changes += changes
        self.revisions.append(revision)


def test_a_watch_reports_all_changes_from_its_revision_on(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    key = f"{address.prefix}key"
    _, first = thread.run(etcd.transact, [], [put(key, b"0")])
    watched = Watched(thread, etcd, address.prefix, first + 1)
    thread.run(etcd.transact, [], [put(key, b"1"), put("/elsewhere", b"")])
    thread.run(etcd.transact, [], [delete(key)])
    wait_for(lambda: len(watched.changes) == 2, "both changes")
    assert [(change.key, change.value) for change in watched.changes] == [(key, b"1"), (key, None)]
    assert watched.changes[0].mod_revision == first + 1
    thread.reactor.callFromThread(watched.ended.cancel)
    wait_for(lambda: watched.error, "the end")


def test_a_watch_that_begins_in_the_past_says_of_no_revision_that_all_is_reported(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    key = f"{address.prefix}key"
    _, first = thread.run(etcd.transact, [], [put(key, b"0")])
    _, last = thread.run(etcd.transact, [], [put(key, b"1")])
    watched = Watched(thread, etcd, address.prefix, first)
    wait_for(lambda: len(watched.changes) == 2, "both changes")
    assert watched.revisions[0] < first
    assert watched.revisions[-1] == last
    thread.reactor.callFromThread(watched.ended.cancel)
    wait_for(lambda: watched.error, "the end")


def test_a_watch_that_begins_before_the_compaction_ends(
    thread: ControlThread, etcd: Etcd, address: EtcdAddress
) -> None:
    key = f"{address.prefix}key"
    _, first = thread.run(etcd.transact, [], [put(key, b"0")])
    _, last = thread.run(etcd.transact, [], [put(key, b"1")])
    thread.run(etcd._ask, "kv/compaction", {"revision": str(last)})
    watched = Watched(thread, etcd, address.prefix, first)
    wait_for(lambda: watched.error, "the end")
    assert isinstance(watched.error[0], Compacted)


def test_a_key_ends_with_its_lease(thread: ControlThread, etcd: Etcd, address: EtcdAddress) -> None:
    lease = thread.run(etcd.grant, 60)
    key = f"{address.prefix}node"
    thread.run(etcd.transact, [], [put(key, b"alive", lease)])
    assert thread.run(etcd.keep_alive, lease)
    thread.run(etcd.revoke, lease)
    assert thread.run(etcd.range, address.prefix)[1] == []
    assert not thread.run(etcd.keep_alive, lease)


def test_another_member_is_asked_after_one_has_failed(
    thread: ControlThread, etcd_server: EtcdServer, address: EtcdAddress
) -> None:
    nobody = f"http://{LOOPBACK}:{free_port()}"
    etcd = Etcd(thread.reactor, EtcdAddress((nobody, etcd_server.url), address.prefix))
    assert thread.run(etcd.range, address.prefix)[1] == []
    assert etcd.url == etcd_server.url
    thread.run(etcd.close)


def test_a_request_fails_when_no_member_responds(thread: ControlThread) -> None:
    urls = tuple(f"http://{LOOPBACK}:{free_port()}" for _ in range(3))
    etcd = Etcd(thread.reactor, EtcdAddress(urls, "/x/"))
    with pytest.raises(Unreachable, match=r"does not respond: .*refused") as failed:
        thread.run(etcd.range, "/x/")
    assert not failed.value.is_sent
    thread.run(etcd.close)


class Unanswered:
    """Two members, of which the first one carries requests out and loses its responses."""

    def __init__(self, thread: ControlThread, etcd_server: EtcdServer, address: EtcdAddress) -> None:
        self.proxy = Proxy(etcd_server.port)
        self.proxy.passes_responses = False
        self.etcd = Etcd(thread.reactor, EtcdAddress((self.proxy.url, etcd_server.url), address.prefix))


@pytest.fixture
def unanswered(
    thread: ControlThread, etcd_server: EtcdServer, address: EtcdAddress, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Unanswered]:
    monkeypatch.setattr("ktcpvs.cluster.etcd.REQUEST_TIMEOUT", 1.0)
    made = Unanswered(thread, etcd_server, address)
    yield made
    thread.run(made.etcd.close)
    made.proxy.close()


def test_a_transaction_without_a_response_is_found_to_be_carried_out(
    thread: ControlThread, unanswered: Unanswered, address: EtcdAddress
) -> None:
    one, two = f"{address.prefix}one", f"{address.prefix}two"
    done, revision = thread.run(
        unanswered.etcd.transact, [is_unchanged(one, 0)], [put(one, b"1"), put(two, b""), delete("/none")]
    )
    assert done
    found = thread.run(unanswered.etcd.range, address.prefix)[1]
    assert [(pair.key, pair.value, pair.mod_revision) for pair in found] == [
        (one, b"1", revision),
        (two, b"", revision),
    ]


def test_a_transaction_that_never_arrived_is_carried_out_by_the_next_member(
    thread: ControlThread, unanswered: Unanswered, address: EtcdAddress
) -> None:
    unanswered.proxy.swallow()
    one = f"{address.prefix}one"
    assert thread.run(unanswered.etcd.transact, [is_unchanged(one, 0)], [put(one, b"1")])[0]
    assert [pair.value for pair in thread.run(unanswered.etcd.range, address.prefix)[1]] == [b"1"]


def test_a_transaction_that_never_arrived_is_not_taken_for_another_one_that_puts_the_same(
    thread: ControlThread, unanswered: Unanswered, etcd: Etcd, address: EtcdAddress
) -> None:
    """As the edits of two nodes do that delete a service each: both put the generation in use."""
    one, table = f"{address.prefix}one", f"{address.prefix}table"
    _, revision = thread.run(etcd.transact, [], [put(one, b"1"), put(table, b"7")])
    thread.run(etcd.transact, [], [put(table, b"7")])
    unanswered.proxy.swallow()
    with pytest.raises(Unreachable, match="no response within 1 seconds"):
        thread.run(unanswered.etcd.transact, [is_unchanged(table, revision)], [delete(one), put(table, b"7")])
    assert [pair.key for pair in thread.run(etcd.range, address.prefix)[1]] == [one, table]


def test_a_transaction_is_in_doubt_if_its_effect_cannot_be_seen(
    thread: ControlThread, unanswered: Unanswered, etcd: Etcd, address: EtcdAddress
) -> None:
    """A deleted key may have been deleted by somebody else."""
    one = f"{address.prefix}one"
    _, revision = thread.run(etcd.transact, [], [put(one, b"1")])
    with pytest.raises(Unreachable, match="no response within 1 seconds"):
        thread.run(unanswered.etcd.transact, [is_unchanged(one, revision)], [delete(one)])
    assert thread.run(etcd.range, address.prefix)[1] == []


def test_a_transaction_that_did_not_hold_is_told_from_one_in_doubt(
    thread: ControlThread, etcd_server: EtcdServer, address: EtcdAddress
) -> None:
    """Nothing can have been carried out by a member that refuses connections."""
    nobody = f"http://{LOOPBACK}:{free_port()}"
    etcd = Etcd(thread.reactor, EtcdAddress((nobody, etcd_server.url), address.prefix))
    one = f"{address.prefix}one"
    assert thread.run(etcd.transact, [is_unchanged(one, 5)], [put(one, b"1")])[0] is False
    thread.run(etcd.close)


def test_keys_that_are_no_text_do_not_stop_the_pages(thread: ControlThread, etcd: Etcd, address: EtcdAddress) -> None:
    for number in range(2 * PAGE_SIZE):
        key = b64encode(address.prefix.encode() + b"\xff" + number.to_bytes(2, "big")).decode()
        thread.run(etcd._ask, "kv/put", {"key": key, "value": ""})
    assert len(thread.run(etcd.range, address.prefix)[1]) == 2 * PAGE_SIZE


def test_a_stalled_watch_is_closed_without_choosing_another_member(
    thread: ControlThread, etcd_server: EtcdServer, address: EtcdAddress
) -> None:
    nobody = f"http://{LOOPBACK}:{free_port()}"
    etcd = Etcd(thread.reactor, EtcdAddress((etcd_server.url, nobody), address.prefix))
    watched = Watched(thread, etcd, address.prefix, 1)
    thread.reactor.callFromThread(watched.ended.cancel)
    wait_for(lambda: watched.error, "the end")
    thread.run(etcd.range, address.prefix)
    assert etcd.url == etcd_server.url
    thread.run(etcd.close)


def answer(text: bytes) -> SocketServer:
    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(text)

    return SocketServer(serve)


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", EtcdError, "the response is not etcd's: b'hello'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", EtcdError, "the response is not etcd's"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", Unreachable, "does not respond"),
        (b'HTTP/1.1 503 No\r\nContent-Length: 21\r\n\r\n{"error":"no leader"}', Unreachable, "no leader"),
        (b'HTTP/1.1 400 No\r\nContent-Length: 15\r\n\r\n{"error":"bad"}', EtcdError, "bad"),
        (
            b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"ID":"x"}',
            EtcdError,
            "the response is not etcd's: {'ID': 'x'}",
        ),
        (b"HTTP/1.1 502 No\r\nContent-Length: 6\r\n\r\n<html>", Unreachable, "status 502"),
        (b"", Unreachable, "does not respond"),
        (b"SSH-2.0\r\n", Unreachable, "does not respond"),
    ],
)
def test_what_is_not_etcd(
    thread: ControlThread, text: bytes, kind: type[EtcdError], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktcpvs.cluster.etcd.REPEAT_SECONDS", 0.5)
    server = answer(text)
    etcd = Etcd(thread.reactor, EtcdAddress((f"http://{LOOPBACK}:{server.port}",), "/x/"))
    with pytest.raises(EtcdError) as failed:
        thread.run(etcd.grant, 5)
    assert type(failed.value) is kind
    assert why in str(failed.value)
    assert "\n" not in str(failed.value)
    thread.run(etcd.close)
    server.stop()
