"""Networks and filters, compared with the standard library's networks."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadConfiguration, BadValue
from ktcpvs.model.filter import filter_of
from ktcpvs.model.language.parser import parse
from ktcpvs.model.network import MAX_NETWORKS, Network, Networks, parse_network, parse_networks
from tests.model.strategies import network_lists, networks


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::1", "::1"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_is_shown_in_its_shortest_form(text: str, shown: str) -> None:
    assert str(parse_network(text)) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.1.2.3/8", "'10.1.2.3/8': the address has bits beyond the prefix; did you mean 10.0.0.0/8?"),
        ("10.0.0.0/33", "'10.0.0.0/33': expected a network (example: 10.0.0.0/8 or 2001:db8::/32)"),
        ("010.0.0.0/8", "'010.0.0.0/8': expected a network (example: 10.0.0.0/8 or 2001:db8::/32)"),
        ("r1.example", "'r1.example': expected a network (example: 10.0.0.0/8 or 2001:db8::/32)"),
        ("", "'': expected a network (example: 10.0.0.0/8 or 2001:db8::/32)"),
        ("fe80::1%eth0", "'fe80::1%eth0': a network has no zone; leave out %eth0"),
    ],
)
def test_what_is_no_network(text: str, why: str) -> None:
    with pytest.raises(BadValue) as refused:
        parse_network(text)
    assert str(refused.value) == why


@given(networks())
def test_a_network_is_written_as_it_is_read(network: Network) -> None:
    assert parse_network(str(network)) == network
    known = ipaddress.ip_network(str(network))
    assert (network.first, network.last) == (int(known[0]), int(known[-1]))


def test_a_list_with_comments_names_the_line_of_a_mistake() -> None:
    found = parse_networks("# spam\n10.0.0.0/8  ::1 # both\n\n10.0.0.0/8\n")
    assert str(found) == "10.0.0.0/8 ::1"
    with pytest.raises(BadValue, match=r"^line 3: 'x': expected a network"):
        parse_networks("::1\n# y\nx\n")


def test_a_list_has_an_end() -> None:
    many = [Network(32, number, 32) for number in range(MAX_NETWORKS + 1)]
    assert len(Networks.of(many[1:]).entries) == MAX_NETWORKS
    with pytest.raises(BadValue, match=f"{MAX_NETWORKS + 1} networks in one list; the limit is {MAX_NETWORKS}"):
        Networks.of(many)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            "allow = 10.0.0.0/8 10.1.2.3/8",
            "2:20: '10.1.2.3/8': the address has bits beyond the prefix; did you mean 10.0.0.0/8?",
        ),
        ("allow = ::1\ndeny =\n}", "4:1: '}': expected a network (example: 10.0.0.0/8 or 2001:db8::/32)"),
        ("allow = ::1\n deny = ::2 ::1", "3:13: service s both allows and denies ::1"),
        ("client_rate = 5/d", "2:15: client_rate = 5/d: expected a rate (100/s, 30/m, 5/h) or off"),
        ("client_ipv6 = 129", "2:15: client_ipv6 = 129 is out of range: 1..128"),
    ],
)
def test_a_mistake_in_a_configuration_has_its_place(lines: str, why: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        parse(f"Virtual s {{\n{lines}\n}}\n", "x")
    assert str(refused.value) == f"x:{why}"


def test_lines_of_a_configuration_add_up() -> None:
    text = 'Virtual s { allow = ::1 10.0.0.0/8 deny = ::2 allow = "10.0.0.0/8  ::3" scheduler = wlc client_rate = 05 }'
    service = parse(text).services["s"]
    assert (str(service.allow), str(service.deny)) == ("::1 10.0.0.0/8 ::3", "::2")
    assert (service.scheduler, service.client_rate) == ("wlc", "5/s")


@st.composite
def _lists_and_addresses(draw: st.DrawFn) -> tuple[Networks, Networks, list[Any]]:
    """Lists, and addresses of which most are at the edge of a network."""
    allow, deny = draw(network_lists())
    edges = [ipaddress.ip_network(text) for text in (*allow.texts, *deny.texts)]
    near = [one for network in edges for one in (network[0], network[-1], *_beside(network))]
    return allow, deny, [*near, *draw(st.lists(st.ip_addresses(), max_size=5))]


def _beside(network: Any) -> list[Any]:
    first, last = int(network[0]), int(network[-1])
    kind, end = type(network[0]), (1 << network.max_prefixlen) - 1
    return [kind(one) for one in (first - 1, last + 1) if 0 <= one <= end]


@given(_lists_and_addresses())
def test_the_most_specific_network_decides(case: tuple[Networks, Networks, list[Any]]) -> None:
    allow, deny, addresses = case
    judge = filter_of(allow, deny)
    assert (judge is None) == (not allow and not deny)
    known = [(ipaddress.ip_network(str(one)), one, one in allow.known) for one in (*allow.entries, *deny.entries)]
    for address in addresses if judge is not None else ():
        holders = [
            (network.prefixlen, one, may)
            for network, one, may in known
            if network.version == address.version and address in network
        ]
        wanted = max(holders)[1:] if holders else (None, not allow)
        assert judge is not None
        assert judge.judge(address.packed)[::-1] == wanted


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_all_kinds_are_read_the_same_way(end: str) -> None:
    text = end.join(("10.0.0.0/8 # ours", "# \u2028 192.0.2.1", "2001:db8::/32", ""))
    assert str(parse_networks(text)) == "10.0.0.0/8 2001:db8::/32"
    with pytest.raises(BadValue, match=r"^line 3: "):
        parse_networks(end.join(("10.0.0.0/8", "# x", "nonsense")))
    with pytest.raises(BadValue, match=r"^'nonsense': "):
        parse_networks(f"nonsense{end}")
