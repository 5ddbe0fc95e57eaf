"""Counts that several processes share: a table in memory, in which each process writes its own column alone.

Rows are what is counted, columns are processes. The supervisor makes the table and says which row is whose; a worker
gets its descriptor. Reading all of a row is a sum over a few numbers, without a lock: each of them has one writer.
"""

from __future__ import annotations

import mmap
import os

WIDTH = 4
"""Bytes of a count."""

ROWS_MAX = 1 << 16
"""How many things can be counted; memory is taken only for rows that are used."""


class SharedTable:
    """columns: how many processes count, at most."""

    def __init__(self, columns: int, descriptor: int | None = None) -> None:
        """descriptor: of a table that was made with as many columns; None makes one, all 0."""
        self.columns = columns
        size = ROWS_MAX * columns * WIDTH
        if descriptor is None:
            descriptor = os.memfd_create("ktcpvs counts", os.MFD_CLOEXEC)
            os.truncate(descriptor, size)
        self.descriptor = descriptor
        self._numbers = memoryview(mmap.mmap(descriptor, size)).cast("i")

    def row(self, number: int) -> memoryview:
        """That row: one number for each column."""
        return self._numbers[number * self.columns : (number + 1) * self.columns]

    def clear_column(self, column: int, rows: int) -> None:
        """The process of that column is gone: in the first `rows` rows it counts nothing any more."""
        for number in range(rows):
            self._numbers[number * self.columns + column] = 0
