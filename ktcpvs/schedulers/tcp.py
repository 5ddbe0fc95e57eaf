"""tcp: chooses by rules about the client's network and the port, before anything has been read.

Rules name networks, ports and shares: `from 10.0.0.0/8`, `port 8443`, `share 5%`. The first rule whose conditions hold
wins, and the default rule `.*` gets the other clients. Within a rule the scheduler `balance` chooses.
"""

from __future__ import annotations

from ktcpvs.interfaces import CONNECTION, USES_BALANCE, USES_RULES
from ktcpvs.schedulers.content import RuleScheduler


class TCP(RuleScheduler):
    """Per connection: the client's network and the port, by rules."""

    name = "tcp"
    unit = CONNECTION
    uses = frozenset((USES_RULES, USES_BALANCE))
