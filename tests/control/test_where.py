"""Where the control connection may be, and where it may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.control.where import ControlAddress, default_control, parse_control
from ktcpvs.errors import BadAddress


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("unix:/run/x.sock", ControlAddress(path="/run/x.sock")),
        ("unix:/run/x.sock:mode=600", ControlAddress(path="/run/x.sock")),
        ("unix:address=/run/x.sock", ControlAddress(path="/run/x.sock")),
        ("unix:path=/run/x.sock", ControlAddress(path="/run/x.sock")),
        (r"unix:/run/a\:b", ControlAddress(path="/run/a:b")),
        ("tcp:7777:interface=127.0.0.1", ControlAddress(host="127.0.0.1", port=7777)),
        ("tcp:127.0.0.1:7777", ControlAddress(host="127.0.0.1", port=7777)),
        ("tcp:host=localhost:port=7777", ControlAddress(host="127.0.0.1", port=7777)),
        (r"tcp6:7777:interface=\:\:1", ControlAddress(host="::1", port=7777)),
    ],
)
def test_both_ends_write_it_their_way(text: str, where: ControlAddress) -> None:
    assert parse_control(text) == where
    assert parse_control(str(where)) == where


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tcp:7777", "every interface is not loopback"),
        ("tcp:7777:interface=0.0.0.0", "0.0.0.0 is not loopback"),
        ("tcp:192.0.2.1:7777", "192.0.2.1 is not loopback"),
        ("tcp:example.org:7777", "example.org is not loopback"),
        ("tcp:interface=127.0.0.1", "a port is wanted"),
        ("tcp:70000:interface=127.0.0.1", "a port is wanted"),
        ("tcp:0:interface=127.0.0.1", "a port is wanted"),
        ("tcp:00000111111:interface=127.0.0.1", "a port is wanted"),
        ("tcp:7:host=\x1b[0m", r"\\x1b\[0m is not loopback"),
        ("unix:/run/" + "x" * 110, "at most 107 bytes"),
        ("unix:/run/a\0b", "all printable"),
        ("unix:relative", "absolute path"),
        ("unix:", "absolute path"),
        ("ssl:443", "it is unix:/PATH or tcp"),
        ("", "it is unix:/PATH or tcp"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadAddress, match=why):
        parse_control(text)


@given(st.text(max_size=40))
def test_any_text_at_all(text: str) -> None:
    try:
        where = parse_control(text)
    except BadAddress:
        return
    assert where.path is not None or where.host in ("127.0.0.1", "::1") or where.host.startswith("127.")


def test_the_default_is_a_unix_socket() -> None:
    path = default_control().path
    assert path is not None
    assert path.endswith("/control.sock")
