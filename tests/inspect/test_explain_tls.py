"""--explain over TLS: it says that the handshake is refused where the listener refuses it, and only there."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from authority import SERVER
from memory import A, World
from servers import LOOPBACK, free_port
from tls_peers import MemorySocket, TLSPeer, authority, client_context
from twisted.internet.defer import Deferred

from ktcpvs.inspect.explain import Explainer
from ktcpvs.model.assumed_request import AssumedRequest
from ktcpvs.model.edits import StopService

PHTTP = "scheduler = phttp", f"server = {A}", f'rule = pattern ".*" use server {A}'
TCP = "scheduler = wlc", f"server = {A}"
UNITS = pytest.mark.parametrize("lines", [PHTTP, ("scheduler = http", *PHTTP[1:]), TCP], ids=["phttp", "http", "wlc"])
NOTE = "TLS: the client asks for no server name: the handshake is refused; with -H 'Host: NAME' it asks for that name"
NO_NAME = "TLS: the client asks for no server name"
UNKNOWN = "TLS: the client asks for a server name without certificate"

Make = Callable[..., World]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds whose listener has TLS, with certificates for shop.example and *.wild.example."""
    shop = authority().issue("explained-shop", "shop.example", purposes=(SERVER,))
    wild = authority().issue("explained-wild", "*.wild.example", purposes=(SERVER,))
    made: list[World] = []

    def make(*lines: str, **options: Any) -> World:
        known = [line.replace("SHOP", str(shop)) for line in lines]
        options = {"words": "tls", "has_stages": True, **options}
        made.append(World(*known, f"certificate = {shop}", f"certificate = {wild}", **options))
        return made[-1]

    yield make
    for world in made:
        world.reset_all()
        world.close()


def explain(world: World, host: str | None, target: str = "/", port: int | None = None) -> dict[str, Any]:
    outcome: list[Any] = []
    headers = [] if host is None else [("Host", host)]
    work = Explainer(world.director).explain("s", AssumedRequest("GET", target, headers, "192.0.2.1", port))
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    (found,) = outcome
    if not isinstance(found, dict):
        found.raiseException()
    return dict(found)


def refusal(world: World, name: str | None) -> str:
    """Return why the switch refuses the handshake of a client with that server name; "": it does not."""
    before = dict(world.live.preambles.refusals)
    context = client_context()
    context.check_hostname = False
    try:
        TLSPeer(MemorySocket(world, world.knocks()), context, server_name=name)
    except ssl.SSLError:
        (reason,) = set(world.live.preambles.refusals.items()) - set(before.items())
        return reason[0]
    return ""


@UNITS
@pytest.mark.parametrize("default", [(), ("tls_default = SHOP",)], ids=["refuse", "default"])
def test_the_answer_is_what_the_handshake_is(make: Make, lines: tuple[str, ...], default: tuple[str, ...]) -> None:
    world = make(*lines, *default)
    names = {
        "shop.example": "", "SHOP.example.": "", "a.wild.example": "", "a.b.wild.example": UNKNOWN,
        "wild.example": UNKNOWN, "other.example": UNKNOWN, None: NO_NAME,
    }  # fmt: skip
    for name, expected in names.items():
        reason = "" if default else expected
        assert refusal(world, name) == reason, name
        explained = explain(world, name)
        told = explained["answer"]
        assert (NOTE in explained["notes"]) == (name is None and bool(reason))
        if reason and name is not None:
            assert told == {
                "outcome": "nobody", "server": None, "reason": f"{reason}: the handshake is refused", "why": "",
            }  # fmt: skip
        else:
            assert (told["outcome"], told["server"]) == ("server", A), name


def test_the_name_is_that_of_host_or_of_the_url(make: Make) -> None:
    world = make(*PHTTP)
    assert explain(world, "shop.example:8443")["answer"]["server"] == A
    assert explain(world, None, "https://shop.example/cart")["answer"]["server"] == A
    assert explain(world, None, "https://shop.example?q")["answer"]["server"] == A
    assert explain(world, None, "https://other.example/")["answer"]["reason"].startswith(UNKNOWN)
    for host in "127.0.0.1:8443", "[::1]:8443":  # clients send no address as a name
        assert explain(world, host)["answer"]["reason"].startswith(NO_NAME)
    told = explain(world, "shop.example", "/?next=https://other.example/")
    assert (told["answer"]["server"], told["request"]["headers"][0]["value"]) == (A, "shop.example")


def test_a_url_in_the_query_names_no_host(make: Make) -> None:
    world = make(*PHTTP, words="")
    (host,) = explain(world, None, "/?next=https://other.example/")["request"]["headers"]
    assert host == {"name": "Host", "value": str(world.live.config.address)}


def test_a_listener_without_tls_has_no_handshake(make: Make) -> None:
    plain = free_port()
    world = make(*PHTTP, f"listen = {LOOPBACK}:{plain}")
    assert NOTE not in explain(world, None, port=plain)["notes"]
    assert NOTE in explain(world, None)["notes"]


def test_a_denied_client_gets_no_handshake(make: Make) -> None:
    told = explain(make(*PHTTP, "deny = 192.0.2.0/24"), None)["answer"]
    assert (told["reason"], told["why"]) == ("client denied by 192.0.2.0/24: the connection is reset", "deny")


def test_certificates_that_change_are_seen(make: Make) -> None:
    world = make(*PHTTP)
    assert explain(world, "new.example")["answer"]["server"] is None
    new = authority().issue("explained-new", "new.example", purposes=(SERVER,))
    world.load(*PHTTP, f"certificate = {new}")
    assert explain(world, "new.example")["answer"]["server"] == A
    assert explain(world, "shop.example")["answer"]["reason"].startswith(UNKNOWN)


def test_nothing_is_said_of_the_certificates_of_a_stopped_service(make: Make) -> None:
    world = make(*PHTTP)
    world.director.submit(StopService("s"))
    told = explain(world, "other.example")
    assert (told["running"], told["answer"]["server"]) == (False, A)
