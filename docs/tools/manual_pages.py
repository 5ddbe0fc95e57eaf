"""Write the manual pages ktcpvs(8) and ktcpvs.conf(5) from docs/configuration.md.

`manual_pages.py FOLDER` writes both files into that folder. The installation runs it, so the pages are as new as the
document. It needs the standard library only, since nothing else is there at that time.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "configuration.md"

DAEMON_SECTIONS = ("The daemon's options", "One source of truth", "Signals")
"""Sections of the document that describe the program: they are in ktcpvs(8)."""

CODE_WIDTH = 68
"""The most columns of a line of code, so that a terminal of 80 columns shows it as it is."""

LEFT_OUT = ("Differences from KTCPVS",)

DAEMON = """
# ktcpvs \\- a layer-7 switch for TCP services

## Synopsis

{synopsis}

## Description

`ktcpvs` is a load balancer and reverse proxy for TCP and HTTP services. It accepts client connections at its virtual
services and forwards each connection, or each HTTP request, to one of the real servers of the service. It runs in the
foreground; administer it with tcpvsadm(8). Its configuration is described in ktcpvs.conf(5).

Without `--config` and `--state` it starts without services, and `tcpvsadm` adds them.

It accepts sockets from a service manager as sd_listen_fds(3) describes, and reports its state as sd_notify(3) does.

{sections}

## Files

| file | content |
|---|---|
| `/etc/ktcpvs/ktcpvs.conf` | the configuration, where the Debian package and the units for systemd look for it |
| `/run/ktcpvs/control.sock` | the control connection of a daemon that root has started |
| `/var/lib/ktcpvs` | the folder for `--state` |

## Examples

Serve what a file describes, and a status page on loopback:

    ktcpvs --config /etc/ktcpvs/ktcpvs.conf --status tcp:9109

Upgrade in place:

    ktcpvs --takeover unix:/run/ktcpvs/control.sock --config /etc/ktcpvs/ktcpvs.conf

## See also

tcpvsadm(8), ktcpvs.conf(5), systemd.exec(5)
"""

CONFIGURATION = """
# ktcpvs.conf \\- configuration of ktcpvs, a layer-7 switch

## Description

{sections}

## See also

ktcpvs(8), tcpvsadm(8)
"""


def sections(text: str) -> dict[str, str]:
    """Return heading -> section, with the heading itself, in the order of the document; "" is what comes first."""
    found: dict[str, list[str]] = {"": []}
    name, is_fenced = "", False
    for line in text.splitlines():
        is_fenced ^= line.startswith("```")
        if not is_fenced and (heading := re.match(r"##+ (.*)", line)):
            name = heading[1]
        found.setdefault(name, []).append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def escaped(text: str) -> str:
    """Return plain text as roff: nothing in it is a command, and its quotes and hyphens are those of ASCII."""
    text = (
        text.replace("\\", "\\e").replace("'", "\\(aq").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    )
    text = text.replace("`", "\\(ga")
    return "\\&" + text if text.startswith(".") else text


def inline(text: str) -> str:
    """Return a paragraph of Markdown as roff: code and strong words are bold, a link is its text."""
    text = re.sub(r"!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)\s]+\)", r"\1", text)
    parts = re.split(r"(`[^`]+`|\*\*[^*]+\*\*|(?<![\w*])\*[^*\s][^*]*\*(?![\w*]))", text)
    shown = ""
    for part in parts:
        if part.startswith("`"):
            shown += f"\\fB{escaped(part[1:-1])}\\fR"
        elif part.startswith("**"):
            shown += f"\\fB{escaped(part[2:-2].replace('`', ''))}\\fR"
        elif part.startswith("*") and len(part) > 1:
            shown += f"\\fI{escaped(part[1:-1].replace('`', ''))}\\fR"
        else:
            shown += escaped(part)
    return shown


def cells(row: str) -> list[str]:
    """Return the cells of a row of a table."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


def table(rows: list[str]) -> Iterator[str]:
    """Yield a table as a tagged list: the first column is the tag, the others follow with their headings.

    A table that compares things, in columns below their names and beside a column without one, has a tag for each of
    them.
    """
    headings = cells(rows[0])
    if not headings[0] and headings[2:]:
        for heading, *values in zip(*map(cells, (rows[0], *rows[2:])), strict=True):
            if heading:
                yield from (".TP", inline(heading))
                lines = [
                    f"{inline(cells(row)[0])}: {inline(value)}" for row, value in zip(rows[2:], values, strict=True)
                ]
                yield "\n.br\n".join(lines)
        yield ".PP"
        return
    for row in rows[2:]:
        first, *others = cells(row)
        yield ".TP"
        yield inline(first) or "\\&"
        if len(others) == 1:
            yield inline(others[0]) or "\\&"
            continue
        named = [(heading, cell) for heading, cell in zip(headings[1:], others, strict=True) if cell]
        # A long explanation comes first, the short values behind it.
        named.sort(key=lambda item: item[0] not in ("meaning", "value", "words"))
        texts = [
            inline(cell) if not index and heading in ("meaning", "value") else f"{inline(heading)}: {inline(cell)}"
            for index, (heading, cell) in enumerate(named)
        ]
        yield "; ".join(texts) + "."
    yield ".PP"


def blocks(text: str) -> Iterator[list[str]]:
    """Yield the blocks of a document: lines that belong together."""
    block: list[str] = []
    is_fenced = False
    # Comments are for the tests of the documents.
    for line in [*re.sub(r"^<!--.*?-->\n", "", text, flags=re.MULTILINE | re.DOTALL).splitlines(), ""]:
        if line.startswith("```"):
            is_fenced = not is_fenced
            block.append(line)
            if is_fenced:
                continue
        elif is_fenced or (line and not (line.startswith("- ") and block)):
            block.append(line)
            continue
        if block:
            yield block
        block = [line] if line.startswith("- ") else []


def folded(line: str) -> Iterator[str]:
    """Yield a line of code in pieces of at most CODE_WIDTH columns. It is cut between words, and neither within quotes
    nor beside a bracket of the grammar. A command goes on behind a backslash, a comment behind a #."""
    words = re.findall(r'(?:\s*[\[({](?=\s))*\s*(?:[^\s"]|"(?:[^"\\]|\\.)*"|")+(?:\s+[\])}](?!\S))*', line)
    begin = re.match(r"\s*", line)[0]  # type: ignore[index]
    is_command = re.match(r"\s*(?:\$ )?(?:ktcpvs|tcpvsadm) ", line) is not None
    follows = begin + ("# " if line[len(begin) :].startswith("#") else "        ")
    piece = ""
    for word in words:
        end = 2 if is_command else 0
        if piece.strip() and len(piece) + len(word) + end > CODE_WIDTH:
            yield piece + " \\" * is_command
            piece = follows + word.lstrip()
        else:
            piece += word
    yield piece


def code(lines: list[str]) -> Iterator[str]:
    yield from (".PP", ".RS 4", ".nf")
    yield from (escaped(piece) for line in lines for piece in folded(line))
    yield from (".fi", ".RE")


def roff(text: str) -> Iterator[str]:
    """Yield the lines of a document in Markdown as roff."""
    for block in blocks(text):
        first = block[0]
        if first.startswith("# "):
            yield from (".SH NAME", first[2:])
        elif first.startswith("## "):
            yield f'.SH "{escaped(first[3:].replace("`", "").upper())}"'
        elif first.startswith("### "):
            yield f'.SS "{escaped(first[4:].replace("`", ""))}"'
        elif first.startswith("```"):
            yield from code(block[1:-1])
        elif first.startswith("    "):
            yield from code([line.removeprefix("    ") for line in block])
        elif first.startswith("|"):
            yield from table(block)
        elif first.startswith("- "):
            yield from (".IP \\(bu 2", inline(" ".join([first[2:], *(line.strip() for line in block[1:])])))
        else:
            yield from (".PP", inline(" ".join(line.strip() for line in block)))


def page(name: str, number: int, text: str) -> str:
    """Return a manual page. The date is that of the document, or of SOURCE_DATE_EPOCH."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or SOURCE.stat().st_mtime)
    day = datetime.datetime.fromtimestamp(seconds, datetime.UTC).date()
    lines = [f".TH {name.upper()} {number} {day} ktcpvs", ".nh", ".ad l"]
    for line in roff(text):
        begins = line.startswith((".SH", ".SS", ".PP", ".TP", ".IP"))
        if begins and lines[-1] == ".PP":
            lines.pop()  # an empty paragraph
        if line != ".PP" or not lines[-1].startswith((".SH", ".SS")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return file name -> manual page. Raises KeyError if the document has a section of the daemon no more."""
    found = sections(SOURCE.read_text(encoding="utf-8"))
    daemon = [found.pop(name) for name in DAEMON_SECTIONS]
    heading, synopsis, options = daemon[0].split("\n\n", 2)
    daemon[0] = f"{heading.replace(DAEMON_SECTIONS[0], 'Options', 1)}\n\n{options}"
    for name in LEFT_OUT:
        found.pop(name, None)
    opening = found.pop("").partition("\n")[2]
    return {
        "ktcpvs.8": page("ktcpvs", 8, DAEMON.format(synopsis=synopsis, sections="\n\n".join(daemon))),
        "ktcpvs.conf.5": page("ktcpvs.conf", 5, CONFIGURATION.format(sections="\n\n".join([opening, *found.values()]))),
    }


def write(folder: Path) -> list[str]:
    """Write the pages into a folder, and return the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(str(folder / name))
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: manual_pages.py FOLDER")
    write(Path(sys.argv[1]))
