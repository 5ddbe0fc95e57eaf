"""Listening sockets: they are opened completely or not at all, with a reason in the error."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path

import pytest
from servers import free_port

from ktcpvs.errors import CannotListen
from ktcpvs.model.address import parse_address
from ktcpvs.system.listening_process import ListeningProcess, process_of
from ktcpvs.system.sockets import (
    close_listener,
    distinct,
    is_in_use,
    is_over,
    name_holder,
    open_listener,
    open_listeners,
    open_private_unix_listener,
    send_buffer,
    set_send_buffer,
    share_among,
)


def listener(text: str) -> contextlib.closing[socket.socket]:
    return contextlib.closing(open_listener(parse_address(text), 5))


def test_ipv4_and_ipv6_share_a_port_number() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as four:
        port = four.getsockname()[1]
        with listener(f"[::1]:{port}") as six:
            assert six.getsockname()[:2] == ("::1", port)
            assert not six.getblocking()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("192.0.2.1:8080", "this machine does not have that address"),
        ("unix:/nonexistent/x.sock", "No such file or directory"),
        ("nothing.invalid:80", "cannot listen on nothing.invalid:80"),
    ],
)
def test_why_not(address: str, why: str) -> None:
    with pytest.raises(CannotListen, match=why) as refused:
        open_listener(parse_address(address), 5)
    assert not is_in_use(refused.value)


def test_a_taken_port() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = parse_address(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(CannotListen, match="another program listens there already") as refused:
            open_listener(address, 5)
        assert is_in_use(refused.value)
        named = name_holder(refused.value, address, process_of(address))
        assert str(named) == f"cannot listen on {address}: this daemon listens there already"
        assert name_holder(refused.value, address, None) is refused.value
        other = name_holder(refused.value, address, ListeningProcess("nginx", 12))
        assert str(other).endswith(": another program, nginx, listens there already (process 12)")


def test_listeners_share_a_port_only_with_each_other() -> None:
    with contextlib.ExitStack() as stack:
        address = parse_address(f"127.0.0.1:{free_port()}")
        ours = open_listeners(address, 5, 1)
        stack.callback(ours[0].close)
        for count in (1, 2):
            with pytest.raises(CannotListen, match="another program listens there already"):
                open_listeners(address, 5, count)
        more = open_listeners(address, 5, 2, beside=ours)
        for sock in more:
            stack.callback(sock.close)
        assert [sock.getsockname() for sock in more] == [ours[0].getsockname()] * 2
        with pytest.raises(CannotListen, match="another program listens there already"):
            open_listeners(address, 5, 2)
        with pytest.raises(CannotListen, match="another program listens there already"):
            open_listener(address, 5)


def test_the_kernel_sends_clients_to_the_first_sockets_alone() -> None:
    """The others can be closed, and no client that connects meanwhile is refused."""
    with contextlib.ExitStack() as stack:
        address = parse_address(f"127.0.0.1:{free_port()}")
        socks = open_listeners(address, 50, 4)
        for sock in socks:
            stack.callback(sock.close)
        share_among(socks[2], 2)
        clients = [stack.enter_context(contextlib.closing(socket.socket())) for _ in range(40)]
        for number, client in enumerate(clients):
            if number == 20:
                socks[3].close()
                socks[2].close()
            client.connect(socks[0].getsockname())
        found = [0, 0]
        for place in (0, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    socks[place].accept()[0].close()
                    found[place] += 1
        assert sum(found) == 40
        assert min(found) > 0


def test_duplicates_of_a_socket_are_one_socket_in_the_first_one_s_place() -> None:
    with contextlib.ExitStack() as stack:
        one, other = open_listeners(parse_address(f"127.0.0.1:{free_port()}"), 5, 2)
        again, once_more = one.dup(), other.dup()
        for sock in (one, other, again, once_more):
            stack.callback(sock.close)
        assert distinct([one, other, again, once_more]) == [one, other]
        assert distinct([again, other, one]) == [again, other]


def test_a_reset_is_detected_without_a_read() -> None:
    with (
        contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening,
        contextlib.closing(socket.create_connection(listening.getsockname())) as client,
        contextlib.closing(listening.accept()[0]) as accepted,
    ):
        assert not is_over(accepted)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert is_over(accepted)
    assert is_over(accepted)


def test_a_unix_socket_that_is_left_over_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    open_listener(parse_address(f"unix:{path}"), 5).close()  # as after kill -9: the file stays
    assert path.exists()
    again = open_listener(parse_address(f"unix:{path}"), 5)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as caller:
        caller.connect(str(path))
    close_listener(again)
    assert not path.exists()


def test_a_unix_socket_that_is_alive_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    alive = open_listener(parse_address(f"unix:{path}"), 5)
    with pytest.raises(CannotListen, match="another program listens there already"):
        open_listener(parse_address(f"unix:{path}"), 5)
    close_listener(alive)


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(CannotListen):
        open_listener(parse_address(f"unix:{path}"), 5)
    assert path.read_text() == "precious"


def test_another_s_unix_socket_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ours = open_listener(parse_address(f"unix:{path}"), 5)
    path.unlink()
    theirs = open_listener(parse_address(f"unix:{path}"), 5)
    close_listener(ours)
    assert path.is_socket()
    close_listener(theirs)


def test_a_private_socket_is_private(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        private = open_private_unix_listener(str(path), 5)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    close_listener(private)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may exceed the limits of buffers")
@pytest.mark.parametrize("was_set", [False, True])
def test_a_send_buffer_is_made_large_and_as_it_was(was_set: bool) -> None:
    """Whether the kernel may adjust the size is restored, too."""
    with socket.socket() as sock:
        if was_set:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        before = send_buffer(sock)
        assert (before < 0) == was_set
        set_send_buffer(sock, -(64 << 20))
        assert send_buffer(sock) == -(64 << 20)
        set_send_buffer(sock, before)
        assert send_buffer(sock) == before
