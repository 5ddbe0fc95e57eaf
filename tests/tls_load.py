"""Clients of TLS that connect all the time, and a site whose certificate is renewed meanwhile."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from attrs import frozen
from authority import Authority
from cryptography import x509
from servers import LOOPBACK, read_exactly

KEY_BEGINS = b"-----BEGIN PRIVATE KEY"


class Site:
    """A folder with a certificate, as certbot keeps it: links, which lead to numbered files. live: the folder."""

    def __init__(self, folder: Path, authority: Authority, *hosts: str) -> None:
        """folder: for what belongs to the site."""
        self.live = folder / "live" / hosts[0]
        self._archive = folder / "archive" / hosts[0]
        self._authority = authority
        self._hosts = hosts
        self._number = 0
        for place in self.live, self._archive:
            place.mkdir(parents=True)
        self.renew()

    def renew(self, *hosts: str) -> int:
        """Put a new certificate in place. hosts: its names; without any: those of the site. Return its serial number,
        by which clients recognize it."""
        self._number += 1
        pem = self._authority.daemon(f"site{self._number % 2}", *(hosts or self._hosts)).read_bytes()
        at = pem.index(KEY_BEGINS)
        self._replace("privkey", pem[at:])
        self._replace("fullchain", pem[:at] + self._authority.pem.read_bytes())
        return x509.load_pem_x509_certificate(pem[:at]).serial_number

    def _replace(self, name: str, data: bytes) -> None:
        target = self._archive / f"{name}{self._number}.pem"
        target.write_bytes(data)
        target.chmod(0o600)
        beside = self.live / f"{name}.new"
        beside.symlink_to(target)
        beside.rename(self.live / f"{name}.pem")

    def spoil(self) -> None:
        """Put a key in place that does not belong to the certificate."""
        self._number += 1
        pem = self._authority.daemon("other", *self._hosts).read_bytes()
        self._replace("privkey", pem[pem.index(KEY_BEGINS) :])


@frozen
class Handshake:
    """The facts about a handshake that a client sees. serial: of the certificate. session: to go on from."""

    serial: int
    is_resumed: bool
    version: str
    session: Any


def client_context(authority: Authority, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """The context of a client that speaks this version."""
    context = ssl.create_default_context(cafile=authority.pem)
    context.minimum_version = context.maximum_version = version
    return context


def connect(port: int, context: ssl.SSLContext, name: str, session: Any = None) -> ssl.SSLSocket:
    """Connect to a service in front of `echo`. Raises ssl.SSLError or OSError."""
    raw = socket.create_connection((LOOPBACK, port), 10)
    try:
        return context.wrap_socket(raw, server_hostname=name, session=session)
    except BaseException:
        raw.close()
        raise


def ask(client: ssl.SSLSocket) -> Handshake:
    """Use a connection, so that tickets have come, and return what was seen."""
    client.sendall(b"ping")
    assert read_exactly(client, 4) == b"ping"
    der = client.getpeercert(True)
    assert der is not None
    serial = x509.load_der_x509_certificate(der).serial_number
    return Handshake(serial, bool(client.session_reused), str(client.version()), client.session)


def handshake(port: int, context: ssl.SSLContext, name: str, session: Any = None) -> Handshake:
    """Connect, ask, and close. Raises ssl.SSLError or OSError."""
    with connect(port, context, name, session) as client:
        return ask(client)


class TLSLoad:
    """Clients that make a connection after the other, half of them resumed, in threads; and one that keeps its
    connection.

    done, resumed: how many handshakes. serials: of the certificates seen. failures: errors, a line each.
    """

    def __init__(self, port: int, authority: Authority, name: str, clients: int = 3) -> None:
        self.done = 0
        self.resumed = 0
        self.serials: set[int] = set()
        self.failures: list[str] = []
        self._port, self._authority, self._name = port, authority, name
        self._over = threading.Event()
        self._lock = threading.Lock()
        versions = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2
        self._threads = [
            threading.Thread(target=self._run, args=(self._connect_again, versions[number % 2]))
            for number in range(clients)
        ]
        self._threads.append(threading.Thread(target=self._run, args=(self._stay, versions[0])))
        for thread in self._threads:
            thread.start()

    def _run(self, work: Any, version: ssl.TLSVersion) -> None:
        context = client_context(self._authority, version)
        while not self._over.is_set():
            try:
                work(context)
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                self._over.wait(0.05)

    def _connect_again(self, context: ssl.SSLContext) -> None:
        first = handshake(self._port, context, self._name)
        second = handshake(self._port, context, self._name, first.session)
        with self._lock:
            self.done += 2
            self.resumed += second.is_resumed
            self.serials.update((first.serial, second.serial))
        self._over.wait(0.03)

    def _stay(self, context: ssl.SSLContext) -> None:
        with connect(self._port, context, self._name) as client:
            while not self._over.wait(0.02):
                ask(client)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
