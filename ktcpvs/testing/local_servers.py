"""Small HTTP servers on loopback, in threads: each responds with its own address."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

LOOPBACK = "127.0.0.1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalServer

    def do_GET(self) -> None:
        body = self.server.address.encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


class LocalServer(ThreadingHTTPServer):
    """A server whose responses are its address, as `tcpvsadm` writes it. status: of its responses from now on."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.status = 200
        self._thread = Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Its address, as in 127.0.0.1:40123."""
        return f"{LOOPBACK}:{self.server_address[1]}"

    def stop(self) -> None:
        """Refuse connections from now on. A second call does nothing."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
            self.server_close()
