"""A gRPC client and server by grpclib, whose HTTP/2 is h2. Messages are bytes as they are.

The server has the methods of `tests/grpc_servers.py` that the client calls: Unary, ClientStream, ServerStream, Bidi and
Fail.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grpclib.client import Channel, StreamStreamMethod, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from http_servers import run_python
from servers import LOOPBACK, Program, answers, free_port


class Codec:
    """Messages as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return bytes(data)


class GRPCLibClient:
    """The methods of `test.Echo` on a channel."""

    def __init__(self, channel: Channel) -> None:
        self.unary = UnaryUnaryMethod(channel, "/test.Echo/Unary", bytes, bytes)
        self.client_stream = StreamUnaryMethod(channel, "/test.Echo/ClientStream", bytes, bytes)
        self.server_stream = UnaryStreamMethod(channel, "/test.Echo/ServerStream", bytes, bytes)
        self.bidi = StreamStreamMethod(channel, "/test.Echo/Bidi", bytes, bytes)
        self.fail = UnaryUnaryMethod(channel, "/test.Echo/Fail", bytes, bytes)


CODE = """
import asyncio, sys
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Server

class Codec:
    __content_subtype__ = "proto"
    def encode(self, message, message_type):
        return bytes(message)
    def decode(self, data, message_type):
        return bytes(data)

class Echo:
    async def unary(self, stream):
        await stream.send_message(await stream.recv_message())

    async def client_stream(self, stream):
        await stream.send_message(b"".join([message async for message in stream]))

    async def server_stream(self, stream):
        message = await stream.recv_message()
        for number in range(len(message)):
            await stream.send_message(message[number:number + 1])

    async def bidi(self, stream):
        async for message in stream:
            await stream.send_message(message)

    async def fail(self, stream):
        await stream.recv_message()
        raise GRPCError(Status.FAILED_PRECONDITION, "not now: 100 %")

    def __mapping__(self):
        kinds = {
            "Unary": (self.unary, Cardinality.UNARY_UNARY),
            "ClientStream": (self.client_stream, Cardinality.STREAM_UNARY),
            "ServerStream": (self.server_stream, Cardinality.UNARY_STREAM),
            "Bidi": (self.bidi, Cardinality.STREAM_STREAM),
            "Fail": (self.fail, Cardinality.UNARY_UNARY),
        }
        return {f"/test.Echo/{name}": Handler(call, kind, bytes, bytes) for name, (call, kind) in kinds.items()}

async def main():
    server = Server([Echo()], codec=Codec())
    host, port = sys.argv[1].split(":")
    await server.start(host, int(port))
    await server.wait_closed()

asyncio.run(main())
"""


class GRPCLibServer(Program):
    """plain: its address."""

    def __init__(self, folder: Path) -> None:
        self.plain = f"{LOOPBACK}:{free_port()}"
        self.process = run_python(CODE, folder / "grpclib.log", self.plain)
        self.wait_until(lambda: answers(int(self.plain.rpartition(":")[2])))
