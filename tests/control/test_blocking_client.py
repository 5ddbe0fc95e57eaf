"""The blocking client of tcpvsadm, over real sockets: refusals, and daemons that fail or are none."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import LOOPBACK, free_port, wait_for
from twisted.internet.defer import Deferred
from twisted.protocols import amp

from ktcpvs.control import boxes
from ktcpvs.control.blocking_client import connect, run
from ktcpvs.control.client_errors import NoAnswer
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.errors import Refusal

Answer = Callable[[socket.socket], object]
"""The behaviour of a daemon on a connection on which it has received a command."""


@pytest.fixture
def address(tmp_path: Path) -> ControlAddress:
    return ControlAddress(path=f"{tmp_path}/control.sock")


@contextmanager
def daemon(address: ControlAddress, answer: Answer) -> Iterator[None]:
    """A daemon that answers one command of one connection, and closes that."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address.path or "")
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(30)


def read(address: ControlAddress, answer: Answer) -> object:
    """Read a view of a daemon."""
    with daemon(address, answer):
        switch = connect(address)
        try:
            return run(switch.read("table"))
        finally:
            switch.close()


def sends(*data: bytes) -> Answer:
    return lambda connection: connection.sendall(b"".join(data))


def response(**values: bytes) -> bytes:
    return bytes(amp.AmpBox({name.encode(): value for name, value in values.items()}).serialize())


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


PAGE = response(_answer=b"1", page=b"[1]", pages=b"1")


def test_a_view_is_read(address: ControlAddress) -> None:
    assert read(address, sends(PAGE)) == [1]
    assert read_byte_by_byte() == [1]


def read_byte_by_byte() -> object:
    """Read a view by TCP whose bytes come one by one."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(65536)
                for number in range(len(PAGE)):
                    connection.sendall(PAGE[number : number + 1])

        thread = threading.Thread(target=serve)
        thread.start()
        switch = connect(ControlAddress(host=LOOPBACK, port=listener.getsockname()[1]))
        try:
            return run(switch.read("table"))
        finally:
            switch.close()
            thread.join(30)


@pytest.mark.parametrize("kind", list(Refusal.kinds()), ids=lambda kind: kind.__name__)
def test_a_refusal_is_raised_as_its_class(address: ControlAddress, kind: type[Refusal]) -> None:
    answer = response(_error=b"1", _error_code=kind.code, _error_description="no é".encode())
    with pytest.raises(kind) as refused:
        read(address, sends(answer))
    assert (type(refused.value), str(refused.value)) == (kind, "no é")


OTHER_PROTOCOLS = {
    "it sends something else than AMP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "it sends something else than a response": response(_answer=b"2", page=b"[1]", pages=b"1"),
    "its response to Read has no 'page'": response(_answer=b"1", pages=b"1"),
    "its response to Read has no 'pages'": response(_answer=b"1", page=b"[1]"),
    "its response to Read cannot be read: invalid literal": response(_answer=b"1", page=b"[1]", pages=b"x"),
    "its response to Read cannot be read: 'utf-8' codec": response(_answer=b"1", warnings=b"\0\1\xff"),
    "there is no command 'Read'": response(
        _error=b"1", _error_code=b"UNHANDLED", _error_description=b"there is no command 'Read'"
    ),
    "an error without a reason": response(_error=b"1", _error_code=b"NEW"),
}


@pytest.mark.parametrize(("why", "answer"), OTHER_PROTOCOLS.items(), ids=OTHER_PROTOCOLS)
def test_another_protocol_is_reported(address: ControlAddress, why: str, answer: bytes) -> None:
    with pytest.raises(NoAnswer) as failure:
        read(address, sends(answer))
    assert str(failure.value).startswith(f"the program at {address} does not speak this version's protocol: {why}")


def test_a_box_without_an_end_is_not_read_for_ever(address: ControlAddress) -> None:
    answer = b"".join(b"\0\2%02d\0\0" % number for number in range(99))
    with pytest.raises(NoAnswer, match="it sends something else than AMP"):
        read(address, sends(answer))


@pytest.mark.parametrize("sent", [0, 1, len(PAGE) // 2, len(PAGE) - 1])
def test_a_connection_that_ends_before_the_response_is_reported(address: ControlAddress, sent: int) -> None:
    with pytest.raises(NoAnswer) as failure:
        read(address, sends(PAGE[:sent]))
    assert str(failure.value) == f"the daemon at {address} closed the connection (Connection was closed cleanly)"


def test_a_reset_is_reported() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        address = ControlAddress(host=LOOPBACK, port=listener.getsockname()[1])
        switch = connect(address)
        connection, _ = listener.accept()
        resets(connection)
        connection.close()
        with pytest.raises(NoAnswer, match=r"closed the connection \((Connection reset by peer|Broken pipe)\)"):
            run(switch.read("table"))
        switch.close()


def test_a_value_that_is_too_long_is_refused_and_not_sent(address: ControlAddress) -> None:
    with daemon(address, sends(response(_answer=b"2", page=b"[1]", pages=b"1"))):
        switch = connect(address)
        with pytest.raises(Refusal, match="65,535 bytes"):
            run(switch.read("table", "x" * 65536))
        assert run(switch.read("table")) == [1]
        switch.close()


def test_no_daemon(address: ControlAddress) -> None:
    with pytest.raises(NoAnswer, match=r"^no daemon answers at unix:.+ \(No such file or directory\)$"):
        connect(address)
    port = free_port()
    with pytest.raises(NoAnswer, match=rf"^no daemon answers at tcp:{port}:.+ \(Connection refused\)$"):
        connect(ControlAddress(host=LOOPBACK, port=port))


def test_a_daemon_that_does_not_accept_is_waited_for(address: ControlAddress) -> None:
    """The kernel refuses a socket that does not block as soon as the listener's queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(address.path or "")
        listener.listen(0)
        first = connect(address)
        stack.callback(first.close)
        with pytest.raises(NoAnswer, match=r"\(no connection within 0.05 s\)$"):
            connect(address, timeout=0.05)
        connected: list[object] = []
        thread = threading.Thread(target=lambda: connected.append(connect(address, timeout=30)))
        thread.start()
        accepted = [stack.enter_context(listener.accept()[0])]
        wait_for(lambda: connected, "the connection")
        accepted.append(stack.enter_context(listener.accept()[0]))
        thread.join(30)
        connected[0].close()  # type: ignore[attr-defined]


def test_a_coroutine_that_needs_an_event_loop_is_a_bug() -> None:
    async def waits() -> None:
        await Deferred()

    work = waits()
    with pytest.raises(RuntimeError, match="waits for an event loop"):
        run(work)
    work.close()


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=9), st.text(max_size=50) | st.binary(max_size=50)))
def test_a_box_is_read_as_it_was_written(arguments: dict[str, str | bytes]) -> None:
    written = boxes.command_box("Read", b"a", arguments)
    (read_by_twisted,) = amp.parseString(written)
    values = {name.encode(): text.encode() if isinstance(text, str) else text for name, text in arguments.items()}
    assert dict(read_by_twisted) == {b"_ask": b"a", b"_command": b"Read", **values}
