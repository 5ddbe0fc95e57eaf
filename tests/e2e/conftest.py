"""Fixtures of the end-to-end tests: running daemons and real servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import LOOPBACK, Nginx, SocketServer, Where
from tls_servers import TLSNginx

from .chat import Chat
from .harness import ControlThread, Daemon, SharedDaemons


@pytest.fixture(scope="session")
def control_thread() -> Iterator[ControlThread]:
    thread = ControlThread()
    yield thread
    thread.stop()


@pytest.fixture
def reactor() -> str:
    """The reactor of `daemon` and of daemons that `make_daemon` makes; tests that run with several override this."""
    return "uvloop"


@pytest.fixture
def workers() -> int:
    """The number of workers of `daemon`; tests that run with several numbers override this."""
    return 0


@pytest.fixture(scope="session")
def shared_daemons(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDaemons]:
    daemons = SharedDaemons(control_thread, lambda: tmp_path_factory.mktemp("daemon"))
    yield daemons
    daemons.finish()


@pytest.fixture
def daemon(shared_daemons: SharedDaemons, reactor: str, workers: int) -> Iterator[Daemon]:
    """A running daemon with an empty table. It may have served other tests; `new_daemon` has not."""
    with shared_daemons.borrow(reactor, workers) as daemon:
        yield daemon


@pytest.fixture
def make_daemon(control_thread: ControlThread, tmp_path: Path, reactor: str) -> Iterator[Callable[..., Daemon]]:
    """make_daemon(*options, ...): a Daemon that is not started yet; several live in folders of their own."""
    made: list[Daemon] = []

    def make(*options: str | Path, **named: Any) -> Daemon:
        folder = tmp_path / f"daemon{len(made)}"
        folder.mkdir()
        made.append(Daemon(control_thread, folder, *options, **{"reactor": reactor, "preloaded": True, **named}))
        return made[-1]

    yield make
    with contextlib.ExitStack() as stack:
        for daemon in made:
            stack.callback(daemon.finish)


@pytest.fixture
def new_daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon that has done nothing yet: for tests that measure it, or that end it."""
    daemon = make_daemon()
    daemon.start()
    return daemon


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """A stack that is closed when the test ends, before its daemon ends or is cleared."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Nginx]]:
    """Three nginx that live as long as the tests: r1, r2, r3. Tests must not stop them."""
    folder = tmp_path_factory.mktemp("web")
    with contextlib.ExitStack() as stack:
        servers = []
        for name in ("r1", "r2", "r3"):
            servers.append(Nginx(name, folder))
            stack.callback(servers[-1].stop)
        yield servers


@pytest.fixture(scope="session")
def tls_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSNginx]:
    """One nginx with a server of each kind that speaks TLS or reads the PROXY protocol. Tests must not stop it."""
    server = TLSNginx(tmp_path_factory.mktemp("tls-nginx"))
    yield server
    server.stop()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[str], Nginx]]:
    """nginx(name): start another nginx, which the test may stop."""
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Nginx:
            server = Nginx(name, tmp_path)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def serve() -> Iterator[Callable[..., SocketServer]]:
    """serve(what, where): start a SocketServer."""
    with contextlib.ExitStack() as stack:

        def start(what: Callable[..., object], where: Where = (LOOPBACK, 0)) -> SocketServer:
            server = SocketServer(what, where)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def chats() -> Iterator[tuple[Chat, Chat]]:
    with contextlib.ExitStack() as stack:
        made = Chat("a"), Chat("b")
        for chat in made:
            stack.callback(chat.stop)
        yield made
