"""Conditions of rules: what is read, the one form in which they are kept, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadPattern, Refusal
from ktcpvs.model.conditions import (
    MAX_CONDITIONS,
    MAX_VALUES,
    Condition,
    conditions_of,
    normalized_text,
    share_of,
    text_of,
    written_text,
)
from tests.model.strategies import answer_or_refusal, conditions, lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a b", [Condition("pattern", ("/a b",))]),
        ("tls", [Condition("pattern", ("tls",))]),
        ("tls on", [Condition("tls")]),
        ("not tls", [Condition("tls", is_negated=True)]),
        ("not tls path /a", [Condition("tls", is_negated=True), Condition("path", ("/a",))]),
        ('pattern "host a"', [Condition("pattern", ("host a",))]),
        ('pattern "/a" "/b"', [Condition("pattern", ("/a", "/b"))]),
        ("host A.Example. *.b.example a.example", [Condition("host", ("a.example", "*.b.example"))]),
        ("path /v1/ /login", [Condition("path", ("/v1/", "/login"))]),
        ('path "/a b"', [Condition("path", ("/a b",))]),
        ("method GET PURGE", [Condition("method", ("GET", "PURGE"))]),
        ("header X-Beta", [Condition("header", (), "X-Beta")]),
        ('header X-Beta "^1$" "on"', [Condition("header", ("^1$", "on"), "X-Beta")]),
        ("header use use", None),
        ('header Not "use" cookie a', [Condition("header", ("use",), "Not"), Condition("cookie", (), "a")]),
        ('query "a b" "c"', [Condition("query", ("c",), "a b")]),
        ("from 10.0.0.0/8 ::1", [Condition("from", ("10.0.0.0/8", "::1"))]),
        ("from 10.0.0.0/255.0.0.0", [Condition("from", ("10.0.0.0/8",))]),
        ("port 080 443", [Condition("port", ("80", "443"))]),
        ("share 05.50%", [Condition("share", ("5.5%",))]),
        ("host a not host b", [Condition("host", ("a",)), Condition("host", ("b",), is_negated=True)]),
    ],
)
def test_what_a_text_says(text: str, expected: list[Condition] | None) -> None:
    if expected is None:
        with pytest.raises(Refusal, match="unknown condition 'use'"):
            conditions_of(text)
        return
    assert conditions_of(text) == tuple(expected)
    assert conditions_of(normalized_text(text)) == tuple(expected)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("host a..b", r"host 'a..b': expected a name, or \*. and a name"),
        ("host a.example:80", "without its port: host a.example port 80"),
        ("host bücher.example", "did you mean 'xn--bcher-kva.example'?"),
        ("path admin", "expected a path that begins with /"),
        ("path /a?b", "for arguments: query NAME PATTERN"),
        ("path /%61dmin/", "so write it decoded"),
        ("path /a//b", "no request has this path"),
        ("path /a/../b", "no request has this path"),
        ("method get", "did you mean 'GET'?"),
        ("method a/b", "expected a method"),
        ("header X: 1", "expected the name of a header"),
        ("cookie a=b", "expected the name of a cookie"),
        ('header X "("', r"pattern '\(': missing \)"),
        ("header X on", r"expected a pattern in quotes, 'use', or another condition, not 'on'"),
        ("host a.example us", "not 'us'; did you mean 'use'?"),
        ("host a.example server", "expected 'use', not 'server'"),
        ("from 10.0.0.1/8", "did you mean 10.0.0.0/8?"),
        ("from here", "expected a network"),
        ("port 0", "expected a number from 1 to 65535"),
        ("port http", "expected a number from 1 to 65535"),
        ("share -1%", "expected a percentage from 0% to 100%"),
        ("share 100.01%", "expected a percentage from 0% to 100%"),
        ("share 5", "expected a percentage from 0% to 100%"),
        ("share 5% 6%", "a condition has one share"),
        ("not pat /a", "expected a condition after 'not', not 'pat'"),
        ("not host", "missing value after 'host'"),
        ("host a hst b", "not 'hst'; did you mean 'host'?"),
        ("tls off", "unknown condition 'off'"),
        ("host a use", "unknown condition 'use'"),
        (" ".join(["host a"] * (MAX_CONDITIONS + 1)), f"at most {MAX_CONDITIONS} conditions"),
        ("port " + " ".join(map(str, range(1, MAX_VALUES + 2))), f"at most {MAX_VALUES} values"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(Refusal, match=why.replace("?", r"\?")):
        conditions_of(text)


def test_a_word_of_the_language_is_a_value_in_quotes() -> None:
    assert conditions_of('host "use" "match"') == (Condition("host", ("use", "match")),)
    assert text_of(conditions_of('host "use" "match"')) == 'host "use" "match"'


def test_how_a_text_is_written_in_a_configuration() -> None:
    assert written_text("/a") == 'pattern "/a"'
    assert written_text("host a path /x") == "host a path /x"


def test_shares_are_hundredths_of_a_percent() -> None:
    assert [share_of(text) for text in ("5%", "0.01%", "12.5%", "100%")] == [500, 1, 1250, 10000]


@given(st.lists(conditions(), min_size=1, max_size=6))
def test_every_text_is_read_back(found: list[Condition]) -> None:
    text = text_of(found)
    assert conditions_of(text) == tuple(found)
    assert normalized_text(text) == text


@given(lines(60), st.sampled_from(("", "host ", "not ", "path /", "header a ", "share ", "from ")))
def test_any_text_is_read_or_refused(text: str, begin: str) -> None:
    found = answer_or_refusal(conditions_of, begin + text)
    if not isinstance(found, Refusal):
        assert found == conditions_of(text_of(found))


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(BadPattern, match="empty pattern"):
        conditions_of("")
