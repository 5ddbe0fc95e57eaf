"""The stage of a listener with TLS: it reads the ClientHello, chooses a context by it, and does the handshake.

The context is chosen before OpenSSL sees anything of the connection. A context that is exchanged within the handshake
(`sni_callback`) brings its certificate, but neither its demand for client certificates nor its ticket keys.
"""

from __future__ import annotations

import datetime
import re
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ktcpvs.protocols.client_hello import (
    Alert,
    BadHello,
    ClientHello,
    ClientHelloReader,
    NotTLS,
    alert_record,
    read_whole,
)
from ktcpvs.streams.contract import SocketAddress
from ktcpvs.streams.preamble import Finish, Proceed, Refuse
from ktcpvs.streams.stream import Stream
from ktcpvs.streams.tls_buffers import TLSBuffers
from ktcpvs.streams.tls_handshake import Handshake, HandshakeFailed
from ktcpvs.system.tls_contexts import ServerContexts

if TYPE_CHECKING:  # importing it takes `cryptography`
    from ktcpvs.system.certificates import CertificateStore

NAME = "TLS"
"""The name of the stage, in the reasons of refusals."""

MAX_CLIENT_SIZE = 256 << 10
"""The most bytes of a client before its handshake is complete: a hello in tiny records, and 100 KiB of certificates,
which is OpenSSL's limit for them."""

ACME_ALONE = (b"acme-tls/1",)
"""The protocols of ALPN that a CA offers to have a challenge answered (RFC 8737, section 3)."""

_TEXT = b"This port speaks TLS: use https:// instead of http://\n"

PLAIN_HTTP_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
    % (len(_TEXT), _TEXT)
)
"""For a client that speaks HTTP without TLS."""

_MAY_BE_HTTP = re.compile(rb"[A-Z]+(?: |$)")


class ContextChoice:
    """The contexts of one listener. Its attributes are replaced when certificates or the profile change; connections
    that have begun keep theirs."""

    def __init__(
        self,
        contexts: ServerContexts,
        store: CertificateStore,
        now: Callable[[], float] = time.time,
    ) -> None:
        """now: seconds since the epoch."""
        self.contexts = contexts
        self.store = store
        self._now = now
        self._chosen = _Chosen(contexts, store, 0)

    def choose(self, hello: ClientHello) -> ssl.SSLContext:
        """The context for a client. Raises BadHello for a client that asks for what there is not."""
        chosen, second = self._chosen, int(self._now())
        if chosen.second != second or chosen.store is not self.store or chosen.contexts is not self.contexts:
            chosen = self._chosen = _Chosen(self.contexts, self.store, second)
        protocols = chosen.protocols
        if protocols and hello.protocols and protocols.isdisjoint(hello.protocols):
            raise BadHello(Alert.NO_APPLICATION_PROTOCOL, "the client speaks none of the protocols")  # RFC 7301
        return chosen.by_name.get(hello.server_name) or chosen.choose(hello.server_name)


class _Chosen:
    """The contexts that were chosen within one second, which is as exact as the validity of a certificate.

    protocols: of ALPN, which the listener speaks; none: any.
    """

    def __init__(self, contexts: ServerContexts, store: CertificateStore, second: int) -> None:
        """second: since the epoch."""
        self.contexts = contexts
        self.store = store
        self.second = second
        self.protocols = frozenset(one.encode() for one in contexts.profile.alpn)
        self.by_name: dict[str | None, ssl.SSLContext] = {}

    def choose(self, name: str | None) -> ssl.SSLContext:
        """The context for clients that ask for this name. Raises BadHello."""
        certificates = self.store.choose(name, datetime.datetime.fromtimestamp(self.second, datetime.UTC))
        if not certificates:
            what = "no server name" if name is None else "a server name without certificate"
            raise BadHello(Alert.UNRECOGNIZED_NAME, f"the client asks for {what}")
        context = self.by_name[name] = self.contexts.context(certificates)
        return context


class TLSStage:
    """The stage of one listener."""

    name = NAME
    max_size = MAX_CLIENT_SIZE

    def __init__(
        self,
        choice: ContextChoice,
        buffers: TLSBuffers,
        timeout: int | Callable[[], int],
        challenge: Callable[[ClientHello], ssl.SSLContext | None] = lambda hello: None,
    ) -> None:
        """timeout: seconds in which a client must complete its handshake; a function is called for each client.
        challenge: returns the context for a client that offers ACME_PROTOCOL alone; None: it is one as others."""
        self.choice = choice
        self.challenge = challenge
        self.buffers = buffers
        self._timeout = timeout

    @property
    def timeout(self) -> int:
        return self._timeout() if callable(self._timeout) else self._timeout

    def finds_address(self, peer: SocketAddress) -> bool:
        return False

    def begin(self, peer: SocketAddress, stream: Stream) -> TLSReader:
        return TLSReader(self, stream)


class TLSReader:
    """The handshake of one client."""

    __slots__ = ("_handshake", "_hello", "_is_challenge", "_stage", "_stream")

    def __init__(self, stage: TLSStage, stream: Stream) -> None:
        self._stage = stage
        self._stream = stream
        self._hello: ClientHelloReader | None = None  # of a hello that did not come whole
        self._handshake: Handshake | None = None  # None until the hello is complete
        self._is_challenge = False

    def feed(self, data: bytes) -> Proceed | Refuse | Finish | None:
        try:
            handshake = self._handshake or self._begin(data)
            if handshake is None:
                return None
            if self._hello is not None:
                data, self._hello = bytes(self._hello.received), None
            rest = handshake.feed(data)
        except NotTLS as error:
            is_http = self._hello is not None and _MAY_BE_HTTP.match(self._hello.received) is not None
            return Refuse("plain HTTP", PLAIN_HTTP_RESPONSE) if is_http else Refuse(str(error))
        except BadHello as error:
            return Refuse(str(error), alert_record(error.alert))
        except HandshakeFailed as error:
            return Refuse(str(error), error.alert)
        if rest is None:
            return None
        stream = Stream()
        transport = handshake.open(stream, b"")
        if self._is_challenge:
            return Finish(stream)
        return Proceed(transport.take_first(rest) if rest else b"", stream=stream)

    def _begin(self, data: bytes) -> Handshake | None:
        """Begin the handshake if the hello is complete. Raises NotTLS and BadHello."""
        hello = read_whole(data) if self._hello is None else None
        if hello is None:
            if self._hello is None:
                self._hello = ClientHelloReader()
            hello = self._hello.feed(data)
            if hello is None:
                return None
        stage = self._stage
        context = stage.challenge(hello) if hello.protocols == ACME_ALONE else None
        if context is None:
            context = stage.choice.choose(hello)
        else:
            self._is_challenge = True
        self._handshake = Handshake(
            self._stream, stage.buffers, context, server_side=True, server_name=hello.server_name
        )
        return self._handshake
