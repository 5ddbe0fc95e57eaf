"""The switch and its peers, each as a program that serves a site for as long as a block lasts."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import evolve, frozen

from bench import configurations
from bench.configurations import Site
from bench.failure import Failure
from bench.processes import Running, free_port, program, running
from bench.results import OURS
from bench.workshop import Workshop, nginx

BASELINE = "ktcpvs, baseline"
HTTP = "HAProxy http"
HTTP_RULES = "HAProxy http, a rule each"
TCP = "HAProxy tcp"
INSPECT = "HAProxy tcp, content inspection"
TCP_SPLICE = "HAProxy tcp, always splices"
NGINX = "nginx"
FORWARDER = "Twisted portforward"

RUN_TWISTD = "from twisted.scripts.twistd import run; run()"

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


@frozen
class Peer:
    """A proxy that runs. port: where it serves. running: its program. control: of the switch alone, the endpoint that
    tcpvsadm wants; an empty text for the others. is_tls: its clients must speak TLS. is_http2: they speak HTTP/2."""

    name: str
    port: int
    running: Running
    control: str = ""
    is_tls: bool = False
    is_http2: bool = False


@functools.cache
def has_workers() -> bool:
    """True when the switch can run as several processes."""
    said = subprocess.run([BIN / "ktcpvs", "--help"], capture_output=True, text=True, timeout=60)
    if said.returncode:
        raise Failure(f"ktcpvs --help ends with {said.returncode}: {said.stderr}")
    return "--workers" in said.stdout


@contextlib.contextmanager
def ktcpvs(
    shop: Workshop,
    site: Site,
    scheduler: str,
    cores: set[int] | None = None,
    workers: int = 0,
    relay: str = "",
    tree: Path | None = None,
) -> Iterator[Peer]:
    """The switch, as its users start it. workers: 0 for everything in one process. relay: what carries the bytes, which
    is then part of its name; an empty text for what it takes by itself. tree: a checkout that is not installed, to be
    run in this one's environment; None for what is installed."""
    folder = shop.space(f"ktcpvs-{site.port}")
    control = f"unix:{folder}/control.sock"
    config = shop.write(f"{folder.name}/ktcpvs.conf", configurations.ktcpvs(site, scheduler, relay))
    options = ["--control", control, "--config", str(config)]
    if has_workers():
        options += ["--workers", str(workers)]
    command = [str(BIN / "ktcpvs"), *options]
    environment = dict(os.environ)
    if tree is not None:
        command = [sys.executable, "-c", RUN_TWISTD, "--nodaemon", "--pidfile=", "--reactor=uvloop", "ktcpvs", *options]
        environment["PYTHONPATH"] = str(tree)
    with running(command, cores or shop.proxy, folder / "log", cwd=tree or folder, env=environment) as started:
        started.wait_until_open(site.port)
        name = OURS if tree is None else BASELINE
        yield Peer(f"{name} {relay}".strip(), site.port, started, control)


@contextlib.contextmanager
def haproxy(shop: Workshop, name: str, site: Site, text: str) -> Iterator[Peer]:
    """HAProxy with this configuration, in the foreground."""
    path = shop.write(f"haproxy-{site.port}.conf", text)
    log = shop.folder / f"haproxy-{site.port}.log"
    with running([program("haproxy"), "-db", "-f", str(path)], shop.proxy, log) as started:
        started.wait_until_open(site.port)
        yield Peer(name, site.port, started)


@contextlib.contextmanager
def haproxy_http(shop: Workshop, site: Site) -> Iterator[Peer]:
    map_file = shop.write(f"haproxy-{site.port}.map", configurations.haproxy_map(site))
    with haproxy(shop, HTTP, site, configurations.haproxy_http(site, str(map_file))) as peer:
        yield peer


@contextlib.contextmanager
def haproxy_rules(shop: Workshop, site: Site) -> Iterator[Peer]:
    """HAProxy in mode http with a rule for each regular expression."""
    with haproxy(shop, HTTP_RULES, site, configurations.haproxy_http(site)) as peer:
        yield peer


@contextlib.contextmanager
def haproxy_tcp(shop: Workshop, site: Site) -> Iterator[Peer]:
    with haproxy(shop, TCP, site, configurations.haproxy_tcp(site)) as peer:
        yield peer


@contextlib.contextmanager
def haproxy_inspect(shop: Workshop, site: Site) -> Iterator[Peer]:
    with haproxy(shop, INSPECT, site, configurations.haproxy_inspect(site)) as peer:
        yield peer


@contextlib.contextmanager
def haproxy_sni(shop: Workshop, site: Site) -> Iterator[Peer]:
    """HAProxy in mode tcp that chooses by the server name."""
    with haproxy(shop, TCP, site, configurations.haproxy_sni(site)) as peer:
        yield peer


@contextlib.contextmanager
def haproxy_splice(shop: Workshop, site: Site) -> Iterator[Peer]:
    """HAProxy in mode tcp that may splice."""
    with haproxy(shop, TCP, site, configurations.haproxy_tcp(site, ("splice-auto",))) as peer:
        yield peer


@contextlib.contextmanager
def haproxy_always(shop: Workshop, site: Site) -> Iterator[Peer]:
    """HAProxy in mode tcp that splices both ways whatever comes."""
    text = configurations.haproxy_tcp(site, ("splice-request", "splice-response"))
    with haproxy(shop, TCP_SPLICE, site, text) as peer:
        yield peer


@contextlib.contextmanager
def nginx_proxy(shop: Workshop, site: Site) -> Iterator[Peer]:
    body = configurations.nginx_proxy(site)
    # It closes idle connections when fewer than a sixteenth are free.
    clients, log = site.clients * 6 // 5 + 1000, configurations.nginx_log(site)
    with nginx(shop, f"nginx-{site.port}", body, shop.proxy, clients, site.threads, log=log) as started:
        started.wait_until_open(site.port)
        yield Peer(NGINX, site.port, started)


@contextlib.contextmanager
def forwarder(shop: Workshop, site: Site) -> Iterator[Peer]:
    """Twisted's own port forwarder, to the first real server."""
    command = [sys.executable, str(HERE / "forwarder.py"), str(site.port), *site.servers[0].split(":")]
    with running(command, shop.proxy, shop.folder / f"forwarder-{site.port}.log") as started:
        started.wait_until_open(site.port)
        yield Peer(FORWARDER, site.port, started)


Start = Callable[[Site], contextlib.AbstractContextManager[Peer]]
"""Starts a peer for a site."""

Kind = Callable[[Workshop, Site], contextlib.AbstractContextManager[Peer]]
"""A kind of peers: starts one in a workshop, for a site."""


def start_all(stack: contextlib.ExitStack, starts: list[Start], site: Site, *, is_passed: bool = False) -> list[Peer]:
    """Start peers for the same site, each on a port of its own. The site's port is not looked at. is_passed: they pass
    TLS through to the servers."""
    found = []
    for start in starts:
        port = free_port()
        peer = stack.enter_context(start(evolve(site, port=port, log_file=f"{site.log_file}.{port}")))
        found.append(evolve(peer, is_tls=is_passed or bool(site.certificate), is_http2=site.is_http2))
    return found


def whose(shop: Workshop, *kinds: Kind) -> list[Start]:
    """Kinds of peers as what `start_all` wants."""
    return [functools.partial(kind, shop) for kind in kinds]


def ours(shop: Workshop, scheduler: str, relay: str = "", tree: Path | None = None, workers: int = 0) -> Start:
    """The switch with this scheduler and relay, as what `start_all` wants. tree, workers: as for `ktcpvs`."""
    return lambda site: ktcpvs(shop, site, scheduler, workers=workers, relay=relay, tree=tree)


def everybody(shop: Workshop, scheduler: str, *kinds: Kind, workers: int = 0) -> list[Start]:
    """The switch with this scheduler, the baseline's if there is one, and these kinds of peers, as what `start_all`
    wants. workers: of the switch; 0 for everything in one process."""
    starts = [ours(shop, scheduler, workers=workers)]
    if shop.baseline is not None:
        starts.append(ours(shop, scheduler, tree=shop.baseline, workers=workers))
    return starts if shop.only_ours else [*starts, *whose(shop, *kinds)]
