"""Two forms of the same methods: written in Python, and compiled.

An extension replaces methods of classes that are written in Python. Tests run both forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


class MethodForms:
    """The methods of some classes that an extension replaces."""

    def __init__(self, classes: Sequence[type], compiled: Sequence[Mapping[str, Any]]) -> None:
        """compiled: the methods of each class, by name. Each class itself must have one of that name."""
        self._compiled = list(zip(classes, compiled, strict=True))
        self._plain = [(kind, {name: kind.__dict__[name] for name in methods}) for kind, methods in self._compiled]

    def use_compiled(self) -> None:
        """Replace the methods. No object of the classes may be in use meanwhile, nor in the next method."""
        self._use(self._compiled)

    def use_plain(self) -> None:
        """Restore the methods that are written in Python."""
        self._use(self._plain)

    def _use(self, form: Sequence[tuple[type, Mapping[str, Any]]]) -> None:
        for kind, methods in form:
            for name, method in methods.items():
                setattr(kind, name, method)


def use_extension(
    name: str, classes: Sequence[type], *arguments: object, function: str = "configure"
) -> MethodForms | None:
    """Replace methods of classes by those of an extension. Return None without it, where there was no C compiler when
    ktcpvs was installed.

    name: of the extension. function: of the extension; it takes the arguments and returns the methods of each class.
    """
    try:
        extension = import_module(name)
    except ImportError:
        return None
    forms = MethodForms(classes, getattr(extension, function)(*arguments))
    forms.use_compiled()
    return forms
