"""TLS profiles, and the contexts of OpenSSL that are made from them: for listeners and for connections to servers.

A profile is what the configuration says; contexts of one profile share their ticket keys, and sessions never go from
one profile to another.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Hashable, Iterable, Iterator
from hashlib import sha256
from typing import Protocol
from weakref import WeakValueDictionary

from attrs import frozen

from ktcpvs.errors import NoTLS, shorten
from ktcpvs.model.tls import ServerTLS
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
class ClientTLS:
    """TLS on the connections to one server. context: verifies it. name: the host name or IP address to verify; a host
    name is also sent. None: nothing is verified, and none is sent."""

    context: ssl.SSLContext
    name: str | None


class ClientContexts:
    """The contexts of connections to servers. Servers share those that differ in nothing: the system's CAs alone take a
    megabyte."""

    def __init__(
        self, read_ca: Callable[[str], str] | None = None, read_cert: Callable[[str], bytes] | None = None
    ) -> None:
        """read_ca, read_cert: return the PEM text of a file with CAs, and of one with a certificate and its key. They
        raise NoTLS, whose text begins with the path. None: this process reads the files."""
        self._read_ca = read_ca or read_authorities
        self._read_cert = read_cert or read_pem
        self._contexts: WeakValueDictionary[Hashable, ssl.SSLContext] = WeakValueDictionary()

    def context(self, tls: ServerTLS, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        """Return the context for these settings, whose name has no influence. alpn: the protocols that it offers, the
        best first; (): it offers none.

        The files are read for each call. While they are unchanged and the context is in use, it is the same one, so
        that an edit which changes nothing keeps connections. Raises NoTLS, whose text names the file that cannot be
        used.
        """
        authorities: str | None = None
        certificate: bytes | None = None
        if tls.ca is not None:
            with _of_option("ca"):
                authorities = self._read_ca(tls.ca)
        if tls.cert is not None:
            with _of_option("cert"):
                certificate = self._read_cert(tls.cert)
        shown = None if certificate is None else sha256(certificate).digest()  # not one more copy of the key
        key = tls.is_verified, authorities, shown, alpn
        found = self._contexts.get(key)
        if found is None:
            found = _client_context(tls, authorities, certificate)
            if alpn:
                found.set_alpn_protocols(list(alpn))
            self._contexts[key] = found
        return found


@contextlib.contextmanager
def _of_option(name: str) -> Iterator[None]:
    """Put the name of an option before what is wrong with its file."""
    try:
        yield
    except NoTLS as refusal:
        raise NoTLS(f"{name} {refusal}") from None


def _client_context(tls: ServerTLS, authorities: str | None, certificate: bytes | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if not tls.is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities is not None:
        context.load_verify_locations(cadata=authorities)
    else:
        context.load_default_certs()
    if certificate is not None:
        try:
            load_certificate(context, certificate)
        except ssl.SSLError as error:
            reason = (error.reason or "").replace("_", " ").lower()
            more = reason and f", or one that cannot be used: {reason}"
            raise NoTLS(f"cert {tls.cert}: no certificate with its key in PEM{more}") from None
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
    text = read_pem(path).decode("ascii", "replace")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise NoTLS(f"{path}: no certificate in PEM, or an unreadable one") from None
    return text


def read_pem(path: str) -> bytes:
    """Return the content of a file. Raises NoTLS."""
    try:
        return read_file(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise NoTLS(f"{shorten(path)}: {getattr(error, 'strerror', None) or error}") from error
