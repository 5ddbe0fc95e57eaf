"""Addresses: which texts are accepted, how they are normalized, and which are refused."""

from __future__ import annotations

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadAddress
from ktcpvs.model.address import MAX_UNIX_PATH_BYTES, Inet, SRVName, Unix, no_port_names, parse_address, parse_port
from tests.model.strategies import ODD, addresses, answer_or_refusal


def known_ports(name: str) -> int | None:
    return {"www": 80, "https": 443}.get(name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.168.0.12:80", Inet("192.168.0.12", 80)),
        ("192.168.0.12", Inet("192.168.0.12", None)),
        ("192.168.0.12:www", Inet("192.168.0.12", 80)),
        ("r1:https", Inet("r1", 443)),
        ("localhost:81", Inet("localhost", 81)),
        ("LocalHost:81", Inet("localhost", 81)),
        ("www.example.com.:80", Inet("www.example.com.", 80)),
        ("a_b.example:080", Inet("a_b.example", 80)),
        ("[::]:80", Inet("::", 80)),
        ("[::1]", Inet("::1", None)),
        ("[0:0:0:0:0:0:0:1]:65535", Inet("::1", 65535)),
        ("[2001:DB8::A]:1", Inet("2001:db8::a", 1)),
        ("[fe80::1%eth0]:80", Inet("fe80::1%eth0", 80)),
        ("unix:/run/web.sock", Unix("/run/web.sock")),
        ('unix:/a "b" # \\:80', Unix('/a "b" # \\:80')),
        ("unix:/" + "x" * 106, Unix("/" + "x" * 106)),
        ("unix:/" + "é" * 53, Unix("/" + "é" * 53)),
        ("unix.example:80", Inet("unix.example", 80)),
        ("srv:_http._tcp.API.example", SRVName("_http._tcp.api.example")),
        ("SRV:web.service.consul", SRVName("web.service.consul")),
        ("srv:web.", SRVName("web.")),
        ("srv:80", Inet("srv", 80)),
        ("srv:www", Inet("srv", 80)),
        ("srv.example:80", Inet("srv.example", 80)),
    ],
)
def test_what_is_written_is_read(text, address):
    assert parse_address(text, known_ports) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' has no host"),
        (":80", "':80' has no host"),
        (".:80", "'.:80' has no host"),
        ("r1:", "missing port after the colon in 'r1:'"),
        ("r1:0", "port 0 in 'r1:0' is out of range: ports are 1..65535"),
        ("r1:65536", "port 65536 in 'r1:65536' is out of range: ports are 1..65535"),
        ("r1:99999999999999999999999", "port 99999999999999999999... in 'r1:99999999999999999999999' is out of range"),
        ("r1:-1", "unknown port name '-1' in 'r1:-1': give its number"),
        ("r1:²", "unknown port name '²' in 'r1:²': give its number"),
        ("srv:web", "'srv:web': a name of SRV records has a dot (example: srv:_http._tcp.api.example)"),
        ("srv:web.example:80", "'srv:web.example:80': leave out the port, which each target of SRV records has itself"),
        ("srv:10.0.0.1", "'srv:10.0.0.1': expected a DNS name (example: srv:_http._tcp.api.example)"),
        ("srv:a..b", "'a..b' is neither an IP address nor a host name"),
        ("srv:.", "'srv:.' has no host"),
        ("r1:nosuch", "unknown port name 'nosuch' in 'r1:nosuch': give its number"),
        ("::1", "'::1': write an IPv6 address in brackets: [::1]:80"),
        ("a:b:80", "'a:b:80': write an IPv6 address in brackets: [::1]:80"),
        ("[::1", "'[::1' is not an address: write an IPv6 address as [::1]:80"),
        ("[::1]80", "'[::1]80' is not an address: write an IPv6 address as [::1]:80"),
        ("[127.0.0.1]:80", "'[127.0.0.1]:80': only IPv6 addresses are written in brackets"),
        ("[r1]:80", "'[r1]:80': only IPv6 addresses are written in brackets"),
        ("[:::1]:80", "':::1' is neither an IP address nor a host name"),
        ("[fe80::1%e th]:80", "'fe80::1%e th': the zone after % must be the name of a network interface"),
        ("[fe80::1%\n]:80", "'fe80::1%\\n': the zone after % must be the name of a network interface"),
        ("1.2.3:80", "'1.2.3' is neither an IP address nor a host name"),
        ("256.0.0.1", "'256.0.0.1' is neither an IP address nor a host name"),
        ("010.0.0.1", "'010.0.0.1' is neither an IP address nor a host name"),
        ("1.2.3.4.:80", "'1.2.3.4.' is neither an IP address nor a host name"),
        ("-a:80", "'-a' is neither an IP address nor a host name"),
        ("a-:80", "'a-' is neither an IP address nor a host name"),
        ("a..b:80", "'a..b' is neither an IP address nor a host name"),
        ("r 1:80", "'r 1' is neither an IP address nor a host name"),
        ("münchen:80", "'münchen' is neither an IP address nor a host name"),
        ("x" * 64, f"'{'x' * 64}' is neither an IP address nor a host name"),
        (".".join(["x" * 60] * 5), "is neither an IP address nor a host name"),
        ("unix:web.sock", "'unix:web.sock': the path of a unix socket must be absolute (example: unix:/run/web.sock)"),
        ("unix:80", "'unix:80': the path of a unix socket must be absolute (example: unix:/run/web.sock)"),
        ("unix", "'unix': a host cannot be named unix: unix:/PATH is a unix socket"),
        ("UNIX:80", "'UNIX:80': a host cannot be named unix: unix:/PATH is a unix socket"),
        ("unix:/" + "x" * 107, "the path of a unix socket must have at most 107 bytes, all printable"),
        ("unix:/" + "é" * 54, "the path of a unix socket must have at most 107 bytes, all printable"),
        ("unix:/a\tb", "the path of a unix socket must have at most 107 bytes, all printable"),
        ("unix:/a\0", "the path of a unix socket must have at most 107 bytes, all printable"),
        ("unix:/\ud800", "the path of a unix socket must have at most 107 bytes, all printable"),
    ],
)
def test_what_is_no_address_is_refused(text, why):
    with pytest.raises(BadAddress) as refusal:
        parse_address(text, known_ports)
    assert why in str(refusal.value)


def test_a_port_alone():
    assert parse_port("8080") == 8080
    assert parse_port("www", known_ports) == 80
    for text, why in (
        ("0", "port 0 is out of range: ports are 1..65535"),
        ("65536", "port 65536 is out of range: ports are 1..65535"),
        ("www", "unknown port name 'www': give its number"),
        ("", "missing port after the colon"),
    ):
        with pytest.raises(BadAddress) as refusal:
            parse_port(text)
        assert str(refusal.value) == why


def test_without_a_services_database_port_names_are_unknown():
    assert no_port_names("www") is None


def test_a_missing_port_is_filled_and_a_given_one_kept():
    assert Inet("r1", None).with_port(80) == Inet("r1", 80)
    assert Inet("r1", 81).with_port(80) == Inet("r1", 81)


@pytest.mark.parametrize(("host", "is_name"), [("r1", True), ("127.0.0.1", False), ("::1", False), ("a.1b", True)])
def test_a_name_must_be_looked_up_and_an_ip_address_not(host, is_name):
    assert Inet(host, 80).is_name is is_name


def test_the_longest_path_fits_the_system_and_one_byte_more_does_not():
    assert parse_address("unix:/" + "x" * (MAX_UNIX_PATH_BYTES - 1)) == Unix("/" + "x" * (MAX_UNIX_PATH_BYTES - 1))
    with pytest.raises(BadAddress):
        parse_address("unix:/" + "x" * MAX_UNIX_PATH_BYTES)


def test_a_refusal_is_one_short_line_whatever_was_given():
    with pytest.raises(BadAddress) as refusal:
        parse_address("a\nb" * 1000)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 250


@examples(300)
@given(addresses())
def test_every_address_reads_back_from_its_text(address):
    assert parse_address(str(address)) == address


addressish = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from("[]:.%/-_ 0123456789abcfunix\n" + ODD), max_size=30),
    st.builds("{}{}".format, st.sampled_from(("[", "unix:", "unix:/", "[fe80::1%", "r1:")), st.text(max_size=20)),
    st.builds("[fe80::1%{}]:80".format, st.text(max_size=9)),
)


@examples(500)
@given(addressish, st.sampled_from((no_port_names, known_ports)))
def test_any_text_is_an_address_or_a_bad_address(text, port_named):
    address = answer_or_refusal(parse_address, text, port_named, kind=BadAddress)
    if not isinstance(address, BadAddress):
        assert isinstance(address, Inet | Unix)
        assert parse_address(str(address)) == address
        assert str(address).isprintable()
