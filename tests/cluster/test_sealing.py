"""Values that are sealed open for nodes with the same secret, unchanged and under the same key, and for nobody else."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktcpvs.cluster.sealing import SECRET_BYTES, CannotOpen, Sealer

OLD, NEW, OTHER = (letter * SECRET_BYTES for letter in (b"o", b"n", b"x"))
NAME = "/prod/secrets/one"

MOVED = "changed by somebody, or moved here from another key of etcd"
FOREIGN = "sealed with another --cluster-secret"


@given(st.binary(max_size=200), st.text(max_size=50))
def test_a_value_opens_as_it_was(value: bytes, name: str) -> None:
    sealed = Sealer([OLD]).seal(name, value)
    assert Sealer([OLD]).open(name, sealed) == value
    assert len(value) < 8 or value not in b64decode(sealed.partition(":")[2])


def test_no_two_sealed_values_are_equal() -> None:
    sealer = Sealer([OLD])
    assert len({sealer.seal(NAME, b"value") for _ in range(100)}) == 100


@given(st.integers(0, 8 * (12 + 5 + 16) - 1))
def test_a_changed_bit_is_noticed(bit: int) -> None:
    key, _, text = Sealer([OLD]).seal(NAME, b"value").partition(":")
    data = bytearray(b64decode(text))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CannotOpen, match=f"^{MOVED}$"):
        Sealer([OLD]).open(NAME, f"{key}:{b64encode(data).decode()}")


@pytest.mark.parametrize("text", ["", "A", "AAAA", "AAAA" * 4, "!", "é"])
def test_a_value_that_is_cut_short_is_noticed(text: str) -> None:
    key = Sealer([OLD]).seal(NAME, b"value").partition(":")[0]
    with pytest.raises(CannotOpen, match=f"^{MOVED}$"):
        Sealer([OLD]).open(NAME, f"{key}:{text}")


@pytest.mark.parametrize("name", ["/prod/secrets/two", "/test/secrets/one", "/prod/secrets/on", ""])
def test_a_value_that_is_moved_does_not_open(name: str) -> None:
    sealed = Sealer([OLD]).seal(NAME, b"value")
    with pytest.raises(CannotOpen, match=f"^{MOVED}$"):
        Sealer([OLD]).open(name, sealed)


@pytest.mark.parametrize("sealed", [None, "", "garbage", ":", "0123456789abcdef:AAAA"])
def test_another_secret_is_named(sealed: str | None) -> None:
    if sealed is None:
        sealed = Sealer([OTHER]).seal(NAME, b"value")
    with pytest.raises(CannotOpen, match=f"^{FOREIGN}$"):
        Sealer([NEW, OLD]).open(NAME, sealed)


def test_the_secrets_of_a_cluster_are_exchanged_node_by_node() -> None:
    before, prepared, exchanged, after = Sealer([OLD]), Sealer([OLD, NEW]), Sealer([NEW, OLD]), Sealer([NEW])
    for one, others in ((before, (prepared, exchanged)), (prepared, (before, exchanged)), (exchanged, (prepared,))):
        sealed = one.seal(NAME, b"value")
        assert [other.open(NAME, sealed) for other in others] == [b"value"] * len(others)
    sealed = prepared.seal(NAME, b"value")
    assert not exchanged.is_newest(sealed)
    sealed = exchanged.seal(NAME, exchanged.open(NAME, sealed))
    assert exchanged.is_newest(sealed)
    assert after.open(NAME, sealed) == b"value"
    with pytest.raises(CannotOpen, match=FOREIGN):
        before.open(NAME, sealed)


def test_a_sealer_does_not_show_its_secrets() -> None:
    sealer = Sealer([OLD, NEW])
    shown = repr(sealer) + sealer.seal(NAME, b"value").partition(":")[0] + repr(vars(sealer))
    assert "oooo" not in shown
    assert OLD.hex()[:8] not in shown
