"""The fuzz target for the sessions of chttp: forged cookies are ignored, and servers never see the switch's cookie."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ktcpvs.model.address import Inet
from ktcpvs.model.destination import Destination
from ktcpvs.model.real_server import RealServer
from ktcpvs.model.rule import Rule
from ktcpvs.model.scheduling import Choice, Request, ServiceView
from ktcpvs.model.service import COOKIE, VirtualService
from ktcpvs.protocols import http1
from ktcpvs.protocols.http1 import BadRequest
from ktcpvs.schedulers.chttp import CHTTP, name_of
from ktcpvs.schedulers.wlc import WLC

_ADDRESSES = tuple(Inet(f"10.0.0.{number}", 80) for number in (1, 2, 3))
_CONFIG = VirtualService(
    "s",
    scheduler="chttp",
    servers=tuple(RealServer(address) for address in _ADDRESSES),
    rules=(Rule("^/a", _ADDRESSES[:1]), Rule(".*", _ADDRESSES[1:])),
)
_VIEW = ServiceView.of(_CONFIG, {address: Destination(address) for address in _ADDRESSES}, WLC(), b"the key")
_BOUND: Any = CHTTP().bind(_VIEW, None)


def cookies(data: bytes) -> None:
    """The header lines of a request: a server is chosen, and gets every cookie but that of the switch."""
    found = http1.REQUEST.fullmatch(b"GET /a HTTP/1.1\r\nHost: h\r\n%b\r\n" % data)
    if found is None:
        return
    try:
        lines = http1.Request(found).lines
    except BadRequest:
        return
    for path in (b"/a", b"/b"):
        choice = _BOUND.choose(Request("192.0.2.1", b"GET", path, path, lines))
        assert isinstance(choice, Choice)
        assert (choice.destination.address is _ADDRESSES[0]) == (path == b"/a"), "a server of another rule"
        passed = lines if choice.lines is None else choice.lines
        assert http1.REQUEST.fullmatch(b"GET / HTTP/1.1\r\n%b\r\n" % passed)
        assert not [pair for pair in _pairs(passed) if pair.startswith(OURS)]
        assert _pairs(passed) == [pair for pair in _pairs(lines) if not pair.startswith(OURS)]
        assert _others(passed) == _others(lines)
        if choice.answer_lines:
            assert choice.answer_lines.count(b"\n") == 1
        else:
            assert _NAMES[choice.destination.address] in lines, "nobody named this server"
        _BOUND.explain(Request("192.0.2.1", b"GET", path, path, lines))


OURS = COOKIE.encode() + b"="
_NAMES = {one.address: name_of(one, hashlib.blake2b(_VIEW.key).digest()) for one in _VIEW.destinations}


def _pairs(lines: bytes) -> list[bytes]:
    """All cookies of all Cookie lines."""
    values = [line.partition(b":")[2] for line in lines.split(b"\r\n") if line.lower().startswith(b"cookie:")]
    return [pair for value in values for pair in (one.strip(b" \t") for one in value.split(b";")) if pair]


def _others(lines: bytes) -> list[bytes]:
    """All other header lines."""
    return [line for line in lines.split(b"\r\n") if not line.lower().startswith(b"cookie:")]


TARGETS: dict[str, Callable[[bytes], None]] = {"cookies": cookies}
