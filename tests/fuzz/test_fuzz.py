"""Every fuzz target with its seeds and with changed seeds. `make fuzz` runs them for longer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import CORPUS, TARGETS, seeds, words

EXAMPLES = {"control": 50, "boxes": 30}
"""The number of runs of a target; those not named here run 300 times."""

_SIGNS = [b"\r\n", b"\r", b"\n", b" ", b"\t", b"\0", b"\xff", b":", b",", b";", b"=", b'"', b"\\", b"#", b"{", b"}"]

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "testing.md"

each_target = pytest.mark.parametrize("name", sorted(TARGETS))


@each_target
def test_all_seeds_pass(name: str) -> None:
    found = seeds(name)
    assert found, "a target needs seeds"
    for seed in found:
        TARGETS[name](seed)


def test_every_seed_has_a_target_and_every_target_is_documented() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= TARGETS.keys()
    described = re.findall(r"^\| (`.*?`) \|.*\|.*\|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    named = {name for names in described for name in re.findall(r"`(\w+)`", names)}
    assert named == TARGETS.keys()


@st.composite
def changed(draw: st.DrawFn, known: list[bytes], word: st.SearchStrategy[bytes]) -> bytes:
    """A seed, changed in up to four places by a word of another one, a sign, or any bytes."""
    data = draw(st.sampled_from(known))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        removed = draw(st.sampled_from((0, 0, 1, 2, 9)))
        data = data[:place] + draw(word | st.sampled_from(_SIGNS) | st.binary(max_size=3)) + data[place + removed :]
    return data


@each_target
def test_changed_seeds_pass(name: str) -> None:
    @settings(max_examples=EXAMPLES.get(name, 300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(changed(seeds(name), st.sampled_from(words(name))) | st.binary(max_size=200))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()
