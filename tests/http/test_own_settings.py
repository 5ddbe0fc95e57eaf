"""A service's own values of settings are in force for its traffic, whatever the switch's are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from memory import A, World, answer, get, worlds

from ktcpvs.model.language.parser import parse
from ktcpvs.model.service import OWN_SETTINGS, VirtualService
from ktcpvs.model.settings import Settings
from ktcpvs.model.table import Table

SERVICE = ("scheduler = phttp", f"server = {A} 1 maxconn 1")
OTHERS = "read_timeout = 500 keepalive_timeout = 500 response_timeout = 500 queue_timeout = 500 head_timeout = 500"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    with worlds(*SERVICE, settings=OTHERS) as make:
        yield make


def own(world: World, *lines: str) -> None:
    """Edit the service while its connections are open."""
    world.load(*SERVICE, *lines, settings=OTHERS)


def test_the_settings_are_those_about_traffic() -> None:
    assert OWN_SETTINGS == (
        "keepalive_timeout", "read_timeout", "connect_timeout", "response_timeout", "request_timeout",
        "first_byte_timeout", "head_timeout", "head_size", "uri_size", "head_lines", "drain_timeout", "drain_spread",
        "websocket_close_timeout", "start_timeout", "stop_after", "body_size", "queue_timeout", "choose_budget",
    )  # fmt: skip


def test_what_a_service_does_not_override_is_the_switchs() -> None:
    settings = Settings(read_timeout=7, head_size=1024)
    service = VirtualService("s", read_timeout=9)
    assert service.settings_from(settings) == Settings(read_timeout=9, head_size=1024)
    assert VirtualService("s").settings_from(settings) is settings


@pytest.mark.parametrize("at_once", [True, False], ids=["from the beginning", "by an edit"])
@pytest.mark.parametrize(
    ("line", "request_", "status"),
    [
        ("response_timeout = 5", get(), b"504"),
        ("read_timeout = 5", get("/", "Content-Length: 10", method="POST", body=b"12345"), b"408"),
        ("head_timeout = 5", b"GET / HT", b"408"),
    ],
)
def test_a_timeout(make: Make, line: str, request_: bytes, status: bytes, at_once: bool) -> None:
    world = make(*SERVICE, line, settings=OTHERS) if at_once else make()
    client = world.client()
    client.says(request_)
    if b"\r\n\r\n" in request_:
        world.accepts(A)
    if not at_once:
        world.passes(3)
        assert client.heard() == b""
        own(world, line)
    world.passes(15)
    assert client.heard().startswith(b"HTTP/1.1 " + status)


def test_a_kept_alive_client(make: Make) -> None:
    world = make()
    client = world.client()
    client.says(get())
    world.accepts(A).says(answer())
    world.passes(20)
    assert client.is_open
    own(world, "keepalive_timeout = 2")
    world.passes(12)
    assert not client.is_open
    assert not world.live.server_connections.pool


def test_the_queue(make: Make) -> None:
    world = make(*SERVICE, "queue_timeout = 3", settings=OTHERS)
    first, second = world.client(), world.client()
    first.says(get())
    world.accepts(A)
    second.says(get())
    world.passes(6)
    heard = second.heard()
    assert heard.startswith(b"HTTP/1.1 503")
    assert b"no server had room within 3 seconds" in heard


@pytest.mark.parametrize(
    ("line", "request_", "status"),
    [
        ("head_size = 512", get("/", "X: " + "a" * 500), b"431"),
        ("head_lines = 2", get("/", "A: b", "C: d"), b"431"),
        ("uri_size = 64", get("/" + "a" * 64), b"414"),
        ("body_size = 1", get("/", "Content-Length: 1025", method="POST"), b"413"),
    ],
)
def test_a_size(make: Make, line: str, request_: bytes, status: bytes) -> None:
    world = make()
    client = world.client()
    client.says(request_)
    world.accepts(A).says(answer())
    assert client.heard() == answer()
    own(world, line)
    other = world.client()
    other.says(request_)
    assert other.heard().startswith(b"HTTP/1.1 " + status)


def test_attempts_to_connect(make: Make) -> None:
    world = make(*SERVICE, "connect_timeout = 9", settings="connect_timeout = 3")
    (destination,) = world.live.destinations.values()
    connector = world.live.traffic.connector(destination)
    assert connector.timeout == 9
    world.load(*SERVICE, settings="connect_timeout = 4")
    assert connector.timeout == 4


def test_a_whole_connection_without_data(make: Make) -> None:
    world = make("scheduler = wlc", f"server = {A}", "read_timeout = 4", settings=OTHERS)
    client = world.client()
    world.accepts(A)
    client.says(b"hello")
    world.passes(8)
    assert not client.is_open


def test_draining(make: Make) -> None:
    world = make(*SERVICE, "drain_timeout = 3", settings="drain_timeout = 300")
    client = world.client()
    client.says(get())
    world.accepts(A)
    world.live.stop()
    world.passes(2)
    assert client.is_open
    world.passes(3)
    assert not client.is_open


def test_the_switch_drains_as_long_as_any_service() -> None:
    settings = Settings(drain_timeout=5)
    services = [VirtualService("a"), VirtualService("b", drain_timeout=50), VirtualService("c", drain_timeout=0)]
    assert Table.of(services, settings=settings).drain_timeout == 50
    assert Table(settings=settings).drain_timeout == 5


def test_they_are_options_with_the_settings_ranges() -> None:
    text = "Virtual s {{ listen = 127.0.0.1:80 scheduler = phttp {} }}"
    (service,) = parse(text.format("read_timeout = 3600 body_size = 0")).services.values()
    assert (service.read_timeout, service.body_size, service.head_size) == (3600, 0, None)
    with pytest.raises(Exception, match=r"head_size = 100 is out of range: 512\.\.1048576"):
        parse(text.format("head_size = 100"))
