"""Responses of a CA, as `requests` reads them, but with a limit on their size and on the time that they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

MAX_RESPONSE_BYTES = 1 << 20
"""The most bytes of a response, decoded. The certificates of an order for 100 names have some 10 KiB."""

MAX_RESPONSE_TIME = 60.0
"""The most seconds until the whole response must have come: the timeout of `requests` is for each piece of it."""

CHUNK_BYTES = 1 << 14


class BoundedAdapter(HTTPAdapter):
    """Reads each response before it returns it. Raises requests.RequestException if one is too long, or too slow."""

    def __init__(
        self,
        max_bytes: int = MAX_RESPONSE_BYTES,
        max_time: float = MAX_RESPONSE_TIME,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """now: returns seconds."""
        super().__init__()
        self._max_bytes = max_bytes
        self._max_time = max_time
        self._now = now

    def send(self, request: requests.PreparedRequest, *arguments: Any, **values: Any) -> requests.Response:
        """See HTTPAdapter."""
        deadline = self._now() + self._max_time
        response = super().send(request, *arguments, **values)
        content = bytearray()
        try:
            for piece in response.iter_content(CHUNK_BYTES):
                content += piece
                if len(content) > self._max_bytes:
                    raise requests.RequestException(f"the response has more than {self._max_bytes} bytes")
                if self._now() > deadline:
                    raise requests.RequestException(f"the response has not ended within {self._max_time:g} s")
        finally:
            response.close()
        read = requests.Response()
        read.status_code, read.headers, read.url = response.status_code, response.headers, response.url
        read.reason, read.encoding, read.cookies = response.reason, response.encoding, response.cookies
        read.request, read.elapsed = response.request, response.elapsed
        read.raw = HTTPResponse(BytesIO(bytes(content)), status=response.status_code, preload_content=False)
        return read
