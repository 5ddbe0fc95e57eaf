"""Draws what documents show of the code: the states of ktcpvs.model.connection and ktcpvs.model.exchange, and the
files, each with the first sentence of its docstring, in docs/architecture.md; the states of ktcpvs.model.grants in
docs/kernel-relay.md, and those of ktcpvs.model.health in docs/health.md.

`draw_states.py` writes what stands between the marks; `draw_states.py --check` ends with 1 if that is out of date.
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


# The states.

Table = dict[str, dict[str, str]]


def everywhere(states: Table) -> dict[str, str]:
    """Event -> state, of the events that lead to the same state from every state that has an end."""
    rows = [row for row in states.values() if row]
    return {event: after for event, after in rows[0].items() if all(row.get(event) == after for row in rows)}


def edges(states: Table) -> dict[tuple[str, str], list[str]]:
    """(state, next state) -> events, without those that stand in every state."""
    found: dict[tuple[str, str], list[str]] = {}
    common = everywhere(states)
    for before, row in states.items():
        for event, after in row.items():
            if event not in common:
                found.setdefault((before, after), []).append(event)
    return found


def name(state: str) -> str:
    """A state as mermaid wants to call it."""
    return state.replace(" ", "_")


def picture(states: Table, opening: dict[str, str]) -> str:
    """The states as a mermaid diagram. opening: what begins -> the state in which it begins."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{state}" as {name(state)}' for state in states if " " in state]
    lines += [f"    [*] --> {name(state)}: {unit}" for unit, state in opening.items()]
    lines += [f"    {name(a)} --> {name(b)}: {' / '.join(events)}" for (a, b), events in edges(states).items()]
    lines += [f"    {name(state)} --> [*]" for state, row in states.items() if not row]
    return "\n".join([*lines, "```"])


def table(states: Table) -> str:
    lines = ["| state | events | next state |", "|---|---|---|"]
    lines += [f"| {before} | {' / '.join(events)} | {after} |" for (before, after), events in edges(states).items()]
    lines += [f"| every one | {event} | {after} |" for event, after in everywhere(states).items()]
    return "\n".join(lines)


def states() -> str:
    return f"{picture(connection.TABLE, connection.OPENING)}\n\n{table(connection.TABLE)}"


def request_states() -> str:
    return f"{picture(exchange.TABLE, {'EACH_REQUEST': exchange.IDLE})}\n\n{table(exchange.TABLE)}"


def health_states() -> str:
    return f"{picture(health.TABLE, {'a new server': health.UP})}\n\n{table(health.TABLE)}"


def grant_states() -> str:
    """Without what changes nothing because it is told late, and without what comes after the end."""
    late = (grants.HALF, grants.PASSED)
    shown: Table = {
        state: {event: after for event, after in row.items() if event not in late or state == grants.GRANTED}
        for state, row in grants.TABLE.items()
    }
    shown[grants.GONE] = {}
    return table(shown)


# The files.


def job(path: Path) -> str:
    """The first sentence of a file's docstring."""
    document = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(document.split("\n\n")[0].split())
    return re.split(r"\.(?= [A-Z`]|$)", paragraph)[0].rstrip(".:").replace("|", "\\|")


def files() -> str:
    package = ROOT / "ktcpvs"
    paths = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    paths.sort(key=lambda path: (str(path.parent), path.name))
    lines = [f"| `{path.relative_to(package)}` | {job(path)} |" for path in paths]
    return "\n".join(["| file | its one job |", "|---|---|", *lines])


# The documents.

DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "architecture.md": {"states": states, "request states": request_states, "files": files},
    "health.md": {"health states": health_states},
    "kernel-relay.md": {"grant states": grant_states},
}
"""Name -> what is between the marks -> who draws it."""


def drawn(name: str, text: str) -> str:
    """`text` of that document with everything drawn anew. Raises ValueError when a mark is missing."""
    for what, draw in DOCUMENTS[name].items():
        begin, end = BEGIN.format(what), END.format(what)
        before, mark, rest = text.partition(begin)
        _, other, after = rest.partition(end)
        if not mark or not other:
            raise ValueError(f"{name}: the marks of the {what} are missing")
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
