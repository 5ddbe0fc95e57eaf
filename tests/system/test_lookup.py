"""Look-ups with a real name server: address families, aliases, TTL, and failures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import dns.name as dns_name
import dns.nameserver as dns_nameserver
import dns.resolver as dns_resolver
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
    for family, kind in (4, dns.A), (6, dns.AAAA):
        for how, code in ("fails", dns.ESERVER), ("denied", dns.ENAME):
            server.says(f"{how}{family}.test", "::2", "127.0.0.2", ttl=99)
            server.fails(f"{how}{family}.test", code, kind)
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


FAILED = "addresses: its name servers have failed"
ONE, OTHER = ("127.0.0.2",), ("::2",)


@pytest.mark.parametrize(
    ("host", "ipv6", "found"),
    [
        ("fails6.test", IPV4_FIRST, Found(ONE, 99)),
        ("fails6.test", IPV6_FIRST, Found(ONE, lookup.DEFAULT_TTL, f"its IPv6 {FAILED}", 6)),
        ("fails6.test", BOTH, Found(ONE, lookup.DEFAULT_TTL, f"its IPv6 {FAILED}", 6, True)),
        ("fails4.test", IPV4_FIRST, Found(OTHER, lookup.DEFAULT_TTL, f"its IPv4 {FAILED}", 4)),
        ("fails4.test", IPV6_FIRST, Found(OTHER, 99)),
        ("fails4.test", BOTH, Found(OTHER, lookup.DEFAULT_TTL, f"its IPv4 {FAILED}", 4, True)),
        ("denied6.test", IPV6_FIRST, Found(ONE, 99)),
        ("denied6.test", BOTH, Found(ONE, 99)),
        ("denied4.test", IPV4_FIRST, Found(OTHER, 99)),
        ("denied4.test", BOTH, Found(OTHER, 99)),
    ],
)
def test_a_name_of_which_one_family_cannot_be_looked_up(server: NameServer, host: str, ipv6: int, found: Found) -> None:
    assert asked(server, host, ipv6) == found


def test_what_is_kept_of_the_family_that_failed() -> None:
    found = Found(("127.0.0.2",), 30, "its IPv6 addresses: no", 6, is_joined=True)
    assert found.beside(("127.0.0.1", "::1")) == ("127.0.0.2", "::1")
    assert found.beside(("127.0.0.1",)) == ("127.0.0.2",)
    found = Found(("::2",), 30, "its IPv4 addresses: no", 4)
    assert found.beside(("127.0.0.1",)) == ("127.0.0.1",)
    assert found.beside(("::1",)) == ("::2",)
    assert Found(("::2",), 30).beside(("127.0.0.1", "::1")) == ("::2",)


def test_a_dot_at_the_end_skips_the_search_list(
    server: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says("api.example.inner.test", "127.0.0.3")
    server.says("api.example", "127.0.0.4")
    resolver = dns_resolver.Resolver(configure=False)
    resolver.nameservers = [dns_nameserver.Do53Nameserver(LOOPBACK, server.port)]
    resolver.search = [dns_name.from_text("inner.test")]
    resolver.ndots = 2
    for host, address in ("api.example", "127.0.0.3"), ("api.example.", "127.0.0.4"):
        usable, _ = lookup._ask_for(resolver, host, 4, True)
        assert [str(one) for one in usable] == [address]
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.5 api.example\n")
    monkeypatch.setattr(lookup, "HOSTS", str(hosts))
    assert asked(server, "api.example.").addresses == ("127.0.0.5",)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nobody.test", "the name does not exist"),
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
    monkeypatch.setattr(lookup, "TOTAL_TIMEOUT", 0.5)
    with pytest.raises(NotFound, match="no name server has answered"):
        look_up("four.test", IPV4_FIRST, [(LOOPBACK, free_port())])


def test_a_name_server_that_is_silent_is_not_the_only_one(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "SERVER_TIMEOUT", 0.3)
    silent = NameServer()
    silent.is_silent = True
    found = look_up("four.test", IPV4_FIRST, [(LOOPBACK, silent.port), (LOOPBACK, server.port)])
    silent.stop()
    assert found.seconds == 7
    assert silent.count("four.test") >= 1


def test_no_name_server_is_queried_for_names_in_etc_hosts(
    server: NameServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.5 four.test\n::5 four.test\n127.0.0.6 more four.test # and so on\n")
    monkeypatch.setattr(lookup, "HOSTS", str(hosts))
    before = server.count("four.test")
    assert asked(server, "four.test") == Found(("127.0.0.5", "127.0.0.6"), lookup.DEFAULT_TTL)
    assert asked(server, "four.test", IPV6_FIRST).addresses == ("::5",)
    assert server.count("four.test") == before


def test_the_system_is_asked_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The resolver of this machine may know no name server at all; its own name it knows."""
    monkeypatch.setattr(lookup, "HOSTS", str(tmp_path / "none"))
    monkeypatch.setattr(lookup, "TOTAL_TIMEOUT", 0.5)
    found = look_up("localhost", BOTH)
    assert set(found.addresses) <= {"127.0.0.1", "::1"}
