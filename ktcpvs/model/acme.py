"""Certificates that a certificate authority issues over ACME, as configurations name them: `acme NAME...`."""

from __future__ import annotations

import ipaddress
import re

from ktcpvs.errors import BadValue, shorten
from ktcpvs.model.challenges import KINDS

ACME = "acme"
"""The first word of a value of `certificate` that is not a path."""

MAX_NAMES = 100
"""The most names of one certificate: Let's Encrypt issues none with more."""

LETSENCRYPT, STAGING = "letsencrypt", "letsencrypt-staging"

DIRECTORIES = {
    LETSENCRYPT: "https://acme-v02.api.letsencrypt.org/directory",
    STAGING: "https://acme-staging-v02.api.letsencrypt.org/directory",
}
"""The directories of ACME that have a name of their own -> their URLs."""

AUTO = "auto"
CHALLENGES = (AUTO, *KINDS)
"""The values of the setting `acme_challenge`."""

_NAME = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_URL = re.compile(r'https://[^\s"{}#]{1,1000}')
_EMAIL = re.compile(r'[^\s@"{}#=,<>]{1,64}@[^\s@"{}#=,<>]{1,253}')
_WORD = re.compile(r'[^\s"{}#=]{1,256}')


def is_acme(text: str) -> bool:
    """Whether a value of `certificate` asks for a certificate by ACME, rather than names a file."""
    return text == ACME or text.startswith(f"{ACME} ")


def names_of(text: str) -> tuple[str, ...]:
    """Return the names in a value that `read_certificate` has returned."""
    return tuple(text.split()[1:])


def read_certificate(text: str) -> str:
    """Return a value of `certificate` in the one form that it has: names in lower case, without a dot at the end. A
    path is returned as it is. Raises BadValue."""
    words = text.split()
    if not words or words[0].lower() != ACME:
        return text
    if len(words) == 1:
        raise BadValue(f"{ACME}: missing host names (example: certificate = acme www.example.com example.com)")
    names = [_read_name(word) for word in words[1:]]
    for name in names:
        if names.count(name) > 1:
            raise BadValue(f"{ACME}: {shorten(name, 64)} appears a second time")
    if len(names) > MAX_NAMES:
        raise BadValue(f"{ACME}: {len(names)} names; one certificate has at most {MAX_NAMES}: use several")
    return " ".join((ACME, *names))


def _read_name(word: str) -> str:
    try:
        return str(ipaddress.ip_address(word.strip("[]")))
    except ValueError:
        name = word.lower().removesuffix(".")
    shown = f"{ACME} {shorten(word, 64)}"
    if "*" in name:
        raise BadValue(f"{shown}: a wildcard needs a challenge over DNS, which ktcpvs does not have; name each host")
    if not name.isascii():
        raise BadValue(f"{shown}: write names in their ASCII form (example: xn--bcher-kva.example)")
    if not _NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
        raise BadValue(f"{shown}: expected a host name (example: www.example.com) or an IP address")
    return name


def directory_url(setting: str) -> str:
    """Return the URL of a directory. setting: the value of `acme_directory`."""
    return DIRECTORIES.get(setting, setting)


# What is wrong with the value of a setting; "" where nothing is.


def directory_fault(value: str) -> str:
    """See above; so do those that follow."""
    is_good = value in DIRECTORIES or (_URL.fullmatch(value) is not None and value.isprintable())
    return "" if is_good else f"expected {', '.join(DIRECTORIES)}, or the https:// URL of a directory of ACME"


def email_fault(value: str) -> str:
    is_good = not value or (_EMAIL.fullmatch(value) is not None and value.isprintable())
    return "" if is_good else "expected one address (example: admin@example.com), or nothing"


def challenge_fault(value: str) -> str:
    return "" if value in CHALLENGES else f"expected one of {', '.join(CHALLENGES)}"


def word_fault(value: str) -> str:
    is_good = not value or (_WORD.fullmatch(value) is not None and value.isprintable())
    return "" if is_good else 'expected a word without white space and without " { } # =, or nothing'


def path_fault(value: str) -> str:
    is_good = not value or (value.startswith("/") and value.isprintable() and len(value) <= 1024)
    return "" if is_good else "expected the absolute path of a file, or nothing"
