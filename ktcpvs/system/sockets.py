"""Listening sockets: opened here, whole or not at all, with errors fit to be shown."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import sys
import termios
from collections.abc import Iterable, Iterator
from typing import Any

from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Address, Inet, Unix

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors that say that this system has nothing left for one more connection."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing throws away what was not sent, and resets the connection."""

TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8
"""The state of a connection that is over (the kernel's tcp_states.h)."""

SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 27, 51
"""The socket module does not have them (the kernel's asm-generic/socket.h)."""


def open_listener(address: Address, backlog: int, beside: Iterable[socket.socket] = ()) -> socket.socket:
    """A non-blocking socket that listens on `address`.

    backlog: how many connections wait to be accepted. beside: listening sockets of ours that will be closed when this
    one takes over; they may hold the same port meanwhile. A unix socket's file that nobody listens on any more
    is replaced. Raises CannotListen.
    """
    try:
        if isinstance(address, Unix):
            return _listening(_unix_socket(address.path), backlog)
        return _inet_socket(address, backlog, beside)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {_why(error)}") from None


def open_listeners(
    address: Address, backlog: int, count: int, beside: Iterable[socket.socket] = ()
) -> list[socket.socket]:
    """As many sockets that listen on `address`: the kernel deals clients out among them. Raises CannotListen.

    Of a unix socket they are one and the same.
    """
    opened: list[socket.socket] = []
    try:
        if isinstance(address, Unix):
            opened.append(open_listener(address, backlog))
            opened += [opened[0].dup() for _ in range(count - 1)]
            return opened
        for _ in range(count):
            try:
                # The first one alone finds out whether somebody else has the port.
                opened.append(_inet_socket(address, backlog, [*beside, *opened], shared=True))
            except OSError as error:
                raise CannotListen(f"cannot listen on {address}: {_why(error)}") from None
    except BaseException:
        for sock in opened:
            close_listener(sock)
        raise
    return opened


def close_listener(listener: socket.socket) -> None:
    """Close it; the file of a unix socket goes with it, if it is still ours."""
    if listener.family == socket.AF_UNIX:
        path = listener.getsockname()
        with contextlib.suppress(OSError):
            if _inode(path) == _bound_inodes.pop(listener.fileno(), None):
                os.unlink(path)
    listener.close()


_bound_inodes: dict[int, tuple[int, int]] = {}
"""Descriptor of a listening unix socket -> (device, inode) of its file."""


def release_listener(listener: socket.socket) -> None:
    """Close it here alone: another process has it too and goes on listening. The file of a unix socket stays."""
    _bound_inodes.pop(listener.fileno(), None)
    listener.close()


def file_of(listener: socket.socket) -> tuple[int, int] | None:
    """(device, inode) of the file that goes with this listening unix socket; None: there is none, or it is not ours."""
    return _bound_inodes.get(listener.fileno())


def owns_file(listener: socket.socket, file: tuple[int, int] | None) -> None:
    """From now on that file goes with the socket, which another process of ours has opened. file: as of `file_of`."""
    if file is not None:
        _bound_inodes[listener.fileno()] = file


def _inode(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "something else listens there already"
    if error.errno == errno.EACCES:
        return "permission denied: ports under 1024 and folders of others need more rights"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    return error.strerror or str(error)


def _listening(sock: socket.socket, backlog: int) -> socket.socket:
    try:
        sock.setblocking(False)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def listening_name(address: Address) -> Any:
    """What getsockname says of a socket that listens on `address`: a path, or the first two parts of a tuple. None: the
    address is not known here."""
    if isinstance(address, Unix):
        return address.path
    try:
        return _listening_info(address)[4][:2]
    except OSError:
        return None


def _listening_info(address: Inet) -> Any:
    """The first of what getaddrinfo gives. Raises OSError."""
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE | socket.AI_NUMERICSERV
    return socket.getaddrinfo(address.host, address.port, type=kind, flags=flags)[0]


def _inet_socket(address: Inet, backlog: int, beside: Iterable[socket.socket], shared: bool = False) -> socket.socket:
    """shared: others of ours may listen on the same address."""
    info = _listening_info(address)
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if info[0] == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _sharing_port(sock, (one for one in beside if one.getsockname()[1:2] == info[4][1:2])):
            sock.bind(info[4])
            if shared:  # from now on others of ours may join, and the kernel deals clients out among them
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.listen(backlog)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _sharing_port(sock: socket.socket, beside: Iterable[socket.socket]) -> Iterator[None]:
    """While all have SO_REUSEPORT, the kernel lets `sock` take a port that one of `beside` holds (socket(7))."""
    others = [one for one in beside if one.family != socket.AF_UNIX]
    lent = [one for one in others if not one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)]
    if others:
        lent.append(sock)
    for one in lent:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for one in lent:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _unix_socket(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            sock.bind(path)
        _bound_inodes[sock.fileno()] = _inode(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    """True for the file of a unix socket that nobody listens on."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def distinct(socks: Iterable[socket.socket]) -> list[socket.socket]:
    """Each socket once, in their order: duplicates of a descriptor are one socket."""
    found: dict[int, socket.socket] = {}
    for sock in socks:
        found.setdefault(os.fstat(sock.fileno()).st_ino, sock)
    return list(found.values())


def share_among(listener: socket.socket, count: int) -> None:
    """New clients go to the first `count` of the sockets that share an address with `listener`, in the order in which
    they began to listen: the kernel draws one of them (socket(7), SO_ATTACH_REUSEPORT_CBPF). Raises OSError."""
    words = (
        (0x20, 0, 0, 0xFFFFF000 + 56),  # ld [SKF_AD_OFF + SKF_AD_RANDOM]
        (0x94, 0, 0, count),  # mod
        (0x16, 0, 0, 0),  # ret a
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *word) for word in words))
    listener.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(words), ctypes.addressof(program))
    )


_WITHOUT_SYN = (
    (0x30, 0, 0, 13),  # A = the flags in the TCP header
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else take all of it
)
"""Classic BPF: handshakes that have begun go on, and none begins."""


def deafen(listener: socket.socket, is_deaf: bool = True) -> None:
    """From now on a TCP listener hears of no new client (socket(7), SO_ATTACH_FILTER), or again.

    Who calls meanwhile calls again a second later, by his system, and finds whoever listens then; else he would be
    reset when he comes between the last accept and the close.
    """
    if listener.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # then it is as it was before
        if is_deaf:
            program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _WITHOUT_SYN))
            filter_ = struct.pack("HP", len(_WITHOUT_SYN), ctypes.addressof(program))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
        else:
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def read_urgent_in_place(sock: socket.socket) -> None:
    """Urgent data is read among the rest, where it stands; else reads would leave it out (socket(7), SO_OOBINLINE). Who
    comes through a listener inherits it."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # it is over
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def unsent(sock: socket.socket) -> int:
    """Bytes that were sent and that the peer has not acknowledged; of a unix socket, not read (tcp(7), SIOCOUTQ)."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)
    except (OSError, ValueError):  # it is closed
        return 0


def unread(sock: socket.socket) -> int:
    """Bytes that have come and were not read. Raises OSError."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0" * 4), sys.byteorder)


def is_over(sock: socket.socket) -> bool:
    """True when the connection has been reset, though nobody has read of it yet (tcp(7), TCP_INFO). A unix socket's
    never shows."""
    return _tcp_state(sock) == TCP_CLOSE


def has_fin(sock: socket.socket) -> bool:
    """True when the peer has sent its FIN, though nobody has read of it yet. A unix socket's never shows."""
    return _tcp_state(sock) == TCP_CLOSE_WAIT


def _tcp_state(sock: socket.socket) -> int:
    """Of the kernel's states (net/tcp_states.h); 0 for a unix socket."""
    try:
        return 0 if sock.family == socket.AF_UNIX else int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    except (OSError, ValueError):
        return TCP_CLOSE


def has_input(sock: socket.socket) -> bool:
    """True when there is something to read: bytes, an end or an error (poll(2))."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


def open_private_unix_listener(path: str, backlog: int) -> socket.socket:
    """A listening unix socket that only this user may use, mode 0600 from its first moment. Raises CannotListen."""
    before = os.umask(0o177)
    try:
        return open_listener(Unix(path), backlog)
    finally:
        os.umask(before)


def packed_address(peer: tuple[Any, ...]) -> bytes:
    """The IP address of an IP socket's peer, as accept() told it, in 4 or 16 bytes."""
    if len(peer) == 2:
        return socket.inet_aton(peer[0])
    return socket.inet_pton(socket.AF_INET6, peer[0].partition("%")[0])


def is_dual_stack(sock: socket.socket) -> bool:
    """True for an IPv6 socket that takes IPv4 clients too (ipv6(7), IPV6_V6ONLY): others open such sockets."""
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def unmapped(peer: tuple[Any, ...]) -> tuple[Any, ...]:
    """An IP socket's peer, as accept() told it: an IPv4 client of a dual-stack socket as it is at an IPv4 socket."""
    host = peer[0].removeprefix("::ffff:")
    return (host, peer[1]) if "." in host and ":" not in host else peer


def close_with_reset(sock: socket.socket) -> None:
    """Close a TCP connection at once; nothing of it stays behind here."""
    with contextlib.suppress(OSError):  # the peer was quicker
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


_SNDBUFFORCE, _BUF_LOCK, _SNDBUF_LOCKED = 32, 72, 1


def send_buffer(sock: socket.socket) -> int:
    """How much may wait to be sent, in bytes as the kernel counts them; negative when somebody has set it, so that the
    kernel does not adjust it. Raises OSError."""
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return -size if sock.getsockopt(socket.SOL_SOCKET, _BUF_LOCK) & _SNDBUF_LOCKED else size


def set_send_buffer(sock: socket.socket, size: int) -> None:
    """Let that much wait to be sent, or what `send_buffer` has returned before. Raises OSError; needs CAP_NET_ADMIN
    (socket(7), SO_SNDBUFFORCE)."""
    sock.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, min(abs(size) // 2, 1 << 29))  # the kernel doubles it
    if size > 0:
        locked = sock.getsockopt(socket.SOL_SOCKET, _BUF_LOCK)
        sock.setsockopt(socket.SOL_SOCKET, _BUF_LOCK, locked & ~_SNDBUF_LOCKED)
