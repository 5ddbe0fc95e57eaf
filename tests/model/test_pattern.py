"""Patterns: which are accepted, and that errors show their position."""

from __future__ import annotations

import pytest
import re2
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadPattern
from ktcpvs.model.pattern import DEFAULT_PATTERNS, MAX_PATTERN_BYTES, check_pattern, encode_pattern, re2_options
from tests.model.strategies import ODD, answer_or_refusal, patterns

BEYOND = "is not supported: RE2 has no back-references, no look-around and no possessive operators"


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (".*", 0),
        ("^/.*", 0),
        ("/users/([^/]+)/.*", 1),
        ("(a)(?:b)(c(d))", 3),
        ("(?P<name>a)", 1),
        ("[[:alpha:]]+", 0),
        ("\\pL", 0),
        ("é", 0),
        ('"', 0),
        ("\\\\1", 0),
        ("\\++", 0),
        ("\\(?=a", 0),
        ("a b", 0),
        ("x" * MAX_PATTERN_BYTES, 0),
    ],
)
def test_a_good_pattern_is_taken_and_its_groups_counted(pattern, groups):
    assert check_pattern(pattern) == groups


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("(", "missing ) '(' at position 0"),
        ("/a(b", "missing ) '/a(b' at position 2"),
        ("é日(", "missing ) 'é日(' at position 2"),
        ("/a)", "unexpected ) '/a)' at position 2"),
        ("/[a", "missing ] '[a' at position 1"),
        ("z-a[z-a]", "invalid character class range 'z-a' at position 4"),
        ("*a", "no argument for repetition operator '*' at position 0"),
        ("a|*", "no argument for repetition operator '*' at position 2"),
        ("a**", "bad repetition operator '**' at position 2"),
        ("a{1001}", "invalid repetition size '{1001}' at position 1"),
        ("/a\\", "trailing \\ at position 2"),
        ("a\\yb", "invalid escape sequence '\\y' at position 1"),
        ("\\\\1\\y", "invalid escape sequence '\\y' at position 3"),
        ("[(?=]\\y", "invalid escape sequence '\\y' at position 5"),
        ("a\\p{Nonsense}", "invalid character class range '\\p{Nonsense}' at position 1"),
        # Where Python's re, which is asked for the position, would warn, stumble earlier or fail otherwise.
        ("[[:alpha:]](", "missing ) '[[:alpha:]](' at position 11"),
        ("\\pL\\z(", "at position 5"),
        ("[[:nonsense:]]", "invalid character class range '[:nonsense:]' at position 1"),
        ("(?a)(?u)", "invalid perl operator '(?a' at position 0"),
        ("(?:" * 2000, "missing )"),
    ],
)
def test_a_fault_is_shown_with_its_position(pattern, fault):
    with pytest.raises(BadPattern) as refusal:
        check_pattern(pattern)
    assert str(refusal.value).startswith("pattern ")
    assert fault in str(refusal.value)
    assert " at position " in str(refusal.value)


@pytest.mark.parametrize(
    ("pattern", "what", "position"),
    [
        ("/(a)/\\1", "\\1", 5),
        ("\\\\1(a)\\1", "\\1", 6),
        ("(?P<n>a)(?P=n)", "(?P=", 8),
        ("(a)\\g<1>", "\\g<", 3),
        ("a(?=b)", "(?=", 1),
        ("a(?!b)", "(?!", 1),
        ("(?<=a)b", "(?<=", 0),
        ("(?<!a)b", "(?<!", 0),
        ("(?>a)", "(?>", 0),
        ("a++", "++", 1),
        ("a{2}+", "}+", 3),
    ],
)
def test_what_re2_never_has_is_refused_by_name(pattern, what, position):
    with pytest.raises(BadPattern) as refusal:
        check_pattern(pattern)
    assert str(refusal.value).endswith(f": {what} at position {position} {BEYOND}")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "empty pattern; use .* for a default rule"),
        ("a\x00", "pattern 'a\\x00': a control character at position 1"),
        ("ab\x7f", "pattern 'ab\\x7f': a control character at position 2"),
        ("\ud800", "pattern '\\ud800': a control character at position 0"),
        ("a\tb", "pattern 'a\\tb': white space other than a space at position 1"),
        ("a\n", "pattern 'a\\n': white space other than a space at position 1"),
        ("\u2028", "pattern '\\u2028': white space other than a space at position 0"),
        ("x" * (MAX_PATTERN_BYTES + 1), "a pattern of 8193 bytes: the limit is 8192"),
        ("é" * (MAX_PATTERN_BYTES // 2 + 1), "a pattern of 8194 bytes: the limit is 8192"),
    ],
)
def test_what_no_line_can_hold_is_refused(pattern, why):
    with pytest.raises(BadPattern) as refusal:
        check_pattern(pattern)
    assert str(refusal.value) == why


def test_a_pattern_is_searched_byte_by_byte():
    assert encode_pattern("é.") == b"\xc3\xa9."
    compiled = re2.compile(encode_pattern("é."), options=re2_options())
    assert compiled.search(b"/\xc3\xa9\xff")
    assert not compiled.search(b"/\xe9\xff")


def test_the_default_patterns():
    assert frozenset((".*", "^/.*")) == DEFAULT_PATTERNS


@examples(500)
@given(st.one_of(st.text(max_size=30), st.text(st.sampled_from("()[]{}*+?\\|^$1:=!<>Pipz0,-" + ODD), max_size=20)))
def test_any_text_is_a_pattern_or_a_bad_pattern_with_a_place_in_it(text):
    groups = answer_or_refusal(check_pattern, text, kind=BadPattern)
    if not isinstance(groups, BadPattern):
        assert 0 <= groups <= text.count("(")
    elif text:
        position = int(str(groups).rpartition(" at position ")[2].split()[0])
        assert 0 <= position <= len(text)


@examples(200)
@given(patterns())
def test_what_is_taken_compiles_and_can_be_searched(pattern):
    compiled = re2.compile(encode_pattern(pattern), options=re2_options())
    assert compiled.groups == check_pattern(pattern)
    compiled.search(b"/any\xff?thing")
