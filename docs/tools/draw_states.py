"""Write the generated tables of the documents: state machines of ktcpvs.model, and the purpose of each module.

`draw_states.py` replaces what stands between the marks of each document; `draw_states.py --check` changes nothing and
exits with 1 if a document is out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ktcpvs.model import connection, exchange, grants, health

ROOT = Path(__file__).parent.parent.parent
BEGIN = "<!-- {} drawn by docs/tools/draw_states.py: begin -->\n"
END = "<!-- {} drawn by docs/tools/draw_states.py: end -->\n"


# State machines.

Table = dict[str, dict[str, str]]


def common_events(states: Table) -> dict[str, str]:
    """Return event -> next state of the events that mean the same in every state but final ones."""
    rows = [row for row in states.values() if row]
    return {event: after for event, after in rows[0].items() if all(row.get(event) == after for row in rows)}


def transitions(row: dict[str, str]) -> str:
    """Return the transitions of one state as text, with the events of one next state together."""
    events: dict[str, list[str]] = {}
    for event, after in row.items():
        events.setdefault(after, []).append(event)
    return "; ".join(f"{' / '.join(names)} → {after}" for after, names in events.items())


def table(states: Table, first: dict[str, str]) -> str:
    """Return a state machine as a table. first: what begins -> the state in which it begins."""
    common = common_events(states)
    lines = ["| state | events → next state |", "|---|---|"]
    lines += [f"| (begin) | {transitions(first)} |"] if first else []
    for state, row in states.items():
        own = {event: after for event, after in row.items() if event not in common}
        if own:
            lines.append(f"| {state} | {transitions(own)} |")
    if common:
        lines.append(f"| any state | {transitions(common)} |")
    return "\n".join(lines)


def connection_states() -> str:
    return table(connection.TABLE, connection.OPENING)


def request_states() -> str:
    return table(exchange.TABLE, {"EACH_REQUEST": exchange.IDLE})


def health_states() -> str:
    return table(health.TABLE, {"new server": health.UP})


def grant_states() -> str:
    """Leave out late records, which change nothing, and what follows the end."""
    late = (grants.HALF, grants.PASSED)
    shown: Table = {
        state: {event: after for event, after in row.items() if event not in late or state == grants.GRANTED}
        for state, row in grants.TABLE.items()
    }
    shown[grants.GONE] = {}
    return table(shown, {})


# Modules.


def purpose(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(document.split("\n\n")[0].split())
    return re.split(r"\.(?= [A-Z`]|$)", paragraph)[0].rstrip(".:").replace("|", "\\|")


def files() -> str:
    """Return a table for each package, with its modules; the modules outside of packages come first."""
    package = ROOT / "ktcpvs"
    folders: dict[Path, list[Path]] = {}
    for path in sorted(package.rglob("*.py"), key=lambda path: (str(path.parent), path.name)):
        if path.name not in ("__init__.py", "_version.py"):  # the latter is made by the installation
            folders.setdefault(path.parent, []).append(path)
    parts = []
    for folder, paths in folders.items():
        name = str(folder.relative_to(package.parent))
        opening = folder / "__init__.py"
        about = purpose(opening) if folder != package and opening.exists() else ""
        lines = [f"## {name}", "", *([f"{about}.", ""] if about else []), "| file | purpose |", "|---|---|"]
        lines += [f"| `{path.relative_to(package)}` | {purpose(path)} |" for path in paths]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


# Documents.

DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "architecture.md": {"states": connection_states, "request states": request_states},
    "files.md": {"files": files},
    "health.md": {"health states": health_states},
    "kernel-relay.md": {"grant states": grant_states},
}
"""Document -> name of a pair of marks -> what makes the text between them."""


def drawn(name: str, text: str) -> str:
    """Return `text`, of that document, with its generated parts up to date. Raises ValueError if a mark is missing."""
    for part, draw in DOCUMENTS[name].items():
        begin, end = BEGIN.format(part), END.format(part)
        before, mark, rest = text.partition(begin)
        _, other, after = rest.partition(end)
        if not mark or not other:
            raise ValueError(f"{name}: the marks of the {part} are missing")
        text = f"{before}{begin}\n{draw()}\n\n{end}{after}"
    return text


def main() -> int:
    check = "--check" in sys.argv[1:]
    outdated = 0
    for name in DOCUMENTS:
        path = ROOT / "docs" / name
        text = path.read_text(encoding="utf-8")
        new = drawn(name, text)
        if new == text:
            continue
        if check:
            print(f"{path} is out of date: run docs/tools/draw_states.py", file=sys.stderr)
            outdated = 1
        else:
            path.write_text(new, encoding="utf-8")
    return outdated


if __name__ == "__main__":
    sys.exit(main())
