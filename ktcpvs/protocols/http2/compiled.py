"""Tells the compiled fast path the classes that it works on, where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktcpvs.protocols.http2.client import Client
from ktcpvs.protocols.http2.connection import Connection
from ktcpvs.protocols.http2.events import (
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WholeResponse,
)
from ktcpvs.protocols.http2.field_block import FieldBlock
from ktcpvs.protocols.http2.flood_guard import FloodGuard
from ktcpvs.protocols.http2.flow_control import FlowControl
from ktcpvs.protocols.http2.limits import Limits
from ktcpvs.protocols.http2.peer_settings import PeerSettings
from ktcpvs.protocols.http2.request import Request
from ktcpvs.protocols.http2.response import Response
from ktcpvs.protocols.http2.server import Server
from ktcpvs.protocols.http2.stream import StreamState

CLASSES: dict[str, type] = {
    "connection": Connection,
    "server": Server,
    "client": Client,
    "field_block": FieldBlock,
    "flow_control": FlowControl,
    "stream": StreamState,
    "limits": Limits,
    "settings": PeerSettings,
    "guard": FloodGuard,
    "request": Request,
    "response": Response,
    "request_received": RequestReceived,
    "response_received": ResponseReceived,
    "data_received": DataReceived,
    "trailers_received": TrailersReceived,
    "whole_response": WholeResponse,
    "stream_reset": StreamReset,
}

if not TYPE_CHECKING:
    try:
        from ktcpvs.protocols.http2._compiled import configure_connections
    except ImportError:  # there was no C compiler when ktcpvs was installed
        pass
    else:
        configure_connections(CLASSES)
