"""TLS profiles, and the contexts of OpenSSL that are made from them: for listeners and for connections to servers.

A profile is what the configuration says; contexts of one profile share their ticket keys, and sessions never go from
one profile to another.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from typing import Any, Protocol

from attrs import frozen

from ktcpvs.errors import NoTLS, shorten
from ktcpvs.system.client_authorities import name_authorities
from ktcpvs.system.files import read_file
from ktcpvs.system.tls_tickets import TicketKeys, use_tickets

OFF, OPTIONAL, REQUIRED = "off", "optional", "required"
"""Whether clients must show a certificate."""

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
"""The lowest version that a profile accepts."""

TICKETS = 1
"""Tickets that a client of TLS 1.3 gets. Each is a record, and clients that go on from one get a new one."""


@frozen
class TLSProfile:
    """The TLS settings of a listener.

    name: of the profile, from which its ticket keys are derived. minimum: a key of VERSIONS. ciphers: a cipher list of
    OpenSSL for TLS 1.2, "" for its own. alpn: protocols, the best first; () accepts any that a client offers.
    client_ca: a PEM file with the CAs of clients, "" without. client_certificate: OFF, OPTIONAL or REQUIRED.
    """

    name: str
    minimum: str = "1.2"
    ciphers: str = ""
    alpn: tuple[str, ...] = ()
    client_ca: str = ""
    client_certificate: str = OFF


class Loadable(Protocol):
    """A certificate with its chain and key in PEM."""

    @property
    def pem(self) -> bytes: ...


class ServerContexts:
    """The contexts of one profile: one for each set of certificates that is chosen together."""

    def __init__(self, profile: TLSProfile, tickets: TicketKeys | None = None, authorities: str | None = None) -> None:
        """tickets: of this profile; None: sessions go on only within one context of this process. authorities: the text
        of `client_ca`; None: it is read now. Raises NoTLS."""
        self.profile = profile
        self._tickets = tickets
        if authorities is None:
            authorities = read_authorities(profile.client_ca) if profile.client_ca else ""
        self._authorities = authorities
        if profile.client_certificate != OFF and not self._authorities:
            raise NoTLS("client certificates cannot be verified without client_ca")
        self._contexts: dict[tuple[Loadable, ...], ssl.SSLContext] = {}
        self._make(())  # so that a bad profile is refused now

    def context(self, certificates: tuple[Loadable, ...]) -> ssl.SSLContext:
        """The context with these certificates, of which each has another kind of key."""
        found = self._contexts.get(certificates)
        if found is None:
            found = self._contexts[certificates] = self._make(certificates)
        return found

    def keep_only(self, certificates: Iterable[Loadable]) -> None:
        """Forget the contexts of certificates that are not among these; their connections go on."""
        kept = set(certificates)
        self._contexts = {chosen: context for chosen, context in self._contexts.items() if kept.issuperset(chosen)}

    def _make(self, certificates: tuple[Loadable, ...]) -> ssl.SSLContext:
        profile = self.profile
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[profile.minimum]
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = TICKETS
        if profile.ciphers:
            try:
                context.set_ciphers(profile.ciphers)
            except ssl.SSLError:
                raise NoTLS(f"'{shorten(profile.ciphers)}' names no cipher (example: ECDHE+AESGCM)") from None
        if profile.alpn:
            context.set_alpn_protocols(list(profile.alpn))
        if profile.client_certificate != OFF:
            context.verify_mode = ssl.CERT_REQUIRED if profile.client_certificate == REQUIRED else ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=self._authorities)
            name_authorities(context)
        if self._tickets is not None:
            use_tickets(context, self._tickets)
        for certificate in certificates:
            load_certificate(context, certificate.pem)
        return context


@frozen
class ServerTLS:
    """The TLS settings of connections to a server.

    name: to verify, and to send as SNI; an IP address is verified only. verify: False accepts any certificate. ca: a
    PEM file with the CAs that may sign it; "": those of the system. certificate: a PEM file with the certificate and
    key to show; "" for none. alpn: protocols to offer.
    """

    name: str
    verify: bool = True
    ca: str = ""
    certificate: str = ""
    alpn: tuple[str, ...] = ()


class ClientContexts:
    """The contexts of connections to servers. Servers share those that differ in nothing: the system's CAs alone take a
    megabyte."""

    def __init__(self) -> None:
        self._contexts: dict[Any, ssl.SSLContext] = {}

    def context(self, server: ServerTLS) -> ssl.SSLContext:
        """The context of a server. Raises NoTLS, whose text names the file that cannot be used."""
        key = server.verify, server.ca, server.certificate, server.alpn
        found = self._contexts.get(key)
        if found is None:
            found = self._contexts[key] = _client_context(server)
        return found

    def clear(self) -> None:
        """Read the files again for connectors that are made from now on."""
        self._contexts.clear()


def _client_context(server: ServerTLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if not server.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif server.ca:
        context.load_verify_locations(cadata=read_authorities(server.ca))
    else:
        context.load_default_certs()
    if server.certificate:
        try:
            load_certificate(context, _read(server.certificate))
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).replace("_", " ").lower()
            raise NoTLS(
                f"{server.certificate}: no certificate with its key in PEM, or one unusable: {reason}"
            ) from None
    if server.alpn:
        context.set_alpn_protocols(list(server.alpn))
    return context


def load_certificate(context: ssl.SSLContext, pem: bytes) -> None:
    """Load a chain and its key from memory: by a file in memory, since `ssl` reads files only. Raises SSLError."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        # Without a callback OpenSSL would ask the terminal for the password of an encrypted key.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: "")
    finally:
        os.close(descriptor)


def read_authorities(path: str) -> str:
    """Return the PEM text of a file with CAs. Raises NoTLS."""
    text = _read(path).decode("ascii", "replace")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise NoTLS(f"{path}: no certificate in PEM, or an unreadable one") from None
    return text


def _read(path: str) -> bytes:
    try:
        return read_file(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise NoTLS(f"{shorten(path)}: {getattr(error, 'strerror', None) or error}") from error
