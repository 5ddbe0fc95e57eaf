"""http, hhttp and phttp: rules choose a server by the request's path and query.

They differ in two parameters: whether they choose for each connection or for each request, and whether a rule with
`match N` hashes the text of its group N, so that like requests go to one server. KTCPVS adds up the bytes of that text,
modulo the number of servers; here it is weighted rendezvous hashing, so that a server that leaves moves only its own
keys.
"""

from __future__ import annotations

from ktcpvs.interfaces import EACH_REQUEST, FIRST_REQUEST, USES_BALANCE, USES_MATCH, USES_RULES
from ktcpvs.schedulers.content import RuleScheduler


class HTTP(RuleScheduler):
    """Per connection: the first request's path and query, by rules."""

    name = "http"
    unit = FIRST_REQUEST
    uses = frozenset((USES_RULES, USES_BALANCE))


class HHTTP(RuleScheduler):
    """Per connection: like http, and a rule with match N hashes the text of group N."""

    name = "hhttp"
    unit = FIRST_REQUEST
    uses = frozenset((USES_RULES, USES_MATCH, USES_BALANCE))


class PHTTP(RuleScheduler):
    """Per request: its path and query, by rules; a rule with match N hashes the text of group N."""

    name = "phttp"
    unit = EACH_REQUEST
    uses = frozenset((USES_RULES, USES_MATCH, USES_BALANCE))
