"""Fetches a large answer several times at once: `fetcher.py PORT PATH BYTES TIMES [tls]`. A program of its own.

Each answer must be 200 and have exactly so many bytes. Prints the seconds from the first request to the last byte.
"""

import contextlib
import socket
import ssl
import sys
import threading
import time

READ = 1 << 20

wrong: list[str] = []


def fetch(port: int, path: str, size: int, context: ssl.SSLContext | None) -> None:
    """One answer, thrown away as it comes; what is wrong with it is noted in `wrong`. context: None: no TLS."""
    buffer = bytearray(READ)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(65536)
            if not more:
                wrong.append(f"no head: {head!r}")
                return
            head += more
        head, _, body = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            wrong.append(head.decode("latin-1"))
        found = len(body)
        while more_bytes := sock.recv_into(buffer):
            found += more_bytes
        if found != size:
            wrong.append(f"{found} bytes, not {size}")


def guarded(port: int, path: str, size: int, context: ssl.SSLContext | None) -> None:
    try:
        fetch(port, path, size, context)
    except OSError as error:
        wrong.append(repr(error))


def main() -> int:
    port, path, size, times = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    context = None
    if sys.argv[5:] == ["tls"]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the certificate is one of the benchmark's own
    threads = [threading.Thread(target=guarded, args=(port, path, size, context), daemon=True) for _ in range(times)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{time.perf_counter() - began:.6f}")
    for text in wrong:
        print(text, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
