"""The part of a switch that obtains certificates from a CA, as its director needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ktcpvs.errors import BadValue
from ktcpvs.model.tls_files import TLSFile


class CertificateIssuer(Protocol):
    """Obtains and renews the certificates of `certificate = acme NAME...`, for all running services."""

    def start(self) -> None:
        """The reactor runs, and this process serves: obtain what is due, from now on."""

    def stop(self) -> None:
        """This process ends, or another one has taken over: obtain nothing any more. Does not raise."""

    def follow(self) -> None:
        """The table or the settings have changed. Does not raise."""

    def describe(self, file: TLSFile) -> dict[str, Any] | None:
        """Return what is known of the certificate for a file of this use, as docs/automatic-https.md says; None:
        nothing."""

    async def renew(self, name: str) -> None:
        """Renew the certificates for a host name, soon. Raises a Refusal if no running service has such a one."""


class NoIssuer:
    """Obtains nothing: another process does, or no service wants it. Provides CertificateIssuer."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def follow(self) -> None:
        pass

    def describe(self, file: TLSFile) -> dict[str, Any] | None:
        return None

    async def renew(self, name: str) -> None:
        raise BadValue(no_certificate(name, ()))


def no_certificate(name: str, known: Sequence[str]) -> str:
    """Return why no certificate for `name` is renewed. known: the names for which there are some."""
    have = f"they are for {', '.join(known)}" if known else "no running service has such a certificate"
    return f"{name}: no certificate = acme has this name: {have}"
