"""Huffman coding of strings in HPACK, by compiled code where it is installed, else by the same functions in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.protocols.http2.huffman_python import decode as decode
from ktcpvs.protocols.http2.huffman_python import encode as encode

IS_COMPILED = False

if not TYPE_CHECKING:
    try:
        from ktcpvs.protocols.http2._compiled import decode as decode
        from ktcpvs.protocols.http2._compiled import encode as encode
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        IS_COMPILED = True
