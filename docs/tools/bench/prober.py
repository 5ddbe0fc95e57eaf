"""Asks again and again on one kept connection, and notes how long each answer took. A program of its own:
`prober.py PORT PATH BODY`.

Reads lines: `mark` prints the number of requests since the last mark and the slowest of them in seconds, and begins
anew; the end of its input ends it. It ends with 1 when an answer is not 200 with BODY.
"""

import select
import socket
import sys
import time


def ask(sock: socket.socket, request: bytes, body: bytes) -> float:
    """Seconds that one answer took. Raises ValueError when it is wrong."""
    began = time.perf_counter()
    sock.sendall(request)
    answer = b""
    while not answer.endswith(body):
        more = sock.recv(65536)
        if not more:
            raise ValueError(f"no answer after {answer!r}")
        answer += more
        if len(answer) > 4096:
            break
    took = time.perf_counter() - began
    if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(body):
        raise ValueError(f"a wrong answer: {answer[:400]!r}")
    return took


def main() -> int:
    port, path, body = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count, slowest = 0, 0.0
        while True:
            count += 1
            slowest = max(slowest, ask(sock, request, body))
            if select.select([sys.stdin], [], [], 0.0005)[0]:
                if not sys.stdin.readline():
                    return 0
                print(count, f"{slowest:.6f}", flush=True)
                count, slowest = 0, 0.0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
