"""Reasons why a request or a connection went where it went: a closed list of words, for logs and programs.

Reasons are texts for people and may be worded differently in a later version. These words stay as they are. The access
log, `tcpvsadm --trace` and the field X-Ktcpvs-Why have them as one text: `rule=2, session`, in which the rule comes
first, then what decided, then what happened on the way. It is a dictionary of RFC 9651, section 3.2.
"""

from __future__ import annotations

RULE = "rule"
"""The rule that has taken the request, with its number: `rule=2`."""

BALANCE = "balance"
"""The scheduler has chosen among the servers, by their load or in turn."""

HASH = "hash"
"""By the hash of the client's address, of a part of the request, or of a group of a pattern."""

SESSION = "session"
"""By the client's cookie."""

NEW_SESSION = "new_session"
"""The response begins a session at the chosen server."""

FULL = "full"
"""The server that was chosen first is full (`maxconn`); this is another one."""

LATER_PRIORITY = "later_priority"
"""No server of an earlier priority can serve the request."""

LAST_RESORT = "last_resort"
"""The server is ejected, but no other one is left."""

FALLBACK = "fallback"
"""The scheduler has failed or taken too long, so `fallback` has chosen."""

QUEUE = "queue"
"""The request has waited for a server with room."""

RETRY = "retry"
"""Another server has failed the request before."""

REDIRECT_SERVER = "redirect_server"
"""The service's `redirect` address, since no server was found."""

RESPOND = "respond"
"""A rule responds in place of a server."""

REDIRECT = "redirect"
"""A rule redirects the client to another URL."""

HTTPS_ONLY = "https_only"
"""`https_only` redirects the client to https."""

CHALLENGE = "challenge"
"""The response to a challenge of ACME."""

DENY = "deny"
"""`deny` names the client that a trusted proxy has told, or `allow` does not."""

CLIENT_LIMIT = "client_limit"
"""The client has reached a limit for each client."""

RULE_RATE = "rule_rate"
"""The rate of a rule is used up."""

MAX_PENDING = "max_pending"
"""All servers are full, and as many requests wait as `max_pending` allows."""

QUEUE_TIMEOUT = "queue_timeout"
"""No server had room within `queue_timeout`."""

BODY_PREFIX_MEMORY = "body_prefix_memory"
"""The bodies that are held for schedulers take as much memory as `body_prefix_memory` allows."""

NO_SERVER = "no_server"
"""No server can serve the request: none matches, or all are down or have failed it."""

NO_DESCRIPTORS = "no_descriptors"
"""This system has no descriptors, ports or memory left for a connection to a server."""

SERVER_FAILED = "server_failed"
"""The server has refused or lost the connection, or has sent what is no response."""

SERVER_TIMEOUT = "server_timeout"
"""The server was too slow."""

CLIENT_TIMEOUT = "client_timeout"
"""The client was too slow."""

DEADLINE = "deadline"
"""The deadline of a request of gRPC has passed."""

BAD_REQUEST = "bad_request"
"""The request breaks the protocol, or asks for what the switch does not do."""

TOO_LARGE = "too_large"
"""The request, or a part of it, is larger than a limit."""

MISDIRECTED = "misdirected"
"""The request is for a host that demands other things of TLS than its connection has."""

WORDS = (
    RULE, BALANCE, HASH, SESSION, NEW_SESSION, FULL, LATER_PRIORITY, LAST_RESORT, FALLBACK, QUEUE, RETRY,
    REDIRECT_SERVER, RESPOND, REDIRECT, HTTPS_ONLY, CHALLENGE, DENY, CLIENT_LIMIT, RULE_RATE, MAX_PENDING,
    QUEUE_TIMEOUT, BODY_PREFIX_MEMORY, NO_SERVER, NO_DESCRIPTORS, SERVER_FAILED, SERVER_TIMEOUT, CLIENT_TIMEOUT,
    DEADLINE, BAD_REQUEST, TOO_LARGE, MISDIRECTED,
)  # fmt: skip
"""All of them."""

_OF_STATUS = {
    403: DENY,
    408: CLIENT_TIMEOUT,
    413: TOO_LARGE,
    414: TOO_LARGE,
    421: MISDIRECTED,
    429: CLIENT_LIMIT,
    431: TOO_LARGE,
    502: SERVER_FAILED,
    503: NO_SERVER,
    504: SERVER_TIMEOUT,
}


def of_status(status: int) -> str:
    """Return the word of a refusal with this status of HTTP, where nothing more precise is known."""
    return _OF_STATUS.get(status, BAD_REQUEST)


def of_rule(number: int, *words: str) -> str:
    """Return these words behind the number of a rule; 0: there is none."""
    return joined(f"{RULE}={number}" if number else "", *words)


def with_only_rule(why: str, word: str) -> str:
    """Return a word behind the rule that `why` names, if it names one."""
    first = why.partition(", ")[0]
    return joined(first, word) if first.startswith(f"{RULE}=") else word


def joined(*words: str) -> str:
    """Return the text of words, or of texts of words. Empty ones are left out."""
    given = [word for word in words if word]
    return given[0] if len(given) == 1 else ", ".join(given)
