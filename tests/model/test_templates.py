"""Templates: which texts are accepted, and what they become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadValue
from ktcpvs.model.templates import GROUPS, VARIABLES, read_template
from tests.model.strategies import answer_or_refusal

VALUES = {name: f"<{name}>".encode() for name in (*VARIABLES, *GROUPS)}


def filled(text: str) -> str:
    return read_template(text).filled(VALUES.__getitem__).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("/new/", "/new/"),
        ("https://{host}/new/{1}", "https://<host>/new/<1>"),
        ("{path}{query}", "<path><query>"),
        ("{{host}", "{host}"),
        ("{{{host}}", "{<host>}"),
        ("a}b", "a}b"),
        ("é{9}日", "é<9>日"),
    ],
)
def test_variables_are_filled_in(text: str, expected: str) -> None:
    assert filled(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{hots}", "unknown variable 'hots'; did you mean 'host'?"),
        ("{}", "unknown variable ''"),
        ("{0}", "unknown variable '0'"),
        ("{10}", "unknown variable '10'"),
        ("{Host}", "unknown variable 'Host'; did you mean 'host'?"),
        ("/a{host", "'{host': missing } after a variable"),
        ("{", "missing } after a variable"),
        ("{a{host}", "'{a{host}': missing } after a variable"),
    ],
)
def test_other_texts_are_refused(text: str, why: str) -> None:
    with pytest.raises(BadValue) as refused:
        read_template(text)
    assert why in str(refused.value)


def test_a_template_knows_what_it_needs() -> None:
    template = read_template("{host}{3}{1}{host}")
    assert template.variables == {"host", "1", "3"}
    assert template.groups == 3
    assert read_template("{host}").groups == 0


@given(st.text(st.sampled_from("{}host1a "), max_size=12))
def test_a_text_is_refused_or_each_variable_becomes_its_value(text: str) -> None:
    template = answer_or_refusal(read_template, text)
    if isinstance(template, BadValue):
        return
    marks = {name: b"\x00" + name.encode() + b"\x00" for name in VALUES}
    written = template.filled(marks.__getitem__).decode()
    assert written.count("\0") == 2 * sum(is_variable for _, is_variable in template.parts)
    for name in marks:
        written = written.replace(f"\0{name}\0", "{" + name + "}")
    assert written == text.replace("{{", "{")
