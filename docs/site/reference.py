"""The interfaces for programs and plugins as Markdown: names, signatures and docstrings of a module."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from zope.interface.interface import InterfaceClass, Method


def _text(docstring: str | None) -> list[str]:
    """A docstring as it is written: it holds names with underscores, and arrows."""
    return ["```text", inspect.cleandoc(docstring), "```", ""] if docstring else []


def _signature(value: Any) -> str:
    try:
        return str(inspect.signature(value)).replace("'", "")
    except (TypeError, ValueError):
        return ""


def _interface(name: str, value: Any) -> Iterator[str]:
    yield from [f"### {name}", "", *_text(value.getDoc())]
    for member, described in sorted(value.namesAndDescriptions()):
        signature = described.getSignatureString() if isinstance(described, Method) else ""
        yield from [f"#### {name}.{member}{signature}", "", *_text(described.getDoc())]


def _class(name: str, value: type) -> Iterator[str]:
    yield from [f"### class {name}", "", *_text(value.__doc__)]
    members = {member: found for base in reversed(value.__mro__) for member, found in vars(base).items()}
    for member, found in sorted(members.items()):
        if member.startswith("_") or not (inspect.isfunction(found) or isinstance(found, property)):
            continue
        signature = _signature(found) if inspect.isfunction(found) else ""
        yield from [f"#### {name}.{member}{signature}", "", *_text(inspect.getdoc(found))]


def _names(module: ModuleType) -> list[str]:
    """The public names of a module: those of its `__all__`; without it, those that it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    values = vars(module).items()
    return [name for name, value in values if name[0] != "_" and getattr(value, "__module__", "") == module.__name__]


def describe(module: ModuleType) -> str:
    """Return the section of a module: its public names in their order."""
    lines = [f"## {module.__name__}", "", *_text(module.__doc__)]
    for name in _names(module):
        value = getattr(module, name)
        if isinstance(value, InterfaceClass):
            lines += _interface(name, value)
        elif inspect.isclass(value):
            lines += _class(name, value)
        elif inspect.isfunction(value):
            lines += [f"### {name}{_signature(value)}", "", *_text(value.__doc__)]
        elif not inspect.ismodule(value):
            lines += [f"### {name} = {value!r}", ""]
    return "\n".join(lines)
