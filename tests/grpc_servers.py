"""A gRPC server by grpcio for tests. Messages are bytes as they are, so nothing must be generated.

Methods of `test.Echo`: Unary, ClientStream (all messages, joined), ServerStream (the request's bytes, one by one), Bidi
(each message), Fail (a status at once), FailLate (one message, then a status), Slow (answers when the call is
cancelled, and writes `cancelled` to the log), and Metadata (sends `x-echo-bin` back, as a trailer too). The health
service says SERVING for "" and `test.Echo`, and NOT_SERVING for `test.Other`.
"""

from __future__ import annotations

from pathlib import Path

from http_servers import run_python
from servers import LOOPBACK, Program, answers, free_port

CODE = """
import sys, threading, time
from concurrent import futures
import grpc

def client_stream(messages, context):
    return b"".join(messages)

def server_stream(message, context):
    for number in range(len(message)):
        yield message[number:number + 1]

def bidi(messages, context):
    for message in messages:
        yield message

def fail(message, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100 %")

def fail_late(message, context):
    yield message
    context.abort(grpc.StatusCode.DATA_LOSS, "late")

def slow(message, context):
    over = threading.Event()
    context.add_callback(over.set)
    print("begun", flush=True)
    over.wait(30)
    print("cancelled", flush=True)
    return b""

def metadata(message, context):
    given = {name: value for name, value in context.invocation_metadata()}
    context.send_initial_metadata((("x-echo-bin", given["x-echo-bin"]),))
    context.set_trailing_metadata((("x-trailer-bin", given["x-echo-bin"]),))
    return message

def check(message, context):
    name = message[2:].decode()
    if name not in ("", "test.Echo", "test.Other"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes((8, 2 if name == "test.Other" else 1))

handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(lambda message, context: message),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
}
health = {"Check": grpc.unary_unary_rpc_method_handler(check)}
most = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]
server = grpc.server(futures.ThreadPoolExecutor(16), options=most)
server.add_generic_rpc_handlers((
    grpc.method_handlers_generic_handler("test.Echo", handlers),
    grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
))
server.add_insecure_port(sys.argv[1])
if len(sys.argv) > 3:
    pem = open(sys.argv[3], "rb").read()
    server.add_secure_port(sys.argv[2], grpc.ssl_server_credentials([(pem, pem)]))
server.start()
server.wait_for_termination()
"""


class GRPCServer(Program):
    """plain, tls: the addresses without TLS and with it."""

    def __init__(self, folder: Path, certificate: Path | None = None, plain: tuple[str, int] | None = None) -> None:
        """certificate: with its key; None: there is no TLS. plain: host and port without TLS; None: free ones."""
        addresses = [plain or (LOOPBACK, free_port()), (LOOPBACK, free_port())]
        self.plain, self.tls = (f"{host}:{port}" for host, port in addresses)
        self.log_path = folder / "grpc.log"
        self.process = run_python(CODE, self.log_path, self.plain, self.tls, *([certificate] if certificate else []))
        used = addresses if certificate else addresses[:1]
        self.wait_until(lambda: all(answers(port, host) for host, port in used))

    @property
    def log(self) -> list[str]:
        return self.log_path.read_text().splitlines()
