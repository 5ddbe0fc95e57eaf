"""Real servers on loopback for tests and measurements: nginx, redis, PostgreSQL, and small socket servers in threads.

Each has an `address` in the form of tcpvsadm, accepts connections as soon as it is made, and has ended after `stop()`.
All its files are in the folder that the caller gives.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import hashlib
import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGES = (
    "systemd nginx-light redis-server postgresql curl apache2-bin nodejs wrk strace haproxy openssl nghttp2-server "
    "nghttp2-client pebble"
)

LOOPBACK = "127.0.0.1"

MAX_PAUSE = 0.1
"""The longest pause of `wait_for` between two looks, in seconds, unless a test asks for a longer one."""


def program(name: str) -> str:
    """Return the path of a program that tests need. Raises AssertionError, which names the packages to install."""
    folders = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"))]
    found = shutil.which(name, path=":".join(folders))
    assert found is not None, f"{name} is not installed; these tests need the Debian packages {PACKAGES}"
    return found


def wait_for(
    condition: Callable[[], Any], what: str | Callable[[], str] = "", timeout: float = 10.0, pause: float = 0.01
) -> Any:
    """Call `condition` until it returns a true value; return that value.

    The pause between two calls is a tenth of the time that has passed, so that a test that waits for seconds leaves the
    processors to others.

    A LookupError of `condition` is as a false value: what it looks up is not there yet. Raises AssertionError, which
    says `what`, after `timeout` seconds. pause: the shortest, in seconds.
    """
    began = time.monotonic()
    while True:
        missing = None
        try:
            if value := condition():
                return value
        except LookupError as error:
            missing = error
        passed = time.monotonic() - began
        if passed >= timeout:
            if callable(what):
                try:
                    what = what()
                except LookupError as error:
                    missing = error
            raise AssertionError(f"not within {timeout} s: {what or condition}") from missing
        time.sleep(min(max(pause, passed / 10), max(pause, MAX_PAUSE)))


_ports = iter(random.Random(os.getpid()).sample(range(20000, 32000), 12000))
_given = open(Path(tempfile.gettempdir()) / f"ktcpvs-test-ports-{os.getuid()}", "ab")  # noqa: SIM115
"""Holds a lock for each port that this process has given: the byte at that number."""


def _is_ours(port: int) -> bool:
    """True for a port that no other process with tests has given. Nothing may listen on it yet, or any more."""
    try:
        fcntl.lockf(_given, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


def _is_nameless(port: int) -> bool:
    """True for a port that has no name in /etc/services: listings show its number."""
    try:
        socket.getservbyport(port, "tcp")
    except OSError:
        return True
    return False


def free_port(host: str = LOOPBACK) -> int:
    """Return an unused port without a name, below the range from which the kernel takes the ports of clients."""
    for port in filter(_is_ours, filter(_is_nameless, _ports)):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError("no free port")


def free_address() -> str:
    """Return an unused HOST:PORT on a loopback address that only this process uses.

    So the kernel never gives its port to a client. There are enough for thousands of calls.
    """
    number = os.getpid()
    host = f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def answers(port: int, host: str = LOOPBACK) -> bool:
    """True when a server accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


class Program:
    """A server program in the foreground. Its output goes to `folder`/NAME.log."""

    def __init__(self, name: str, arguments: list[str], folder: Path, **options: Any) -> None:
        self.log_path = folder / f"{Path(name).name}.log"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [program(name), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
            )

    def wait_until(self, ready: Callable[[], Any]) -> None:
        """Wait for `ready()`, or fail with the program's output."""

        def looked() -> Any:
            assert self.process.poll() is None, f"{self.process.args} ended: {self.log_path.read_text()}"
            return ready()

        wait_for(looked, f"{self.process.args} to answer", timeout=20)

    def stop(self) -> None:
        """End it. May be called twice."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


NGINX_START = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 2000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    default_type text/plain;
    root {folder}/www;
"""
"""The beginning of every nginx configuration: nginx writes only into {folder}."""

NGINX_CONFIGURATION = (
    NGINX_START
    + """
    server {{
        listen {listen};
        add_header X-Server {name};
        location / {{ return 200 "{name} $connection $request_method $request_uri\\n"; }}
        location /files/ {{ }}
        location /slow/ {{ limit_rate 100k; alias {folder}/www/files/; }}
    }}
}}
"""
)


class Nginx(Program):
    """Responds to every path with "NAME connection-number METHOD path".

    It serves the files of `file()` under /files/, and with 100 kB/s under /slow/.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.folder = folder / f"nginx-{name}"
        (self.folder / "www/files").mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """Start it, or start it again after `stop()` with the same port."""
        configuration = self.folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        configuration.write_text(
            NGINX_CONFIGURATION.format(folder=self.folder, name=self.name, listen=self.address, user=user)
        )
        error_log = str(self.folder / "error.log")
        super().__init__("nginx", ["-p", str(self.folder), "-e", error_log, "-c", str(configuration)], self.folder)
        self.wait_until(lambda: answers(self.port))

    def file(self, name: str, size: int) -> str:
        """Make a file of random bytes; return its SHA-256, in hexadecimal."""
        digest = hashlib.sha256()
        chance = random.Random(name)
        with open(self.folder / "www/files" / name, "wb") as file:
            for start in range(0, size, 1 << 20):
                block = chance.randbytes(min(1 << 20, size - start))
                digest.update(block)
                file.write(block)
        return digest.hexdigest()


class Redis(Program):
    """A redis-server that saves nothing to disk."""

    def __init__(self, folder: Path, where: tuple[str, int] | None = None, *more: str) -> None:
        """where: host and port; None: a free port on loopback. more: further arguments."""
        host, self.port = where or (LOOPBACK, free_port())
        self.address = f"{host}:{self.port}"
        options = ["--port", str(self.port), "--bind", host, "--save", "", "--dir", str(folder), *more]
        super().__init__("redis-server", options, folder)
        self.wait_until(lambda: answers(self.port, host))


class PostgreSQL(Program):
    """A PostgreSQL with one database, `postgres`, and no passwords. Root runs it as the user `nobody`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="ktcpvs-postgresql-"))
        options: dict[str, Any] = {}
        if os.getuid() == 0:
            options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody", "nogroup")
        try:
            data = str(self.folder / "data")
            made = subprocess.run(
                self.making(data), cwd=self.folder, capture_output=True, text=True, timeout=60, **options
            )
            assert made.returncode == 0, made.stderr
            arguments = ["-D", data, "-h", LOOPBACK, "-p", str(self.port), "-k", str(self.folder), "-F"]
            arguments += self.options()
            super().__init__("postgres", arguments, self.folder, cwd=self.folder, **options)
            self.wait_until(lambda: "ready to accept " in self.log_path.read_text())
        except BaseException:
            self.stop()
            raise

    def making(self, data: str) -> list[str]:
        """The command that makes its data in the folder `data`."""
        initdb = [program("initdb"), "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]
        return [*initdb, "--no-sync"]

    def options(self) -> list[str]:
        """More arguments. Its folder is there already."""
        return []

    def stop(self) -> None:
        if hasattr(self, "process"):
            super().stop()
        shutil.rmtree(self.folder, ignore_errors=True)


RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def reset(sock: socket.socket) -> None:
    """Close it with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    sock.close()


def chunks(sock: socket.socket, size: int = 65536) -> Iterator[bytes]:
    """Yield what the other side sends, until it ends."""
    while data := sock.recv(size):
        yield data


def read_all(sock: socket.socket) -> bytes:
    """Read until the other side ends."""
    return b"".join(chunks(sock))


def ending(sock: socket.socket) -> str:
    """Wait until the other side ends, of which everything has been read: "end" for a FIN, "reset" for a reset."""
    try:
        assert sock.recv(1) == b""
    except ConnectionResetError:
        return "reset"
    return "end"


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes. Raises EOFError when the other side ends before."""
    data = bytearray()
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError(bytes(data))
        data += more
    return bytes(data)


def read_head(sock: socket.socket) -> bytes:
    """Read the head of a message byte by byte, so that nothing behind it is read; b"" at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def length_of(head: bytes) -> int:
    """Return the Content-Length in a head; 0 without one."""
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0] or b"0")


def echoes(client: socket.socket) -> bool:
    """True while the connection to a server that does `echo` works; False when it has ended."""
    try:
        client.sendall(b"ping")
        return read_exactly(client, 4) == b"ping"
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return False


Where = tuple[str, int] | str
"""(host, port) or the path of a unix socket."""


SO_ATTACH_FILTER = 26


def let_only_syn_in(listener: socket.socket) -> None:
    """Let the kernel drop all packets but SYNs: a client gets a SYN-ACK, and its handshake never completes."""
    program = (0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)  # TCP's flags
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))


def dial(where: Where, timeout: float = 10.0) -> socket.socket:
    """Connect; the timeout applies to all operations of the socket."""
    if isinstance(where, tuple):
        sock = socket.create_connection(where, timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(where)
    except OSError:
        sock.close()
        raise
    return sock


def written(where: Where) -> str:
    """Return the address in the form of tcpvsadm."""
    if isinstance(where, str):
        return f"unix:{where}"
    host, port = where
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class SocketServer:
    """Calls `serve(socket)` in a thread for each client, and closes the socket afterwards.

    where: host and port (0: a free one), or the path of a unix socket. accepted: the number of accepted connections.
    sockets: all accepted sockets, in their order.
    """

    def __init__(self, serve: Callable[[socket.socket], object], where: Where = (LOOPBACK, 0)) -> None:
        if isinstance(where, tuple) and where[1] == 0:
            where = where[0], free_port(where[0])
        self.where = where
        self.address = written(where)
        self.sockets: list[socket.socket] = []
        self._serve = serve
        self._threads: list[threading.Thread] = []
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(where)
        self._listener.listen(1024)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        assert isinstance(self.where, tuple)
        return self.where[1]

    @property
    def accepted(self) -> int:
        return len(self.sockets)

    @property
    def living(self) -> int:
        """The number of clients that it serves now."""
        return sum(thread.is_alive() for thread in self._threads)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.sockets.append(client)
            thread = threading.Thread(target=self._run, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            self._serve(client)

    def stop(self) -> None:
        """Stop listening and end all connections. May be called twice."""
        if self._listener.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listener.close()
        if isinstance(self.where, str):
            with contextlib.suppress(OSError):
                os.unlink(self.where)
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        assert not self.living, "a server thread did not end"


# Functions that a SocketServer may call for each client.


def echo(sock: socket.socket) -> None:
    """Send back all that the client sends."""
    for data in chunks(sock):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def sink(sock: socket.socket) -> None:
    """Read all and send nothing."""
    for _ in chunks(sock):
        pass


def speak_first(greeting: bytes) -> Callable[[socket.socket], None]:
    """Send the greeting, then echo."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(greeting)
        echo(sock)

    return serve


def digest_at_end(sock: socket.socket) -> None:
    """Read until the client ends, then send the SHA-256 of all bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for data in chunks(sock):
        digest.update(data)
    sock.sendall(digest.hexdigest().encode())


def digest_of_upload(sock: socket.socket) -> None:
    """A small HTTP server: responds to each upload with the SHA-256 of its body, and to `Expect: 100-continue`."""
    with sock.makefile("rb") as stream:
        while stream.readline():
            headers: dict[str, str] = {}
            while (line := stream.readline().strip()) != b"":
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("expect") == "100-continue":
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = stream.read(int(headers.get("content-length", 0)))
            answer = hashlib.sha256(body).hexdigest()
            sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())
