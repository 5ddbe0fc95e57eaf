"""Endpoints of services with real reactors and real servers: treq, TLS, the PROXY protocol, names, descriptions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import blocks_of
from http_servers import Nginx
from nameserver import NameServer
from reactors import ReactorThread
from servers import LOOPBACK, wait_for
from tls_peers import authority
from tls_servers import NAME, TLSNginx
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

import ktcpvs
from ktcpvs.errors import BadValue, NoSuchService
from ktcpvs.in_process.connection import NotConnected

pytestmark = [pytest.mark.e2e, pytest.mark.together]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", params=["epoll", "uvloop"])
def thread(request: pytest.FixtureRequest) -> Iterator[ReactorThread]:
    thread = ReactorThread(request.param)
    yield thread
    thread.stop()
    assert thread.failures == []


@pytest.fixture(scope="module")
def tls_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSNginx]:
    nginx = TLSNginx(tmp_path_factory.mktemp("tls-nginx"))
    yield nginx
    nginx.stop()


@pytest.fixture
def two_nginx() -> Iterator[tuple[Nginx, Nginx]]:
    first = Nginx()
    try:
        second = Nginx()
    except BaseException:
        first.stop()
        raise
    yield first, second
    first.stop()
    second.stop()


class Program:
    """A program with a switch and treq. text: the configuration."""

    def __init__(self, thread: ReactorThread, text: str, is_persistent: bool = False, **options: Any) -> None:
        self.thread = thread
        self.switch: Any = thread.run(lambda: ktcpvs.Switch(thread.reactor, text=text, **options))
        self.names = re.findall(r"Virtual (\w+)", text)
        self.pool = HTTPConnectionPool(thread.reactor, persistent=is_persistent)
        hosts = self.switch.endpoint_factory()
        agent = Agent.usingEndpointFactory(thread.reactor, hosts, pool=self.pool)
        self.client = HTTPClient(agent)

    def get(self, url: str, **options: Any) -> tuple[int, str]:
        async def get() -> tuple[int, str]:
            response = await self.client.get(url, **options)
            return response.code, await response.text()

        found: tuple[int, str] = self.thread.run(lambda: Deferred.fromCoroutine(get()))
        return found

    def servers(self, name: str = "web") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.thread.run(self.switch.servers, name)
        return found

    def counts(self, name: str, service: str = "web") -> list[int]:
        return [server["stats"][name] for server in self.servers(service)]

    def stop(self) -> None:
        """Nothing may be counted any more when the connections of the pool are closed."""
        self.thread.run(self.pool.closeCachedConnections)
        wait_for(lambda: not any(sum(self.counts("active", one)) for one in self.names), "connections to end")
        self.thread.run(self.switch.stop)


@pytest.mark.parametrize("is_persistent", [False, True], ids=["new", "kept"])
def test_treq_gets_each_response_while_one_of_two_servers_dies(
    thread: ReactorThread, two_nginx: tuple[Nginx, Nginx], is_persistent: bool
) -> None:
    dying, staying = two_nginx
    text = f"Virtual web {{ scheduler = rr\nserver = {dying.address}\nserver = {staying.address}\n}}"
    program = Program(thread, text, is_persistent)
    hello = (200, "hello of nginx\n")
    assert [program.get("http://web/hello.txt") for _ in range(6)] == [hello] * 6
    if not is_persistent:
        assert program.counts("total") == [3, 3]
    dying.stop()
    assert [program.get("http://web/hello.txt") for _ in range(20)] == [hello] * 20
    if not is_persistent:
        assert [server["health"]["state"] for server in program.servers()] == ["ejected", "up"]
        assert program.counts("failures") == [5, 0]
    program.stop()


@implementer(IBodyProducer)
class Body:
    """A body that is sent at once: treq's own would be sent by the reactor that is installed, which does not run."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self.data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing: all is sent."""

    resumeProducing = stopProducing = pauseProducing


def test_a_long_body_goes_up_and_comes_back(thread: ReactorThread, two_nginx: tuple[Nginx, Nginx]) -> None:
    program = Program(thread, f"Virtual web {{ scheduler = lc\nserver = {two_nginx[0].address}\n}}")
    body = os.urandom(3_000_000)

    async def post() -> bytes:
        response = await program.client.post("http://web/echo", Body(body))
        back: bytes = await response.content()
        return back

    assert thread.run(lambda: Deferred.fromCoroutine(post())) == body
    program.stop()


def test_errors_of_urls_say_what_is_expected(thread: ReactorThread) -> None:
    program = Program(thread, "Virtual web { scheduler = rr }")
    with pytest.raises(NotConnected, match="no service 'wbe'; did you mean 'web'"):
        program.get("http://wbe/")
    with pytest.raises(NotConnected, match="service web: no server for this request"):
        program.get("http://web/")
    for url in ("https://web/", "http://web:8080/"):
        with pytest.raises(SchemeNotSupported, match="expected http://web/"):
            program.get(url)
    program.stop()


def test_servers_are_called_as_they_are_configured(thread: ReactorThread, tls_nginx: TLSNginx) -> None:
    """With TLS and the name that is verified, with a header of PROXY, and by name. nginx says what it has seen."""
    tls = f"tls ca {authority().pem} name"
    port = tls_nginx.ports["plain"]
    text = (
        f"Virtual good {{ server = {tls_nginx.address('good')} 1 {tls} {NAME}\n}}\n"
        f"Virtual bad {{ server = {tls_nginx.address('good')} 1 {tls} other.example\n}}\n"
        f"Virtual told {{ server = {tls_nginx.address('told')} 1 proxy v1\n}}\n"
        f"Virtual named {{ scheduler = wlc\nserver = localhost:{port}\n}}\n"
    )
    program = Program(thread, text)
    kind, _, _, version, name, *_ = program.get("http://good/x")[1].split(" ")
    assert (kind, version, name) == ("good", "TLSv1.3", NAME)
    with pytest.raises(NotConnected, match=r"service bad: no server answered; .*: TLS: .*other\.example"):
        program.get("http://bad/")
    assert "127.0.0.1:" in program.get("http://told/x")[1]
    assert program.get("http://named/x")[1].startswith("plain ")
    program.stop()


def test_the_start_waits_for_srv_records(thread: ReactorThread, two_nginx: tuple[Nginx, Nginx]) -> None:
    names = NameServer()
    try:
        names.says("one.example", LOOPBACK)
        names.lists("_web._tcp.example", (0, 1, two_nginx[0].port, "one.example"))
        text = "Virtual web { scheduler = rr\nserver = srv:_web._tcp.example\n}"
        program = Program(thread, text, nameservers=((LOOPBACK, names.port),))
        assert program.get("http://web/hello.txt") == (200, "hello of nginx\n")
        program.stop()
    finally:
        names.stop()


def test_connections_ahead_are_used(thread: ReactorThread, two_nginx: tuple[Nginx, Nginx]) -> None:
    text = f"Virtual web {{ scheduler = rr\npreconnect = 1\nserver = {two_nginx[0].address}\n}}"
    program = Program(thread, text)
    thread.run(program.switch.start)
    wait_for(lambda: program.counts("kept") == [1], "a connection ahead")
    assert program.get("http://web/hello.txt") == (200, "hello of nginx\n")
    assert program.counts("reused") == [1]
    program.stop()


class Received(Protocol):
    data = b""
    is_over = False

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_over = True

    def dataReceived(self, data: bytes) -> None:
        self.data += data


def test_a_description_of_twisted_names_a_service(
    thread: ReactorThread, two_nginx: tuple[Nginx, Nginx], tmp_path: Path
) -> None:
    path = tmp_path / "services.conf"
    path.write_text(f"Virtual web {{ scheduler = rr\nserver = {two_nginx[0].address}\n}}")
    endpoint: Any = thread.run(clientFromString, thread.reactor, f"vs:web:config={path}")
    same: Any = thread.run(lambda: ktcpvs.endpoint(thread.reactor, "vs:web", config=path))
    assert endpoint == same  # of one switch

    protocol: Any = thread.run(endpoint.connect, Factory.forProtocol(Received))
    thread.run(protocol.transport.setTcpKeepAlive, True)
    assert thread.run(protocol.transport.getTcpKeepAlive)
    thread.run(protocol.transport.write, b"GET /hello.txt HTTP/1.0\r\n\r\n")
    wait_for(lambda: protocol.is_over, "the end of the response")
    assert b"hello of nginx" in protocol.data
    for wrong in ("vs:web", "vs:config=x", f"vs:web:more:config={path}", f"vs:web:config={path}:timeout=3"):
        with pytest.raises(BadValue, match="expected vs:SERVICE:config=FILE"):
            thread.run(clientFromString, thread.reactor, wrong)
    with pytest.raises(NoSuchService, match="did you mean 'web'"):
        thread.run(clientFromString, thread.reactor, f"vs:wbe:config={path}")


def run(*arguments: str, cwd: Path = ROOT) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_import_is_light_and_installs_no_reactor() -> None:
    run("-c", "import sys, ktcpvs; assert not [name for name in sys.modules if name.startswith('twisted')]")
    run(
        "-c", "import sys, ktcpvs; ktcpvs.endpoint, ktcpvs.Switch; assert 'twisted.internet.reactor' not in sys.modules"
    )


def test_the_programs_of_the_document_run(two_nginx: tuple[Nginx, Nginx], tmp_path: Path) -> None:
    """Each with the configuration of the document, but for the addresses of the servers."""
    blocks = blocks_of("docs/in-process.md")
    (configuration,) = [block.text for block in blocks if block.language == "ktcpvs"]
    for number, server in enumerate(two_nginx, 1):
        assert f"10.0.0.{number}:8080" in configuration
        configuration = configuration.replace(f"10.0.0.{number}:8080", server.address)
    (tmp_path / "services.conf").write_text(configuration)
    programs = [block for block in blocks if block.language == "python"]
    assert len(programs) == 2
    for number, program in enumerate(programs):
        (tmp_path / f"program{number}.py").write_text(program.text)
        assert "hello of nginx" in run(f"program{number}.py", cwd=tmp_path)


SPEAKS_TLS = """
import sys
import ktcpvs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import react

_, address, name, authority = sys.argv

class Hello(Protocol):
    def __init__(self):
        self.done = Deferred()

    def connectionMade(self):
        self.transport.write(b"GET /x HTTP/1.0\\r\\n\\r\\n")

    def dataReceived(self, data):
        print(data.decode(), end="")

    def connectionLost(self, reason):
        self.done.callback(None)

async def main(reactor):
    trusted = trustRootFromCertificates([Certificate.loadPEM(open(authority, "rb").read())])
    switch = ktcpvs.Switch(reactor, text="Virtual web { scheduler = rr\\nserver = " + address + "\\n}")
    endpoint = wrapClientTLS(optionsForClientTLS(name, trusted), switch.endpoint("web"))
    await (await connectProtocol(endpoint, Hello())).done

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


def test_a_protocol_may_speak_tls_itself(tls_nginx: TLSNginx) -> None:
    """In a process of its own: Twisted's TLS uses the reactor that is installed."""
    assert "\ngood " in run("-c", SPEAKS_TLS, tls_nginx.address("good"), NAME, str(authority().pem))
