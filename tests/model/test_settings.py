"""Settings: names, defaults, ranges, and refused changes."""

from __future__ import annotations

import pytest
from attrs import fields
from attrs.exceptions import FrozenInstanceError
from cases import check_each
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.errors import BadValue, NoSuchSetting
from ktcpvs.model.edits import Load, Set
from ktcpvs.model.settings import SECRETS, TEXTS, Settings, whole_number
from tests.model.strategies import answer_or_refusal, secrets, settings_values

ATTRIBUTES = fields(Settings)
NUMBERS = [attribute for attribute in ATTRIBUTES if attribute.name not in TEXTS]


def test_the_names_of_ktcpvs_keep_their_defaults_but_for_zerocopy_send():
    assert {
        "debug_level": 0,
        "max_backlog": 2048,
        "zerocopy_send": 1,
        "keepalive_timeout": 30,
        "read_timeout": 180,
    }.items() <= Settings().described().items()


def test_everything_has_a_name_and_is_described():
    assert list(Settings().described()) == Settings.names() == [attribute.name for attribute in fields(Settings)]


def test_each_setting_says_what_it_means():
    assert [attribute.name for attribute in ATTRIBUTES if not attribute.metadata["meaning"]] == []


def test_each_number_has_a_default_in_its_range():
    ranges = {attribute.name: (*attribute.metadata["range"], attribute.default) for attribute in NUMBERS}
    assert [name for name, (lowest, highest, default) in ranges.items() if not lowest <= default <= highest] == []


def test_the_secrets_are_known():
    assert {"cookie_key"} == SECRETS


@pytest.mark.parametrize("key", ["", "12345678", "x" * 128, "a\\b'é.-:/$日本語"])
def test_a_secret_is_any_word_that_is_long_enough(key):
    assert Settings().changed({"cookie_key": key}).cookie_key == key
    assert Settings(cookie_key="something-else").changed({"cookie_key": key}).cookie_key == key


@pytest.mark.parametrize(
    "key",
    [
        *("1234567", "x" * 129, "1234567 8", "1234567\n", '"1234567', "{1234567", "}1234567", "#1234567", "=1234567"),
        *("1234567\0", "1234567\u200b", "1234567\ud800", "1234567\x85", "\t12345678"),
    ],
)
def test_a_secret_that_is_not_taken_is_not_told(key):
    with pytest.raises(BadValue) as refusal:
        Settings().changed({"cookie_key": key})
    assert str(refusal.value) == (
        'cookie_key: expected 8 to 128 printable characters without white space and without " { } # =, or nothing'
    )


def test_a_secret_is_not_shown_by_chance():
    settings = Settings(cookie_key="very-secret")
    assert "very-secret" not in repr(settings)
    assert "very-secret" not in repr(Set({"cookie_key": "very-secret"}))
    assert "very-secret" not in repr(Load({}, settings))
    assert "cookie_key=''" in repr(Settings())


def check_range(attribute):
    lowest, highest = attribute.metadata["range"]
    unit = f" {attribute.metadata['unit']}" if attribute.metadata["unit"] else ""
    for value in (lowest, highest):
        assert getattr(Settings().changed({attribute.name: str(value)}), attribute.name) == value
    for value in (lowest - 1, highest + 1):
        with pytest.raises(BadValue) as refusal:
            Settings(**{attribute.name: value})
        assert str(refusal.value) == f"{attribute.name} = {value} is out of range: {lowest}..{highest}{unit}"


def test_the_ends_of_each_range_are_taken_and_what_lies_beyond_is_not():
    check_each(NUMBERS, check_range, name=lambda attribute: attribute.name)


def test_a_change_changes_that_alone():
    before = Settings(debug_level=3)
    after = before.changed({"read_timeout": "7", "max_backlog": "1"})
    assert before == Settings(debug_level=3)
    assert after == Settings(debug_level=3, read_timeout=7, max_backlog=1)


def test_an_unknown_name_is_refused_and_the_known_ones_are_named():
    with pytest.raises(NoSuchSetting) as refusal:
        Settings().changed({"read_timeot": "7"})
    assert str(refusal.value) == "no setting 'read_timeot'; did you mean 'read_timeout'?"


def test_several_changes_are_one_or_none():
    with pytest.raises(BadValue) as refusal:
        Settings().changed({"read_timeout": "7", "debug_level": "13"})
    assert str(refusal.value) == "debug_level = 13 is out of range: 0..12"


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.5", "x", "²", "\u0661", "1 ", "0x10", "1_000", "1234567890"])
def test_a_number_is_made_of_at_most_nine_digits(text):
    with pytest.raises(BadValue) as refusal:
        whole_number("n", text)
    assert str(refusal.value) == f"n = {text}: expected a whole number"


def test_a_number_is_read():
    assert whole_number("n", "0") == 0
    assert whole_number("n", "007") == 7
    assert whole_number("n", "999999999") == 999_999_999


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Settings().debug_level = 1


@examples(100)
@given(settings_values())
def test_what_is_described_can_be_set(values):
    assert Settings().changed({name: str(value) for name, value in values.described().items()}) == values


numberish = st.one_of(st.integers(-1, 90000).map(str), secrets(), st.text(max_size=12))


@examples(200)
@given(st.dictionaries(st.one_of(st.sampled_from(Settings.names()), st.text(max_size=5)), numberish, max_size=3))
def test_any_change_gives_settings_or_a_refusal(changes):
    answer = answer_or_refusal(Settings().changed, changes)
    if isinstance(answer, Settings):
        assert {name: getattr(answer, name) for name in changes} == {
            name: text if name in TEXTS else int(text) for name, text in changes.items()
        }
    else:
        assert type(answer) in (NoSuchSetting, BadValue)
