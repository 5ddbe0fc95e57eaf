"""sni: passes TLS through to a server that it chooses by the server name in the ClientHello.

Rules name hosts: `host a.example *.b.example`. The first rule whose conditions hold wins, in the order of the rules;
the default rule `.*` gets the other names, and clients that send none. Within a rule the scheduler `balance` chooses.
"""

from __future__ import annotations

from collections.abc import Generator

from ktcpvs.errors import BadValue
from ktcpvs.interfaces import CLIENT_HELLO, USES_BALANCE, USES_RULES, ServiceView
from ktcpvs.schedulers.content import RuleScheduler


class SNI(RuleScheduler):
    """Per connection: the server name in the TLS ClientHello, by rules; TLS passes through untouched."""

    name = "sni"
    unit = CLIENT_HELLO
    uses = frozenset((USES_RULES, USES_BALANCE))

    def check_rules(self, service: ServiceView) -> Generator[None, None, None]:
        for listener in service.config.listen:
            if listener.is_tls:
                raise BadValue(
                    f"service {service.ident}: listen = {listener}: scheduler sni passes TLS through; leave out tls"
                )
        yield from super().check_rules(service)
