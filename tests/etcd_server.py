"""Real etcd with one member or several, in a temporary folder, and TCP proxies in front of it that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from servers import LOOPBACK, Program, answers, free_port, program, wait_for


class EtcdServer(Program):
    """A member. url: that clients use. peers: the addresses of all members, by name; None: it is the only one."""

    def __init__(
        self,
        folder: Path,
        name: str = "default",
        peers: dict[str, str] | None = None,
        *,
        is_durable: bool = False,
        host: str = LOOPBACK,
        prefix: Sequence[str] = (),
    ) -> None:
        """is_durable: it syncs its disk, as outside of tests. prefix: the words before its command."""
        self.folder = folder
        self.name = name
        self.port = free_port()
        self.url = f"http://{host}:{self.port}"
        self._prefix = prefix
        self.peers = peers or {name: f"http://{LOOPBACK}:{free_port()}"}
        self._is_durable = is_durable
        if peers is None:
            self.start()

    def begin(self) -> None:
        """Start it, without waiting for it."""
        peer = self.peers[self.name]
        arguments = ["--name", self.name, "--data-dir", str(self.folder / f"etcd-{self.name}"), "--logger", "zap"]
        arguments += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        arguments += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        arguments += ["--initial-cluster", ",".join(f"{name}={url}" for name, url in self.peers.items())]
        if not self._is_durable:
            arguments.append("--unsafe-no-fsync")
        first, *others = [*self._prefix, "etcd", *arguments]
        super().__init__(first, others, self.folder)

    def start(self) -> None:
        """Start it, or start it again after `stop()` with what it has stored."""
        self.begin()
        self.wait_until(lambda: answers(self.port))

    def save_snapshot(self, path: Path) -> None:
        etcdctl(self.url, "snapshot", "save", str(path))

    def restore(self, path: Path) -> None:
        """Stop it, and start it with a snapshot in place of what it has stored."""
        self.stop()
        folder = self.folder / f"etcd-{self.name}"
        shutil.rmtree(folder)
        peer = self.peers[self.name]
        options = ["--name", self.name, "--initial-cluster", f"{self.name}={peer}", "--data-dir", str(folder)]
        etcdctl(self.url, "snapshot", "restore", str(path), *options, "--initial-advertise-peer-urls", peer)
        self.start()

    def freeze(self) -> None:
        """Let it accept connections and never respond."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.thaw()
        super().stop()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(10)


class EtcdMembers:
    """Several members, which make one etcd."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        peers = {f"m{number}": f"http://{LOOPBACK}:{free_port()}" for number in range(count)}
        self.members = [EtcdServer(folder, name, peers) for name in peers]
        for member in self.members:
            member.begin()
        for member in self.members:
            member.wait_until(lambda port=member.port: answers(port))

    @property
    def urls(self) -> list[str]:
        return [member.url for member in self.members]

    def stop(self) -> None:
        for member in self.members:
            member.stop()


class _ProxyThread:
    """An event loop in a thread, for all proxies of this process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


_thread: list[_ProxyThread] = []


def _proxy_thread() -> _ProxyThread:
    if not _thread:
        _thread.append(_ProxyThread())
    return _thread[0]


class Proxy:
    """Passes connections on to a port of loopback, until it is told to fail.

    passes_requests, passes_responses: False: what comes is swallowed, and nobody is told; that is a half-open
    connection. is_resetting: each connection is accepted and reset. delay: seconds by which each piece is late.
    connections: accepted so far.
    """

    def __init__(self, to: int) -> None:
        self.to = to
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.passes_requests = self.passes_responses = True
        self.is_resetting = False
        self.delay = 0.0
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._stalled: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.open()

    def open(self) -> None:
        """Accept connections (again), and pass everything on."""
        self.passes_requests = self.passes_responses = True
        self.is_resetting = False
        if self._server is None:
            _proxy_thread().run(self._open())

    def reset(self) -> None:
        """Reset all connections, and each one that is accepted from now on."""
        self.is_resetting = True
        self.cut()

    def half_open(self) -> None:
        """Swallow what comes on the connections of now, and pass on that of new ones."""
        self._stalled |= self._writers

    def swallow(self) -> None:
        """Pass nothing on any more, in both directions, of old and new connections."""
        self.passes_requests = self.passes_responses = False

    def mend(self) -> None:
        """Pass everything on from now on, and cut the connections of which something is missing."""
        is_incomplete = not (self.passes_requests and self.passes_responses) or self._stalled
        self.open()
        if is_incomplete:
            self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        _proxy_thread().run(self._cut())

    def close(self) -> None:
        """Reset all connections, and refuse new ones."""
        _proxy_thread().run(self._close())

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accepted, LOOPBACK, self.port, reuse_address=True)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.is_resetting:
            writer.transport.abort()
            return
        try:
            to_reader, to_writer = await asyncio.open_connection(LOOPBACK, self.to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_writer}
        try:
            await asyncio.gather(
                self._pass(reader, to_writer, lambda: self.passes_requests),
                self._pass(to_reader, writer, lambda: self.passes_responses),
            )
        finally:
            self._writers -= {writer, to_writer}
            self._stalled -= {writer, to_writer}
            writer.transport.abort()
            to_writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_passed: Callable[[], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if is_passed() and writer not in self._stalled:
                    writer.write(data)
                    await writer.drain()
        if is_passed():
            writer.transport.abort()


class Links:
    """The ways of one node to all members: a proxy each. They fail together."""

    def __init__(self, ports: list[int]) -> None:
        self.proxies = [Proxy(port) for port in ports]

    @property
    def urls(self) -> str:
        """As --cluster takes them."""
        return ",".join(proxy.url for proxy in self.proxies)

    def __iter__(self) -> Iterator[Proxy]:
        return iter(self.proxies)

    def swallow(self) -> None:
        for proxy in self.proxies:
            proxy.swallow()

    def reset(self) -> None:
        for proxy in self.proxies:
            proxy.reset()

    def half_open(self) -> None:
        for proxy in self.proxies:
            proxy.half_open()

    def mend(self) -> None:
        for proxy in self.proxies:
            proxy.mend()

    def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()

    def open(self) -> None:
        for proxy in self.proxies:
            proxy.open()


def leader(members: list[EtcdServer]) -> EtcdServer:
    """Return the member that leads, as soon as there is one."""

    def find() -> EtcdServer | None:
        for member in members:
            with contextlib.suppress(OSError, KeyError):
                asked = urllib.request.Request(f"{member.url}/v3/maintenance/status", b"{}")
                with urllib.request.urlopen(asked, timeout=2) as response:
                    said = json.load(response)
                if said["leader"] == said["header"]["member_id"]:
                    return member
        return None

    found: EtcdServer = wait_for(find, "a leader of etcd", timeout=20)
    return found


def etcdctl(url: str, *words: str) -> None:
    """Run etcdctl, whose arguments of before version 3.6 are understood by all versions."""
    command = [program("etcdctl"), "--endpoints", url, *words]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"}, timeout=30)
