"""Tokens: what separates them, what quotes do, and that every text can be written as one."""

from __future__ import annotations

import time

import pytest
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st

from ktcpvs.errors import BadConfiguration
from ktcpvs.model.language.lexer import Place, Token, quoted, tokens, unquoted, word
from tests.model.strategies import answer_or_refusal, lines


def token(text, line, column, quoted=False):
    """A token of a text named f, of which all lines begin in the first column."""
    return Token(text, Place("f", line, 1), column, quoted, "" if quoted else text.lower())


def texts(text):
    return [token.text for token in tokens(text, "f")]


def test_tokens_know_their_places():
    assert tokens('Virtual web {\n\t"a b"  =\r\n}', "f") == [
        token("Virtual", 1, 1),
        token("web", 1, 9),
        token("{", 1, 13),
        token("a b", 2, 2, quoted=True),
        token("=", 2, 9),
        token("}", 3, 1),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \t\r\n\x0b\x0c\u2028\n", []),
        ("# all of this", []),
        ("a # b\nc", ["a", "c"]),
        ("a#b", ["a#b"]),
        ("a #b#c\n#d", ["a"]),
        ("a=b", ["a=b"]),
        ("a = b", ["a", "=", "b"]),
        ('a"b', ['a"b']),
        ('"# no comment"# but this', None),
        ('"# no comment" # but this', ["# no comment"]),
        ('""', [""]),
        ('"a b"', ["a b"]),
        (r'"\""', ['"']),
        (r'"a\"b"', ['a"b']),
        (r'"\\"', ["\\"]),
        (r'"\\\""', ['\\"']),
        (r'"\d\\w\\"', ["\\d\\\\w\\"]),
        (r'"/users/([^/]+)\.html"', [r"/users/([^/]+)\.html"]),
        ('"é 日本"', ["é 日本"]),
        ('"a"\t"b"\n"c"', ["a", "b", "c"]),
    ],
)
def test_what_is_a_token(text, found):
    if found is None:
        with pytest.raises(BadConfiguration):
            texts(text)
    else:
        assert texts(text) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('a\n  "b', "f:2:3: unterminated quote: it must end on the same line"),
        ('"', "f:1:1: unterminated quote: it must end on the same line"),
        ('"a\nb"', "f:1:1: unterminated quote: it must end on the same line"),
        (r'"a\"', "f:1:1: unterminated quote: it must end on the same line"),
        (r'"a\\\"', "f:1:1: unterminated quote: it must end on the same line"),
        ('"a"b', "f:1:4: expected white space after a quoted word, not 'b'"),
        ('x "a""b"', "f:1:6: expected white space after a quoted word, not '\"b\"'"),
        ('"a"{', "f:1:4: expected white space after a quoted word, not '{'"),
    ],
)
def test_what_cannot_be_read_is_refused_where_it_stands(text, why):
    with pytest.raises(BadConfiguration) as refusal:
        tokens(text, "f")
    assert str(refusal.value) == why


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("web", "web"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("a#b", "a#b"),
        ("a\\", "a\\"),
        ("", '""'),
        ("#a", '"#a"'),
        ("=", '"="'),
        ("{", '"{"'),
        ("a b", '"a b"'),
        ('a"b', r'"a\"b"'),
        ('"', r'"\""'),
        ("\\", r'"\\"'),
        ('\\"', r'"\\\""'),
        ("\\ ", '"\\ "'),
        (" \\\\", r'" \\\\"'),
    ],
)
def test_a_word_is_quoted_where_it_must_be(text, written):
    assert word(text) == written


@pytest.mark.parametrize("spelled", ["Virtual", "VIRTUAL"])
def test_a_word_is_known_in_any_case(spelled):
    assert token(spelled, 1, 1).is_word("global", "virtual")
    assert not token(spelled, 1, 1).is_word("global")


def test_a_quoted_word_is_no_keyword():
    assert not token("virtual", 1, 1, quoted=True).is_word("virtual")


@examples(500)
@given(st.one_of(lines(), st.text(st.sampled_from('\\"a '), max_size=12)))
@example("\\" * 7 + '"' + "\\" * 4)
def test_every_line_of_text_can_be_written_as_one_token(text):
    for written in (word(text), quoted(text)):
        (token,) = tokens(f"  {written} # comment", "f")
        assert token.text == text
        assert token.place == Place("f", 1, 3)
    assert unquoted(quoted(text)[1:-1]) == text


@examples(300)
@given(st.lists(st.tuples(lines(), st.sampled_from((" ", "\n", "\r\n", "\t", " # x\n"))), max_size=6))
def test_tokens_do_not_run_into_each_other(pairs):
    assert texts("".join(word(text) + gap for text, gap in pairs)) == [text for text, _ in pairs]


@examples(300)
@given(st.one_of(st.text(max_size=60), st.text(st.sampled_from('\\"# \n\ra={}'), max_size=30)))
def test_any_text_is_tokens_or_refused_with_a_place(text):
    found = answer_or_refusal(tokens, text, "f", kind=BadConfiguration)
    if isinstance(found, BadConfiguration):
        source, line, column, _ = str(found).split(":", 3)
        assert source == "f"
        assert 1 <= int(line) <= text.count("\n") + 1
        assert 1 <= int(column) <= len(text) + 1
    else:
        rows = text.split("\n")
        for token in found:
            here = rows[token.place.line - 1][token.place.column - 1 :]
            assert here.startswith('"' if token.quoted else token.text)


@pytest.mark.parametrize("text", ['"' * 200_000, "\\" * 200_000 + "x", '\\"' * 200_000, '\\\\"' * 100_000])
def test_a_long_line_takes_no_time_to_speak_of(text):
    """With quadratic time, this would take minutes."""
    begun = time.process_time()
    assert texts(quoted(text)) == [text]
    assert time.process_time() - begun < 5
