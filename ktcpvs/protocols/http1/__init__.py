"""HTTP/1 as a switch must read it: heads, bodies, and what may be passed on.

grammar holds the parts of all expressions; request and response read whole heads; head_reader reads a request's head
that comes in pieces; body finds the ends of bodies; errors has what is refused, and own_message the responses that say
so.
"""

from __future__ import annotations

from ktcpvs.protocols.http1.body import CHUNKED as CHUNKED
from ktcpvs.protocols.http1.body import Chunked as Chunked
from ktcpvs.protocols.http1.body import Frame as Frame
from ktcpvs.protocols.http1.body import Length as Length
from ktcpvs.protocols.http1.body import chunks_end as chunks_end
from ktcpvs.protocols.http1.errors import NO_HTTP_1 as NO_HTTP_1
from ktcpvs.protocols.http1.errors import BadFrame as BadFrame
from ktcpvs.protocols.http1.errors import BadRequest as BadRequest
from ktcpvs.protocols.http1.errors import BadResponse as BadResponse
from ktcpvs.protocols.http1.errors import error_message as error_message
from ktcpvs.protocols.http1.errors import error_response as error_response
from ktcpvs.protocols.http1.head_reader import HeadReader as HeadReader
from ktcpvs.protocols.http1.head_reader import RequestHead as RequestHead
from ktcpvs.protocols.http1.head_reader import read_whole_head as read_whole_head
from ktcpvs.protocols.http1.own_message import OwnMessage as OwnMessage
from ktcpvs.protocols.http1.request import BODILESS as BODILESS
from ktcpvs.protocols.http1.request import IDEMPOTENT as IDEMPOTENT
from ktcpvs.protocols.http1.request import REQUEST as REQUEST
from ktcpvs.protocols.http1.request import EarlyCheck as EarlyCheck
from ktcpvs.protocols.http1.request import Request as Request
from ktcpvs.protocols.http1.response import Response as Response
from ktcpvs.protocols.http1.response import read_response as read_response
