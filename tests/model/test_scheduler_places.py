"""Where a configuration names a scheduler."""

from __future__ import annotations

import pytest

from ktcpvs.model.language.scheduler_places import place_of_scheduler

TEXT = """Virtual nope { scheduler = rr }
Virtual web {
    scheduler = phttp   # nope
    balance = lc depth 3
    server = nope:80
    rule = path /balance balance "maglev" use server nope:80
    fallback = p2c
}
#line 7 "other.conf"
Virtual last { scheduler = nope }
"""


@pytest.mark.parametrize(
    ("ident", "name", "where"),
    [
        ("web", "phttp", "main:3:17"),
        ("web", "lc", "main:4:15"),
        ("web", "maglev", "main:6:34"),
        ("web", "p2c", "main:7:16"),
        ("last", "nope", "other.conf:7:28"),
        ("nope", "rr", "main:1:28"),
        ("web", "nope", "None"),
        ("web", "rr", "None"),
    ],
)
def test_the_place(ident: str, name: str, where: str) -> None:
    assert str(place_of_scheduler(TEXT, "main", ident, name)) == where
