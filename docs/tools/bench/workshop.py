"""The place of a measurement: its folder, its cores, how long it takes, and the real servers."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from bench import configurations
from bench.configurations import LOOPBACK
from bench.processes import Running, free_port, program, running

KEPT_DESCRIPTORS = 200
"""Descriptors that programs need besides connections."""


@frozen
class Workshop:
    """folder: for configurations and logs. proxy: the cores of the proxy. load: the cores of all else. rounds: how
    often everybody is measured. seconds: how long each time. baseline: another checkout of ktcpvs, which is measured
    too; None without one. only_ours: the other proxies are left out."""

    folder: Path
    proxy: set[int]
    load: set[int]
    rounds: int
    seconds: int
    quick: bool
    baseline: Path | None = None
    only_ours: bool = False

    def write(self, name: str, text: str) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.write_text(text)
        return path

    def space(self, name: str) -> Path:
        """A folder of its own for a program that wants one."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path

    def say(self, text: str) -> None:
        """Tell who waits what is going on."""
        print(text, flush=True)


@frozen
class Servers:
    """Real servers. addresses: HOST:PORT of each, the first one of those that have several. files: the folder of their
    files. running: their program. is_tls: clients must speak TLS."""

    addresses: tuple[str, ...]
    files: Path
    running: Running
    is_tls: bool = False


@contextlib.contextmanager
def nginx(
    shop: Workshop,
    name: str,
    body: str,
    cores: set[int],
    connections: int,
    workers: int = 1,
    log: str = "access_log off;",
) -> Iterator[Running]:
    """An nginx with this body of its `http` block, and these lines about its access log."""
    folder = shop.space(name)
    user = "user root;" if os.getuid() == 0 else ""
    text = configurations.nginx(str(folder), body, user, connections, workers, log)
    path = shop.write(f"{name}/nginx.conf", text)
    command = [program("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(path)]
    with running(command, cores, folder / "log") as started:
        yield started


@contextlib.contextmanager
def servers(
    shop: Workshop, count: int = 3, cores: set[int] | None = None, workers: int = 1, certificate: str = ""
) -> Iterator[Servers]:
    """`count` real servers in one nginx, each on a port of its own. certificate: as for `nginx_servers`."""
    ports = [free_port() for _ in range(count)]
    addresses = tuple(f"{LOOPBACK}:{port}" for port in ports)
    files = shop.space("files")
    body = configurations.nginx_servers(tuple((address,) for address in addresses), str(files), certificate)
    limit = max(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - KEPT_DESCRIPTORS, 512)
    with nginx(shop, "servers", body, cores or shop.load, limit, workers) as started:
        for port in ports:
            started.wait_until_open(port)
        yield Servers(addresses, files, started, bool(certificate))


@contextlib.contextmanager
def many_addresses(shop: Workshop, count: int) -> Iterator[tuple[str, ...]]:
    """One real server that listens on `count` addresses of loopback: as many real servers for a switch."""
    port = free_port()
    addresses = tuple(f"127.1.{number // 250}.{number % 250 + 1}:{port}" for number in range(count))
    body = configurations.nginx_servers((addresses,), str(shop.space("files")))
    with nginx(shop, "servers", body, shop.load, count + 2000) as started:
        started.wait_until_open(port, host=addresses[-1].partition(":")[0])
        yield addresses


def raise_descriptor_limit(wanted: int = 65536) -> int:
    """As many descriptors as this machine allows, up to `wanted`, for us and all that we start; how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        with contextlib.suppress(OSError, ValueError):  # allowed to few
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
