"""Names asked of a real name server: kinds of addresses, aliases, how long it holds, and whatever goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from nameserver import NameServer
from servers import LOOPBACK, free_port
from twisted.names import dns

from ktcpvs.system import lookup
from ktcpvs.system.lookup import BOTH, IPV4_FIRST, IPV6_FIRST, Found, NotFound, look_up


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    server = NameServer()
    server.says("four.test", "127.0.0.9", "127.0.0.10", ttl=7)
    server.says("six.test", "::2", ttl=9)
    server.says("both.test", "::2", "127.0.0.2", ttl=11)
    server.says("odd.test", "0.0.0.0", "224.0.0.1", "127.0.0.1")
    server.says("useless.test", "0.0.0.0")
    server.says("empty.test")
    server.alias("alias.test", "other.test")
    server.alias("other.test", "four.test")
    server.alias("round.test", "square.test")
    server.alias("square.test", "none.test")
    server.fails("broken.test")
    server.fails("refused.test", dns.EREFUSED)
    yield server
    server.stop()


def asked(server: NameServer, host: str, ipv6: int = IPV4_FIRST) -> Found:
    return look_up(host, ipv6, [(LOOPBACK, server.port)])


@pytest.mark.parametrize(
    ("host", "ipv6", "addresses", "seconds"),
    [
        ("four.test", IPV4_FIRST, ("127.0.0.9", "127.0.0.10"), 7),
        ("four.test", IPV6_FIRST, ("127.0.0.9", "127.0.0.10"), 7),
        ("six.test", IPV4_FIRST, ("::2",), 9),
        ("both.test", IPV4_FIRST, ("127.0.0.2",), 11),
        ("both.test", IPV6_FIRST, ("::2",), 11),
        ("both.test", BOTH, ("127.0.0.2", "::2"), 11),
        ("odd.test", BOTH, ("127.0.0.1",), 1),
        ("alias.test", IPV4_FIRST, ("127.0.0.9", "127.0.0.10"), 7),
    ],
)
def test_found(server: NameServer, host: str, ipv6: int, addresses: tuple[str, ...], seconds: int) -> None:
    assert asked(server, host, ipv6) == Found(addresses, seconds)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nobody.test", "there is no such name"),
        ("empty.test", "it has no address"),
        ("useless.test", "it has no address"),
        ("round.test", "it has no address"),
        ("broken.test", "its name servers have failed"),
        ("refused.test", "its name servers have failed"),
    ],
)
def test_not_found(server: NameServer, host: str, why: str) -> None:
    with pytest.raises(NotFound, match=why):
        asked(server, host)


def test_where_no_name_server_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "PATIENCE_IN_ALL", 0.5)
    with pytest.raises(NotFound, match="no name server has answered"):
        look_up("four.test", IPV4_FIRST, [(LOOPBACK, free_port())])


def test_a_name_server_that_is_silent_is_not_the_only_one(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "PATIENCE", 0.3)
    silent = NameServer()
    silent.is_silent = True
    found = look_up("four.test", IPV4_FIRST, [(LOOPBACK, silent.port), (LOOPBACK, server.port)])
    silent.stop()
    assert found.seconds == 7
    assert silent.count("four.test") >= 1


def test_what_stands_in_the_file_of_hosts_is_asked_of_nobody(
    server: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.5 four.test\n::5 four.test\n127.0.0.6 more four.test # and so on\n")
    monkeypatch.setattr(lookup, "HOSTS", str(hosts))
    before = server.count("four.test")
    assert asked(server, "four.test") == Found(("127.0.0.5", "127.0.0.6"), lookup.UNSAID)
    assert asked(server, "four.test", IPV6_FIRST).addresses == ("::5",)
    assert server.count("four.test") == before


def test_the_system_is_asked_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The resolver of this machine may know no name server at all; its own name it knows."""
    monkeypatch.setattr(lookup, "HOSTS", str(tmp_path / "none"))
    monkeypatch.setattr(lookup, "PATIENCE_IN_ALL", 0.5)
    found = look_up("localhost", BOTH)
    assert set(found.addresses) <= {"127.0.0.1", "::1"}
