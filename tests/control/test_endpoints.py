"""Addresses of the control connection that are accepted, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.control.endpoints import ControlAddress, TLSFiles, default_control, parse_control, parse_listen_address
from ktcpvs.errors import BadAddress


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("unix:/run/x.sock", ControlAddress(path="/run/x.sock")),
        ("unix:/run/x.sock:mode=600", ControlAddress(path="/run/x.sock")),
        ("unix:address=/run/x.sock", ControlAddress(path="/run/x.sock")),
        ("unix:path=/run/x.sock", ControlAddress(path="/run/x.sock")),
        (r"unix:/run/a\:b", ControlAddress(path="/run/a:b")),
        ("tcp:7777", ControlAddress(host="127.0.0.1", port=7777)),
        ("tcp6:7777", ControlAddress(host="::1", port=7777)),
        ("tcp:port=7777", ControlAddress(host="127.0.0.1", port=7777)),
        ("tcp:7777:interface=127.0.0.1", ControlAddress(host="127.0.0.1", port=7777)),
        ("tcp:127.0.0.1:7777", ControlAddress(host="127.0.0.1", port=7777)),
        ("tcp:host=localhost:port=7777", ControlAddress(host="127.0.0.1", port=7777)),
        (r"tcp6:7777:interface=\:\:1", ControlAddress(host="::1", port=7777)),
    ],
)
def test_forms_of_daemon_and_client(text: str, where: ControlAddress) -> None:
    assert parse_control(text) == where
    assert parse_control(str(where)) == where


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tcp:7777:interface=0.0.0.0", "0.0.0.0 is not loopback"),
        ("tcp:192.0.2.1:7777", "192.0.2.1 is not loopback"),
        ("tcp:example.org:7777", "example.org is not loopback"),
        ("tcp:interface=127.0.0.1", "missing port, or not a number from 1 to 65535"),
        ("tcp:70000:interface=127.0.0.1", "missing port, or not a number from 1 to 65535"),
        ("tcp:0:interface=127.0.0.1", "missing port, or not a number from 1 to 65535"),
        ("tcp:00000111111:interface=127.0.0.1", "missing port, or not a number from 1 to 65535"),
        ("tcp:7:host=\x1b[0m", r"\\x1b\[0m is not loopback"),
        ("unix:/run/" + "x" * 110, "at most 107 bytes"),
        ("unix:/run/a\0b", "all printable"),
        ("unix:relative", "absolute path"),
        ("unix:", "absolute path"),
        ("ssl:443", "expected unix:/PATH, tcp:PORT on loopback, or tls:"),
        ("", "expected unix:/PATH, tcp"),
        ("tcp:0.0.0.0:7777", "or over a network tls:"),
        ("tls:7777:cert=a:ca=b", "missing host: use interface=ADDRESS for a daemon"),
        ("tls:7777:interface=x/y:cert=a:ca=b", "'x/y' is not a host: use interface=ADDRESS"),
        ("tls:lb1:cert=a:ca=b", "missing port, or not a number from 1 to 65535"),
        ("tls:lb1:7777:cert=a", "missing ca=FILE"),
        ("tls:lb1:7777", "missing cert=FILE and ca=FILE"),
        ("tls:lb1:7777:cert=a:ca=", "missing ca=FILE"),
        ("tls:lb1:7777:cert=a:ca=b:verify=none", "unknown parameter 'verify='; tls: has cert, key and ca"),
    ],
)
def test_refused_addresses(text: str, why: str) -> None:
    with pytest.raises(BadAddress, match=why):
        parse_control(text)


@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    try:
        where = parse_control(text)
    except BadAddress:
        return
    assert (
        where.path is not None
        or where.tls is not None
        or where.host in ("127.0.0.1", "::1")
        or where.host.startswith("127.")
    )


@pytest.mark.parametrize(
    ("text", "host", "shown"),
    [
        ("tls:7777:interface=0.0.0.0", "0.0.0.0", "tls:0.0.0.0:7777"),
        ("tls:7777:interface=[::]", "::", "tls:[::]:7777"),
        (r"tls:7777:interface=\:\:1", "::1", "tls:[::1]:7777"),
        ("tls:[2001:DB8:0:0::1]:7777", "2001:db8::1", "tls:[2001:db8::1]:7777"),
        ("tls:lb1.example.org:7777", "lb1.example.org", "tls:lb1.example.org:7777"),
        ("tls:host=lb1:port=7777", "lb1", "tls:lb1:7777"),
    ],
)
def test_tls_with_files(text: str, host: str, shown: str) -> None:
    where = parse_control(f"{text}:cert=/x/a:key=/x/b:ca=c")
    assert where == ControlAddress(host=host, port=7777, tls=TLSFiles("/x/a", "/x/b", "c"))
    assert str(where) == shown
    assert parse_control(f"{text}:ca=c:cert=/x/a").tls == TLSFiles("/x/a", "/x/a", "c"), "the key is in the same file"


def test_a_daemon_listens_only_on_ip_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where = parse_listen_address("tls:7777:interface=0.0.0.0:cert=a:ca=/b")
    assert where.tls == TLSFiles(f"{tmp_path}/a", f"{tmp_path}/a", "/b"), (
        "absolute, since the daemon may change its directory"
    )
    assert parse_listen_address("unix:/x") == ControlAddress(path="/x")
    with pytest.raises(BadAddress, match=r"interface=lb1 is not an IP address; 0\.0\.0\.0 means every interface"):
        parse_listen_address("tls:lb1:7777:cert=a:ca=b")


def test_the_default_is_a_unix_socket() -> None:
    path = default_control().path
    assert path is not None
    assert path.endswith("/control.sock")
