"""Header compression by compiled code where it is installed, else by the same classes in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.protocols.http2.errors import HPACKError
from ktcpvs.protocols.http2.fields import make_field
from ktcpvs.protocols.http2.hpack_decoder import Decoder as Decoder
from ktcpvs.protocols.http2.hpack_encoder import Encoder as Encoder
from ktcpvs.protocols.http2.section import FieldSection

IS_COMPILED = False

if not TYPE_CHECKING:
    try:
        from ktcpvs.protocols.http2._compiled import Decoder as Decoder
        from ktcpvs.protocols.http2._compiled import Encoder as Encoder
        from ktcpvs.protocols.http2._compiled import configure
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True
        configure(FieldSection, make_field, HPACKError)
