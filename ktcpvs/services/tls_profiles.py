"""TLS at listeners: certificates, contexts and ticket keys of all services of one process.

Services without TLS pay nothing: what reads certificates is imported with the first service that has them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from attrs import frozen

from ktcpvs.errors import NoTLS
from ktcpvs.interfaces import EACH_REQUEST, FIRST_REQUEST
from ktcpvs.model.service import VirtualService
from ktcpvs.model.tls import REFUSE
from ktcpvs.model.tls_files import AUTHORITIES, TLSFile, certificate_file
from ktcpvs.protocols.http2.constants import ALPN
from ktcpvs.services.tls_file_store import TLSFiles
from ktcpvs.streams.tls_stage import ContextChoice
from ktcpvs.system.tls_contexts import ServerContexts, TLSProfile
from ktcpvs.system.tls_files import Authorities
from ktcpvs.system.tls_tickets import TicketKeys

if TYPE_CHECKING:
    from ktcpvs.system.certificates import CertificateStore, ServerCertificate

SECRET_BYTES = 32
"""The size of a secret from which ticket keys are derived."""

HTTP_PROTOCOLS = ("http/1.1", "http/1.0")
"""The protocols of ALPN that services speak whose schedulers read requests; other services accept any."""

HTTP2_PROTOCOLS = (ALPN, *HTTP_PROTOCOLS)
"""Those of services that choose per request, unless they have `http2 = off`."""


@frozen
class TLSOptions:
    """All that the contexts of a service follow from. Listeners and edits with equal options share them.

    ident: of the service. certificates: paths. default: the path for clients without a known name; "" refuses these.
    Others: as in `TLSProfile`.
    """

    ident: str
    certificates: tuple[str, ...]
    default: str
    minimum: str
    ciphers: str
    client_ca: str
    client_certificate: str
    alpn: tuple[str, ...]

    @classmethod
    def of(cls, config: VirtualService, unit: str) -> TLSOptions:
        """The options of a service. unit: of its scheduler."""
        return cls(
            config.ident,
            config.certificate,
            "" if config.tls_default == REFUSE else config.tls_default,
            config.tls_min,
            config.tls_ciphers or "",
            config.client_ca or "",
            config.client_certificate,
            _protocols(config, unit),
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all certificates."""
        return tuple(dict.fromkeys((*self.certificates, *filter(None, (self.default,)))))

    def demands(self, authorities: str) -> tuple[str, ...]:
        """The demands of contexts on clients. authorities: the text of `client_ca`."""
        return self.minimum, self.ciphers, self.client_certificate, authorities

    def profile(self, authorities: str) -> TLSProfile:
        """The profile. Its name, and so its ticket keys, differ with what contexts demand of clients: a session that
        began under other demands is not resumed. authorities: the text of `client_ca`."""
        return TLSProfile(
            hashlib.sha256(repr((self.ident, *self.demands(authorities))).encode()).hexdigest(),
            self.minimum,
            self.ciphers,
            self.alpn,
            self.client_ca,
            self.client_certificate,
        )


def _protocols(config: VirtualService, unit: str) -> tuple[str, ...]:
    if unit == EACH_REQUEST and config.http2 != "off":
        return HTTP2_PROTOCOLS[:1] if config.http2 == "only" else HTTP2_PROTOCOLS
    return HTTP_PROTOCOLS if unit in (EACH_REQUEST, FIRST_REQUEST) else ()


class ServiceTLS(ContextChoice):
    """The certificates and contexts of one service.

    options: as configured. tickets: the keys of its contexts.
    """

    def __init__(self, options: TLSOptions, files: TLSFiles, secrets: tuple[bytes, bytes | None]) -> None:
        """files: read already. secrets: of tickets, as for `TLSProfiles.use_tickets`. Raises NoTLS."""
        self.options = options
        self._files = files
        self._secrets = secrets
        self._authorities = self._read_authorities()
        super().__init__(self._make_contexts(self._authorities), self._make_store())

    @property
    def demands(self) -> tuple[str, ...]:
        """Clients must show this: services that demand the same are one profile for requests of either's clients."""
        return self.options.demands(self._authorities)

    @property
    def names(self) -> Iterator[str]:
        """The names of all certificates, in lower case."""
        return chain.from_iterable(certificate.names for certificate in self.store.certificates)

    def _certificates(self, path: str) -> tuple[ServerCertificate, ...]:
        found = self._files.contents(certificate_file(path))
        assert not isinstance(found, Authorities)
        return found

    def _make_store(self) -> CertificateStore:
        try:
            from ktcpvs.system.certificates import CertificateStore
        except ImportError as error:
            raise NoTLS(f"TLS: {error.name} is not installed; try: pip install 'ktcpvs[tls]'") from None
        read = {path: self._certificates(path) for path in self.options.paths}
        return CertificateStore(chain.from_iterable(read.values()), read.get(self.options.default, ()))

    def _read_authorities(self) -> str:
        """The text of `client_ca`."""
        if not self.options.client_ca:
            return ""
        found = self._files.contents(TLSFile(AUTHORITIES, self.options.client_ca))
        assert isinstance(found, Authorities)
        return found.pem

    def _make_contexts(self, authorities: str) -> ServerContexts:
        profile = self.options.profile(authorities)
        tickets = TicketKeys(profile.name, *self._secrets)
        contexts = ServerContexts(profile, tickets, authorities)
        self.tickets = tickets
        return contexts

    def use_tickets(self, secrets: tuple[bytes, bytes | None]) -> None:
        """As `TLSProfiles.use_tickets`."""
        self._secrets = secrets
        self.tickets.rotate(*secrets)

    def reload(self) -> None:
        """Use the files as they have been read again, for handshakes that begin from now on."""
        try:
            store, authorities = self._make_store(), self._read_authorities()
        except NoTLS:
            return  # no service needs the files any more: connections of one that was deleted drain
        if store.certificates != self.store.certificates:
            self.store = store
            self.contexts.keep_only(store.certificates)
        if authorities != self._authorities:
            self.contexts = self._make_contexts(authorities)
            self._authorities = authorities


class TLSProfiles:
    """Makes what the listeners with TLS of all services need, and keeps it as long as one of them uses it."""

    def __init__(self, files: TLSFiles) -> None:
        """files: what the edit that asks for a service's TLS has prepared, and what running services need."""
        self._files = files
        self._secrets: tuple[bytes, bytes | None] = os.urandom(SECRET_BYTES), None
        self._known: WeakValueDictionary[TLSOptions, ServiceTLS] = WeakValueDictionary()
        files.observe(self.reload)

    def __iter__(self) -> Iterator[ServiceTLS]:
        """All that are in use. An edit that is being prepared, and connections in their handshake, use one too."""
        return iter(list(self._known.values()))

    def choice(self, config: VirtualService, unit: str) -> ServiceTLS:
        """Return what the listeners of a service need: what they have already, or, if its options of TLS have changed,
        something new. unit: of its scheduler. Raises NoTLS."""
        options = TLSOptions.of(config, unit)
        found = self._known.get(options)
        if found is None:
            try:
                found = self._known[options] = ServiceTLS(options, self._files, self._secrets)
            except NoTLS as error:
                raise NoTLS(f"service {config.ident}: {error}") from None
        return found

    def reload(self) -> None:
        """Use the files as they have been read again, for handshakes that begin from now on."""
        for tls in self:
            tls.reload()

    def use_tickets(self, current: bytes, previous: bytes | None) -> None:
        """Derive the keys of session tickets from these secrets from now on. previous: whose tickets are still
        accepted; None: there are none. Processes with the same secrets accept each other's tickets."""
        self._secrets = current, previous
        for tls in self:
            tls.use_tickets(self._secrets)
