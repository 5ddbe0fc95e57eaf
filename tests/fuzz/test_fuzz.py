"""Every fuzz target with its seeds and with changed seeds. `make fuzz` runs them for longer."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from examples import scaled

from tests.fuzz.targets import CORPUS, TARGETS, seeds, words

EXAMPLES = {"control": 50, "boxes": 30}
"""The number of runs of a target; those not named here run 300 times. `make test-all` does all of them."""

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


def changed(chance: random.Random, known: list[bytes], words: list[bytes]) -> bytes:
    """A seed, changed in up to four places by a word of another one, a sign, or any bytes; one of ten is any bytes."""
    if not chance.randrange(10):
        return chance.randbytes(chance.randint(0, 200))
    data = chance.choice(known)
    for _ in range(chance.randint(0, 4)):
        place = chance.randint(0, len(data))
        removed = chance.choice((0, 0, 1, 2, 9))
        inserted = chance.choice((chance.choice(words), chance.choice(_SIGNS), chance.randbytes(chance.randint(0, 3))))
        data = data[:place] + inserted + data[place + removed :]
    return data


@pytest.mark.examples
@each_target
def test_changed_seeds_pass(name: str) -> None:
    """The same changes in each run of a CI, others in each run elsewhere."""
    chance = random.Random(name if os.environ.get("CI") else None)
    known, of_seeds = seeds(name), words(name)
    for _ in range(scaled(EXAMPLES.get(name, 300))):
        data = changed(chance, known, of_seeds)
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"the target {name} fails for {data!r}") from error
