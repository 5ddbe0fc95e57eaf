"""Well-behaved clients of HTTP/2 that time their requests, in a process of their own: hostile clients keep theirs busy,
which would be measured too.

    python tests/soak/timed_clients.py PORT

They ask until their standard input ends. For each line of it, the `Times` since the line before are written as JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from http2_client import HTTP2Client  # noqa: E402

CLIENTS = 3
PAUSE = 0.005
"""Seconds between two requests of a client."""

TIMEOUT = 120.0


@dataclass
class Times:
    """took: seconds of each request. wrong: a line for each response that is not as it must be."""

    took: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class TimedClients:
    """The process with the clients. port: of a service whose server is tests.servers.Nginx."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lap()  # answered when they are connected

    def lap(self) -> Times:
        """Return what they have found since the last lap."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Times(**json.loads(self._process.stdout.readline()))

    def stop(self) -> None:
        self._process.communicate(timeout=2 * TIMEOUT)


class Asking:
    """The clients in their own process."""

    def __init__(self) -> None:
        self.times = Times()
        self._is_over = False

    async def run(self, port: int) -> None:
        clients = [await HTTP2Client.connect(port) for _ in range(CLIENTS)]
        asking = [asyncio.ensure_future(self._ask(client)) for client in clients]
        while await asyncio.to_thread(sys.stdin.readline):
            while not (self.times.took or self.times.wrong):  # on a busy machine, one may take longer than a lap
                await asyncio.sleep(PAUSE)
            times, self.times = self.times, Times()
            print(json.dumps(asdict(times)), flush=True)
        self._is_over = True
        await asyncio.gather(*asking)

    async def _ask(self, client: HTTP2Client) -> None:
        """Send requests, one after the other."""
        try:
            while not self._is_over:
                began = time.monotonic()
                response = await asyncio.wait_for(client.request("GET", "/hello"), TIMEOUT)
                self.times.took.append(time.monotonic() - began)
                if response.status != 200 or not response.body.endswith(b" GET /hello\n"):
                    self.times.wrong.append(f"status {response.status}: {response.body[:100]!r}")
                await asyncio.sleep(PAUSE)
        except (OSError, EOFError, TimeoutError) as error:
            self.times.wrong.append(f"a well-behaved client: {error!r}")
        await client.close()


if __name__ == "__main__":
    asyncio.run(Asking().run(int(sys.argv[1])))
