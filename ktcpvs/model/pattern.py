"""Patterns of rules: RE2's syntax, searched in the raw bytes of a request target.

A pattern's text is encoded as UTF-8 and then read byte by byte (RE2's Latin-1 mode), so that any target, valid
text or not, can be matched. RE2 never takes more than linear time, whatever a client sends.
"""

from __future__ import annotations

import re
import warnings

import re2

from ktcpvs.errors import BadPattern, shorten

PATTERN_BYTES = 8192
"""The longest pattern that is taken, in bytes."""

DEFAULT_PATTERNS = frozenset((".*", "^/.*"))
"""The patterns of a default rule, which is tried last wherever it stands (KTCPVS)."""

ONE_PATTERN_MEMORY = 512 << 10
"""What the automaton of one pattern may take, in bytes (RE2's max_mem)."""

_BEYOND_RE2 = re.compile(r"(?<!\\)(?:\\\\)*(\\[1-9]|\\g<|\(\?P=|\(\?[=!]|\(\?<[=!]|\(\?>|[*+?}]\+)")

_KINDS_BEYOND_RE2 = ("invalid escape sequence", "invalid perl operator", "bad repetition operator")
"""What RE2 says of them."""

_ONLY_RE2 = frozenset("pPzCQEx")
"""Escapes that RE2 knows and Python's re does not, or reads otherwise."""


def re2_options(max_mem: int = ONE_PATTERN_MEMORY) -> re2.Options:
    """The options with which every pattern of a rule is compiled."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = max_mem
    return options


_OPTIONS = re2_options()


def encode_pattern(pattern: str) -> bytes:
    """The bytes that RE2 reads."""
    return pattern.encode("utf-8")


def check_pattern(pattern: str) -> int:
    """Raise BadPattern, with the position of the fault, unless `pattern` can be used.

    Returns the number of the pattern's groups.
    """
    if not pattern:
        raise BadPattern("an empty pattern matches nothing that can be told apart: use .* for a default rule")
    for position, character in enumerate("" if pattern.isprintable() else pattern):
        if not character.isprintable() and not character.isspace():
            raise BadPattern(f"pattern '{shorten(pattern)}': a control character at position {position}")
        if character.isspace() and character != " ":
            raise BadPattern(f"pattern '{shorten(pattern)}': white space other than a blank at position {position}")
    encoded = encode_pattern(pattern)
    if len(encoded) > PATTERN_BYTES:
        raise BadPattern(f"a pattern of {len(encoded)} bytes: at most {PATTERN_BYTES} are taken")
    if pattern in DEFAULT_PATTERNS:
        return 0
    try:
        return int(re2.compile(encoded, options=_OPTIONS).groups)
    except re2.error as error:
        why = error.args[0].decode("utf-8", "replace") if error.args else "it cannot be compiled"
    raise BadPattern(f"pattern '{shorten(pattern)}': {_explain(pattern, why)}")


def _explain(pattern: str, why: str) -> str:
    kind, _, fragment = why.partition(": ")
    beyond = _BEYOND_RE2.search(pattern) if kind in _KINDS_BEYOND_RE2 else None
    if beyond is not None and (beyond[1].startswith(fragment) or fragment.endswith(beyond[1])):
        return (
            f"{shorten(beyond[1], 20)} at position {beyond.start(1)} is not in RE2's language, which has no "
            "back-references, no look-around and no possessive operators"
        )
    shown = f" '{shorten(fragment, 40)}'" if fragment else ""
    return f"{kind}{shown} at position {_position(pattern, fragment)}"


def _position(pattern: str, fragment: str) -> int:
    known = re.sub(r"\\(.)", lambda m: r"\." if m[1] in _ONLY_RE2 else m[0], pattern)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of [[:alpha:]]
            re.compile(known)  # only asked where it stumbles; never used to match
    except re.error as error:
        if error.pos is not None:
            return error.pos
    except (OverflowError, RecursionError, ValueError):
        pass
    return max(pattern.find(fragment), 0)
