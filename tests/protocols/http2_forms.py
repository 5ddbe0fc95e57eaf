"""The compiled and the plain form of HTTP/2's header compression and frames, side by side."""

from __future__ import annotations

from typing import Any

import pytest

from ktcpvs.protocols.http2 import Connection, FieldSection, HeaderList, HPACKError, connection, field_block, hpack
from ktcpvs.protocols.http2 import hpack_decoder as plain_decoder
from ktcpvs.protocols.http2 import hpack_encoder as plain_encoder

DECODERS = (hpack.Decoder, plain_decoder.Decoder)
ENCODERS = (hpack.Encoder, plain_encoder.Encoder)


def use_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make connections that use no compiled code: the fast path leaves those alone that have other decoders."""
    monkeypatch.setattr(field_block, "Decoder", plain_decoder.Decoder)
    monkeypatch.setattr(connection, "Encoder", plain_encoder.Encoder)


def both(make: Any) -> tuple[Connection, Connection]:
    """Return a connection of each form. make: makes one."""
    compiled = make()
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_python(monkeypatch)
        plain = make()
    return compiled, plain


class BothDecoders:
    """Decoders of both forms, which must agree."""

    def __init__(self, max_list_size: int, max_fields: int, table_size: int = 4096) -> None:
        self._decoders = [make(max_list_size, max_fields, table_size) for make in DECODERS]

    def decode(self, block: bytes) -> FieldSection:
        sections: list[FieldSection] = []
        refused: list[str] = []
        for decoder in self._decoders:
            try:
                sections.append(decoder.decode(block))
            except HPACKError as error:
                refused.append(str(error))
        if refused:
            assert refused == refused[:1] * len(self._decoders), (refused, sections)
            raise HPACKError(refused[0])
        first, *others = sections
        for other in others:
            assert other.fields == first.fields
            assert other.sensitive == first.sensitive
            assert other.is_too_large == first.is_too_large
        return first


class BothEncoders:
    """Encoders of both forms, which must agree."""

    def __init__(self) -> None:
        self._encoders = [make() for make in ENCODERS]

    def set_table_size(self, size: int) -> None:
        for encoder in self._encoders:
            encoder.set_table_size(size)

    def encode(self, headers: HeaderList) -> bytes:
        first, *others = [encoder.encode(headers) for encoder in self._encoders]
        assert others == [first] * len(others)
        return first
