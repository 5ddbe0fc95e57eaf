"""Differences between two configurations, in words: rules by their names, or else by their conditions."""

from __future__ import annotations

import pytest

from ktcpvs.model.describe import configuration
from ktcpvs.model.difference import differences
from ktcpvs.model.language.parser import parse
from ktcpvs.model.table import Table

SERVERS = "server = a:1 server = b:1"


def found(before: str, after: str) -> list[str]:
    old, new = (configuration(parse(f"Virtual s {{ {SERVERS} {rules} }}").apply(Table())) for rules in (before, after))
    return [line.removeprefix("service s: ") for line in differences(*old, *new)]


X = "rule = name x path /a use server a:1"
Y = "rule = path /a from ::1 use server a:1"
P = 'rule = pattern "^/p" use server a:1'


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (X, X, []),
        ("", X, ["+ rule 'x' path /a -> a:1"]),
        ("", Y, ["+ rule 'path /a from ::1' -> a:1"]),
        ("", P, ["+ rule '^/p' -> a:1"]),
        (X, "", ["- rule 'x'"]),
        (Y, "", ["- rule 'path /a from ::1'"]),
        (X, X.replace("/a", "/b"), ["rule 'x': path /a -> path /b"]),
        (X, X.replace("a:1", "b:1"), ["rule 'x': a:1 -> b:1"]),
        (X, X.replace("name x ", ""), ["- rule 'x'", "+ rule 'path /a' -> a:1"]),
        (X + " " + Y, Y + " " + X, ["the order of the rules changes"]),
        (P, f"{P} server b:1", ["rule '^/p': a:1 -> a:1 b:1"]),
    ],
)
def test_rules(before: str, after: str, expected: list[str]) -> None:
    assert found(before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "backup", ["server c:1: priority 0 -> backup"]),
        ("priority 2 drain", "priority 3", ["server c:1: priority 2 -> priority 3, drain -> ready"]),
        ("max_pending 3", "", ["server c:1: max_pending 3 -> 0"]),
        ("label a=1 label b", "label b label a=1", []),
        ("label b label a=1", "label b=2", ["server c:1: label a=1 label b -> label b=2"]),
        ("", "label zone=a", ["server c:1: label off -> label zone=a"]),
        ("check c:9", "check c:8", ["server c:1: check c:9 -> c:8"]),
        ("", "check c:8", ["server c:1: check off -> c:8"]),
        ("proxy v1", "maintenance", ["server c:1: proxy v1 -> no TLS, no HTTP/2, no PROXY, ready -> maintenance"]),
    ],
)
def test_words_of_servers(before: str, after: str, expected: list[str]) -> None:
    assert found(f"server = c:1 1 {before}", f"server = c:1 1 {after}") == expected


def test_a_new_server_with_words() -> None:
    assert found("", "server = c:1 1 backup drain") == ["+ server c:1, weight 1, backup drain"]


def test_a_daemon_of_an_older_version_describes_rules_without_names() -> None:
    (services, values), after = (configuration(parse(f"Virtual s {{ {SERVERS} {P} }}").apply(Table())) for _ in "ab")
    for rule in services[0]["rules"]:
        del rule["name"]
    assert differences(services, values, *after) == []
