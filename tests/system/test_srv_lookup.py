"""Look-ups of SRV records with a real name server: targets, their addresses, TTLs, truncated answers and failures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from nameserver import NameServer
from servers import LOOPBACK, free_port
from twisted.names import dns

from ktcpvs.system import srv_lookup
from ktcpvs.system.lookup import BOTH, DEFAULT_TTL, IPV4_FIRST, IPV6_FIRST, NotFound
from ktcpvs.system.srv_lookup import FoundTargets, Record, look_up_targets


@pytest.fixture
def server() -> Iterator[NameServer]:
    server = NameServer()
    server.says("one.test", "127.0.0.1", "::1", ttl=9)
    server.says("two.test", "127.0.0.2", "127.0.0.3", ttl=50)
    server.says("six.test", "::6", ttl=50)
    yield server
    server.stop()


def asked(server: NameServer, name: str, ipv6: int = IPV4_FIRST) -> FoundTargets:
    return look_up_targets(f"srv:{name}", ipv6, [(LOOPBACK, server.port)])


@pytest.mark.parametrize("along", [True, False])
@pytest.mark.parametrize(
    ("ipv6", "one"),
    [
        (IPV4_FIRST, ["127.0.0.1:8001 0 10 one.test"]),
        (IPV6_FIRST, ["[::1]:8001 0 10 one.test"]),
        (BOTH, ["127.0.0.1:8001 0 10 one.test", "[::1]:8001 0 10 one.test"]),
    ],
)
def test_each_address_of_each_target(server: NameServer, along: bool, ipv6: int, one: list[str]) -> None:
    records = (0, 10, 8001, "one.test"), (5, 0, 8002, "two.test"), (9, 1, 8003, "six.test")
    server.lists("_http._tcp.api.test", *records, ttl=20, along=along)
    found = asked(server, "_http._tcp.api.test", ipv6)
    assert list(found.addresses) == [
        *one, "127.0.0.2:8002 5 0 two.test", "127.0.0.3:8002 5 0 two.test", "[::6]:8003 9 1 six.test",
    ]  # fmt: skip
    assert (found.seconds, found.failed) == (9, "")
    if along and ipv6 == IPV4_FIRST:
        assert server.count("one.test") == server.count("two.test") == 0


def test_the_ttl_is_that_of_the_records_if_it_is_the_shortest(server: NameServer) -> None:
    server.lists("web.test", (0, 1, 80, "two.test"), ttl=3)
    assert asked(server, "web.test").seconds == 3


def test_a_truncated_answer_comes_over_tcp(server: NameServer) -> None:
    """It is also how Consul answers for a service with many instances."""
    for number in range(150):
        server.says(f"node-{number}.node.dc1.consul", f"127.1.0.{number}")
    server.lists(
        "web.service.consul", *((1, 1, 20000 + number, f"node-{number}.node.dc1.consul") for number in range(150))
    )
    found = asked(server, "web.service.consul")
    assert len(found.addresses) == 150
    assert found.addresses[7] == "127.1.0.7:20007 1 1 node-7.node.dc1.consul"
    assert server.count("web.service.consul", dns.SRV) == 2


def test_two_instances_on_one_machine_are_two_targets(server: NameServer) -> None:
    server.lists("web.test", (0, 1, 8001, "one.test"), (0, 1, 8002, "one.test"), (1, 1, 8001, "one.test"))
    assert list(asked(server, "web.test").addresses) == ["127.0.0.1:8001 0 1 one.test", "127.0.0.1:8002 0 1 one.test"]


def test_an_alias_is_followed(server: NameServer) -> None:
    server.alias("api.test", "web.test")
    server.lists("web.test", (0, 1, 80, "one.test"), along=False)
    assert list(asked(server, "api.test").addresses) == ["127.0.0.1:80 0 1 one.test"]


def test_a_target_that_is_not_found_does_not_stop_the_others(server: NameServer) -> None:
    server.lists("web.test", (0, 1, 80, "one.test"), (0, 2, 80, "none.test"), (0, 3, 80, "broken.test"), ttl=99)
    server.fails("broken.test")
    found = asked(server, "web.test")
    assert list(found.addresses) == ["127.0.0.1:80 0 1 one.test"]
    assert found.missing == (Record(0, 3, "broken.test", 80), Record(0, 2, "none.test", 80))
    assert found.failed == "broken.test: its name servers have failed"
    assert found.seconds <= DEFAULT_TTL
    before = "127.0.0.8:80 5 5 none.test", "127.0.0.9:81 5 5 broken.test", "127.0.0.1:80 0 1 one.test"
    assert found.beside(before) == ("127.0.0.1:80 0 1 one.test", "127.0.0.8:80 0 2 none.test")


def test_targets_beyond_the_time_for_all_of_them_are_not_found(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(srv_lookup, "MAX_LOOKUP_TIME", -1.0)
    server.lists("web.test", (0, 1, 80, "one.test"), (0, 1, 80, "six.test"))
    found = asked(server, "web.test")
    assert list(found.addresses) == ["127.0.0.1:80 0 1 one.test"]
    assert [record.host for record in found.missing] == ["six.test"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none.test", "the name does not exist"),
        ("one.test", "it has no SRV record"),
        ("broken.test", "its name servers have failed"),
        ("dot.test", "its SRV records say that there is no such service"),
        ("zero.test", "its SRV records say that there is no such service"),
        ("lost.test", "none of its targets is found, such as lost-1.test: the name does not exist"),
    ],
)
def test_what_is_not_found_says_why(server: NameServer, name: str, why: str) -> None:
    server.fails("broken.test")
    server.lists("dot.test", (0, 0, 80, ""))
    server.lists("zero.test", (0, 0, 0, "one.test"))
    server.lists("lost.test", (0, 0, 80, "lost-1.test"))
    with pytest.raises(NotFound) as refusal:
        asked(server, name)
    assert str(refusal.value) == why


def test_name_servers_that_do_not_answer() -> None:
    with pytest.raises(NotFound, match="no name server has answered"):
        look_up_targets("srv:web.test", IPV4_FIRST, [(LOOPBACK, free_port())])
