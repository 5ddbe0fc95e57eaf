"""What every test of this folder gets: a running daemon, and starters for real servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, SocketServer, Where

from .harness import ControlThread, Daemon


@pytest.fixture(scope="session")
def control_thread() -> Iterator[ControlThread]:
    thread = ControlThread()
    yield thread
    thread.stop()


@pytest.fixture
def reactor() -> str:
    """The daemon's reactor; test files that run with several override this."""
    return "uvloop"


@pytest.fixture
def make_daemon(control_thread: ControlThread, tmp_path: Path, reactor: str) -> Iterator[Callable[..., Daemon]]:
    """make_daemon(*options, ...): a Daemon that is not started yet; several live in folders of their own."""
    made: list[Daemon] = []

    def make(*options: str | Path, **named: Any) -> Daemon:
        folder = tmp_path / f"daemon{len(made)}"
        folder.mkdir()
        made.append(Daemon(control_thread, folder, *options, **{"reactor": reactor, **named}))
        return made[-1]

    yield make
    with contextlib.ExitStack() as stack:
        for daemon in made:
            stack.callback(daemon.finish)


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon with an empty table."""
    daemon = make_daemon()
    daemon.start()
    return daemon


@pytest.fixture(scope="module")
def lasting_reactor() -> str:
    """The reactor of `lasting_daemon`; test files that run with several override this."""
    return "uvloop"


@pytest.fixture(scope="module")
def lasting_daemon(
    control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory, lasting_reactor: str
) -> Iterator[Daemon]:
    """One daemon for a whole file. Such a file's `daemon` is this one, cleared after each test."""
    daemon = Daemon(control_thread, tmp_path_factory.mktemp("daemon"), reactor=lasting_reactor)
    daemon.start()
    yield daemon
    daemon.finish()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """What is entered here is left when the test ends, before the daemon ends."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Nginx]]:
    """Three nginx that live as long as the tests: r1, r2, r3. Not to be stopped."""
    folder = tmp_path_factory.mktemp("web")
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("r1", "r2", "r3"):
            servers.append(Nginx(name, folder))
            stack.callback(servers[-1].stop)
        yield servers


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[str], Nginx]]:
    """nginx(name): one more nginx, which the test may stop."""
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Nginx:
            server = Nginx(name, tmp_path)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def serve() -> Iterator[Callable[..., SocketServer]]:
    """serve(what, where): a SocketServer."""
    with contextlib.ExitStack() as stack:

        def start(what: Callable[..., object], where: Where = (LOOPBACK, 0)) -> SocketServer:
            server = SocketServer(what, where)
            stack.callback(server.stop)
            return server

        yield start
