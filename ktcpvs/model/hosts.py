"""The condition `host NAME ...` of a rule: the server names in ClientHellos for which it is.

The condition is written, and identifies its rule, as `host a.example *.b.example`. No pattern looks like that: request
targets have no blanks.
"""

from __future__ import annotations

import re

from ktcpvs.errors import BadPattern, shorten

HOST = "host"

_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


def hosts_of(condition: str) -> tuple[str, ...]:
    """Return the hosts of the condition of a rule, as `condition_of` has written it; empty: it is a pattern."""
    return tuple(condition.split(" ")[1:]) if condition.startswith(f"{HOST} ") else ()


def condition_of(text: str) -> str:
    """Return the condition of a rule in its one form: hosts in lower case, without final dots; a pattern as it is.

    Raises BadPattern.
    """
    word, *names = text.split() if text.startswith(f"{HOST} ") else (text,)
    if word != HOST or not names:
        return text
    hosts = [name.lower().removesuffix(".") for name in names]
    for host in hosts:
        check_host(host)
    return " ".join((HOST, *dict.fromkeys(hosts)))


def check_host(host: str) -> None:
    """Raise BadPattern for what no ClientHello can name."""
    if not _NAME.fullmatch(host) or len(host) > 253 or host.rpartition(".")[2].isdigit():
        raise BadPattern(f"host '{shorten(host, 60)}': expected a name, or *. and a name (example: *.example.org)")
