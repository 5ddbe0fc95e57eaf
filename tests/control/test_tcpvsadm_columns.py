"""Tables in terminals of any width: no line is wider than the terminal, and columns are aligned."""

from __future__ import annotations

from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.control.tcpvsadm.columns import ELLIPSIS, GAP, align, text_width, wrap

NAMES = st.one_of(
    st.from_regex(r"[a-z][a-z0-9.-]{0,60}", fullmatch=True),
    st.sampled_from(["[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535", "10.0.0.1:80", "-", "数据库服务器一号", "été"]),
)
NUMBERS = st.integers(0, 10**12).map(str)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[str, ...]], str]:
    """Rows with a heading, some of one cell among them, and the sides of the columns."""
    names, numbers = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    row = st.tuples(*[NAMES] * names, *[NUMBERS] * numbers)
    note = st.tuples(st.lists(NAMES, min_size=1, max_size=12).map(lambda words: f"     {' '.join(words)}"))
    heading = tuple(f"Name{at}" for at in range(names)) + tuple(f"Num{at}" for at in range(numbers))
    rows = draw(st.lists(st.one_of(row, row, note), max_size=6))
    return [heading, *rows], "<" * names + ">" * numbers


@examples(60)
@given(tables(), st.integers(40, 300))
def test_no_line_is_wider_than_the_terminal(table: tuple[list[tuple[str, ...]], str], width: int) -> None:
    rows, sides = table
    assert max(map(text_width, align(rows, sides, width).splitlines())) <= width


@examples(60)
@given(tables(), st.one_of(st.just(0), st.integers(40, 300)))
def test_columns_are_aligned(table: tuple[list[tuple[str, ...]], str], width: int) -> None:
    """Each heading and each cell below it begin, or end, in the same column."""
    rows, sides = table
    whole = [row for row in rows if len(row) == len(sides)]
    lines = align(whole, sides, width).splitlines()
    assert len(lines) == len(whole)
    heading = lines[0].split()
    position = 0
    for name, side in zip(heading, sides, strict=False):
        start = lines[0].index(name, position)
        position = start + len(name)
        for line in lines[1:]:
            edge = _at(line, start) if side == "<" else _at(line, position)
            before = line[:edge] if side == "<" else line[edge:]
            assert not before or (before.endswith(" ") if side == "<" else before.startswith(" ") or not before.strip())


def _at(line: str, column: int) -> int:
    """Return the index of the character that begins in a column of the terminal."""
    for index in range(len(line) + 1):
        if text_width(line[:index]) >= column:
            return index
    return len(line)


@examples(30)
@given(tables())
def test_without_a_width_everything_is_whole(table: tuple[list[tuple[str, ...]], str]) -> None:
    rows, sides = table
    text = align(rows, sides)
    assert all(cell in text for row in rows for cell in row)


def test_names_are_shortened_in_the_middle_before_columns_are_left_out() -> None:
    rows = [("Name", "Other", "Count"), ("a" * 30 + "z" * 30, "b" * 20, "7")]
    heading, line = align(rows, "<<>", 60).splitlines()
    name, other, count = line.split(GAP)[0], line.split()[1], line.split()[-1]
    assert name.startswith("aaa")
    assert name.endswith("zzz")
    assert ELLIPSIS in name
    assert (other, count) == ("b" * 20, "7")
    assert heading.split() == ["Name", "Other", "Count"]
    many = [("Name", *(f"Number{at}" for at in range(9))), ("a" * 30, *("1234567" for _ in range(9)))]
    assert align(many, "<" + ">" * 9, 40).splitlines()[0].split() == ["Name", "Number0", "Number1", "Number2"]


def test_a_note_is_wrapped() -> None:
    note = "     failed at noon: connection refused by a server that nobody has started"
    assert list(wrap(note, 40)) == [
        "     failed at noon: connection refused",
        "       by a server that nobody has",
        "       started",
    ]
    assert list(wrap("  " + "x" * 50, 40)) == ["  " + "x" * 38, "    " + "x" * 12]
