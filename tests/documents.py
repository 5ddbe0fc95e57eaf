"""The documents as tests see them: their blocks of commands, configurations and programs, and what is said about each.

A comment in front of a block, which pages do not show, says how tests treat it:

    <!-- before: COMMAND -->       run this command before the block
    <!-- example output -->        run the commands; the output differs from machine to machine
    <!-- not run: REASON -->       do not run the block
    <!-- run by FILE -->           this test runs the block
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parents[1]
DOCUMENTS = tuple(
    str(path.relative_to(ROOT))
    for path in (
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs/examples").glob("*/README.md")),
    )
)

LANGUAGES = {
    "sh": "commands, run in order; each must succeed",
    "console": "commands behind `$ `, each with its output",
    "python": "a program",
    "ktcpvs": "a configuration",
    "haproxy": "a configuration of HAProxy",
    "nginx": "a configuration of nginx",
    "hcl": "a file of Nomad or Consul",
    "yaml": "a file of Kubernetes, Prometheus or a container",
    "ini": "settings of a program",
    "text": "anything else, and never a command",
}
"""The languages of fenced blocks."""

PROGRAMS = {
    ".",
    "apt",
    "apt-get",
    "cat",
    "certbot",
    "cp",
    "curl",
    "dig",
    "docker",
    "dpkg",
    "etcd",
    "etcdctl",
    "export",
    "for",
    "git",
    "goaccess",
    "install",
    "ipvsadm",
    "journalctl",
    "jq",
    "kill",
    "ktcpvs",
    "ln",
    "make",
    "mkdir",
    "openssl",
    "pip",
    "pip3",
    "pipx",
    "podman",
    "promtool",
    "psql",
    "pytest",
    "python",
    "python3",
    "redis-cli",
    "redis-server",
    "rsyslogd",
    "setpriv",
    "ssh",
    "sudo",
    "systemctl",
    "tar",
    "tcpvsadm",
    "test",
    "twistd",
    "wget",
}
"""First words of commands, for blocks that do not name their language."""

_FENCE = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n(?:\n(?=    ))*)+", re.MULTILINE)
_COMMENTS = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
_COMMENT = re.compile(r"<!-- *(before|example output|not run|run by):? *(.*?) *-->", re.DOTALL)
_COMMAND = re.compile(r"\$ |\(|(?:[A-Z_]+=\S* )*([\w.-]*/)*([\w.-]+)(?: (?!\[)|$)")


@frozen
class Block:
    """One block of a document.

    line: of the document, from 1. language: of LANGUAGES; an indented block is `sh` or `text`. before: commands to run
    first. not_run: the reason, or "". run_by: the test that runs it, or "".
    """

    document: str
    line: int
    language: str
    text: str
    before: tuple[str, ...]
    is_example: bool
    not_run: str
    run_by: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def _is_commands(text: str) -> bool:
    """Whether a block that does not name its language begins with a command."""
    first = re.match(r"(?:#.*\n)*(.*)", text)
    found = _COMMAND.match(first[1]) if first else None
    return found is not None and (found[2] is None or found[2] in PROGRAMS or bool(found[1]))


def _block(document: str, text: str, begin: int, language: str, body: str) -> Block:
    said = _COMMENTS.search(text, 0, begin)
    notes = _COMMENT.findall(said[0]) if said else []
    if said and said[0].count("<!--") != len(notes):
        raise ValueError(f"{document}: a comment in front of a block is not understood: {said[0]}")
    values = dict(notes)
    return Block(
        document,
        text.count("\n", 0, begin) + 1,
        language,
        body,
        tuple(value for kind, value in notes if kind == "before"),
        "example output" in values,
        values.get("not run", ""),
        values.get("run by", ""),
    )


@functools.cache
def blocks_of(document: str) -> tuple[Block, ...]:
    """The blocks of a document in their order. document: its path in the repository."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = [_block(document, text, match.start(), match[1], match[2]) for match in _FENCE.finditer(text)]
    rest = _FENCE.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), text)
    for match in _INDENTED.finditer(rest):
        body = re.sub(r"^    ", "", match[0], flags=re.MULTILINE)
        language = "sh" if _is_commands(body) else "text"
        found.append(_block(document, text, match.start(), language, body))
    return tuple(sorted(found, key=lambda block: block.line))
