"""A control connection in asyncio. It needs no reactor, and imports no Twisted."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from typing import Any

from ktcpvs.control import boxes, client_errors, tls_sockets
from ktcpvs.control.blocking_client import CLOSED, check_answer
from ktcpvs.control.endpoints import ControlAddress
from ktcpvs.control.switch_base import SwitchBase, find_address, may_be_refused
from ktcpvs.control.typed_client import Client

CLOSE_TIMEOUT = 1.0
"""Seconds that a connection has to close, with the end of its TLS."""


class AsyncioSwitch(SwitchBase):
    """A connection to a running switch. Commands of several tasks are sent one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: ControlAddress) -> None:
        self._reader = reader
        self._writer = writer
        self._address = address
        self._tag = 0
        self._turn = asyncio.Lock()
        self._is_broken = False
        self._may_be_refused = may_be_refused(writer.get_extra_info("socket"))

    async def send(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        async with self._turn:
            return await self._send(command, arguments)

    async def _send(self, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self._is_broken:
            raise client_errors.connection_closed(self._address, CLOSED, False)
        self._tag += 1
        tag = b"%x" % self._tag
        try:
            data = boxes.command_box(command, tag, arguments)
        except boxes.TooLong:
            raise client_errors.value_too_long() from None
        self._is_broken = True  # until the response is here: a task that is cancelled leaves it unread
        try:
            self._writer.write(data)
            await self._writer.drain()
            box = await self._read_box()
        except boxes.BadResponse as failure:
            raise client_errors.wrong_protocol(self._address, str(failure)) from None
        except (EOFError, asyncio.IncompleteReadError):
            raise client_errors.connection_closed(self._address, CLOSED, self._may_be_refused) from None
        except OSError as failure:
            raise self._lost(failure) from None
        self._is_broken = False
        response = check_answer(box, tag, command, self._address)
        self._may_be_refused = False
        return response

    async def _read_box(self) -> dict[bytes, bytes]:
        reading = boxes.reading_box()
        wanted = next(reading)
        while True:
            try:
                wanted = reading.send(await self._reader.readexactly(wanted))
            except StopIteration as ended:
                box: dict[bytes, bytes] = ended.value
                return box

    def _lost(self, failure: OSError) -> Exception:
        if isinstance(failure, ssl.SSLError):
            return tls_sockets.refusal(self._address, failure)
        why = os.strerror(failure.errno) if failure.errno else str(failure) or type(failure).__name__
        return client_errors.connection_closed(self._address, why, self._may_be_refused)

    def close(self) -> None:
        self._is_broken = True
        self._writer.close()

    async def aclose(self) -> None:
        self.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._writer.wait_closed()
        except OSError:  # a TimeoutError too
            self._writer.transport.abort()


async def connect_asyncio(control: str | None = None, timeout: float = 5.0) -> Client:
    """Connect to the switch at `control`, an endpoint description; None: the default address. In asyncio.

    timeout: seconds for the connection with its TLS handshake. Raises NoAnswer, with its kinds NotTrusted and
    NotPermitted; BadAddress for an invalid description; or NoTLS for certificate files that cannot be used.
    """
    address = find_address(control)
    context = None if address.tls is None else tls_sockets.context(address.tls)
    try:
        async with asyncio.timeout(timeout):
            if address.path is not None:
                streams = await asyncio.open_unix_connection(address.path)
            else:
                name = address.host if context is not None else None
                streams = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=name)
    except PermissionError:
        raise client_errors.permission_denied(address) from None
    except TimeoutError:
        raise client_errors.no_daemon(address, f"no connection within {timeout:g} s") from None
    except ssl.SSLError as failure:
        raise tls_sockets.refusal(address, failure) from None
    except OSError as failure:
        raise client_errors.no_daemon(address, failure.strerror or str(failure)) from None
    return Client(AsyncioSwitch(*streams, address))
