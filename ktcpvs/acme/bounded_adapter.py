"""Responses of a CA, as `requests` reads them, but with a limit on their size and on the time that they take."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

MAX_RESPONSE_BYTES = 1 << 20
"""The most bytes of a response, decoded. The certificates of an order for 100 names have some 10 KiB."""

MAX_RESPONSE_TIME = 60.0
"""The most seconds until the whole response must have come, from the TLS handshake on: the timeout of `requests` is for
each piece of it, and a server may send one byte after the other."""

CHUNK_BYTES = 1 << 14


class _Sockets:
    """The sockets of the requests of one thread, which end all at once when their time is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: list[socket.socket] = []
        self.are_shut = False

    def add(self, sock: socket.socket) -> None:
        """A duplicate is kept: `ssl` takes the socket itself away."""
        with self._lock:
            self._known.append(socket.socket(fileno=os.dup(sock.fileno())))
            if self.are_shut:
                self._shut_all()

    def shut(self) -> None:
        """Their reader, in whatever it waits, finds them at their end."""
        with self._lock:
            self.are_shut = True
            self._shut_all()

    def _shut_all(self) -> None:
        for sock in self._known:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            for sock in self._known:
                sock.close()
            self._known.clear()


_of_thread = threading.local()


@contextmanager
def _shut_after(seconds: float) -> Iterator[_Sockets]:
    """Shut the sockets of this thread's requests after that time, unless the context has ended before."""
    sockets = _of_thread.sockets = _Sockets()
    timer = threading.Timer(seconds, sockets.shut)
    timer.daemon = True
    timer.start()
    try:
        yield sockets
    finally:
        timer.cancel()
        _of_thread.sockets = None
        sockets.close()


class _Watched(HTTPConnection):
    """A connection whose socket has a deadline."""

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        _of_thread.sockets.add(sock)
        return sock

    def request(self, *arguments: Any, **values: Any) -> None:
        """See HTTPConnection. The connection may be of an earlier request."""
        if self.sock is not None:
            _of_thread.sockets.add(self.sock)
        super().request(*arguments, **values)


class _WatchedTLS(_Watched, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls: Any = _Watched


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls: Any = _WatchedTLS


class BoundedAdapter(HTTPAdapter):
    """Reads each response before it returns it. Raises requests.RequestException if one is too long, or too slow."""

    def __init__(self, max_bytes: int = MAX_RESPONSE_BYTES, max_time: float = MAX_RESPONSE_TIME) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._max_time = max_time

    def init_poolmanager(self, *arguments: Any, **values: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*arguments, **values)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, *arguments: Any, **values: Any) -> Any:
        """See HTTPAdapter."""
        manager = super().proxy_manager_for(*arguments, **values)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager

    def send(self, request: requests.PreparedRequest, *arguments: Any, **values: Any) -> requests.Response:
        """See HTTPAdapter."""
        with _shut_after(self._max_time) as sockets:
            try:
                response = super().send(request, *arguments, **values)
                content = self._read(response)
            except (requests.RequestException, OSError):
                if sockets.are_shut:
                    raise self._too_slow() from None
                raise
            if sockets.are_shut:  # the end of the connection may be that of the response
                raise self._too_slow()
        read = requests.Response()
        read.status_code, read.headers, read.url = response.status_code, response.headers, response.url
        read.reason, read.encoding, read.cookies = response.reason, response.encoding, response.cookies
        read.request, read.elapsed = response.request, response.elapsed
        read.raw = HTTPResponse(BytesIO(content), status=response.status_code, preload_content=False)
        return read

    def _read(self, response: requests.Response) -> bytes:
        content = bytearray()
        try:
            for piece in response.iter_content(CHUNK_BYTES):
                content += piece
                if len(content) > self._max_bytes:
                    raise requests.RequestException(f"the response has more than {self._max_bytes} bytes")
        finally:
            response.close()
        return bytes(content)

    def _too_slow(self) -> requests.RequestException:
        return requests.RequestException(f"the response has not ended within {self._max_time:g} s")
