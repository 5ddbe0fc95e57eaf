"""Sockets that a service manager holds are found by the address that they are bound to."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Inet
from ktcpvs.runtime.inherited_sockets import InheritedSockets
from ktcpvs.system.sockets import is_dual_stack, unmapped


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def held(stack: contextlib.ExitStack, host: str, dual_stack: bool = False) -> socket.socket:
    """A listening socket as somebody else would open it, on a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return stack.enter_context(socket.create_server((host, 0), family=family, dualstack_ipv6=dual_stack))


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_a_socket_is_for_the_address_that_it_is_bound_to(stack: contextlib.ExitStack, host: str) -> None:
    sock, other = held(stack, host), held(stack, host)
    sockets = InheritedSockets([sock, other])
    assert sockets.find_activated(Inet(host, port_of(sock))) is sock
    assert sockets.find_activated(Inet(host, port_of(other))) is other
    assert sockets.find_activated(Inet("127.0.0.2", port_of(sock))) is None


def test_a_socket_of_both_families_is_for_ipv4_too(stack: contextlib.ExitStack) -> None:
    both, six = held(stack, "::", dual_stack=True), held(stack, "::")
    sockets = InheritedSockets([both, six])
    assert (
        sockets.find_activated(Inet("0.0.0.0", port_of(both)))
        is sockets.find_activated(Inet("::", port_of(both)))
        is both
    )
    assert sockets.find_activated(Inet("0.0.0.0", port_of(six))) is None
    assert sockets.find_activated(Inet("127.0.0.1", port_of(both))) is None
    assert [is_dual_stack(one) for one in (both, six, held(stack, "0.0.0.0"))] == [True, False, False]


def test_the_socket_in_the_way_is_named(stack: contextlib.ExitStack) -> None:
    sock = held(stack, "0.0.0.0")
    sockets = InheritedSockets([sock])
    address = Inet("127.0.0.1", port_of(sock))
    why = f": the service manager's socket listens on 0.0.0.0:{port_of(sock)}; listen there"
    with pytest.raises(CannotListen, match=why):
        sockets.open(address, 5, ())
    with pytest.raises(CannotListen, match=why):
        sockets.open_shared(address, 5, 2, ())


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        (("::ffff:192.0.2.1", 80, 0, 0), ("192.0.2.1", 80)),
        (("2001:db8::1", 80, 0, 0), ("2001:db8::1", 80, 0, 0)),
        (("::ffff:0:1", 80, 0, 0), ("::ffff:0:1", 80, 0, 0)),
        (("64:ff9b::192.0.2.1", 80, 0, 0), ("64:ff9b::192.0.2.1", 80, 0, 0)),
    ],
)
def test_the_peer_of_a_socket_of_both_families(told: tuple[object, ...], meant: tuple[object, ...]) -> None:
    assert unmapped(told) == meant
