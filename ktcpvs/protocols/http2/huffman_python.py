"""Huffman coding of strings in HPACK (RFC 7541, section 5.2), in Python."""

from __future__ import annotations

from ktcpvs.protocols.http2.hpack_table import CODE_LENGTHS, EOS, huffman_codes

MAX_PADDING_BITS = 7

_BITS = [f"{code:0{length}b}" for code, length in zip(huffman_codes(), CODE_LENGTHS, strict=True)]
_encoded_bits = _BITS.__getitem__

# A step of the decoder reads four bits: (bits read since the last symbol, four bits) -> (bits left, symbols). A state
# is the text of the bits that do not make a symbol yet; None: a code that must not occur.
_SYMBOLS = {bits: symbol for symbol, bits in enumerate(_BITS)}
_steps: dict[tuple[int, int], tuple[int, bytes] | None] = {}
_states: list[str] = [""]
_numbers: dict[str, int] = {"": 0}


def _step(state: int, four: int) -> tuple[int, bytes] | None:
    """The step from a state, made when it is needed first; there are at most 4096 (256 states)."""
    bits, out = _states[state], b""
    for bit in f"{four:04b}":
        bits += bit
        symbol = _SYMBOLS.get(bits)
        if symbol == EOS:
            _steps[state, four] = None
            return None
        if symbol is not None:
            out += bytes((symbol,))
            bits = ""
    if bits not in _numbers:
        _numbers[bits] = len(_states)
        _states.append(bits)
    step = _steps[state, four] = _numbers[bits], out
    return step


def decode(data: bytes) -> bytes | None:
    """Return the string; None if the padding is not that of RFC 7541, or EOS occurs."""
    state, out, known = 0, [], _steps
    for byte in data:
        for four in (byte >> 4, byte & 15):
            key = state, four
            step = known[key] if key in known else _step(state, four)
            if step is None:
                return None
            state, symbols = step
            if symbols:
                out.append(symbols)
    rest = _states[state]
    return b"".join(out) if len(rest) <= MAX_PADDING_BITS and "0" not in rest else None


def encode(data: bytes) -> bytes:
    """Return the coded string."""
    bits = "".join(map(_encoded_bits, data))
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big") if bits else b""
