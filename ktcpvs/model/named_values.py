"""Header fields, arguments or cookies of a request, by name and in their order, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, overload

_T = TypeVar("_T")

Name = str | bytes
"""Of a field. Text stands for its UTF-8."""


class NamedValues:
    """Names with their values, all raw bytes, in the order in which they came; a name may come several times.

    Iteration yields (name, value) of all, `fields["x-user"]` is the first value of a name. They are read from the
    request at the first of these and kept then, for as long as the object lives.
    """

    __slots__ = ("_ignores_case", "_pairs", "_read")

    def __init__(self, read: Callable[[], Iterable[tuple[bytes, bytes]]], ignores_case: bool = False) -> None:
        """read: returns (name, value) of all. ignores_case: names have no case, and `read` returns them in lower
        case."""
        self._read = read
        self._ignores_case = ignores_case
        self._pairs: tuple[tuple[bytes, bytes], ...] | None = None

    @property
    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """(name, value) of all."""
        if self._pairs is None:
            self._pairs = tuple(self._read())
        return self._pairs

    def __repr__(self) -> str:
        return f"<NamedValues {self.pairs!r}>"

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __contains__(self, name: object) -> bool:
        """Whether there is one of that name."""
        return isinstance(name, Name) and any(known == self._key(name) for known, _ in self.pairs)

    def __getitem__(self, name: Name) -> bytes:
        """Return the first value of that name. Raises KeyError."""
        key = self._key(name)
        for known, value in self.pairs:
            if known == key:
                return value
        raise KeyError(name)

    @overload
    def get(self, name: Name) -> bytes | None: ...

    @overload
    def get(self, name: Name, default: _T) -> bytes | _T: ...

    def get(self, name: Name, default: object = None) -> object:
        """Return the first value of that name; `default` without one."""
        key = self._key(name)
        return next((value for known, value in self.pairs if known == key), default)

    def get_all(self, name: Name) -> tuple[bytes, ...]:
        """Return all values of that name, in their order."""
        key = self._key(name)
        return tuple([value for known, value in self.pairs if known == key])

    def _key(self, name: Name) -> bytes:
        key = name.encode() if isinstance(name, str) else name
        return key.lower() if self._ignores_case else key
