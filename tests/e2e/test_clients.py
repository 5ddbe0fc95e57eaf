"""The clients of asyncio and of blocking programs, with a running daemon: over a unix socket and over TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from cases import check_each
from servers import LOOPBACK, SocketServer, echo, free_address, free_port

from ktcpvs.control.client import (
    BlockingClient,
    NoAnswer,
    NotTrusted,
    Refusal,
    connect_asyncio,
    connect_blocking,
)
from ktcpvs.errors import BadValue, NoSuchService, NoTLS

from .harness import ControlThread, Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.together]


class Site:
    """A daemon with two control addresses, and the certificates of the second one."""

    def __init__(self, folder: Path, thread: ControlThread) -> None:
        self.ca = Authority(folder)
        self.cert, self.alice = self.ca.daemon(), self.ca.issue("alice")
        self.port = free_port()
        listens = f"tls:{self.port}:interface={LOOPBACK}:cert={self.cert}:ca={self.ca.pem}"
        self.daemon = Daemon(thread, folder, "--control", listens, tls=True, preloaded=True)
        self.daemon.start()

    def tls(self, cert: Path | None = None, ca: Path | None = None, host: str = LOOPBACK, port: int = 0) -> str:
        return f"tls:{host}:{port or self.port}:cert={cert or self.alice}:ca={ca or self.ca.pem}"


@pytest.fixture(scope="module")
def site(control_thread: ControlThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("clients"), control_thread)
    yield site
    site.daemon.finish()


@pytest.fixture(params=["unix", "tls"])
def control(site: Site, request: pytest.FixtureRequest) -> str:
    """Each of its addresses."""
    return site.daemon.control if request.param == "unix" else site.tls()


def test_a_blocking_program_administers(control: str) -> None:
    with connect_blocking(control) as client:
        client.load("", allow_empty=True)
        assert client.add_service("web", listen=free_address(), scheduler="phttp", startservers="3")
        assert client.add_server("web", "127.0.0.1:9", weight=2) == []
        service = client.service("web")
        assert [(server.address, server.weight) for server in service.servers] == [("127.0.0.1:9", 2)]
        assert not service.running
        with pytest.raises(NoSuchService, match="no service nope"):
            client.service("nope")
        with pytest.raises(BadValue, match="trace = on: expected off"):
            client.edit_service("web", trace="on")
        with pytest.raises(Refusal, match="longer than the 65,535 bytes"):
            client.edit_service("web", access_log="/" + "x" * 70_000)
        assert client.explain("web", "GET", "/").outcome == "server"
        client.load("".join(f"Virtual s{n} {{ listen = 127.0.0.1:{1000 + n} }}\n" for n in range(200)))
        assert len(client.services()) == 200  # more than one page
        client.load("", allow_empty=True)
    with pytest.raises(NoAnswer):
        client.services()
    client.close()


def test_tasks_of_asyncio_administer_together(control: str) -> None:
    async def main() -> None:
        async with await connect_asyncio(control) as client:
            await client.load("", allow_empty=True)
            await client.add_service("web", listen=free_address(), scheduler="phttp")
            addresses = [f"127.0.0.1:{port}" for port in range(9001, 9021)]
            found = await asyncio.gather(
                *(client.add_server("web", address) for address in addresses),
                client.service("nope"),
                client.version(),
                return_exceptions=True,
            )
            assert found[:20] == [[]] * 20
            assert isinstance(found[20], NoSuchService)
            service = await client.service("web")
            assert sorted(server.address for server in service.servers) == addresses
            assert [one.name for one in await client.settings()][:1] == ["debug_level"]
            assert await client.connections() == []
            assert await client.certificates() == []
            with pytest.raises(BadValue, match="cluster"):
                await client.nodes()
            await client.load("", allow_empty=True)
        with pytest.raises(NoAnswer):
            await client.services()

    asyncio.run(main())


def test_a_cancelled_command_closes_the_client(site: Site) -> None:
    """Its response would be taken for that of the next command."""

    async def main() -> str:
        async with await connect_asyncio(site.daemon.control) as client:
            waiting = asyncio.ensure_future(client.services())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(NoAnswer) as closed:
                await client.version()
            return str(closed.value)

    assert (
        asyncio.run(main())
        == f"the daemon at {site.daemon.control} closed the connection (Connection was closed cleanly)"
    )


def reasons(control: str) -> tuple[Exception, Exception]:
    """Why each client cannot use that address."""

    def ask_blocking(client: BlockingClient) -> None:
        with client:
            client.version()

    async def ask() -> Any:
        async with await connect_asyncio(control, 2) as client:
            return await client.version()

    with pytest.raises((NoAnswer, NoTLS)) as of_blocking:
        ask_blocking(connect_blocking(control, 2))
    with pytest.raises((NoAnswer, NoTLS)) as of_asyncio:
        asyncio.run(ask())
    return of_blocking.value, of_asyncio.value


def test_both_clients_say_why_a_connection_fails(site: Site, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    stranger = other.issue("mallory")
    port = free_port()
    nowhere = tmp_path / "none.sock"
    at = f"the daemon at tls:{LOOPBACK}:{site.port}: "
    cases = [
        (f"unix:{nowhere}", NoAnswer, f"no daemon answers at unix:{nowhere} (No such file or directory)"),
        (site.tls(port=port), NoAnswer, f"no daemon answers at tls:{LOOPBACK}:{port} ("),
        (site.tls(ca=other.pem), NotTrusted, f"{at}its certificate is not accepted: "),
        (site.tls(cert=stranger), NotTrusted, f"{at}TLS failed ("),
        (site.tls(cert=tmp_path / "no.pem"), NoTLS, f"control over tls: cert={tmp_path}/no.pem: No such file"),
        (site.tls(ca=tmp_path / "no.pem"), NoTLS, f"control over tls: ca={tmp_path}/no.pem: No such file"),
    ]

    def check(case: tuple[str, type[Exception], str]) -> None:
        control, kind, text = case
        for found in reasons(control):
            assert type(found) is kind, found
            assert str(found).startswith(text), found
            assert "\n" not in str(found)

    check_each(cases, check, lambda case: case[2])


def test_a_program_that_is_no_daemon(tmp_path: Path) -> None:
    path = str(tmp_path / "echo.sock")
    server = SocketServer(echo, path)
    try:
        for found in reasons(f"unix:{path}"):
            assert str(found) == (
                f"the program at unix:{path} does not speak this version's protocol: "
                "it sends something else than a response"
            )
    finally:
        server.stop()


def test_a_listener_that_never_answers_ends_by_the_timeout(site: Site) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        control = site.tls(port=silent.getsockname()[1])
        for found in reasons(control):
            assert str(found).startswith("no daemon answers at tls:"), found
