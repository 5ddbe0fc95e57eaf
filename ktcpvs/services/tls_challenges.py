"""Answers challenges of kind tls-alpn-01 at all listeners with TLS of one process."""

from __future__ import annotations

import datetime
import ssl

from ktcpvs.model.challenges import Challenge
from ktcpvs.protocols.client_hello import ClientHello
from ktcpvs.runtime.context import Context


class TLSChallenges:
    """Makes a certificate for each challenge when a CA asks for it first, and keeps it while the challenge is
    pending."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._contexts: dict[Challenge, ssl.SSLContext] = {}

    def context(self, hello: ClientHello) -> ssl.SSLContext | None:
        """Return the context of OpenSSL that answers a client which offers `acme-tls/1` alone. None: no challenge is
        pending for the name that it asks for."""
        pending = self._context.challenges.names
        challenge = pending.get(hello.server_name) if hello.server_name is not None else None
        if challenge is None:
            return None
        found = self._contexts.get(challenge)
        if found is None:
            from ktcpvs.system.challenge_certificates import challenge_context  # with TLS alone it is installed

            now = datetime.datetime.fromtimestamp(self._context.wall(), datetime.UTC)
            kept = set(pending.values())
            self._contexts = {one: known for one, known in self._contexts.items() if one in kept}
            found = self._contexts[challenge] = challenge_context(challenge.name, challenge.key_authorization, now)
        return found
