"""gRPC through the switch, with grpclib as client, as server, and as both; grpcio is at the other end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # tests start programs while channels are open
import grpc
from grpc_servers import GRPCServer
from grpclib import GRPCError, Status
from grpclib.client import Channel
from grpclib_peers import Codec, GRPCLibClient, GRPCLibServer
from servers import LOOPBACK, free_port

from .harness import Daemon

pytestmark = pytest.mark.e2e

LONG = bytes(range(256)) * 4096


@pytest.fixture(scope="module", params=["grpcio", "grpclib"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server."""
    made: GRPCServer | GRPCLibServer
    folder = tmp_path_factory.mktemp("grpc")
    made = GRPCServer(folder) if request.param == "grpcio" else GRPCLibServer(folder)
    yield made.plain
    made.stop()


@pytest.fixture
def port(daemon: Daemon, server: str) -> int:
    port = free_port()
    listen = f"listen = {LOOPBACK}:{port} scheduler = phttp"
    rule = f"server = {server} 1 h2 rule = path /test.Echo/ use server {server}"
    daemon.call("load", f"Virtual grpc {{ {listen} {rule} }}")
    daemon.call("start", "grpc")
    return port


def test_a_client_of_grpclib(port: int) -> None:
    async def talk() -> None:
        channel = Channel(LOOPBACK, port, codec=Codec())
        try:
            client = GRPCLibClient(channel)
            assert await client.unary(b"hello") == b"hello"
            assert await client.unary(b"") == b""
            assert await client.unary(LONG) == LONG
            assert await client.client_stream([b"a", b"", b"bc"]) == b"abc"
            assert await client.server_stream(b"hello") == [b"h", b"e", b"l", b"l", b"o"]
            assert await client.bidi([b"a", b"bb", b"ccc"]) == [b"a", b"bb", b"ccc"]
            numbers = [b"%d" % number for number in range(100)]
            assert await asyncio.gather(*map(client.unary, numbers)) == numbers
            with pytest.raises(GRPCError) as caught:
                await client.fail(b"x")
            assert (caught.value.status, caught.value.message) == (Status.FAILED_PRECONDITION, "not now: 100 %")
            async with client.bidi.open() as stream:  # each message is answered before the next one is sent
                for number in numbers[:10]:
                    await stream.send_message(number)
                    assert await stream.recv_message() == number
                await stream.end()
        finally:
            channel.close()

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_a_client_of_grpcio(port: int) -> None:
    with grpc.insecure_channel(f"{LOOPBACK}:{port}") as channel:
        assert channel.unary_unary("/test.Echo/Unary")(LONG, timeout=20) == LONG
        assert channel.stream_unary("/test.Echo/ClientStream")(iter([b"a", b"", b"bc"]), timeout=20) == b"abc"
        assert list(channel.unary_stream("/test.Echo/ServerStream")(b"hello", timeout=20)) == [
            b"h",
            b"e",
            b"l",
            b"l",
            b"o",
        ]
        assert list(channel.stream_stream("/test.Echo/Bidi")(iter([b"a", b"b"]), timeout=20)) == [b"a", b"b"]
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Echo/Fail")(b"x", timeout=20)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
