"""Reads the corpus of messages from its files, whose format corpus/README.txt describes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


@dataclass
class CorpusEntry:
    name: str
    message: bytes = b""
    verdict: list[str] = field(default_factory=list)
    forwarded: bytes = b""
    body: bytes | None = None
    rest: bytes = b""
    method: bytes = b"GET"
    minor: bool = True

    @property
    def head(self) -> bytes:
        """The forwarded head."""
        if self.forwarded:
            return self.forwarded
        return self.message[: self.message.index(b"\r\n\r\n") + 4]

    def says(self, word: str) -> bool:
        return word in self.verdict[4:]


def unescaped(text: str) -> bytes:
    return text.encode("ascii").decode("unicode_escape").encode("latin-1")


def line_of(text: str) -> bytes:
    text = text.removeprefix(" ")
    if (len(text) - len(text.rstrip("\\"))) % 2:
        return unescaped(text[:-1])
    return unescaped(text) + b"\r\n"


def entries(kind: str) -> Iterator[CorpusEntry]:
    for path in sorted(CORPUS.glob(f"{kind}-*.txt")):
        for block in path.read_text("ascii").strip().split("\n\n"):
            name, *lines = block.split("\n")
            assert name.startswith("## "), f"{path}: {name}"
            entry = CorpusEntry(f"{path.stem}: {name[3:]}")
            for line in lines:
                if line.startswith("=>"):
                    entry.verdict = line[2:].split()
                elif line.startswith("for "):
                    method, *version = line[4:].split()
                    entry.method, entry.minor = method.encode("ascii"), version != ["HTTP/1.0"]
                elif line[0] == "|":
                    entry.message += line_of(line[1:])
                elif line[0] == ">":
                    entry.forwarded += line_of(line[1:])
                elif line[0] == "+":
                    entry.body = (entry.body or b"") + line_of(line[1:])
                else:
                    assert line[0] == "<", f"{path}: {line}"
                    entry.rest += line_of(line[1:])
            assert entry.verdict, f"{path}: {name}"
            yield entry
