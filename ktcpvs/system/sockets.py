"""Sockets: listening ones with readable errors, and what the kernel knows of connected ones."""

from __future__ import annotations

import _socket
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
from functools import cache
from typing import Any

from ktcpvs.errors import CannotListen
from ktcpvs.model.address import Address, Inet, Unix
from ktcpvs.system.listening_process import OWN_NAME, ListeningProcess

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors that mean that the system has no resources for another connection."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which close(2) drops unsent bytes and resets the connection."""

TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8
"""States of a TCP connection: closed; the peer has sent its FIN (the kernel's tcp_states.h)."""

SO_ATTACH_FILTER, SO_DETACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 27, 51
"""Options that the socket module lacks (the kernel's asm-generic/socket.h)."""


KEEPALIVE_PROBES = 4
"""The unanswered probes of TCP keep-alive after which a connection ends."""


@cache
def plain_socket_class(family: int) -> Any:
    """A class for stream sockets of that family. They know what they are without asking each time, and have no layer of
    Python's: what socket.socket does besides takes a good part of the time that accepting or connecting takes."""
    return type("PlainSocket", (_socket.socket,), _plain(family))


def _plain(family: int) -> dict[str, Any]:
    return {"__slots__": (), "family": family, "type": socket.SOCK_STREAM}


@cache
def _forgetting_class(family: int) -> Any:
    return type("GivenSocket", (_socket.socket,), {**_plain(family), "close": _socket.socket.detach})


def give_descriptor(sock: Any) -> None:
    """Leave it to a transport of uvloop to close the descriptor of `sock`: from now on `sock.close` only forgets it.

    A transport that closes a descriptor detaches a `socket.socket`, but calls `close` of any other object. That would
    close the number a second time, and with it what another thread has just opened, such as the state file.
    """
    if not isinstance(sock, socket.socket):
        sock.__class__ = _forgetting_class(sock.family)


def open_listener(address: Address, backlog: int, beside: Iterable[socket.socket] = ()) -> socket.socket:
    """Return a non-blocking socket that listens on `address`. Raises CannotListen: see `name_holder` too.

    backlog: the most connections that wait to be accepted. beside: listening sockets of ours that this one replaces;
    they may have the same port. A stale file of a unix socket is replaced.
    """
    try:
        if isinstance(address, Unix):
            return _listening(_unix_socket(address.path), backlog)
        return _inet_socket(address, backlog, beside)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {explain_failure(error)}") from error


def open_listeners(
    address: Address, backlog: int, count: int, beside: Iterable[socket.socket] = ()
) -> list[socket.socket]:
    """Return `count` sockets that listen on `address`: the kernel distributes clients among them. Raises CannotListen.

    For a unix socket, they are duplicates of one socket.
    """
    opened: list[socket.socket] = []
    try:
        if isinstance(address, Unix):
            opened.append(open_listener(address, backlog))
            opened += [opened[0].dup() for _ in range(count - 1)]
            return opened
        for _ in range(count):
            try:
                # Only the first one detects that another program has the port.
                opened.append(_inet_socket(address, backlog, [*beside, *opened], shared=True))
            except OSError as error:
                raise CannotListen(f"cannot listen on {address}: {explain_failure(error)}") from error
    except BaseException:
        for sock in opened:
            close_listener(sock)
        raise
    return opened


def close_listener(listener: socket.socket) -> None:
    """Close a listener, and remove the file of a unix socket if it is still ours."""
    if listener.family == socket.AF_UNIX:
        path = listener.getsockname()
        with contextlib.suppress(OSError):
            if _inode(path) == _bound_inodes.pop(listener.fileno(), None):
                os.unlink(path)
    listener.close()


_bound_inodes: dict[int, tuple[int, int]] = {}
"""Descriptor of a listening unix socket -> (device, inode) of its file."""


def release_listener(listener: socket.socket) -> None:
    """Close a listener in this process only: another process keeps listening. The file of a unix socket stays."""
    _bound_inodes.pop(listener.fileno(), None)
    listener.close()


def file_of(listener: socket.socket) -> tuple[int, int] | None:
    """Return (device, inode) of the file of a listening unix socket; None: there is none, or it is not ours."""
    return _bound_inodes.get(listener.fileno())


def owns_file(listener: socket.socket, file: tuple[int, int] | None) -> None:
    """Take over the file of a unix socket that another process of ours has opened. file: from `file_of`."""
    if file is not None:
        _bound_inodes[listener.fileno()] = file


def _inode(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def explain_failure(error: OSError) -> str:
    """Return why nothing can listen on an address."""
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already"
    if error.errno == errno.EACCES:
        return (
            "permission denied: a port below 1024 needs the capability CAP_NET_BIND_SERVICE, or a start as root with "
            "--user USER; another user's folder needs its rights"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have that address"
    return error.strerror or str(error)


def is_in_use(refusal: CannotListen) -> bool:
    """Whether `open_listener` has refused an address because something listens there."""
    return isinstance(refusal.__cause__, OSError) and refusal.__cause__.errno == errno.EADDRINUSE


def name_holder(refusal: CannotListen, address: Address, holder: ListeningProcess | None) -> CannotListen:
    """Return a refusal that names the process which listens on an address that is in use. holder: None: it is not
    known.

    Whoever opens many listeners, or tries one again and again, looks for processes once and not for each attempt.
    """
    if holder is None:
        return refusal
    return CannotListen(f"cannot listen on {address}: {describe_holder(holder)}")


def describe_holder(process: ListeningProcess) -> str:
    """Say which process listens on an address."""
    if process.number == os.getpid():
        return "this daemon listens there already"
    which = "another ktcpvs" if process.name == OWN_NAME else f"another program, {process.name},"
    return f"{which} listens there already (process {process.number})"


def _listening(sock: socket.socket, backlog: int) -> socket.socket:
    try:
        sock.setblocking(False)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def listening_name(address: Address) -> Any:
    """Return what getsockname returns for a socket that listens on `address`: a path, or the first two parts of a
    tuple. None: the address is not known here."""
    if isinstance(address, Unix):
        return address.path
    try:
        return _listening_info(address)[4][:2]
    except OSError:
        return None


def _listening_info(address: Address) -> Any:
    """Return the first result of getaddrinfo. address: of TCP. Raises OSError."""
    assert isinstance(address, Inet)
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE | socket.AI_NUMERICSERV
    return socket.getaddrinfo(address.host, address.port, type=kind, flags=flags)[0]


def _inet_socket(
    address: Address, backlog: int, beside: Iterable[socket.socket], shared: bool = False
) -> socket.socket:
    """Open a listening socket of TCP. shared: other sockets of ours may listen on the same address."""
    info = _listening_info(address)
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if info[0] == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _sharing_port(sock, (one for one in beside if one.getsockname()[1:2] == info[4][1:2])):
            sock.bind(info[4])
            if shared:  # others of ours may join, and the kernel distributes clients among them
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
    """Set SO_REUSEPORT on all of these, so that `sock` can bind to a port that one of `beside` has (socket(7))."""
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
    """Whether `path` is the file of a unix socket on which nothing listens."""
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
    """Return each socket once, in order: duplicated descriptors are one socket."""
    found: dict[int, socket.socket] = {}
    for sock in socks:
        found.setdefault(os.fstat(sock.fileno()).st_ino, sock)
    return list(found.values())


def share_among(listener: socket.socket, count: int) -> None:
    """Distribute new clients at random among the first `count` sockets that share an address with `listener`, in the
    order in which they began to listen (socket(7), SO_ATTACH_REUSEPORT_CBPF). Raises OSError."""
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
"""Classic BPF: drop SYN, so that no new handshake begins; those in progress continue."""


def drop_handshakes(listener: socket.socket, is_dropping: bool = True) -> None:
    """Let a TCP listener ignore new clients (socket(7), SO_ATTACH_FILTER), or accept them again.

    A client that connects meanwhile retransmits its SYN a second later, to the socket that listens then. Without the
    filter, it would be reset if it came between the last accept and the close.
    """
    if listener.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # then the listener is unchanged
        if is_dropping:
            program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _WITHOUT_SYN))
            filter_ = struct.pack("HP", len(_WITHOUT_SYN), ctypes.addressof(program))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)
        else:
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def read_urgent_in_place(sock: socket.socket) -> None:
    """Read urgent data in its place among other data; without this, reads would skip it (socket(7), SO_OOBINLINE).
    Accepted sockets inherit it from their listener."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # the connection has ended
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def send_at_once(sock: socket.socket) -> None:
    """Send each write at once, even behind bytes that are not acknowledged (tcp(7), TCP_NODELAY). Accepted sockets
    inherit it from their listener."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # the connection has ended
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def keep_alive(sock: socket.socket, seconds: int) -> None:
    """Probe the peer after this time of silence, and end the connection with an error when it has not responded for
    the same time again (tcp(7), TCP_KEEPIDLE). Accepted sockets inherit it from their listener. seconds: 0: never."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # the connection has ended
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(seconds > 0))
            if seconds:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(seconds // KEEPALIVE_PROBES, 1))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def unsent(sock: socket.socket) -> int:
    """Return the bytes that the peer has not acknowledged; for a unix socket, not read (tcp(7), SIOCOUTQ)."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)
    except (OSError, ValueError):  # the socket is closed
        return 0


def unread(sock: socket.socket) -> int:
    """Return the bytes that can be read. Raises OSError."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0" * 4), sys.byteorder)


def is_over(sock: socket.socket) -> bool:
    """Whether the connection has been reset, even before a read reports it (tcp(7), TCP_INFO). Always False for a unix
    socket."""
    return _tcp_state(sock) == TCP_CLOSE


def has_fin(sock: socket.socket) -> bool:
    """Whether the peer has sent its FIN, even before a read reports it. Always False for a unix socket."""
    return _tcp_state(sock) == TCP_CLOSE_WAIT


def _tcp_state(sock: socket.socket) -> int:
    """Return the state (the kernel's net/tcp_states.h); 0 for a unix socket."""
    try:
        return 0 if sock.family == socket.AF_UNIX else int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    except (OSError, ValueError):
        return TCP_CLOSE


def has_input(sock: socket.socket) -> bool:
    """Whether bytes, an end or an error can be read (poll(2))."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
    return bool(poll.poll(0))


def receive_now(sock: socket.socket, size: int) -> bytes | None:
    """Read at most `size` bytes that have come. None: there are none, or only an end or an error.

    sock: a socket in any mode, or what stands for one and has its `family`, `type` and `fileno`.
    """
    descriptor = sock.fileno()
    if descriptor < 0:
        return None
    reading = socket.socket(sock.family, sock.type, 0, descriptor)
    try:
        return reading.recv(size, socket.MSG_DONTWAIT) or None
    except OSError:
        return None
    finally:
        reading.detach()


def open_private_unix_listener(path: str, backlog: int) -> socket.socket:
    """Return a listening unix socket with mode 0600 from the start: only this user may connect. Raises CannotListen."""
    before = os.umask(0o177)
    try:
        return open_listener(Unix(path), backlog)
    finally:
        os.umask(before)


def packed_address(peer: tuple[Any, ...]) -> bytes:
    """Return the IP address of a peer in 4 or 16 bytes. peer: from accept() of an IP socket."""
    if len(peer) == 2:
        return socket.inet_aton(peer[0])
    return socket.inet_pton(socket.AF_INET6, peer[0].partition("%")[0])


def is_dual_stack(sock: socket.socket) -> bool:
    """Whether an IPv6 socket accepts IPv4 clients too (ipv6(7), IPV6_V6ONLY), as sockets of other programs may."""
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def unmapped(peer: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a peer from accept() with an IPv4-mapped address converted to IPv4, as an IPv4 socket reports it."""
    host = peer[0].removeprefix("::ffff:")
    return (host, peer[1]) if "." in host and ":" not in host else peer


def accept_descriptor(listener: Any, family: int) -> tuple[int, Any] | None:
    """Accept one connection. Return its descriptor, which is not inherited, and the peer's address as from accept();
    None: nobody waits. Raises OSError. family: of the listener."""
    try:
        accepted: tuple[int, Any] = listener._accept()
    except (BlockingIOError, InterruptedError):
        return None
    return accepted


def begin_connection(family: int, where: Any) -> int:
    """Begin to connect a non-blocking stream socket to a numeric address or a path. Return its descriptor. Raises
    OSError; BlockingIOError where the backlog of a unix socket is full."""
    sock = plain_socket_class(family)(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    error = sock.connect_ex(where)
    if error and error != errno.EINPROGRESS:
        sock.close()
        raise OSError(error, os.strerror(error))
    descriptor: int = sock.detach()
    return descriptor


def pending_error(descriptor: int, family: int) -> int:
    """Return the error of a socket, and clear it (socket(7), SO_ERROR); 0: there is none."""
    sock = plain_socket_class(family)(family, socket.SOCK_STREAM, 0, descriptor)
    try:
        return int(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    finally:
        sock.detach()


def close_with_reset(sock: socket.socket) -> None:
    """Close a TCP connection with a reset; the kernel keeps nothing of it."""
    with contextlib.suppress(OSError):  # the peer has ended it before
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


def close_descriptor_with_reset(descriptor: int, family: int) -> None:
    """As `close_with_reset`, for the descriptor of a stream socket."""
    close_with_reset(plain_socket_class(family)(family, socket.SOCK_STREAM, 0, descriptor))


_SNDBUFFORCE, _BUF_LOCK, _SNDBUF_LOCKED = 32, 72, 1


def send_buffer(sock: socket.socket) -> int:
    """Return the size of the send buffer, in bytes as the kernel counts them; negative if it was set explicitly, so
    that the kernel does not adjust it. Raises OSError."""
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return -size if sock.getsockopt(socket.SOL_SOCKET, _BUF_LOCK) & _SNDBUF_LOCKED else size


def set_send_buffer(sock: socket.socket, size: int) -> None:
    """Set the size of the send buffer, or restore a value of `send_buffer`. Needs CAP_NET_ADMIN (socket(7),
    SO_SNDBUFFORCE). Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, _SNDBUFFORCE, min(abs(size) // 2, 1 << 29))  # the kernel doubles it
    if size > 0:
        locked = sock.getsockopt(socket.SOL_SOCKET, _BUF_LOCK)
        sock.setsockopt(socket.SOL_SOCKET, _BUF_LOCK, locked & ~_SNDBUF_LOCKED)
