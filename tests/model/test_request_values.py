"""The values of requests that conditions compare: raw bytes in, what a server would read out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.model.request_values import arguments, cookies, header_values, host_of, normalized_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/admin/", b"/admin/"),
        (b"/admin", b"/admin"),
        (b"/admin?x=/../y", b"/admin"),
        (b"/%61dmin/", b"/admin/"),
        (b"/%2561dmin/", b"/%61dmin/"),
        (b"//admin/", b"/admin/"),
        (b"/x//admin///y", b"/x/admin/y"),
        (b"/./admin/.", b"/admin/"),
        (b"/x/../admin/", b"/admin/"),
        (b"/x/%2e%2E/admin", b"/admin"),
        (b"/x%2f..%2fadmin/", b"/admin/"),
        (b"/../../admin", b"/admin"),
        (b"/..", b"/"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/...", b"/a/..."),
        (b"/.a/..b", b"/.a/..b"),
        (b"/Admin/", b"/Admin/"),
        (b"/a%3fb", b"/a?b"),
        (b"/%zz%4", b"/%zz%4"),
        (b"/admin%00", b"/admin\0"),
        (b"/admin;x/", b"/admin;x/"),
        (b"/x\\..\\admin", b"/x\\..\\admin"),
        (b"*", b"*"),
        (b"", b""),
    ],
)
def test_normalized_paths(path: bytes, expected: bytes) -> None:
    assert normalized_path(path) == expected


@given(st.lists(st.sampled_from(("a", "..", ".", "", "%2e", "%2F", "b.c", "/", "%")), max_size=8))
def test_a_normalized_path_stays_as_it_is(parts: list[str]) -> None:
    found = normalized_path(b"/" + "/".join(parts).encode())
    assert found.startswith(b"/")
    assert not {b".", b".."} & set(found.split(b"/"))
    assert b"//" not in found


@pytest.mark.parametrize(
    ("target", "lines", "host"),
    [
        (b"/", b"Host: Shop.Example\r\n", b"shop.example"),
        (b"/", b"HOST:shop.example:8080 \r\n", b"shop.example"),
        (b"/", b"A: b\r\nhost: shop.example.\r\n", b"shop.example"),
        (b"/", b"host: shop.example.:80\r\n", b"shop.example"),
        (b"/", b"host: [::1]:80\r\n", b"[::1]"),
        (b"/", b"host: [::1]\r\n", b"[::1]"),
        (b"/", b"host:\r\n", b""),
        (b"/", b"X-Host: a\r\n", None),
        (b"/", b"X: Host: a\r\n", None),
        (b"/", b"Host: a\r\nHost: b\r\n", None),
        (b"http://Other.example:80/x", b"Host: a\r\n", b"other.example"),
        (b"http://other.example?x", b"", b"other.example"),
        (b"*", b"Host: a\r\n", b"a"),
    ],
)
def test_hosts(target: bytes, lines: bytes, host: bytes | None) -> None:
    assert host_of(target, lines) == host


def test_header_values_are_those_of_all_lines() -> None:
    lines = b"X-A: 1\r\nx-a:\t2 \r\nX_A: 3\r\nY: 4\r\n"
    assert list(header_values(lines, {b"x-a", b"y"})) == [(b"x-a", b"1"), (b"x-a", b"2"), (b"y", b"4")]


def test_cookies_are_those_of_all_lines() -> None:
    lines = b'Cookie: a=1; A=2;b="x y" ;c\r\nX: a=3\r\ncookie: a=4;=5; d = e=f\r\n'
    assert list(cookies(lines)) == [
        (b"a", b"1"), (b"A", b"2"), (b"b", b'"x y"'), (b"", b"c"), (b"a", b"4"), (b"", b"5"), (b"d", b"e=f"),
    ]  # fmt: skip


def test_arguments_are_decoded() -> None:
    assert list(arguments(b"/x?a=1&b=%31+2&%61=3&&c&d=e=f&=g;h?i")) == [
        (b"a", b"1"), (b"b", b"1 2"), (b"a", b"3"), (b"c", b""), (b"d", b"e=f"), (b"", b"g;h?i"),
    ]  # fmt: skip
    assert list(arguments(b"/x")) == list(arguments(b"/x?")) == []
