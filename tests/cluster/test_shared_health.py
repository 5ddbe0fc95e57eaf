"""The values in which nodes share the results of their checks."""

from __future__ import annotations

import json

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.cluster.records import BadRecord
from ktcpvs.cluster.shared_health import MAX_BYTES, MAX_REASON, decode_results, encode_results
from ktcpvs.errors import shorten

texts = st.text(max_size=20)


@examples(30)
@given(st.dictionaries(st.tuples(texts, texts), st.one_of(st.none(), st.text(max_size=2 * MAX_REASON)), max_size=4))
def test_results_read_back_with_short_reasons(results: dict[tuple[str, str], str | None]) -> None:
    # Both sides trust nobody, and control characters have become longer on the one before.
    short = {key: None if why is None else shorten(why, MAX_REASON) for key, why in results.items()}
    expected = {key: None if why is None else shorten(why, MAX_REASON) for key, why in short.items()}
    assert decode_results(encode_results(results)) == expected


def test_a_value_is_bounded() -> None:
    """Reasons are left out before servers are."""
    reason = "x" * MAX_REASON
    some = {("web", f"10.0.{number >> 8}.{number & 255}:80"): reason for number in range(20_000)}
    value = encode_results(some)
    assert len(value) <= MAX_BYTES
    assert decode_results(value) == dict.fromkeys(some, "")
    many = {("service", f"server-{number}.of.a.long.name.example:80"): None for number in range(50_000)}
    value = encode_results(many)
    assert len(value) <= MAX_BYTES
    assert 15_000 < len(decode_results(value)) < 50_000


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xff", "they are not JSON"),
        (b"[" * 100_000, "they are not JSON"),
        (b"[]", "they are not a value of ktcpvs"),
        (b'{"format": "1"}', "they are not a value of ktcpvs"),
        (b'{"format": 99}', "their format is 99; this version reads formats up to 1"),
        (b'{"format": 1}', "they have no services"),
        (b'{"format": 1, "services": {"web": []}}', "they have no services"),
        (b'{"format": 1, "services": {"web": {"10.0.0.1:80": 1}}}', "a reason is no text"),
    ],
)
def test_what_cannot_be_read_says_why(value: bytes, why: str) -> None:
    with pytest.raises(BadRecord) as refusal:
        decode_results(value)
    assert str(refusal.value) == why


def test_the_format_of_the_value() -> None:
    """Nodes of other versions read it."""
    value = encode_results({("web", "10.0.0.1:80"): None, ("web", "10.0.0.2:80"): "check: late"})
    assert json.loads(value) == {
        "format": 1, "services": {"web": {"10.0.0.1:80": None, "10.0.0.2:80": "check: late"}},
    }  # fmt: skip
