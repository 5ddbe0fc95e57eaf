"""Former name of ktcpvs.protocols.http1: its bodies."""

from __future__ import annotations

from ktcpvs.protocols.http1 import BadFrame as BadFrame
from ktcpvs.protocols.http1 import Chunked as Chunked
from ktcpvs.protocols.http1 import Frame as Frame
