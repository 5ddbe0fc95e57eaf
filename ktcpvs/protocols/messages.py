"""Former name of ktcpvs.protocols.http1: its heads of requests and responses."""

from __future__ import annotations

from ktcpvs.protocols.http1 import BODILESS as BODILESS
from ktcpvs.protocols.http1 import CHUNKED as CHUNKED
from ktcpvs.protocols.http1 import IDEMPOTENT as IDEMPOTENT
from ktcpvs.protocols.http1 import REQUEST as REQUEST
from ktcpvs.protocols.http1 import EarlyCheck as EarlyCheck
from ktcpvs.protocols.http1 import Request as Request
from ktcpvs.protocols.http1 import Response as Response
from ktcpvs.protocols.http1 import read_response as read_response
