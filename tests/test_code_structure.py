"""The structure of the code: layers, import cycles, style, inheritance, complexity and privacy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PACKAGE = ROOT / "ktcpvs"

MAX_INHERITANCE = 2
"""The most classes of this package above a class."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
"""Name -> file of every module and package."""


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def nodes_of(module: str) -> tuple[ast.AST, ...]:
    """All nodes of its tree."""
    return tuple(ast.walk(tree_of(module)))


@pytest.mark.parametrize(
    "command",
    [["lint-imports"], ["ruff", "check", "."], ["ruff", "format", "--check", "."]],
    ids=["layers", "ruff", "format"],
)
def test_static_checks_pass(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# Imports.


def imports_of(module: str) -> set[str]:
    """The modules of this package that `module` imports anywhere, in functions and under TYPE_CHECKING too."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in nodes_of(module):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # What is imported from a package may be a module of it. The package itself does not count then.
            names = {f"{source}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else source for name in names)
    return {name for name in found if name in MODULES} - {module}


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], index[other])
        if lowest[name] == index[name]:
            place = stack.index(name)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def one_cycle(graph: dict[str, set[str]], group: list[str]) -> str:
    """A shortest way from the first module of a group back to it, as text."""
    first = group[0]
    ways = [[first]]
    seen = {first}
    while ways:
        way = ways.pop(0)
        for other in sorted(graph[way[-1]] & set(group)):
            if other == first:
                return " -> ".join([*way, first])
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return " -> ".join(group)


def test_no_module_imports_itself_through_others() -> None:
    """Imports in functions and under TYPE_CHECKING count: they show that two modules cannot be understood apart."""
    graph = {module: imports_of(module) for module in MODULES}
    found = [f"{len(group)} modules, such as {one_cycle(graph, group)}" for group in cycles(graph)]
    assert not found, "\n".join(found)


def test_the_search_for_cycles_finds_them() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"f"}, "f": {"e"}}
    assert cycles(graph) == [["b", "c"], ["e", "f"]]
    assert one_cycle(graph, ["b", "c"]) == "b -> c -> b"


# Classes.


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class of the package with its module."""
    for module in MODULES:
        yield from ((module, node) for node in nodes_of(module) if isinstance(node, ast.ClassDef))


@cache
def class_names(module: str) -> dict[str, str]:
    """Name -> full name of every class name of this package that a module defines or imports by name."""
    names: dict[str, str] = {}
    for node in nodes_of(module):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            names.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ClassDef):
            names[node.name] = f"{module}.{node.name}"
    return names


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression; "" of any other."""
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def bases() -> dict[str, list[str]]:
    """Full name of each class of the package -> full names of its bases in the package."""
    known = {f"{module}.{node.name}" for module, node in classes()}
    found: dict[str, list[str]] = {}
    for module, node in classes():
        names = class_names(module)
        above = []
        for base in node.bases:
            first, _, rest = dotted(base).partition(".")
            name = names.get(first, first) + (f".{rest}" if rest else "")
            if name in known:
                above.append(name)
        found[f"{module}.{node.name}"] = above
    return found


INTERFACES = "ktcpvs.interfaces."
"""zope interfaces extend each other as contracts; that is no inheritance of code."""

ERRORS = "ktcpvs.errors."
"""Errors are caught by kind, and the kinds are a tree."""


def test_inheritance_is_shallow() -> None:
    """A class is read with all classes above it."""
    above = bases()

    def depth(name: str) -> int:
        return max((1 + depth(base) for base in above[name]), default=0)

    deep = {name: depth(name) for name in above if not name.startswith((INTERFACES, ERRORS))}
    assert {name: number for name, number in deep.items() if number > MAX_INHERITANCE} == {}
    assert max(deep.values()) > 0, "no inheritance was found at all: the search is broken"


SAME_CLASS = "the object is of the same class"
OF_TWISTED = "Twisted has no public way to ask or do this"

PRIVATE_OF_OTHERS: dict[str, dict[str, str]] = {
    "ktcpvs.control.unix_listener": {"_AdoptedPort._fromListeningDescriptor": OF_TWISTED},
    "ktcpvs.health.http_check": dict.fromkeys(
        ("_HTTP11ClientFactory", "self._pool._factory", "self._parser._log"), OF_TWISTED
    ),
    "ktcpvs.system.sockets": {"listener._accept": "socket.accept() makes a second object and costs 2 us more"},
    "ktcpvs.system.stall_watch": {"sys._current_frames": "documented, and the only way to see another thread's stack"},
    "ktcpvs.system.web_client": {"_HTTP11ClientFactory": OF_TWISTED},
    "ktcpvs.simulation.durations": {"others._buckets": SAME_CLASS},
    "ktcpvs.streams.memory": dict.fromkeys(("peer._*", "self.peer._*"), SAME_CLASS),
    "ktcpvs.streams.tls_handshake": {
        "raw._wrap_bio": "SSLObject, the public wrapper, takes memory for each connection and time for each read"
    },
    "ktcpvs.streams.tls_operations": {"context._wrap_bio": "SSLObject hides what the compiled operations take"},
    "ktcpvs.streams.twisted_transport": dict.fromkeys(("twisted._*", "self.twisted._*"), OF_TWISTED),
    "ktcpvs.system.bpf": {"ctypes._NamedFuncPointer": "the name that typeshed has for a function of a library"},
}
"""Module -> pattern of expressions -> why the module may use these private attributes of other objects."""

PUBLIC = {"os._exit"}
"""Public in spite of their names."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


@cache
def private_uses(module: str) -> list[tuple[int, str]]:
    """(line, expression) of each private attribute of anything but self, cls and super(), and of private imports."""
    found = []
    for node in nodes_of(module):
        if isinstance(node, ast.ImportFrom):
            found += [(node.lineno, alias.name) for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            expression = ast.unparse(node)
            if expression.rpartition(".")[0] not in ("self", "cls", "super()") and expression not in PUBLIC:
                found.append((node.lineno, expression))
    return found


def test_private_attributes_of_other_objects_are_left_alone() -> None:
    assert [
        f"{MODULES[module]}:{line}: {text}"
        for module in MODULES
        for line, text in private_uses(module)
        if not any(fnmatchcase(text, pattern) for pattern in PRIVATE_OF_OTHERS.get(module, {}))
    ] == []


def test_every_exception_is_still_needed() -> None:
    uses = {module: [text for _, text in private_uses(module)] for module in MODULES}
    assert [
        (module, pattern)
        for module, allowed in PRIVATE_OF_OTHERS.items()
        for pattern in allowed
        if not any(fnmatchcase(text, pattern) for text in uses.get(module, ()))
    ] == []


# Habits.


def test_periodic_work_does_not_use_looping_call() -> None:
    """LoopingCall stops at the first exception; ktcpvs.system.periodic does not."""
    assert [module for module, path in MODULES.items() if "import LoopingCall" in path.read_text()] == []


QUESTIONS = frozenset(("What", "Who", "Whom", "Whose", "How", "Where", "When", "Why", "Which"))


def test_docstrings_name_the_thing_first() -> None:
    """Not "Why a request is refused.", but "The reason why a request is refused."."""
    texts = [
        (module, node.lineno, node.value.value)
        for module in MODULES
        for node in nodes_of(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    assert [f"{module}:{line}: {text}" for module, line, text in texts if text.split()[0] in QUESTIONS] == []


def test_every_module_opens_with_its_docstring() -> None:
    assert [module for module in MODULES if not ast.get_docstring(tree_of(module))] == []
