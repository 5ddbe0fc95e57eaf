"""Writes a service's tests as lines of the configuration language."""

from __future__ import annotations

from ktcpvs.model.expectation import CLIENT, Expectation
from ktcpvs.model.language.lexer import quoted, word


def write_test(test: Expectation) -> str:
    """Return `test "GET /x" ... -> ...`, which the parser reads."""
    words = ["test", quoted(test.request), *map(quoted, test.headers)]
    if test.client != CLIENT:
        words += ["from", test.client]
    return " ".join([*words, "->", *([test.outcome] if test.outcome else [word(str(one)) for one in test.servers])])
