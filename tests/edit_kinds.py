"""The classes of edits, for tests of what all of them have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ktcpvs.model.edits import Edit


def edit_kinds(kind: type[Edit] = Edit) -> Iterator[type[Edit]]:
    """Yield the classes below `kind` that ktcpvs itself defines, and that have a name of their own."""
    for below in kind.__subclasses__():
        yield from edit_kinds(below)
        # A slotted class is made twice; the one that its module does not hold is waiting to be collected.
        is_ours = below.__module__.startswith("ktcpvs.")
        if is_ours and "name" in vars(below) and getattr(sys.modules[below.__module__], below.__name__) is below:
            yield below
