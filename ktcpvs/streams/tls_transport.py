"""The transport of TLS over any stream: it encrypts what its stream writes and decrypts what comes."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from ktcpvs.streams.contract import BackpressuredWriter, NotDetachable, SocketAddress
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_buffers import TLSBuffers, failure_reason
from ktcpvs.streams.tls_operations import MAX_RECORD_SIZE, close_notify, decrypt, encrypt
from ktcpvs.streams.transport import StreamTransport, nothing

_log = Logger(namespace="ktcpvs")

NO_CLOSE_NOTIFY = "the peer has ended the connection without close_notify"
"""The reason why TLS has broken a connection that may have been cut off by anybody on the way."""

MAX_CIPHERTEXT_SIZE = MAX_RECORD_SIZE + 2048 + 5
"""The most bytes of one record on its way, with its header (RFC 5246, section 6.2.3)."""

MAX_WRITE_SIZE = 64 << 10
"""Bytes that are encrypted before they are given to the transport below, so that the shared BIO stays small."""


class _Held:
    """Received data that was not delivered: decrypted bytes, then bytes that are still encrypted, then the end.

    has_notify: the peer's close_notify follows `plain`; then nothing more counts. has_fin: the FIN of the stream below
    follows.
    """

    __slots__ = ("cipher", "has_fin", "has_notify", "plain")

    def __init__(self) -> None:
        self.plain = b""
        self.cipher = b""
        self.has_notify = False
        self.has_fin = False


class TLSTransport(StreamTransport):
    """Carries a stream over another one. It owns the callbacks of the stream below.

    stream: None when it is over. failure: why the connection is broken, in words; "": it is not. A FIN without
    close_notify before it may have been made by anybody on the way, so the connection counts as broken then (RFC 8446,
    section 6.1).
    """

    __slots__ = (
        "_aborted", "_below", "_buffers", "_closing", "_half_closed", "_held", "_is_scheduled", "_output", "_paused",
        "_peer_ended", "_sends_soon", "_session_kept", "_ssl", "failure", "stream", "write",
    )  # fmt: skip

    def __init__(
        self,
        below: Stream,
        buffers: TLSBuffers,
        connection: Any,
        session_kept: Callable[[ssl.SSLSession], object],
        output: bytes = b"",
    ) -> None:
        """connection: the `_ssl._SSLSocket` of a complete handshake. output: records that go with the first ones."""
        self.stream: Stream | None = None
        self.failure = ""
        self._below = below
        self._buffers = buffers
        self._ssl: Any = connection  # None when the stream below is over
        self._session_kept = session_kept  # `nothing` once it was called
        self.write: Callable[[bytes], object] = self._write
        self._held: _Held | None = None
        self._output = output  # records that are sent with those that follow
        self._sends_soon = False  # `_send_waiting` will be called
        self._is_scheduled = False  # `_go_on` will be called
        self._paused = False
        self._half_closed = False  # close_notify is sent
        self._peer_ended = False  # the stream has been told
        self._closing = False
        self._aborted = False

    def begin(self, stream: Stream, rest: bytes) -> None:
        """Carry `stream` from now on. rest: encrypted bytes that have come already; they are delivered in the next
        turn."""
        self.stream = stream
        below = self._below
        below.dataReceived = self._data_received
        below.ended = self._below_ended
        below.lost = self._below_lost
        below.resting = False
        if rest:
            self._hold().cipher = rest
            self._schedule()
        stream.makeConnection(self)

    # What comes.

    def _data_received(self, data: bytes) -> None:
        if self._held is not None:
            self._held.cipher += data
            return
        stream = self.stream
        if stream is None or self._closing or self._peer_ended:
            return
        incoming = self._buffers.incoming
        try:
            plain = decrypt(self._ssl, incoming, data)
        except ssl.SSLError as error:
            self._failed(error)
            return
        if plain is None:
            if self._buffers.outgoing.pending:
                self._flush()
            return
        if not plain or incoming.pending:
            self._deliver_all(plain)
            return
        if self._buffers.outgoing.pending:
            self._flush()
        if self._session_kept is not nothing:
            self._keep_session()
        stream.dataReceived(plain)

    def _flush(self) -> None:
        """Send what OpenSSL has answered while it was reading, such as a KeyUpdate."""
        self._send(self._buffers.outgoing.read())

    def _deliver_all(self, plain: bytes) -> None:
        """Decrypt the rest of what is in the BIO, behind `plain`, and deliver all of it at once. plain: b"" when
        close_notify has come."""
        pieces = [plain]
        failure: ssl.SSLError | None = None
        incoming = self._buffers.incoming
        try:
            while pieces[-1] and incoming.pending and (piece := decrypt(self._ssl, incoming, b"")) is not None:
                pieces.append(piece)
        except ssl.SSLError as error:
            failure = error
        incoming.read()  # behind close_notify or an error nothing counts
        if failure is None and self._buffers.outgoing.pending:
            self._flush()
        alert = self._buffers.outgoing.read()
        if self._session_kept is not nothing:
            self._keep_session()
        stream, data = self.stream, b"".join(pieces)
        if data and stream is not None:
            stream.dataReceived(data)
        if failure is not None:
            self._broken(failure_reason(failure), alert)
        elif not pieces[-1]:
            self._notified()

    def _notified(self) -> None:
        """The peer's close_notify has come: no more data follows."""
        if self._paused and not self._closing:  # within the last dataReceived
            self._hold().has_notify = True
            return
        self._peer_ended = True
        if self.stream is not None and not (self._closing or self._aborted):
            self.stream.readConnectionLost()

    def _failed(self, error: ssl.SSLError) -> None:
        """Send an alert: the received bytes were changed on their way, or break the protocol."""
        buffers = self._buffers
        buffers.incoming.read()
        self._broken(failure_reason(error), buffers.outgoing.read())

    def _broken(self, why: str, alert: bytes = b"") -> None:
        """End the connection, which the stream learns as an unclean end."""
        if self.stream is None or self._closing or self._aborted:
            return
        self.failure = why
        self._aborted = True
        self._held = None
        self._drop_writes()
        below, waiting = self._below, self._output
        self._output = b""
        if (alert or self._half_closed) and not below.unsent():  # else the peer may never read it
            below.write(waiting + alert)
            below.close()
        else:
            below.abort()

    def _below_ended(self) -> None:
        if self._held is not None:
            self._held.has_fin = True
        elif not self._peer_ended:
            self._broken(NO_CLOSE_NOTIFY)

    def _below_lost(self, clean: bool) -> None:
        stream, self.stream = self.stream, None
        self._held = None
        self._output = b""
        self.write = nothing
        self._session_kept = nothing
        if stream is not None:
            stream.over(clean and not self._aborted)
        self._ssl = None

    def _keep_session(self) -> None:
        """Give the session away: TLS 1.3 sends it behind the handshake, before or with the first data."""
        kept, self._session_kept = self._session_kept, nothing
        session = self._ssl.session
        if session is not None and session.has_ticket:
            kept(session)

    # What is held back.

    def _hold(self) -> _Held:
        if self._held is None:
            self._held = _Held()
        return self._held

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._buffers.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Deliver what is held, in a turn of its own, unless reading is paused."""
        self._is_scheduled = False
        try:
            self._deliver_held()
        except Exception:
            _log.failure("a stream failed")
            self.abort()

    def _deliver_held(self) -> None:
        held, stream = self._held, self.stream
        if held is None or stream is None or self._paused or self._closing or self._aborted:
            return
        if held.plain:
            plain, held.plain = held.plain, b""
            stream.dataReceived(plain)
            self._schedule()
        elif held.has_notify:
            self._held = None
            self._notified()
        elif held.cipher:
            self._held = None
            self._data_received(held.cipher)
            if held.has_fin:
                self._hold().has_fin = True
                self._schedule()
            elif self._held is None and not (self._paused or self._closing or self._aborted):
                self._below.resume()
        else:
            self._held = None
            if held.has_fin:
                self._below_ended()
            else:
                self._below.resume()

    def take_first(self, rest: bytes) -> bytes:
        """Return the first data of `rest`, encrypted bytes that came with the end of the handshake. What follows is
        delivered in the next turn."""
        self._hold().cipher = rest
        self._read_ahead(schedules=False)
        held = self._held
        if held is None:
            return b""
        plain, held.plain = held.plain, b""
        if held.cipher or held.has_notify:
            self._schedule()
        else:
            self._held = None
        return plain

    def _read_ahead(self, schedules: bool = True) -> None:
        """Decrypt one record of what waits in the stream below; what it is shows only then. schedules: what it is, is
        delivered in the next turn, unless reading is paused."""
        if self.stream is None or self._closing or self._aborted:
            return
        held = self._held
        if held is not None and (held.plain or held.has_notify):
            return
        below = self._below
        cipher = held.cipher if held is not None else b""
        if not cipher:
            taken = below.transport.take_input(MAX_CIPHERTEXT_SIZE) if below.has_input() else None
            if not taken:  # a FIN or a reset shows in other ways
                return
            cipher = taken
        held = self._hold()
        buffers = self._buffers
        try:
            plain = decrypt(self._ssl, buffers.incoming, cipher)
        except ssl.SSLError as error:
            self._failed(error)
            return
        if plain is not None:
            held.plain = plain
            held.has_notify = not plain
        held.cipher = buffers.incoming.read()
        if buffers.outgoing.pending:
            self._flush()
        if not (held.plain or held.cipher or held.has_notify or held.has_fin):
            self._held = None
        elif schedules and not self._paused:
            self._schedule()

    # What the stream and its owner call.

    def _write(self, data: bytes) -> None:
        if self._half_closed or self._closing or self._aborted or self.stream is None or not data:
            return
        outgoing = self._buffers.outgoing
        try:
            if len(data) <= MAX_RECORD_SIZE:
                records = encrypt(self._ssl, outgoing, data)
                if self.stream.resting and not self._sends_soon:
                    self._send_soon(records)
                elif self._output:
                    self._send(records)
                else:
                    self._below.write(records)
                return
            view = memoryview(data)
            at = 0
            while at < len(data):
                at += self._ssl.write(view[at : at + MAX_RECORD_SIZE])
                if outgoing.pending >= MAX_WRITE_SIZE:
                    self._send(outgoing.read())
            if outgoing.pending:
                self._send(outgoing.read())
        except ssl.SSLError as error:
            self._failed(error)

    def _send(self, records: bytes) -> None:
        """Send `records` behind those that wait for them."""
        if self._output:
            records, self._output = self._output + records, b""
        self._below.write(records)

    def _send_soon(self, records: bytes) -> None:
        """Send `records` in the next turn, or with what follows before. An owner that expects nothing more from its
        peer is about to close, and so close_notify needs no packet of its own."""
        self._output += records
        self._sends_soon = True
        self._buffers.call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._sends_soon = False
        if self._output:
            self._send(b"")

    @property
    def writev(self) -> Callable[[Sequence[bytes]], object]:
        return self._writev

    def _writev(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def _drop_writes(self) -> None:
        self.write = nothing
        if self.stream is not None:
            self.stream.write = nothing

    def _notify(self) -> None:
        """Send close_notify: nothing follows from this side."""
        if self._half_closed or self._aborted or self._ssl is None:
            return
        self._half_closed = True
        alert = close_notify(self._ssl, self._buffers.outgoing)
        if alert or self._output:
            self._send(alert)

    def half_close(self) -> None:
        """As `ByteStream.half_close`: close_notify, and then a FIN of the stream below."""
        if self._closing or self._aborted:
            return
        self._drop_writes()
        self._below.clear_backpressure()
        self._notify()
        self._below.half_close()

    def close(self) -> bool:
        if self._closing or self._aborted or self.stream is None:
            return False
        self._notify()
        self._leave()
        return self._below.close()

    def close_with_reset(self) -> bool:
        """As `ByteStream.close_with_reset`: without close_notify, since the peer has not been sent all."""
        if self._closing or self._aborted or self.stream is None:
            return False
        self._send_waiting()
        self._leave()
        return self._below.close_with_reset()

    def _leave(self) -> None:
        self._drop_writes()
        self._closing = True
        self._held = None
        self._below.clear_backpressure()

    def abort(self) -> None:
        if self._aborted or self.stream is None:
            return
        self._aborted = True
        self._held = None
        self._output = b""
        self._drop_writes()
        self._below.abort()

    def pause(self) -> None:
        self._paused = True
        self._below.pause()

    def resume(self) -> None:
        self._paused = False
        if self._held is not None:
            self._schedule()
        else:
            self._below.resume()

    def set_backpressure(self, writer: BackpressuredWriter) -> None:
        self._below.set_backpressure(writer)

    def clear_backpressure(self) -> None:
        self._below.clear_backpressure()

    # What the owner asks.

    def unsent(self) -> int:
        return len(self._output) + self._below.unsent()

    def is_gone(self) -> bool:
        return self._below.is_gone()

    def has_input(self) -> bool:
        if self._peer_ended:
            return self._below.is_gone()
        self._read_ahead()
        held, below = self._held, self._below
        if held is not None and (held.plain or held.has_notify or held.has_fin):
            return True
        return self._aborted or below.is_gone() or below.has_ended()

    def has_ended(self) -> bool:
        if self._peer_ended or self._below.has_ended():
            return True
        self._read_ahead()
        return self._held is not None and (self._held.has_notify or self._held.has_fin)

    @property
    def peer_address(self) -> SocketAddress:
        return self._below.peer_address

    @property
    def local_address(self) -> SocketAddress:
        return self._below.local_address

    def detach_obstacle(self) -> NotDetachable | None:
        return NotDetachable.TLS

    def release(self) -> None:
        """Never called: there is no socket without records."""
        raise RuntimeError("a TLS stream cannot be detached")

    def take_input(self, size: int) -> bytes | None:
        """As `StreamTransport.take_input`: what has been decrypted."""
        self._read_ahead()
        held = self._held
        if held is None or not held.plain:
            return None
        taken, held.plain = held.plain[:size], held.plain[size:]
        return taken

    def getHandle(self) -> Any:
        """The socket below, for its options."""
        return self._below.transport.getHandle() if self._below.transport is not None else None

    def state(self) -> str:
        below = self._below.transport
        return below.state() if below is not None else "closed"
