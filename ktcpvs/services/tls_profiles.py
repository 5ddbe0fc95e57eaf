"""TLS at listeners: certificates, contexts and ticket keys of all services of one process.

Services without TLS pay nothing: what reads certificates is imported with the first service that has them.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from attrs import frozen

from ktcpvs.errors import NoTLS
from ktcpvs.interfaces import EACH_REQUEST, FIRST_REQUEST
from ktcpvs.model.service import VirtualService
from ktcpvs.model.tls import REFUSE
from ktcpvs.streams.tls_stage import ContextChoice
from ktcpvs.streams.transport import nothing
from ktcpvs.system.tls_contexts import ServerContexts, TLSProfile, read_authorities
from ktcpvs.system.tls_tickets import TicketKeys

if TYPE_CHECKING:
    from ktcpvs.system.certificates import CertificateFiles, ServerCertificate

SECRET_BYTES = 32
"""The size of a secret from which ticket keys are derived."""

HTTP_PROTOCOLS = ("http/1.1", "http/1.0")
"""The protocols of ALPN that services speak whose schedulers read requests; other services accept any."""

Read = Callable[[str], "tuple[ServerCertificate, ...]"]
"""Reads what a `certificate` names. Raises NoTLS."""


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
            HTTP_PROTOCOLS if unit in (EACH_REQUEST, FIRST_REQUEST) else (),
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all certificates."""
        return tuple(dict.fromkeys((*self.certificates, *filter(None, (self.default,)))))

    def profile(self, authorities: str) -> TLSProfile:
        """The profile. Its name, and so its ticket keys, differ with what contexts demand of clients: a session that
        began under other demands is not resumed. authorities: the text of `client_ca`."""
        demands = self.ident, self.minimum, self.ciphers, self.client_certificate, authorities
        return TLSProfile(
            hashlib.sha256(repr(demands).encode()).hexdigest(),
            self.minimum,
            self.ciphers,
            self.alpn,
            self.client_ca,
            self.client_certificate,
        )


class ServiceTLS(ContextChoice):
    """The certificates and contexts of one service.

    options: as configured. files: its certificates. tickets: the keys of its contexts.
    """

    def __init__(self, options: TLSOptions, files: CertificateFiles, secrets: tuple[bytes, bytes | None]) -> None:
        """secrets: of tickets, as for `TLSProfiles.use_tickets`. Raises NoTLS."""
        self.options = options
        self.files = files
        self._secrets = secrets
        self._authorities = read_authorities(options.client_ca) if options.client_ca else ""
        self._error = ""  # why `client_ca` could not be read again
        super().__init__(self._make_contexts(self._authorities), files.store(options.default))

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

    def reload(self) -> list[str]:
        """Read the files again, for handshakes that begin from now on; keep what was read before of a file that cannot
        be used. Returns errors that are new, a line each."""
        has_changed, errors = self.files.reload()
        if has_changed:
            self.store = self.files.store(self.options.default)
            self.contexts.keep_only(self.files.certificates)
        return errors + self._reload_authorities()

    def _reload_authorities(self) -> list[str]:
        path = self.options.client_ca
        if not path:
            return []
        try:
            authorities = read_authorities(path)
            if authorities != self._authorities:
                self.contexts = self._make_contexts(authorities)
                self._authorities = authorities
        except NoTLS as error:
            why = str(error)
            is_new, self._error = self._error != why, why
            return [why] if is_new else []
        self._error = ""
        return []


class TLSProfiles:
    """Makes what the listeners with TLS of all services need, and keeps it as long as one of them uses it."""

    def __init__(self, read: Read | None = None, warn: Callable[[str], object] = nothing) -> None:
        """read: reads certificates; None: from the files. warn: called with a line about each certificate that clients
        will not trust, when it is read for a service."""
        self._read = read
        self._warn = warn
        self._secrets: tuple[bytes, bytes | None] = os.urandom(SECRET_BYTES), None
        self._known: WeakValueDictionary[TLSOptions, ServiceTLS] = WeakValueDictionary()

    def __iter__(self) -> Iterator[ServiceTLS]:
        """All that are in use. An edit that is being prepared, and connections in their handshake, use one too."""
        return iter(list(self._known.values()))

    def choice(self, config: VirtualService, unit: str) -> ServiceTLS:
        """Return what the listeners of a service need: what they have already, or, if its options of TLS have changed,
        the files as they are now. unit: of its scheduler. Raises NoTLS."""
        options = TLSOptions.of(config, unit)
        found = self._known.get(options)
        if found is None:
            try:
                found = self._known[options] = self._make(options)
            except NoTLS as error:
                raise NoTLS(f"service {config.ident}: {error}") from None
        return found

    def _make(self, options: TLSOptions) -> ServiceTLS:
        try:
            from ktcpvs.system.certificates import CertificateFiles
        except ImportError as error:
            raise NoTLS(f"TLS: {error.name} is not installed; try: pip install 'ktcpvs[tls]'") from None
        files = CertificateFiles(options.paths, self._read)
        made = ServiceTLS(options, files, self._secrets)
        now = datetime.datetime.now(datetime.UTC)
        for certificate in files.certificates:
            if warning := certificate.warning(now):
                self._warn(f"service {options.ident}: {warning}")
        return made

    def reload(self) -> list[str]:
        """Read all files again, for handshakes that begin from now on; keep what was read before of files that cannot
        be used. Returns errors that are new, a line each."""
        return list(dict.fromkeys(error for tls in self for error in tls.reload()))

    def use_tickets(self, current: bytes, previous: bytes | None) -> None:
        """Derive the keys of session tickets from these secrets from now on. previous: whose tickets are still
        accepted; None: there are none. Processes with the same secrets accept each other's tickets."""
        self._secrets = current, previous
        for tls in self:
            tls.use_tickets(self._secrets)
