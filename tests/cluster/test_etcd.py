"""The client of etcd, against a real one."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest
from e2e.harness import ControlThread
from etcd_server import EtcdServer
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
        self.error: list[Any] = []

        async def begin() -> Deferred[None]:
            return (await etcd.watch(prefix, revision, self.received))()

        async def follow() -> None:
            self.ended = await begin()
            self.ended.addErrback(lambda why: self.error.append(why.value))

        thread.run(follow)

    def received(self, revision: int, changes: Sequence[Change]) -> None:
        self.changes += changes


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
    with pytest.raises(Unreachable, match=f"{nobody} does not respond: .*refused"):
        thread.run(etcd.range, address.prefix)
    assert thread.run(etcd.range, address.prefix)[1] == []
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
        (b"", Unreachable, "does not respond"),
        (b"SSH-2.0\r\n", Unreachable, "does not respond"),
    ],
)
def test_what_is_not_etcd(thread: ControlThread, text: bytes, kind: type[EtcdError], why: str) -> None:
    server = answer(text)
    etcd = Etcd(thread.reactor, EtcdAddress((f"http://{LOOPBACK}:{server.port}",), "/x/"))
    with pytest.raises(EtcdError) as failed:
        thread.run(etcd.grant, 5)
    assert type(failed.value) is kind
    assert why in str(failed.value)
    assert "\n" not in str(failed.value)
    thread.run(etcd.close)
    server.stop()
