"""HTTP/2 (RFC 9113) without I/O: connections in both roles, header compression (RFC 7541), and heads as in HTTP/1.

server and client are the two ends of a connection, connection what they have in common; events says what the peer has
done. hpack_decoder and hpack_encoder compress header sections; fields checks them; request, response and header_list
convert them from and to HTTP/1. limits has every limit.
"""

from __future__ import annotations

from ktcpvs.protocols.http2 import compiled  # noqa: F401 - the fast path needs the classes
from ktcpvs.protocols.http2.client import Client as Client
from ktcpvs.protocols.http2.connection import Connection as Connection
from ktcpvs.protocols.http2.errors import HPACKError as HPACKError
from ktcpvs.protocols.http2.errors import HTTP2ConnectionError as HTTP2ConnectionError
from ktcpvs.protocols.http2.errors import HTTP2StreamError as HTTP2StreamError
from ktcpvs.protocols.http2.errors import MalformedMessage as MalformedMessage
from ktcpvs.protocols.http2.events import ConnectionEnded as ConnectionEnded
from ktcpvs.protocols.http2.events import DataReceived as DataReceived
from ktcpvs.protocols.http2.events import Event as Event
from ktcpvs.protocols.http2.events import GoAwayReceived as GoAwayReceived
from ktcpvs.protocols.http2.events import InterimReceived as InterimReceived
from ktcpvs.protocols.http2.events import PingAcknowledged as PingAcknowledged
from ktcpvs.protocols.http2.events import PriorityUpdated as PriorityUpdated
from ktcpvs.protocols.http2.events import RequestReceived as RequestReceived
from ktcpvs.protocols.http2.events import RequestRefused as RequestRefused
from ktcpvs.protocols.http2.events import ResponseReceived as ResponseReceived
from ktcpvs.protocols.http2.events import SettingsReceived as SettingsReceived
from ktcpvs.protocols.http2.events import StreamReset as StreamReset
from ktcpvs.protocols.http2.events import TrailersReceived as TrailersReceived
from ktcpvs.protocols.http2.events import WholeResponse as WholeResponse
from ktcpvs.protocols.http2.events import WindowOpened as WindowOpened
from ktcpvs.protocols.http2.events import condense as condense
from ktcpvs.protocols.http2.header_list import HeaderList as HeaderList
from ktcpvs.protocols.http2.header_list import request_list as request_list
from ktcpvs.protocols.http2.header_list import response_list as response_list
from ktcpvs.protocols.http2.header_list import trailer_list as trailer_list
from ktcpvs.protocols.http2.header_list import websocket_accepted_list as websocket_accepted_list
from ktcpvs.protocols.http2.header_list import websocket_list as websocket_list
from ktcpvs.protocols.http2.limits import Limits as Limits
from ktcpvs.protocols.http2.request import Request as Request
from ktcpvs.protocols.http2.response import Response as Response
from ktcpvs.protocols.http2.section import FieldSection as FieldSection
from ktcpvs.protocols.http2.server import Server as Server
