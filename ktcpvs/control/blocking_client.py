"""A control connection over a plain socket whose calls block: tcpvsadm imports no Twisted for it.

switch = connect(find_address(None))
print(run(switch.stats()))
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Coroutine, Mapping
from typing import Any, BinaryIO, TypeVar, cast

from ktcpvs.control import boxes, client_errors
from ktcpvs.control.client_errors import NoAnswer
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.switch_base import SwitchBase, may_be_refused
from ktcpvs.errors import Refusal

T = TypeVar("T")

CLOSED = "Connection was closed cleanly"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits nothing but methods of BlockingSwitch, and return its result."""
    try:
        work.send(None)
    except StopIteration as ended:
        return cast(T, ended.value)
    raise RuntimeError("this coroutine waits for an event loop")


def connect(address: ControlAddress, timeout: float = 5.0) -> BlockingSwitch:
    """Connect to the switch at `address`, which has no TLS. timeout: seconds. Raises NoAnswer and NotPermitted."""
    assert address.tls is None
    try:
        return BlockingSwitch(_open_socket(address, timeout), address)
    except PermissionError:
        raise client_errors.permission_denied(address) from None
    except (BlockingIOError, TimeoutError):
        raise client_errors.no_daemon(address, f"no connection within {timeout:g} s") from None
    except OSError as failure:
        raise client_errors.no_daemon(address, failure.strerror or str(failure)) from None


def _open_socket(address: ControlAddress, timeout: float) -> socket.socket:
    """Return a connected socket in blocking mode. Raises OSError."""
    if address.path is None:
        sock = socket.create_connection((address.host, address.port), timeout)
        sock.settimeout(None)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    try:
        # Only a socket in blocking mode waits where the listener's queue is full (unix(7), connect(2): EAGAIN).
        _limit_sending(sock, timeout)
        sock.connect(address.path)
        _limit_sending(sock, 0)
    except BaseException:
        sock.close()
        raise
    return sock


def _limit_sending(sock: socket.socket, seconds: float) -> None:
    """Set the timeout of connect(2) and send(2), socket(7), SO_SNDTIMEO. seconds: 0: none."""
    whole, fraction = divmod(seconds, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(whole), int(fraction * 1e6)))


class BlockingSwitch(SwitchBase):
    """A connection to a running switch, whose coroutines never wait for anything but this connection."""

    def __init__(self, sock: socket.socket, address: ControlAddress) -> None:
        self._sock = sock
        self._file: BinaryIO = sock.makefile("rb")
        self._address = address
        self._tag = 0
        self._may_be_refused = may_be_refused(sock)

    async def send(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self._tag += 1
        tag = b"%x" % self._tag
        try:
            self._sock.sendall(boxes.command_box(command, tag, arguments))
            box = boxes.read_box(self._file)
        except boxes.TooLong:
            raise client_errors.value_too_long() from None
        except boxes.BadResponse as failure:
            raise client_errors.wrong_protocol(self._address, str(failure)) from None
        except EOFError:
            raise client_errors.connection_closed(self._address, CLOSED, self._may_be_refused) from None
        except OSError as failure:
            raise self._lost(failure) from None
        response = check_answer(box, tag, command, self._address)
        self._may_be_refused = False
        return response

    def _lost(self, failure: OSError) -> NoAnswer:
        """Return what an error of the connection means."""
        why = os.strerror(failure.errno or errno.EIO)
        return client_errors.connection_closed(self._address, why, self._may_be_refused)

    def close(self) -> None:
        self._file.close()
        self._sock.close()


def check_answer(box: Mapping[bytes, bytes], tag: bytes, command: str, address: ControlAddress) -> dict[str, Any]:
    """Return the values of the response that a box is. tag, command: of what was sent. Raises the Refusal that it is,
    and NoAnswer for anything else."""
    try:
        _check_error(box, tag)
        if box.get(boxes.ANSWER) != tag:
            raise boxes.BadResponse("it sends something else than a response")
        return boxes.read_response(command, box)
    except boxes.BadResponse as failure:
        raise client_errors.wrong_protocol(address, str(failure)) from None


def _check_error(box: Mapping[bytes, bytes], tag: bytes) -> None:
    """Raise the Refusal of a response. Raises BadResponse for an error that is none."""
    if box.get(boxes.ERROR) != tag:
        return
    code = box.get(boxes.ERROR_CODE, b"")
    why = box.get(boxes.ERROR_DESCRIPTION, b"").decode("utf-8", "replace")
    kind = next((kind for kind in Refusal.kinds() if kind.code == code), None)
    raise boxes.BadResponse(why or "an error without a reason") if kind is None else kind(why)
