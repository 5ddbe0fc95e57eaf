"""Stages of a preamble for tests: a line at the beginning that says who the client is."""

from __future__ import annotations

from typing import Any

from ktcpvs.streams.preamble import Proceed, Refuse


class LineStage:
    """Clients begin with `KNOCK HOST PORT` and a newline; HOST PORT is their address then. `KNOCK` keeps it.

    begun: the address of each client for which it has begun. skips: addresses for which it does not apply.
    called: the address that each client has called; None: that of its connection.
    """

    def __init__(
        self,
        name: str = "knock",
        timeout: int = 3,
        max_size: int = 64,
        skips: tuple[str, ...] = (),
        called: tuple[str, int] | None = None,
    ) -> None:
        self.called = called
        self.name = name
        self.timeout = timeout
        self.max_size = max_size
        self.skips = skips
        self.begun: list[Any] = []

    def finds_address(self, peer: Any) -> bool:
        return not peer or peer[0] not in self.skips

    def begin(self, peer: Any, stream: Any) -> LineReader | None:
        if not self.finds_address(peer):
            return None
        self.begun.append(peer)
        return LineReader(self.called)


class LineReader:
    """Reads the line of one client."""

    def __init__(self, called: tuple[str, int] | None) -> None:
        self._called = called
        self._received = bytearray()

    def feed(self, data: bytes) -> Proceed | Refuse | None:
        self._received += data
        line, newline, rest = bytes(self._received).partition(b"\n")
        if not newline:
            return None
        word, *address = line.decode().split()
        if word != "KNOCK":
            return Refuse("not a knock")
        return Proceed(rest, (address[0], int(address[1])) if address else None, self._called)
