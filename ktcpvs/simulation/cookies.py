"""The cookies of simulated clients: what a response sets, the next request of the same client brings."""

from __future__ import annotations

MAX_CLIENTS = 100_000
"""The most clients whose cookies are kept. The one whose cookie is the oldest is forgotten first."""

_SET_COOKIE = b"set-cookie:"


class Cookies:
    """The one cookie of each client that the switch has set."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[str, bytes] = {}

    def added_to(self, lines: bytes, client: str) -> bytes:
        """Return the header lines of a request with the client's cookie."""
        cookie = self._of.get(client)
        return lines if cookie is None else lines + cookie

    def store(self, answer_lines: bytes, client: str) -> None:
        """Keep the cookie that these header lines of a response set, if they set one."""
        for line in answer_lines.split(b"\r\n"):
            if line[: len(_SET_COOKIE)].lower() == _SET_COOKIE:
                self._of[client] = b"Cookie: %b\r\n" % line[len(_SET_COOKIE) :].partition(b";")[0].strip()
                if len(self._of) > MAX_CLIENTS:
                    del self._of[next(iter(self._of))]
