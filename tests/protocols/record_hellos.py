"""Records the ClientHello of real TLS clients on loopback. corpus/hellos/README.txt says when to run it.

    python tests/protocols/record_hellos.py [NAME ...]

Needs openssl, gnutls-cli (Debian's gnutls-bin), curl, node, chromium and hey, which is written in Go. Without NAME it
records all.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus" / "hellos"
NAME = "www.example.com"
PATIENCE = 30.0
"""Seconds in which a client must connect and send its hello."""

QUIET = 0.5
"""Seconds without further bytes after which the client is taken to wait for the server."""

Client = Callable[[int], contextlib.AbstractContextManager[object]]
"""Starts a client of a port."""


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[object]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def program(command: str) -> Client:
    """A client that is a command line; PORT stands for the port."""
    return lambda port: _started([word.replace("PORT", str(port)) for word in command.split()])


def node(options: str) -> Client:
    """node's tls.connect with these options."""
    return lambda port: _started(
        ["node", "-e", f"require('tls').connect({{host: '127.0.0.1', port: {port}, {options}}})"]
    )


@contextlib.contextmanager
def chromium(port: int) -> Iterator[object]:
    options = "--headless=new --no-sandbox --disable-gpu --no-first-run --no-proxy-server --disable-dev-shm-usage"
    rules = "--host-resolver-rules=MAP * 127.0.0.1"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = ["chromium", *options.split(), rules, f"--user-data-dir={folder}", f"https://{NAME}:{port}/"]
        with _started(command):
            yield None


def python(name: str | None, protocols: list[str], most: ssl.TLSVersion | None = None) -> Client:
    """Python's ssl."""

    def connect(port: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname = name is not None
        if protocols:
            context.set_alpn_protocols(protocols)
        if most is not None:
            context.maximum_version = most
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as one:
            context.wrap_socket(one, server_hostname=name).close()

    @contextlib.contextmanager
    def client(port: int) -> Iterator[object]:
        thread = threading.Thread(target=connect, args=(port,))
        thread.start()
        try:
            yield None
        finally:
            thread.join()

    return client


OPENSSL = "openssl s_client -connect 127.0.0.1:PORT "
GNUTLS = "gnutls-cli --insecure --port PORT "
CURL = f"curl -s --resolve {NAME}:PORT:127.0.0.1 "

CLIENTS: dict[str, Client] = {
    "openssl-tls13": program(OPENSSL + f"-servername {NAME} -alpn h2,http/1.1"),
    "openssl-tls12": program(OPENSSL + f"-servername {NAME} -tls1_2"),
    "openssl-tls10": program(OPENSSL + f"-servername {NAME} -tls1 -cipher ALL:@SECLEVEL=0"),
    "openssl-no-name": program(OPENSSL + "-noservername"),
    "openssl-upper-case": program(OPENSSL + f"-servername WWW.Example.COM -groups P-521:X448 -alpn {'x' * 200},h2"),
    "openssl-pieces": program(OPENSSL + f"-servername {NAME} -alpn {'x' * 250},{'y' * 250},h2 -max_send_frag 512"),
    "gnutls": program(GNUTLS + f"--sni-hostname {NAME} --alpn h2 --alpn http/1.1 127.0.0.1"),
    "gnutls-tls12": program(GNUTLS + f"--sni-hostname {NAME} --priority NORMAL:-VERS-ALL:+VERS-TLS1.2 127.0.0.1"),
    "gnutls-no-name": program(GNUTLS + "--disable-sni 127.0.0.1"),
    "gnutls-record-tls12": program(
        GNUTLS + f"--sni-hostname {NAME} --priority NORMAL:%LATEST_RECORD_VERSION 127.0.0.1"
    ),
    "curl-h2": program(CURL + f"https://{NAME}:PORT/"),
    "curl-http11": program(CURL + f"--http1.1 https://{NAME}:PORT/"),
    "curl-address": program("curl -s https://127.0.0.1:PORT/"),
    "node": node(f"servername: '{NAME}', ALPNProtocols: ['h2', 'http/1.1']"),
    "node-no-name": node("servername: ''"),
    "chromium": chromium,
    "go": program(f"hey -n 1 -c 1 -h2 -host {NAME} https://127.0.0.1:PORT/"),
    "python": python(NAME, ["http/1.1"]),
    "python-tls12": python(NAME, [], ssl.TLSVersion.TLSv1_2),
    "python-address": python("127.0.0.1", []),
}


def recorded(client: Client) -> bytes:
    """Return the bytes that a client sends before it hears anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with client(listener.getsockname()[1]):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                received = connection.recv(65536)
                connection.settimeout(QUIET)
                with contextlib.suppress(TimeoutError):
                    while more := connection.recv(65536):
                        received += more
            return received


def main() -> int:
    for name in sys.argv[1:] or CLIENTS:
        data = recorded(CLIENTS[name])
        (FOLDER / f"{name}.bin").write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
