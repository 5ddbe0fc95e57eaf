"""Real WebSocket servers and clients, which say who they are."""

from __future__ import annotations

import contextlib
import threading

from servers import LOOPBACK, free_port
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve


class Chat:
    """A WebSocket server that says its name, and then echoes. codes: the status codes that its connections ended
    with."""

    def __init__(self, name: str) -> None:
        self.codes: list[int | None] = []
        self.received: list[str | bytes] = []
        self.name = name
        self.address = f"{LOOPBACK}:{free_port()}"
        host, _, port = self.address.rpartition(":")
        self.server = serve(self._respond, host, int(port))
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def _respond(self, socket: ServerConnection) -> None:
        socket.send(self.name)
        try:
            while True:
                message = socket.recv()
                self.received.append(message)
                with contextlib.suppress(ConnectionClosed):  # what came before the Close frame is received nevertheless
                    socket.send(message)
        except ConnectionClosed:
            self.codes.append(socket.close_code)

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()


def dial_websocket(port: int) -> ClientConnection:
    return connect(f"ws://{LOOPBACK}:{port}/", open_timeout=20, close_timeout=20, compression=None)
