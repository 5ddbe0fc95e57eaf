"""Sends the pieces of one message on a stream of HTTP/2, as its windows allow."""

from __future__ import annotations

from ktcpvs.protocols import http2


class StreamSender:
    """The pieces of one message that are not sent yet.

    pieces: header lists and parts of the body, in their order. is_whole: no more of them follow. stream_id: may change
    between two messages.
    """

    __slots__ = ("_connection", "is_whole", "pieces", "stream_id")

    def __init__(self, connection: http2.Connection, stream_id: int) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.pieces: list[http2.HeaderList | bytes] = []
        self.is_whole = False

    @property
    def is_done(self) -> bool:
        """Whether the whole message is sent."""
        return self.is_whole and not self.pieces

    @property
    def unsent(self) -> int:
        """The bytes of the body that wait."""
        return sum([len(piece) for piece in self.pieces if isinstance(piece, bytes)]) if self.pieces else 0

    def send(self, is_full: bool) -> int:
        """Send what the windows allow; return how many bytes of the body that was. is_full: no body may be sent, since
        the peer does not read."""
        connection, stream_id, pieces = self._connection, self.stream_id, self.pieces
        total = 0
        while pieces:
            piece = pieces[0]
            is_last = self.is_whole and len(pieces) == 1
            if isinstance(piece, bytes):
                if is_full:
                    break
                sent = connection.send_data(stream_id, piece, is_last)
                total += sent
                if sent < len(piece):
                    pieces[0] = piece[sent:]
                    break
            else:
                connection.send_headers(stream_id, piece, is_last)
            pieces.pop(0)
        return total

    def end(self) -> None:
        """End the stream, if the last piece has not."""
        self._connection.send_data(self.stream_id, b"", end_stream=True)
