"""Counters that several processes share: a table in memory, in which each process writes its own column only.

A row is a counter, a column is a process; the table of clients follows them. The supervisor makes the table and assigns
the rows; a worker gets the descriptor. The value of a counter is the sum of its row, without a lock, since each number
has one writer.
"""

from __future__ import annotations

import mmap
import os

from ktcpvs.model.clients import ClientTable

WIDTH = 4
"""Bytes of a count."""

MAX_ROWS = 1 << 16
"""The most counters. Memory is used for rows that are written only."""


class SharedTable:
    """The table. columns: the most processes."""

    def __init__(self, columns: int, descriptor: int | None = None) -> None:
        """descriptor: of an existing table with that number of columns; None makes a new one, all 0."""
        self.columns = columns
        counts = MAX_ROWS * columns * WIDTH
        size = counts + ClientTable.size(columns)
        if descriptor is None:
            descriptor = os.memfd_create("ktcpvs counts", os.MFD_CLOEXEC)
            os.truncate(descriptor, size)
        self.descriptor = descriptor
        memory = memoryview(mmap.mmap(descriptor, size))
        self._numbers = memory[:counts].cast("i")
        self._clients = memory[counts:]

    def row(self, number: int) -> memoryview:
        """Return a row: one number for each column."""
        return self._numbers[number * self.columns : (number + 1) * self.columns]

    def clear_column(self, column: int, rows: int) -> None:
        """Clear the column of a process that is gone, in the first `rows` rows and in the table of clients."""
        for number in range(rows):
            self._numbers[number * self.columns + column] = 0
        self.clients(column, b"").clear_column(column)

    def clients(self, column: int, key: bytes) -> ClientTable:
        """Return the table of clients for the process of that column. key: of its hash."""
        return ClientTable(self._clients, self.columns, column, key)
