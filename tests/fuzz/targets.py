"""All fuzz targets: a name, a function of bytes, and seeds. docs/testing.md describes how to use them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import checks, connections, cookies, first_bytes, guarded_amp, http2, http2_exchanges, messages, texts
from tests.protocols.corpus_entries import CORPUS as RECORDED
from tests.protocols.corpus_entries import entries

TARGETS: dict[str, Callable[[bytes], None]] = {
    **messages.TARGETS,
    **first_bytes.TARGETS,
    **http2.TARGETS,
    **http2_exchanges.TARGETS,
    **texts.TARGETS,
    **cookies.TARGETS,
    **guarded_amp.TARGETS,
    **connections.TARGETS,
    **checks.TARGETS,
}

CORPUS = Path(__file__).parent / "corpus"
"""A folder for each target; each file is one input: a seed, or an input that once failed."""

FOLDERS = {"hello": "hellos", "proxy": "proxy"}
"""Target -> folder of tests/protocols/corpus with what programs have sent."""


def seeds(name: str) -> list[bytes]:
    """The seeds of the target `name`."""
    found = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    if name == "request":
        found += [entry.message for entry in entries("requests")]
    elif name == "response":
        found += [entry.message for entry in entries("responses")]
    elif name in FOLDERS:
        found += [path.read_bytes() for path in sorted((RECORDED / FOLDERS[name]).glob("*.bin"))]
    elif name == "chunks":
        bodies = (
            entry.message.partition(b"\r\n\r\n")[2]
            for entry in entries("requests")
            if entry.verdict[2:3] == ["chunked"]
        )
        found += [body for body in bodies if body]
    return found


_WORD = re.compile(rb"[A-Za-z0-9_.-]+|[^A-Za-z0-9_.-]")


def words(name: str) -> list[bytes]:
    """The words that occur in the seeds of the target `name`."""
    return sorted({word for seed in seeds(name) for word in _WORD.findall(seed) if len(word) < 64})
