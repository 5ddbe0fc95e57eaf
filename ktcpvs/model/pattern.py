"""Patterns of rules: RE2's syntax, searched in the raw bytes of a request target.

A pattern is encoded as UTF-8 and then read byte by byte (RE2's Latin-1 mode), so that any target can be matched, valid
text or not. RE2 takes linear time at most, whatever a client sends.
"""

from __future__ import annotations

import functools
import re
import warnings

import re2

from ktcpvs.errors import BadPattern, shorten

MAX_PATTERN_BYTES = 8192
"""The longest pattern."""

DEFAULT_PATTERNS = frozenset((".*", "^/.*"))
"""The patterns of default rules, which are tried last wherever they are in the list (as in KTCPVS)."""

KNOWN_PATTERNS = 20_000
"""The most patterns that are remembered as right."""

MAX_KNOWN_PATTERN_BYTES = 256
"""The longest pattern that is remembered as right."""

PATTERN_MEMORY_BYTES = 512 << 10
"""The most memory for the automaton of one pattern (RE2's max_mem)."""

_BEYOND_RE2 = re.compile(r"(?<!\\)(?:\\\\)*(\\[1-9]|\\g<|\(\?P=|\(\?[=!]|\(\?<[=!]|\(\?>|[*+?}]\+)")

_KINDS_BEYOND_RE2 = ("invalid escape sequence", "invalid perl operator", "bad repetition operator")
"""The errors that RE2 reports for them."""

_ONLY_RE2 = frozenset("pPzCQEx")
"""Escapes that Python's re does not know or reads in another way than RE2."""


def re2_options(max_mem: int = PATTERN_MEMORY_BYTES) -> re2.Options:
    """Return the options with which every pattern of a rule is compiled."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = max_mem
    return options


_OPTIONS = re2_options()


def encode_pattern(pattern: str) -> bytes:
    """Return the bytes that RE2 reads."""
    return pattern.encode("utf-8")


def check_pattern(pattern: str) -> int:
    """Check a pattern and return the number of its groups. Raises BadPattern, with the position of the fault."""
    if not pattern:
        raise BadPattern("empty pattern; use .* for a default rule")
    for position, character in enumerate("" if pattern.isprintable() else pattern):
        if not character.isprintable() and not character.isspace():
            raise BadPattern(f"pattern '{shorten(pattern)}': a control character at position {position}")
        if character.isspace() and character != " ":
            raise BadPattern(f"pattern '{shorten(pattern)}': white space other than a space at position {position}")
    encoded = encode_pattern(pattern)
    if len(encoded) > MAX_PATTERN_BYTES:
        raise BadPattern(f"a pattern of {len(encoded)} bytes: the limit is {MAX_PATTERN_BYTES}")
    if pattern in DEFAULT_PATTERNS:
        return 0
    try:
        return _groups(encoded) if len(encoded) <= MAX_KNOWN_PATTERN_BYTES else _groups.__wrapped__(encoded)
    except re2.error as error:
        why = error.args[0].decode("utf-8", "replace") if error.args else "it cannot be compiled"
    raise BadPattern(f"pattern '{shorten(pattern)}': {_explain(pattern, why)}")


@functools.lru_cache(KNOWN_PATTERNS)
def _groups(encoded: bytes) -> int:
    """Return the number of groups. Raises re2.error. A table with its rules is made several times while it is read and
    edited, and compiling a pattern takes 50 us."""
    return int(re2.compile(encoded, options=_OPTIONS).groups)


def _explain(pattern: str, why: str) -> str:
    kind, _, fragment = why.partition(": ")
    beyond = _BEYOND_RE2.search(pattern) if kind in _KINDS_BEYOND_RE2 else None
    if beyond is not None and (beyond[1].startswith(fragment) or fragment.endswith(beyond[1])):
        return (
            f"{shorten(beyond[1], 20)} at position {beyond.start(1)} is not supported: RE2 has no "
            "back-references, no look-around and no possessive operators"
        )
    shown = f" '{shorten(fragment, 40)}'" if fragment else ""
    return f"{kind}{shown} at position {_position(pattern, fragment)}"


def _position(pattern: str, fragment: str) -> int:
    known = re.sub(r"\\(.)", lambda m: r"\." if m[1] in _ONLY_RE2 else m[0], pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of [[:alpha:]]
            re.compile(known)  # only to find the position of the error
    except re.error as error:
        if error.pos is not None:
            return error.pos
    except (OverflowError, RecursionError, ValueError):
        pass
    return max(pattern.find(fragment), 0)
