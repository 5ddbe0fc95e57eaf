"""Which hosts belong to another TLS profile."""

from __future__ import annotations

import pytest

from ktcpvs.model.tls_hosts import foreign_hosts

NAMES = (
    ("open", ("www.shop.example", "*.shop.example", "both.example", "192.0.2.1")),
    ("open", ("blog.example",)),
    ("guarded", ("admin.shop.example", "both.example", "*.intern.example", "2001:db8::1")),
)


@pytest.mark.parametrize(
    ("host", "foreign_to"),
    [
        (b"www.shop.example", "guarded"),
        (b"a.shop.example", "guarded"),
        (b"admin.shop.example", "open"),  # its own name counts before the wildcard
        (b"a.admin.shop.example", ""),  # a wildcard stands for one label
        (b"shop.example", ""),
        (b"both.example", ""),
        (b"blog.example", "guarded"),
        (b"a.intern.example", "open"),
        (b"unknown.example", ""),
        (b"192.0.2.1", "guarded"),
        (b"[2001:db8::1]", "open"),
        (b"", ""),
        (b"\xff", ""),
    ],
)
def test_a_host_is_foreign_to_profiles_whose_certificates_do_not_name_it(host: bytes, foreign_to: str) -> None:
    found = foreign_hosts(NAMES)
    assert [profile for profile in ("open", "guarded") if host in found[profile]] == [foreign_to] * bool(foreign_to)


@pytest.mark.parametrize("names", [(), NAMES[:1], NAMES[:2], (("a", ("x",)), ("b", ("x",)))])
def test_one_profile_has_no_foreign_hosts(names: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    assert foreign_hosts(names) == {}


def test_only_a_profile_that_lacks_a_name_has_foreign_hosts() -> None:
    found = foreign_hosts((("a", ("x", "y")), ("b", ("x",))))
    assert list(found) == ["b"]
    assert b"y" in found["b"]
    assert b"x" not in found["b"]
