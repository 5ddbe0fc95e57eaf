"""gRPC through the switch, with grpcio as client and server: all kinds of calls, metadata, deadlines, cancellation."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # tests start programs while channels are open
import grpc
from authority import SERVER, Authority
from grpc_servers import GRPCServer
from servers import LOOPBACK, free_port, wait_for
from tls_peers import authority

from ktcpvs.model.live_trace import TraceBatch, TraceQuery

from .harness import Daemon

pytestmark = pytest.mark.e2e

MOST = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GRPCServer]:
    certificate = authority().issue("grpc", "localhost", LOOPBACK, purposes=(SERVER,))
    server = GRPCServer(tmp_path_factory.mktemp("grpc"), certificate)
    yield server
    server.stop()


def start(daemon: Daemon, *lines: str, settings: str = "", words: str = "") -> int:
    """Start a service with these lines. words: behind its address. Return its port."""
    port = free_port()
    text = "\n".join((f"listen = {LOOPBACK}:{port} {words}", "scheduler = phttp", *lines))
    daemon.call("load", f"global {{ {settings} }}\nVirtual grpc{port} {{\n{text}\n}}\n")
    daemon.call("start", f"grpc{port}")
    return port


def row(daemon: Daemon) -> dict[str, Any]:
    """The first server of the first service, in --stats."""
    found: dict[str, Any] = daemon.call("stats")["services"][0]["servers"][0]
    return found


class Client:
    """The methods of `test.Echo` on a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.unary = channel.unary_unary("/test.Echo/Unary")
        self.client_stream = channel.stream_unary("/test.Echo/ClientStream")
        self.server_stream = channel.unary_stream("/test.Echo/ServerStream")
        self.bidi = channel.stream_stream("/test.Echo/Bidi")
        self.fail = channel.unary_unary("/test.Echo/Fail")
        self.fail_late = channel.unary_stream("/test.Echo/FailLate")
        self.slow = channel.unary_unary("/test.Echo/Slow")
        self.metadata = channel.unary_unary("/test.Echo/Metadata")


@pytest.fixture(params=["plain", "tls"])
def words(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(daemon: Daemon, server: GRPCServer, words: str) -> Iterator[Client]:
    if words == "plain":
        port = start(daemon, f"server = {server.plain} 1 h2")
    else:
        port = start(daemon, f"server = {server.tls} 1 tls h2 ca {authority().pem}")
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=MOST) as channel:
        yield Client(channel)


def test_all_kinds_of_calls(client: Client) -> None:
    assert client.unary(b"hello") == b"hello"
    assert client.unary(b"") == b""
    assert client.client_stream(iter([b"a", b"", b"bc"])) == b"abc"
    assert list(client.server_stream(b"hello")) == [b"h", b"e", b"l", b"l", b"o"]
    assert list(client.bidi(iter([b"a", b"bb", b"ccc"]))) == [b"a", b"bb", b"ccc"]


def test_a_conversation_is_not_buffered(client: Client) -> None:
    """Each message is answered before the next one is sent."""
    answered: list[bytes] = []

    def messages() -> Iterator[bytes]:
        for number in range(20):
            yield b"%d" % number
            wait_for(lambda expected=number + 1: len(answered) == expected, "the answer to the message before")

    for message in client.bidi(messages()):
        answered.append(message)
    assert answered == [b"%d" % number for number in range(20)]


def test_long_messages(client: Client) -> None:
    message = random.Random(1).randbytes(16 << 20)
    assert client.unary(message) == message


def test_many_calls_at_the_same_time(client: Client, daemon: Daemon) -> None:
    calls = [client.unary.future(b"%d" % number) for number in range(300)]
    assert [call.result(20) for call in calls] == [b"%d" % number for number in range(300)]
    assert row(daemon)["stats"]["failures"] == 0


def test_statuses_at_once_and_behind_messages(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.fail(b"x")
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "not now: 100 %"
    late = client.fail_late(b"one")
    assert next(late) == b"one"
    with pytest.raises(grpc.RpcError) as caught:
        next(late)
    assert caught.value.code() == grpc.StatusCode.DATA_LOSS


def test_binary_metadata(client: Client) -> None:
    value = bytes(range(256))
    response, call = client.metadata.with_call(b"x", metadata=(("x-echo-bin", value),))
    assert response == b"x"
    assert dict(call.initial_metadata())["x-echo-bin"] == value
    assert dict(call.trailing_metadata())["x-trailer-bin"] == value


def test_a_client_that_cancels_cancels_the_call_of_the_server(client: Client, server: GRPCServer) -> None:
    begun, cancelled = server.log.count("begun"), server.log.count("cancelled")
    call = client.slow.future(b"x")
    wait_for(lambda: server.log.count("begun") > begun, "the call to begin")
    call.cancel()
    wait_for(lambda: server.log.count("cancelled") > cancelled, "the server to notice")


def test_a_deadline_bounds_the_exchange(daemon: Daemon, server: GRPCServer) -> None:
    """The switch ends a request by itself when its deadline has passed, even if its client does not."""
    import httpx

    port = start(daemon, f"server = {server.plain} 1 h2")
    begun, cancelled = server.log.count("begun"), server.log.count("cancelled")
    headers = {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": "300m"}
    with httpx.Client(http1=False, http2=True, timeout=20) as client:
        response = client.post(f"http://{LOOPBACK}:{port}/test.Echo/Slow", content=bytes(5), headers=headers)
    assert response.status_code == 200
    assert response.headers["grpc-status"] == "4"
    assert "300 ms" in response.headers["grpc-message"]
    wait_for(lambda: server.log.count("cancelled") > cancelled, "the server to notice")
    assert server.log.count("begun") == begun + 1


def test_errors_of_the_switch_are_statuses(daemon: Daemon) -> None:
    port = start(daemon, f"server = {LOOPBACK}:{free_port()} 1 h2")
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test.Echo/Unary")(b"x")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert caught.value.details().startswith("ktcpvs: ")


def test_methods_are_paths_in_rules(daemon: Daemon, server: GRPCServer) -> None:
    port = start(
        daemon,
        f"server = {server.plain} 1 h2",
        f"rule = path /test.Echo/Unary use server {server.plain}",
    )
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        client = Client(channel)
        assert client.unary(b"hello") == b"hello"
        with pytest.raises(grpc.RpcError) as caught:
            client.metadata(b"x")
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_over_tls(daemon: Daemon, server: GRPCServer, tmp_path: Path) -> None:
    site = Authority(tmp_path)
    port = start(daemon, f"server = {server.plain} 1 h2", f"certificate = {site.daemon('site')}", words="tls")
    credentials = grpc.ssl_channel_credentials(site.pem.read_bytes())
    with grpc.secure_channel(f"localhost:{port}", credentials, options=MOST) as channel:
        client = Client(channel)
        assert client.unary(b"hello") == b"hello"
        assert list(client.bidi(iter([b"a", b"b"]))) == [b"a", b"b"]


def test_checks_ask_the_health_service(daemon: Daemon, server: GRPCServer) -> None:
    quick = "check_interval = 1", "check_rise = 1", "check_fall = 1"
    start(daemon, f"server = {server.plain} 1 h2", "check = grpc test.Other", *quick)
    ident = daemon.call("stats")["services"][0]["ident"]
    wait_for(lambda: row(daemon)["health"]["state"] == "down", "the check to fail")
    assert "NOT_SERVING" in row(daemon)["health"]["reason"]
    for check in "grpc", "grpc test.Echo":
        daemon.call("edit_service", ident, check=check)
        wait_for(lambda: row(daemon)["health"]["state"] == "up", "the check to pass")
    daemon.call("edit_service", ident, check="grpc test.None")
    wait_for(lambda: row(daemon)["health"]["state"] == "down", "the check to fail")
    assert "NOT_FOUND" in row(daemon)["health"]["reason"]


def test_the_access_log_has_statuses(daemon: Daemon, server: GRPCServer, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    port = start(daemon, f"server = {server.plain} 1 h2", f"access_log = {log}", "access_log_format = json")
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        client = Client(channel)
        client.unary(b"hello")
        with pytest.raises(grpc.RpcError):
            client.fail(b"x")
        with pytest.raises(grpc.RpcError):
            list(client.fail_late(b"x"))
    wait_for(lambda: log.exists() and log.read_text().count("\n") == 3, "three lines")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["grpc_status"] for record in records] == [0, 9, 15]
    assert {record["status"] for record in records} == {200}


def test_a_live_trace_has_statuses_of_calls_and_of_streams(daemon: Daemon, server: GRPCServer) -> None:
    port = start(daemon, f"server = {server.plain} 1 h2")
    number = daemon.call("begin_trace", TraceQuery("path /test.Echo/", None, 4, 20))
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        client = Client(channel)
        assert client.unary(b"a", timeout=20) == b"a"
        assert len(list(client.server_stream(b"abc", timeout=20))) == 3
        with pytest.raises(grpc.RpcError):
            client.fail(b"x", timeout=20)
        with pytest.raises(grpc.RpcError):
            list(client.fail_late(b"x", timeout=20))
    entries: dict[str, Any] = {}
    batch = TraceBatch()
    while not batch.ended:
        batch = daemon.call("read_trace", number)
        entries |= {entry["target"]: entry for entry in map(json.loads, batch.entries.splitlines())}
    statuses = {target.removeprefix("/test.Echo/"): entry["grpc_status"] for target, entry in entries.items()}
    assert statuses == {"Unary": 0, "ServerStream": 0, "Fail": 9, "FailLate": 15}
    assert {entry["status"] for entry in entries.values()} == {200}
    assert {entry["protocol"] for entry in entries.values()} == {"HTTP/2.0"}
    assert {entry["server"] for entry in entries.values()} == {server.plain}
